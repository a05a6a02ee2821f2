"""The Ray Serve binding: one deployment that is ingress and model host at once.

Merging the two saves a hop between processes. A replica keeps the champion and its predecessor
loaded as adapters over one base model, so that a promotion or a rollback redeploys nothing.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation

from serve.api import create_app
from serve.backend import Piece, Reply, Sampling
from serve.logs import log_to
from valuealign.config import RunConfig
from valuealign.errors import ConfigError, ModelError, RegistryError
from valuealign.models.host import Host
from valuealign.models.load import fingerprint, resolve
from valuealign.models.trained import is_whole
from valuealign.prompts import Template, render, train_templates
from valuealign.registry import Registry, Version, check_base
from valuealign.store import Store
from valuealign.types import Cell, Message

APP = "valuealign"
LOADED = 4  # adapters of one replica: champion, predecessor, and the last others asked for
WHOLE = 2  # full fine-tunes bring all weights each: champion and predecessor
API = ("max_tokens", "auth", "per_minute", "token_hours", "open_metrics", "origins")  # settings that the API takes


class HostBackend:
    """A ``Host`` behind the API. Answers run inline: on few cores a thread beside the event loop
    makes each answer slower, and an adapter is switched in place, so answers queue anyway."""

    waiting = 0  # whoever waits, waits for the event loop

    def __init__(self, host: Host, *, base_hash: str | None, limit: int | None = None, keep: int = LOADED) -> None:
        self._host, self.base_hash, self._limit, self._keep = host, base_hash, limit, keep
        self._used: list[str] = []

    async def chat(
        self, version: Version, messages: Sequence[Message], sampling: Sampling
    ) -> AsyncGenerator[Piece | Reply, None]:
        """Answer a chat, in one piece. Raises ModelError if it does not fit the model."""
        if sampling.top_logprobs is not None:
            raise ModelError("log-probabilities are not kept", where="logprobs", mend="leave it out")
        self.attach(version)
        answer = self._host.generate(
            version.id,
            messages,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
        )
        ends = [place for stop in sampling.stop if (place := answer.text.find(stop)) >= 0]
        text, finish = (answer.text[: min(ends)], "stop") if ends else (answer.text, answer.finish)
        yield Piece(text)
        yield Reply(text, answer.prompt_tokens, answer.completion_tokens, finish)

    async def score(self, version: Version, cells: Sequence[Cell]) -> Sequence[np.ndarray]:
        """Raw log-probabilities [K] (nats) of each cell's completions. Raises ModelError for a question too long."""
        self.attach(version)
        for cell in cells if self._limit else ():
            rendered = render(cell, self._host.tokenizer(version.id))
            longest = len(rendered.prompt_ids) + max(map(len, rendered.completion_ids))
            if self._limit and longest > self._limit:
                what = f"the question has {longest} tokens with its longest option, the model reads {self._limit}"
                raise ModelError(what, where="item", mend="shorten it")
        return self._host.score(version.id, cells)

    def attach(self, version: Version) -> None:
        """Load a version's adapter, and detach the one asked for longest ago if there are too many.

        Raises RegistryError if the adapter does not belong over this base.
        """
        if version.id not in self._host.loaded():
            try:
                if self.base_hash:
                    check_base(version, self.base_hash, "start the service anew with a champion over that base")
                self._host.load(version.id, version.path)
            except ModelError as error:
                raise RegistryError(error.what, where=version.ref, mend=error.mend) from error
        self._used = [used for used in self._used if used != version.id] + [version.id]
        keep = min(self._keep, WHOLE) if is_whole(version.path) else self._keep
        for old in self._used[:-keep]:
            self._host.unload(old)
        self._used = self._used[-keep:]


def build(
    *,
    name: str,
    database: str,
    root: str,
    base: str,
    dtype: str,
    quantize: str,
    gpu: bool,
    template: Template,
    api: dict[str, Any],
) -> FastAPI:
    """What a replica runs: opens the store, loads the base, the champion and its predecessor. ``api`` is
    what ``create_app`` is told of the service's settings."""
    log_to(Path(root).parent / "logs")
    store = Store.open(database)
    registry = Registry(Path(root), store)
    host = Host(base, dtype, quantize=quantize, device="cuda" if gpu else "cpu")
    limit = json.loads((Path(base) / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    backend = HostBackend(host, base_hash=fingerprint(Path(base), quantize), limit=limit)
    for version in (registry.previous(name), registry.get(f"{name}@champion")):
        if version is not None and version.card.get("base_hash") in (None, backend.base_hash):
            backend.attach(version)
    return create_app(store=store, registry=registry, backend=backend, name=name, template=template, **api)


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
    made_on = champion.card.get("base_hash")
    if made_on not in (None, fingerprint(base, champion.quantize)):
        raise RegistryError(
            "its base model has changed since it was trained",
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
        "gpu": place.gpus > 0,
        "template": train_templates(config.prompts)[0],
        "api": {key: getattr(place, key) for key in API},
    }
    if set(serve.status().applications) == {APP}:
        stop()  # it is replaced; while Serve runs, neither its address nor its port can change
    _check_port(place.host, place.port)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it warns of options that it then applies
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=HTTPOptions(host=place.host, port=place.port))
    deployment = serve.deployment(
        name=APP,
        num_replicas=place.replicas,
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": place.cpus, "num_gpus": place.gpus},
    )
    serve.run(deployment(serve.ingress(lambda: build(**facts))()).bind(), name=APP, route_prefix="/")
    return f"http://{place.host}:{place.port}"


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
