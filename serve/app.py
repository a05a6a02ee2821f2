"""The Ray Serve binding: one deployment that is ingress and model host at once.

Merging the two saves a hop between processes. A replica keeps the champion and its predecessor
loaded as adapters over one base model, so that a promotion or a rollback redeploys nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation

from serve.api import create_app
from serve.engine import Away, Batcher
from serve.logs import log_to
from serve.warm import Warm
from valuealign.config import RunConfig, ServeConfig
from valuealign.errors import ConfigError, RegistryError
from valuealign.models.host import Host
from valuealign.models.load import fingerprint, resolve
from valuealign.prompts import Template, train_templates
from valuealign.registry import Registry, check_base
from valuealign.store import Store

APP = "valuealign"
API = ("max_tokens", "auth", "per_minute", "token_hours", "open_metrics", "origins")  # settings that the API takes
OTHERS = 32  # requests of a replica besides those that wait for the model or are answered: feedback, lists, health


class Replica:
    """What Ray Serve runs: the API over a store, a registry and a model with its versions."""

    def __init__(
        self,
        *,
        name: str,
        database: str,
        root: str,
        base: str,
        dtype: str,
        quantize: str,
        device: str,
        place: ServeConfig,
        template: Template,
        canary: float,
        lent: bool = False,
    ) -> None:
        self._facts = {name: value for name, value in locals().items() if name not in ("self", "lent")}
        log_to(Path(root).parent / "logs")
        store = Store.open(database)
        registry = Registry(Path(root), store)
        self._backend: Batcher | Away = Away()
        if not lent:
            host = Host(base, dtype, quantize=quantize, device=device)
            base_hash = fingerprint(Path(base), quantize)
            check_base(registry.get(f"{name}@champion"), base_hash, "start the service anew")
            self._backend = Batcher(host, base_hash=base_hash, max_batch=place.max_batch, queue=place.queue)
            Warm(self._backend, registry, name).start()
        self._app = create_app(
            store=store,
            registry=registry,
            backend=self._backend,
            name=name,
            template=template,
            canary=canary,
            **{key: getattr(place, key) for key in API},
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def facts(self) -> dict[str, Any]:
        """What it was started with, for another one like it."""
        return self._facts

    async def check_health(self) -> None:
        """Ray Serve starts a replica anew whose model cannot write one token."""
        await asyncio.to_thread(self._backend.check)


def start(config: RunConfig, *, home: Path) -> str:
    """Serve the champion of ``config.name`` on the Ray cluster this process has joined; the URL.

    Returns when the service answers; one of ours that runs already is replaced. Raises
    UnknownVersion if there is no champion, ModelError if its base is gone, ConfigError if the
    port is taken or a template is unknown.
    """
    database = os.environ.get("VALUEALIGN_DB") or str(home / "valuealign.db")
    store = Store.open(database)
    champion = Registry(home / "registry", store).get(f"{config.name}@champion")
    store.close()
    place = config.serve
    base = resolve(str(champion.card.get("base", config.model.path)))
    if champion.card.get("base_hash") != fingerprint(base, champion.quantize):
        raise RegistryError(
            "its base model has changed since it was trained, or its card does not say which it was",
            where=champion.ref,
            mend=f"restore {base}, or align anew and promote that",
        )
    facts: dict[str, Any] = {
        "name": config.name,
        "database": database,
        "root": str(home / "registry"),
        "base": str(base),
        "dtype": config.model.dtype,
        "quantize": champion.quantize,  # a version is served over what it was trained over
        # Several GPUs share the layers of a model that is too large for one.
        "device": "auto" if place.gpus > 1 else "cuda" if place.gpus else "cpu",
        "place": place,
        "template": train_templates(config.prompts)[0],
        "canary": config.update.canary,
    }
    if set(serve.status().applications) == {APP}:
        stop()  # it is replaced; while Serve runs, neither its address nor its port can change
    _check_port(place.host, place.port)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it warns of options that it then applies
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=HTTPOptions(host=place.host, port=place.port))
    _deploy(facts)
    return f"http://{place.host}:{place.port}"


def _deploy(facts: dict[str, Any], *, lent: bool = False) -> None:
    """Run, or replace, the replicas; returns when they answer."""
    deployment = serve.deployment(serve.ingress()(Replica), name=APP, **_scale(facts["place"], lent))
    serve.run(deployment.bind(**facts, lent=lent), name=APP, route_prefix="/")


@contextmanager
def lent(gpus: float) -> Iterator[bool]:
    """While the block runs, training finds so many GPUs free of the service, if the cluster has them; whether the
    service had to make room.

    Where it has to, it answers those whom it has begun to answer. Then its models are gone, who asks is refused with
    503 and Retry-After, and feedback is taken as ever. When the block ends, the models come back.
    """
    facts = serve.get_app_handle(APP).facts.remote().result() if APP in running() else None
    held = facts["place"].gpus * (facts["place"].max_replicas or facts["place"].replicas) if facts else 0.0
    if not facts or not held or gpus <= ray.cluster_resources().get("GPU", 0.0) - held:
        yield False
        return
    _deploy(facts, lent=True)
    try:
        yield True
    finally:
        _deploy(facts)


def _scale(place: ServeConfig, lent: bool) -> dict[str, Any]:
    """How many replicas there are, on what, and how many requests each takes (its own queue refuses before)."""
    if lent:
        return {"num_replicas": place.replicas, "ray_actor_options": {"num_cpus": place.cpus, "num_gpus": 0}}
    replicas: dict[str, Any] = {"num_replicas": place.replicas}
    if place.max_replicas and place.max_replicas > place.replicas:
        replicas = {
            "autoscaling_config": {
                "min_replicas": place.replicas,
                "max_replicas": place.max_replicas,
                "target_ongoing_requests": place.max_batch,
            }
        }
    return {
        **replicas,
        "max_ongoing_requests": place.queue + place.max_batch + OTHERS,
        "ray_actor_options": {"num_cpus": place.cpus, "num_gpus": place.gpus},
    }


def running() -> tuple[str, ...]:
    """The applications that Ray Serve runs on the cluster this process has joined, other people's too."""
    return tuple(sorted(serve.status().applications))


def stop() -> None:
    """Take the service down; the cluster and other people's applications stay."""
    if set(serve.status().applications) - {APP}:
        serve.delete(APP)
    else:
        serve.shutdown()


def _check_port(host: str, port: int) -> None:
    """A port that another program holds would make the proxy fail much later, and obscurely."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error.strerror})", where="serve.port", mend="choose another port"
            ) from None
