"""The HTTP API over a store, a registry and a backend. Knows no Ray and no model library.

A model's name is resolved at each request: after a promotion the next request is answered by the
new version. What is answered with 2xx is on disk.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
from fastapi import FastAPI, Header, Request
from fastapi import Response as HttpResponse
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from serve import schemas as wire
from valuealign import prompts
from valuealign.errors import KeyReused, ModelError, UnknownFeedback, UnknownResponse, UnknownVersion, ValuealignError
from valuealign.registry import Registry, Version
from valuealign.store import Response, Store, new_id
from valuealign.types import Cell, Message

log = logging.getLogger("valuealign.serve")
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": wire.ErrorEnvelope}, "5XX": {"model": wire.ErrorEnvelope}}


class Reply(NamedTuple):
    """What a backend answers a chat with; ``finish`` is ``stop`` or ``length``."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str


class Backend(Protocol):
    """Whatever holds the models. Raises ModelError for a chat that does not fit."""

    async def chat(
        self, version: Version, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int | None
    ) -> Reply:
        """Answer a chat."""
        ...

    async def score(self, version: Version, cells: Sequence[Cell]) -> Sequence[np.ndarray]:
        """Raw log-probabilities [K] (nats) of each cell's completions."""
        ...


class ApiError(Exception):
    """An error with its HTTP status, in OpenAI's words."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        self.status, self.message, self.code, self.param = status, message, code, param
        super().__init__(message)


def create_app(
    *,
    store: Store,
    registry: Registry,
    backend: Backend,
    name: str,
    max_tokens: int = 64,
    max_body: int = 262_144,
    template: prompts.Template | None = None,
) -> FastAPI:
    """The service of model family ``name``. ``max_tokens`` bounds an answer, ``max_body`` (bytes) a request;
    ``template`` words closed questions (None: the default one)."""
    app = FastAPI(title="valuealign", docs_url=None, redoc_url=None, responses=ERRORS)
    app.add_middleware(BodyLimit, limit=max_body)
    _handle_errors(app)
    _answering(app, store, registry, backend, name, max_tokens, template)
    _listening(app, store)
    _telling(app, store, registry, name)
    return app


def _answering(
    app: FastAPI, store: Store, registry: Registry, backend: Backend, name: str, max_tokens: int,
    template: prompts.Template | None,
) -> None:  # fmt: skip
    """POST /v1/chat/completions and /v1/distributions."""

    @app.post("/v1/chat/completions")
    async def chat(request: wire.ChatRequest) -> wire.ChatResponse:
        if request.stream:
            raise ApiError(400, "stream: true is not supported yet; leave it out", code="unsupported", param="stream")
        limit = request.max_tokens or request.max_completion_tokens or max_tokens
        if limit > max_tokens:
            raise ApiError(400, f"max_tokens may be at most {max_tokens}", code="invalid_parameter", param="max_tokens")
        version = await run_in_threadpool(_resolve, registry, name, request.model)
        messages = tuple(Message(turn.role, turn.content) for turn in request.messages)
        reply = await backend.chat(
            version, messages, max_tokens=limit, temperature=request.temperature, seed=request.seed
        )
        detail = {"max_tokens": limit, "temperature": request.temperature, "seed": request.seed, "finish": reply.finish}
        response = Response(new_id("chat"), "chat", name, version.id, messages, reply.text, detail)
        await run_in_threadpool(store.add_response, response)
        return wire.ChatResponse(
            id=response.id,
            created=int(time.time()),
            model=version.ref,
            choices=[
                wire.ChatChoice(
                    message=wire.ChatMessageOut(content=reply.text),
                    finish_reason="length" if reply.finish == "length" else "stop",
                )
            ],
            usage=wire.Usage(
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                total_tokens=reply.prompt_tokens + reply.completion_tokens,
            ),
        )

    @app.post("/v1/distributions")
    async def distributions(request: wire.DistributionRequest) -> wire.DistributionResponse:
        version = await run_in_threadpool(_resolve, registry, name, request.model)
        asked = request.asked()
        cells = [closed_cell(question, template) for question in asked]
        scores = await backend.score(version, cells)
        found = [_distribution(question, logp_K) for question, logp_K in zip(asked, scores, strict=True)]
        made = []
        for cell, one in zip(cells, found, strict=True):
            detail = {"options": list(one.shares), "shares": list(one.shares.values()), "raw_mass": one.raw_mass}
            made.append(Response(one.response_id, "distribution", name, version.id, cell.prompt, one.answer, detail))
        await run_in_threadpool(store.add_responses, made)
        return wire.DistributionResponse(created=int(time.time()), model=version.ref, distributions=found)


def _listening(app: FastAPI, store: Store) -> None:
    """POST and GET /v1/feedback."""

    @app.post("/v1/feedback", status_code=201)
    def post(
        request: wire.FeedbackRequest,
        response: HttpResponse,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    ) -> wire.FeedbackReceipt:
        if request.correction is not None:
            _check_correction(store.response(request.response_id), request.correction)
        receipt = store.add_feedback(
            request.response_id,
            verdict=request.verdict or "correction",
            correction=request.correction,
            key=idempotency_key,
        )
        if receipt.replayed:
            response.headers["Idempotent-Replayed"] = "true"
        return wire.FeedbackReceipt(
            id=receipt.id, response_id=receipt.response_id, status=receipt.status, created=receipt.created
        )

    @app.get("/v1/feedback/{feedback_id}")
    def status(feedback_id: str) -> wire.FeedbackStatus:
        found = store.feedback(feedback_id)
        return wire.FeedbackStatus(
            id=found.id,
            response_id=found.response_id,
            status=found.status,
            created=found.created,
            verdict=found.verdict,
            reason=found.reason,
            reviewed=found.reviewed,
        )


def _telling(app: FastAPI, store: Store, registry: Registry, name: str) -> None:
    """GET /v1/models, /livez and /readyz."""

    @app.get("/v1/models")
    def models() -> wire.ModelList:
        aliases: dict[str, list[str]] = {}
        for state in store.aliases(name):
            aliases.setdefault(state.version, []).append(state.alias)
        entries = [_entry(version, aliases.get(version.id, [])) for version in reversed(registry.versions(name))]
        return wire.ModelList(data=entries)

    @app.get("/livez")
    async def livez() -> wire.Health:
        return wire.Health()

    @app.get("/readyz")
    def readyz() -> wire.Health:
        try:
            store.ping()
            return wire.Health(model=registry.get(f"{name}@champion").ref)
        except ValuealignError as error:
            log.warning("not ready: %s", error)
            raise ApiError(503, f"not ready: {error.what}", code="not_ready") from None


def closed_cell(question: wire.Question, template: prompts.Template | None = None) -> Cell:
    """The cell that asks ``question``, through the same prompt as training."""
    options = tuple(question.options)
    nothing = (0.0,) * len(options)
    messages = prompts.ask(question.item, options, question.group or "", template)
    return Cell(messages, options, desirable=nothing, undesirable=nothing, closed=True, source="served")


def _distribution(question: wire.Question, logp_K: np.ndarray) -> wire.Distribution:
    odds_K = np.exp(logp_K - np.max(logp_K))
    shares_K = odds_K / odds_K.sum()
    if not np.isfinite(shares_K).all():
        raise ApiError(503, "the model gave no probability to any option", code="model_unavailable")
    return wire.Distribution(
        response_id=new_id("dist"),
        item=question.item,
        group=question.group,
        shares={option: float(share) for option, share in zip(question.options, shares_K, strict=True)},
        raw_mass=min(1.0, math.fsum(np.exp(logp_K))),
        answer=question.options[int(np.argmax(shares_K))],
    )


def _check_correction(response: Response, correction: str) -> None:
    if correction == response.answer:
        raise _bad_correction("the correction is the answer itself; post verdict: desirable")
    options = response.detail.get("options", ())
    if response.kind == "distribution" and correction not in options:
        known = ", ".join(f"'{option}'" for option in options)
        raise _bad_correction(f"a distribution is corrected by one of its options: {known}")


def _bad_correction(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_parameter", param="correction")


def _resolve(registry: Registry, name: str, model: str) -> Version:
    """The version that the client's ``model`` names now. Only the served family is looked up."""
    family, _, which = model.partition("@")
    if family != name:
        raise UnknownVersion(f"no model '{family}'", mend=f"this service answers as '{name}'")
    return registry.get(f"{name}@{which or 'champion'}")


