"""One envelope for every answer with status 4xx or 5xx, and what status each error has."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from serve import schemas as wire
from valuealign.errors import (
    AliasMoved,
    Busy,
    Gone,
    KeyReused,
    ModelError,
    Refused,
    UnknownFeedback,
    UnknownResponse,
    UnknownVersion,
    ValuealignError,
)

log = logging.getLogger("valuealign.serve")
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": wire.ErrorEnvelope},
    "5XX": {"model": wire.ErrorEnvelope},
}
_OURS: tuple[tuple[type[ValuealignError], int, str, str | None], ...] = (
    (UnknownVersion, 404, "model_not_found", "model"),
    (UnknownResponse, 404, "response_not_found", "response_id"),
    (UnknownFeedback, 404, "feedback_not_found", "feedback_id"),
    (KeyReused, 422, "idempotency_key_reused", "Idempotency-Key"),
    (Gone, 410, "erased", None),
    (AliasMoved, 409, "alias_moved", "expected"),
    (Refused, 400, "invalid_parameter", None),
    (ModelError, 400, "invalid_parameter", "messages"),
)
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


class ApiError(Exception):
    """An error with its HTTP status, in OpenAI's words."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers
        super().__init__(message)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of any error. What is ours to mend is logged here, without the data it arose over."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        code = _CODES.get(error.status_code, "invalid_request")
        return ApiError(error.status_code, str(error.detail), code=code, headers=error.headers)
    if isinstance(error, Busy):
        message = f"{error.what}; {error.mend}"
        return ApiError(503, message, code="busy", headers={"Retry-After": str(error.retry_after)})
    for kind, status, code, param in _OURS:
        if isinstance(error, kind):
            message = f"{error.what}; {error.mend}" if error.mend else error.what
            where = error.where if kind in (ModelError, Refused) and error.where else param
            return ApiError(status, message, code=code, param=where)
    if isinstance(error, ValuealignError):
        # The store or a version's files: ours to mend, and nothing that a client should read.
        log.error("unavailable: %s", error)
        return ApiError(503, "the service cannot do this now", code="unavailable")
    # An error's message may quote what was asked: the log gets its kind and where it arose.
    places = "; ".join(f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-8:])
    log.error("unexpected %s at %s", type(error).__name__, places)
    return ApiError(500, "the service failed; the cause is in its log", code="internal")


def envelope(error: ApiError) -> dict[str, Any]:
    """The body that says ``error``."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    # Half a surrogate pair, quoted from a request, cannot be written as UTF-8.
    message, param = (part and part.encode("utf-8", "replace").decode() for part in (error.message, error.param))
    return {"error": {"message": message, "type": kind, "param": param, "code": error.code}}


def answer(error: ApiError) -> JSONResponse:
    """The HTTP response that says ``error``; what fails for now says when to come back."""
    headers = {"Retry-After": "1"} if error.status == 503 else {}
    return JSONResponse(envelope(error), status_code=error.status, headers={**headers, **(error.headers or {})})


def handle_errors(app: FastAPI) -> None:
    """Give every error that a route raises its envelope. What is unexpected the edge answers."""

    async def said(request: Request, error: Exception) -> JSONResponse:
        refusal = as_api_error(error)
        if refusal.status == 405:  # the framework names the methods of one route, where several share a path
            refusal.headers = {"Allow": ", ".join(sorted(_methods(app, request.url.path)))}
        return answer(refusal)

    for kind in (ApiError, RequestValidationError, HTTPException, ValuealignError):
        app.add_exception_handler(kind, said)


def _methods(app: FastAPI, path: str) -> set[str]:
    found: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            found |= route.methods or set()
    return found


def _invalid(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "header", "query", "path")]
    param = ".".join(place) or None
    message = f"unknown field '{param}'" if first["type"] == "extra_forbidden" else f"{first['msg']}"
    return ApiError(400, message, code="invalid_parameter", param=param)
