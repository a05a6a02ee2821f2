"""What every route leans on: the service's parts, and the visit that a request is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response as HttpResponse
from starlette.types import Scope as AsgiScope

from serve.auth import Caller, Tokens
from serve.backend import Backend
from serve.metrics import Meters
from valuealign import prompts
from valuealign.errors import UnknownVersion
from valuealign.loop import CHAMPION
from valuealign.loop.canary import CANARY, drawn, out
from valuealign.registry import Registry, Version
from valuealign.store import Response, Store

T = TypeVar("T")


@dataclass
class Visit:
    """One request: what its log line, its headers and its rights are made of. No personal data."""

    request_id: str
    caller: Caller | None = None
    model: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def visit(scope: AsgiScope) -> Visit:
    """The visit of an ASGI scope that has passed the edge."""
    found: Visit = scope["state"]["visit"]
    return found


@dataclass(frozen=True)
class Service:
    """One model family as it is served. ``max_tokens`` bounds an answer, ``template`` words closed questions,
    ``canary`` is the share of requests that a canary answers while one is out."""

    store: Store
    registry: Registry
    backend: Backend
    name: str
    max_tokens: int
    template: prompts.Template | None
    tokens: Tokens
    meters: Meters
    canary: float = 0.0

    async def resolve(self, request: Request, model: str, person: str | None) -> Version:
        """The version that the client's ``model`` names now; it goes into the visit. Raises UnknownVersion.

        A ``person`` whom the client names is drawn for a canary once and for all, other requests one by one (not by
        their key: behind one there may be everybody who asks).
        """
        asking = visit(request.scope)
        version = await run_in_threadpool(self.find, model, drawn_by=person or asking.request_id)
        asking.model = version.ref
        return version

    def find(self, model: str, drawn_by: str | None = None) -> Version:
        """The version that ``model`` names now. Only the served family is looked up. Raises UnknownVersion.

        With ``drawn_by``, a person or a request's id, the family's bare name may mean the canary.
        """
        family, _, which = model.partition("@")
        if family != self.name:
            raise UnknownVersion(f"no model '{family}'", mend=f"this service answers as '{self.name}'")
        if not which and self.canary and drawn_by and drawn(drawn_by, self.canary):
            which = CANARY if out(self.registry, self.name) else ""
        return self.registry.get(f"{self.name}@{which or CHAMPION}")

    async def keep(self, responses: Sequence[Response]) -> None:
        """Write answers down, off the event loop: feedback can name them once this returns."""
        await run_in_threadpool(self.store.add_responses, responses)

    async def off_loop(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Run what waits for the database beside the event loop."""
        return await run_in_threadpool(call, *arguments, **named)


def said(body: BaseModel, *, status: int = 200, headers: dict[str, str] | None = None) -> HttpResponse:
    """An answer that is written to JSON once: a route that returns a model has it checked again."""
    return HttpResponse(body.model_dump_json(), status_code=status, media_type="application/json", headers=headers)


def now() -> int:
    """Unix time, as OpenAI's ``created`` has it."""
    return int(time.time())