def _entry(version: Version, aliases: list[str]) -> wire.ModelEntry:
    base = version.card.get("base")
    return wire.ModelEntry(
        id=version.ref,
        created=int(datetime.fromisoformat(version.card["created"]).timestamp()),
        aliases=aliases,
        base=PurePath(base).name if base else None,  # a client learns no paths
        parent=f"{version.name}@{version.parent}" if version.parent else None,
    )


# Errors: one envelope for all of them


def _envelope(
    status: int, message: str, *, code: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = wire.ErrorEnvelope(error=wire.ErrorBody(message=message, type=kind, param=param, code=code))
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


_OURS: tuple[tuple[type[ValuealignError], int, str, str], ...] = (
    (UnknownVersion, 404, "model_not_found", "model"),
    (UnknownResponse, 404, "response_not_found", "response_id"),
    (UnknownFeedback, 404, "feedback_not_found", "feedback_id"),
    (KeyReused, 422, "idempotency_key_reused", "Idempotency-Key"),
    (ModelError, 400, "invalid_parameter", "messages"),
)
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return _envelope(error.status, error.message, code=error.code, param=error.param)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part not in ("body", "header")) or None
        message = f"unknown field '{param}'" if first["type"] == "extra_forbidden" else f"{first['msg']}"
        return _envelope(400, message, code="invalid_parameter", param=param)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "invalid_request")
        return _envelope(error.status_code, str(error.detail), code=code, headers=dict(error.headers or {}))

    @app.exception_handler(ValuealignError)
    async def ours(_: Request, error: ValuealignError) -> JSONResponse:
        for kind, status, code, param in _OURS:
            if isinstance(error, kind):
                message = f"{error.what}; {error.mend}" if error.mend else error.what
                where = error.where if kind is ModelError and error.where else param
                return _envelope(status, message, code=code, param=where)
        # The store or a version's files: ours to mend, and nothing that a client should read.
        log.error("unavailable: %s", error)
        return _envelope(503, "the service cannot do this now", code="unavailable", headers={"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        log.error("unexpected", exc_info=error)
        return _envelope(500, "the service failed; the cause is in its log", code="internal")


class BodyLimit:
    """Refuses requests whose body is longer than ``limit`` bytes, said or unsaid."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        events: list[Event] = []
        size, more = 0, True
        while more:
            event = await receive()
            events.append(event)
            size += len(event.get("body", b""))
            more = event["type"] == "http.request" and event.get("more_body", False)
            if size > self.limit:
                refusal = _envelope(413, f"the request is longer than {self.limit} bytes", code=_CODES[413])
                return await refusal(scope, receive, send)

        async def replay() -> Event:
            return events.pop(0) if events else await receive()

        await self.app(scope, replay, send)
