"""What there is and how it fares: /v1/models, /livez, /readyz, /metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Annotated

from fastapi import FastAPI, Path
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response as HttpResponse

from serve import schemas as wire
from serve.auth import needs
from serve.errors import ApiError
from serve.links import links
from serve.metrics import Gauge
from serve.service import Service, said
from valuealign import loop
from valuealign.errors import ValuealignError
from valuealign.registry import Version

log = logging.getLogger("valuealign.serve")


def add_telling(app: FastAPI, service: Service, *, open_metrics: bool) -> None:
    """The routes."""
    store, registry, name = service.store, service.registry, service.name

    @app.get(
        "/v1/models",
        response_model=wire.ModelList,
        responses={200: {"links": links(promote={"/name": name})}},
        **needs("query"),
    )
    def models() -> HttpResponse:
        """Every version of the served family, newest first."""
        aliases = _aliases(service)
        entries = [_entry(version, aliases.get(version.id, [])) for version in reversed(registry.versions(name))]
        return said(wire.ModelList(data=entries))

    @app.get("/v1/models/{model}", response_model=wire.ModelEntry, **needs("query"))
    def model(model: Annotated[wire.ModelName, Path()]) -> HttpResponse:
        """The version that a model's name stands for now."""
        version = service.find(model)
        return said(_entry(version, _aliases(service).get(version.id, [])))

    @app.get("/livez", response_model=wire.Health)
    async def livez() -> HttpResponse:
        """Whether the process answers."""
        return said(wire.Health())

    @app.get("/readyz", response_model=wire.Health)
    def readyz() -> HttpResponse:
        """Whether the database answers and the champion can be served, by a model that is there now."""
        try:
            store.ping()
            champion = registry.get(f"{name}@champion").ref
        except ValuealignError as error:
            log.warning("not ready: %s", error)
            raise ApiError(503, f"not ready: {error.what}", code="not_ready") from None
        if not service.backend.ready:
            raise ApiError(503, "not ready: no model is there to answer", code="not_ready")
        return said(wire.Health(model=champion))

    service.meters.watch(lambda: _queue(service))
    service.meters.watch_shared(lambda: _loop(service))
    restriction = {} if open_metrics else needs("review")

    @app.get("/metrics", response_class=PlainTextResponse, **restriction)
    def metrics() -> HttpResponse:
        """Counts and gauges for Prometheus."""
        return HttpResponse(service.meters.show(), media_type=CONTENT_TYPE_LATEST)


def _aliases(service: Service) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for state in service.store.aliases(service.name):
        found.setdefault(state.version, []).append(state.alias)
    return found


def _entry(version: Version, aliases: list[str]) -> wire.ModelEntry:
    base = version.card.get("base")
    return wire.ModelEntry(
        id=version.ref,
        created=_unix(version.card["created"]),
        aliases=aliases,
        base=PurePath(base).name if base else None,  # a client learns no paths
        parent=f"{version.name}@{version.parent}" if version.parent else None,
    )


def _unix(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp())


def _queue(service: Service) -> Iterator[Gauge]:
    yield Gauge("valuealign_waiting_requests", "Requests that no model has begun", {"": service.backend.waiting})


def _loop(service: Service) -> Iterator[Gauge]:
    """The state of the loop. What the database does not tell now is left out."""
    try:
        states = {state.alias: state for state in service.store.aliases(service.name)}
        counts = service.store.count_feedback(service.name)
        anchor = loop.anchor(service.registry, service.name)
    except ValuealignError as error:
        log.warning("metrics without the state of the loop: %s", error)
        return
    epochs = {alias: float(state.epoch) for alias, state in states.items()}
    versions = {alias: float(state.version[1:]) for alias, state in states.items()}
    yield Gauge("valuealign_alias_epoch", "How often an alias has moved", epochs, "alias")
    yield Gauge("valuealign_alias_version", "The number of the version that an alias points at", versions, "alias")
    yield Gauge("valuealign_feedback", "Feedback in the database", counts, "status")
    if anchor is not None:
        age = time.time() - datetime.combine(anchor.since, datetime.min.time(), UTC).timestamp()
        yield Gauge("valuealign_anchor_age_seconds", "Since the people were asked whom the model is held to", {"": age})
