"""The outermost layer: who may come in, how much they may bring, and what is noted of each request.

It stands before routing, so that every answer, of routes that do not exist too, has an envelope, an id,
a line in the log and a count. Before it stands Cors, where pages of other addresses may ask.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response as HttpResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from serve.auth import Gatekeeper
from serve.errors import ApiError, answer, as_api_error
from serve.logs import REQUEST_ID
from serve.metrics import Meters
from serve.service import Visit

log = logging.getLogger("valuealign.access")
HUNG_UP = 499  # the status, in counts and log, of a request whose client left before the answer
OPEN = frozenset({"/livez", "/readyz", "/openapi.json"})
TAKES_TOKENS = ("POST", "/v1/feedback")  # without a key, it asks for a token itself
PATIENCE = 30.0  # seconds that a body may take to come: who sends half of one holds a place that others need


class Edge:
    """ASGI middleware; ``max_body`` (bytes) bounds a request's body, said or unsaid."""

    def __init__(
        self, app: ASGIApp, *, gatekeeper: Gatekeeper, meters: Meters, max_body: int, open_metrics: bool
    ) -> None:
        self._app, self._gatekeeper, self._meters, self._max_body = app, gatekeeper, meters, max_body
        self._open = OPEN | {"/metrics"} if open_metrics else OPEN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 0
        visit = Visit(_request_id())
        scope.setdefault("state", {})["visit"] = visit
        REQUEST_ID.set(visit.request_id)

        async def note(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
                event["headers"] = [*event.get("headers", []), *_headers(visit)]
            await send(event)

        try:
            await self._admit(scope, visit)
            if scope["path"] not in self._open:  # those routes have none
                receive = await self._whole(receive)
            await self._app(scope, receive, note)
        except Exception as error:
            # Re-raised, the server would print its message, which may quote what was asked.
            refusal = answer(as_api_error(error))
            if not status:
                await refusal(scope, receive, note)
        finally:
            self._note(scope, visit, status, time.perf_counter() - began)

    async def _admit(self, scope: Scope, visit: Visit) -> None:
        if scope["path"] in self._open:
            return
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        if not headers and (scope["method"], scope["path"]) == TAKES_TOKENS and self._gatekeeper.auth:
            return
        visit.caller = await self._gatekeeper.admit(headers[0].decode("latin-1") if headers else None)

    async def _whole(self, receive: Receive) -> Receive:
        """The body, read to its end: it may turn out too long only there. Raises ApiError 408 or 413."""
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(PATIENCE):
                while more:
                    event = await receive()
                    body += event.get("body", b"")
                    more = event["type"] == "http.request" and event.get("more_body", False)
                    if len(body) > self._max_body:
                        message = f"the request is longer than {self._max_body} bytes"
                        raise ApiError(413, message, code="request_too_large")
        except TimeoutError:
            message, gone = f"the request was not here after {PATIENCE:g} seconds", {"Connection": "close"}
            raise ApiError(408, message, code="request_timeout", headers=gone) from None
        if event["type"] == "http.request":
            event = {"type": "http.request", "body": bytes(body), "more_body": False}
        events = [event]

        async def replay() -> Event:
            return events.pop() if events else await receive()

        return replay

    def _note(self, scope: Scope, visit: Visit, status: int, seconds: float) -> None:
        # A route's pattern, not its path: what clients write into addresses is kept out of the log.
        route = getattr(scope.get("route"), "path", "") or "none"
        self._meters.requests.labels(route, _method(scope), str(status or HUNG_UP)).inc()
        self._meters.seconds.labels(route).observe(seconds)
        facts: dict[str, Any] = {
            "method": _method(scope),
            "route": route,
            "status": status or HUNG_UP,
            "ms": round(seconds * 1e3, 2),
            "key": visit.caller.id if visit.caller else None,
            "model": visit.model,
            **visit.detail,
        }
        log.info("answered", extra={"facts": facts})


class Cors(CORSMiddleware):
    """Starlette's, whose answers to a browser's preflight are like all others: an id, and refusals in the envelope."""

    def preflight_response(self, request_headers: Headers) -> HttpResponse:
        """Whether a page may ask so."""
        found = super().preflight_response(request_headers)
        if found.status_code >= 400:
            kept = {name: value for name, value in found.headers.items() if not name.startswith("content-")}
            found = answer(ApiError(400, bytes(found.body).decode(), code="invalid_request", headers=kept))
        found.headers["x-request-id"] = _request_id()
        return found


def _request_id() -> str:
    return f"req-{secrets.token_hex(12)}"


def _headers(visit: Visit) -> list[tuple[bytes, bytes]]:
    found = [(b"x-request-id", visit.request_id.encode())]
    return [*found, (b"valuealign-model", visit.model.encode())] if visit.model else found


def _method(scope: Scope) -> str:
    known = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
    return scope["method"] if scope["method"] in known else "other"  # a client's word makes no new series
