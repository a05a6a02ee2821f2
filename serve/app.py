"""The Ray Serve binding: one deployment that is ingress and model host at once.

Merging the two saves a hop between processes. A replica keeps the champion and its predecessor
loaded as adapters over one base model, so that a promotion or a rollback redeploys nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation

from serve.api import create_app
from serve.away import Away
from serve.engine import Batcher
from serve.logs import log_to
from serve.warm import Warm
from valuealign.config import RunConfig, ServeConfig
from valuealign.errors import Busy, ConfigError, RegistryError
from valuealign.models.host import Host
from valuealign.models.load import fingerprint, resolve
from valuealign.prompts import Template, train_templates
from valuealign.registry import Registry, check_base
from valuealign.store import Store

log = logging.getLogger("valuealign.serve")
APP = "valuealign"
API = ("max_tokens", "auth", "per_minute", "token_hours", "open_metrics", "origins")  # settings that the API takes
LEASE = 30.0  # seconds for which the box stays lent to somebody who is not heard of
NOBODY = ""
OTHERS = 32  # requests of a replica besides those that wait for the model or are answered: feedback, lists, health


class Lenders:
    """Whom the box is lent to, as the replica knows it that stands in for the models. If nobody has been heard of for
    ``LEASE`` seconds, it calls ``bring_back``."""

    def __init__(self, bring_back: Callable[[], None]) -> None:
        self._bring_back = bring_back
        self._until: dict[str, float] = {}
        self.heard(NOBODY)  # whoever lent the box is about to say so
        threading.Thread(target=self._watch, name="lenders", daemon=True).start()

    def heard(self, lender: str) -> None:
        """It lives."""
        self._until[lender] = time.monotonic() + LEASE

    def ended(self, lender: str) -> bool:
        """Whether it was the last: then it has ``LEASE`` seconds to bring the models back."""
        self._until.pop(lender, None)
        last = not any(one != NOBODY for one in self._living())
        if last:
            self.heard(NOBODY)
        return last

    def _living(self) -> list[str]:
        now = time.monotonic()
        return [one for one, until in list(self._until.items()) if until > now]

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, LEASE / 3))
            if self._living():
                continue
            log.warning("whoever trained has not been heard of for %g seconds: the models come back", LEASE)
            self.heard(NOBODY)
            try:
                self._bring_back()
            except Exception as error:
                log.warning("the models do not come back: %s", error)


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
        self._health = ThreadPoolExecutor(1, thread_name_prefix="health")
        log_to(Path(root).parent / "logs")
        store = Store.open(database)
        registry = Registry(Path(root), store)
        self._backend: Batcher | Away = Away()
        self._lenders = Lenders(lambda: _deploy(self._facts)) if lent else None
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

    def lend(self, lender: str) -> bool:
        """Whether the box is lent; if so, to ``lender`` too, for ``LEASE`` seconds from now."""
        if self._lenders is not None:
            self._lenders.heard(lender)
        return self._lenders is not None

    def ended(self, lender: str) -> bool:
        """Whether the box was lent, and to nobody but ``lender``, who brings the models back now."""
        return self._lenders is not None and self._lenders.ended(lender)

    async def check_health(self) -> None:
        """Ray Serve starts a replica anew whose model cannot write one token."""
        # In a thread of its own: those of the event loop may all be waiting for versions that are read from disk.
        await asyncio.get_running_loop().run_in_executor(self._health, self._backend.check)


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
    503 and Retry-After, and feedback is taken as ever. When the last such block ends, or its process has not been
    heard of for ``LEASE`` seconds, the models come back.
    """
    handle = serve.get_app_handle(APP) if APP in running() else None
    place = handle.facts.remote().result()["place"] if handle else None
    held = place.gpus * (place.max_replicas or place.replicas) if place else 0.0
    if not handle or not held or gpus <= ray.cluster_resources().get("GPU", 0.0) - held:
        yield False
        return
    lender, over = secrets.token_hex(8), threading.Event()

    def renew() -> None:
        while not over.wait(LEASE / 3):
            try:
                _lend(handle, lender)
            except Exception as error:  # the service may be starting anew
                log.warning("the lease of the GPUs is not renewed: %s", error)

    _lend(handle, lender)
    renewing = threading.Thread(target=renew, name="lease", daemon=True)
    renewing.start()
    try:
        yield True
    finally:
        over.set()
        renewing.join()
        if APP in running() and handle.ended.remote(lender).result():
            _deploy(handle.facts.remote().result())


def _lend(handle: Any, lender: str) -> None:
    """The service has no models, and knows for whom."""
    if not handle.lend.remote(lender).result(timeout_s=LEASE):
        _deploy(handle.facts.remote().result(timeout_s=LEASE), lent=True)
        handle.lend.remote(lender).result(timeout_s=LEASE)


def _scale(place: ServeConfig, lent: bool) -> dict[str, Any]:
    """How many replicas there are, on what, and how many requests each takes (its own queue refuses before); as many
    again wait for a replica that takes them, and Ray Serve refuses the rest."""
    most = place.queue + place.max_batch + OTHERS
    common = {
        "max_ongoing_requests": most,
        "max_queued_requests": most,  # feedback, which our own queue does not count, would wait without a bound
        "backpressure_config": {"retry_after_s": Busy.retry_after},
    }
    if lent:
        return {**common, "num_replicas": 1, "ray_actor_options": {"num_cpus": place.cpus, "num_gpus": 0}}
    replicas: dict[str, Any] = {"num_replicas": place.replicas}
    if place.max_replicas and place.max_replicas > place.replicas:
        replicas = {
            "autoscaling_config": {
                "min_replicas": place.replicas,
                "max_replicas": place.max_replicas,
                "target_ongoing_requests": place.max_batch,
            }
        }
    return {**common, **replicas, "ray_actor_options": {"num_cpus": place.cpus, "num_gpus": place.gpus}}


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
