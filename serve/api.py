"""The HTTP API over a store, a registry and a backend. Knows no Ray and no model library.

A model's name is resolved at each request: after a promotion the next request is answered by the
new version. What is answered with 2xx is on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from serve.auth import Gatekeeper, Tokens, describe
from serve.backend import Backend
from serve.chat import add_chat
from serve.distributions import add_distributions, closed_cell
from serve.edge import Cors, Edge
from serve.errors import DOCUMENTED, handle_errors
from serve.governing import add_governing
from serve.listening import InFlight, add_feedback
from serve.metrics import Meters
from serve.service import Service
from serve.telling import add_telling
from valuealign import prompts
from valuealign.registry import Registry
from valuealign.store import Store

__all__ = ["closed_cell", "create_app"]


class App(FastAPI):
    """FastAPI's application, whose document says how to come in."""

    def __init__(self, *, auth: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self._auth = auth

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return describe(super().openapi(), auth=self._auth)


def create_app(
    *,
    store: Store,
    registry: Registry,
    backend: Backend,
    name: str,
    max_tokens: int = 64,
    max_body: int = 262_144,
    template: prompts.Template | None = None,
    auth: bool = True,
    per_minute: int | None = None,
    token_hours: int = 24,
    open_metrics: bool = True,
    origins: Sequence[str] = (),
    canary: float = 0.0,
) -> FastAPI:
    """The service of model family ``name``.

    ``max_tokens`` bounds an answer, ``max_body`` (bytes) a request, ``per_minute`` the requests of a
    key without a limit of its own (None: nothing does); ``template`` words closed questions (None: the
    default one). Without ``auth`` anybody may do anything. The tokens that come with answers are good
    for ``token_hours``; /metrics asks for a key unless ``open_metrics``. Scripts of web pages from
    ``origins`` may read the answers. While a canary is out, it answers that share of the requests for ``name``.
    """
    meters = Meters()
    service = Service(
        store=store,
        registry=registry,
        backend=backend,
        name=name,
        max_tokens=max_tokens,
        template=template,
        tokens=Tokens(store.secret("feedback-token"), seconds=token_hours * 3600),
        meters=meters,
        canary=canary,
    )
    app = App(
        auth=auth,
        title="valuealign",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=DOCUMENTED,
    )
    app.add_middleware(
        Edge,
        gatekeeper=Gatekeeper(store, auth=auth, per_minute=per_minute),
        meters=meters,
        max_body=max_body,
        open_metrics=open_metrics,
    )
    if origins:
        app.add_middleware(
            Cors,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
            expose_headers=["X-Request-Id", "Valuealign-Model", "Retry-After", "Idempotent-Replayed"],
        )
    handle_errors(app)
    flying = InFlight()
    add_chat(app, service)
    add_distributions(app, service)
    add_feedback(app, service, flying)
    add_governing(app, service, flying)
    add_telling(app, service, open_metrics=open_metrics)
    return app
