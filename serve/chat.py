"""POST /v1/chat/completions: OpenAI's chat, whole or in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response as HttpResponse
from starlette.responses import StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from serve import schemas as wire
from serve.auth import needs
from serve.backend import Piece, Reply, Sampling, Scored
from serve.errors import ApiError, as_api_error, envelope
from serve.links import links
from serve.service import Service, now, said, visit
from valuealign.registry import Version
from valuealign.store import Response, new_id
from valuealign.types import Message

_SCHEMAS = "#/components/schemas/"
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {
            "anyOf": [
                {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {
                        "anyOf": [{"$ref": _SCHEMAS + "ChatChunk"}, {"$ref": _SCHEMAS + "ErrorEnvelope"}]
                    },
                },
                {"const": "[DONE]"},
            ]
        }
    },
}
NOT_HELD_BACK = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # by a proxy
Pieces = AsyncGenerator[Piece | Reply, None]


@dataclass(frozen=True)
class Asked:
    """One chat on its way: what was asked, by whom, and which version answers."""

    id: str
    created: int
    version: Version
    messages: tuple[Message, ...]
    sampling: Sampling
    request: wire.ChatRequest
    key_id: str | None


def add_chat(app: FastAPI, service: Service) -> None:
    """The route."""

    @app.post(
        "/v1/chat/completions",
        response_model=wire.ChatResponse,
        responses={
            200: {
                "content": {"text/event-stream": {"schema": EVENT}},
                "links": links(judge={"response_id": "$response.body#/id"}),
            }
        },
        **needs("query"),
    )
    async def chat(request: wire.ChatRequest, http: Request) -> HttpResponse:
        """Answer a chat; with `stream`, in pieces as they are written."""
        sampling = _sampling(request, service.max_tokens)
        version = await service.resolve(http, request.model, request.user)
        messages = tuple(
            Message("system" if turn.role == "developer" else turn.role, turn.content) for turn in request.messages
        )
        caller = visit(http.scope).caller
        asked = Asked(new_id("chat"), now(), version, messages, sampling, request, key_id=caller.id if caller else None)
        pieces = service.backend.chat(version, messages, sampling, stream=request.stream)
        if request.stream:
            try:
                first = await anext(pieces)  # what is refused is refused with its own status
            except BaseException:
                await pieces.aclose()
                raise
            return _Events(_events(service, http, asked, first, pieces))
        reply = await _whole(pieces)
        await _keep(service, http, asked, reply)
        message = wire.ChatMessageOut(content=reply.text)
        choice = wire.ChatChoice(message=message, logprobs=_logprobs(asked, reply.tokens), finish_reason=_finish(reply))
        return said(
            wire.ChatResponse(
                id=asked.id,
                created=asked.created,
                model=version.ref,
                choices=[choice],
                usage=_usage(reply),
                feedback_token=service.tokens.issue(asked.id),
            )
        )


def _sampling(request: wire.ChatRequest, most: int) -> Sampling:
    limit = request.max_tokens or request.max_completion_tokens or most
    if limit > most:
        param = "max_tokens" if request.max_tokens else "max_completion_tokens"
        raise ApiError(400, f"{param} may be at most {most}", code="invalid_parameter", param=param)
    top = (request.top_logprobs or 0) if request.logprobs else None
    return Sampling(limit, request.temperature, request.seed, request.stops, top)


async def _whole(pieces: Pieces) -> Reply:
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Reply):
                return piece
    raise AssertionError("an answer ended without its Reply")


async def _keep(service: Service, http: Request, asked: Asked, reply: Reply) -> None:
    """Write the answer down, and count it."""
    sampling = asked.sampling
    detail: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "finish": reply.finish,
    }
    if sampling.stop:
        detail["stop"] = list(sampling.stop)
    if asked.request.metadata:
        detail["metadata"] = asked.request.metadata
    response = Response(
        asked.id,
        "chat",
        service.name,
        asked.version.id,
        asked.messages,
        reply.text,
        detail,
        key_id=asked.key_id,
        person=asked.request.user,
    )
    await service.keep([response])
    used = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    visit(http.scope).detail |= used
    service.meters.tokens.labels("prompt").inc(reply.prompt_tokens)
    service.meters.tokens.labels("completion").inc(reply.completion_tokens)


async def _events(
    service: Service, http: Request, asked: Asked, first: Piece | Reply, pieces: Pieces
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events. Its end is sent after it has been written down, so that feedback
    can name it; what fails on the way is an event with the error's envelope."""
    usage = asked.request.stream_options is not None and asked.request.stream_options.include_usage

    def chunk(choices: Sequence[dict[str, Any]], **more: Any) -> bytes:
        head = {"id": asked.id, "object": "chat.completion.chunk", "created": asked.created}
        waiting = {"usage": None} if usage else {}
        return _event({**head, "model": asked.version.ref, "choices": choices, **waiting, **more})

    def choice(delta: dict[str, Any], tokens: Iterable[Scored] = (), finish: str | None = None) -> dict[str, Any]:
        scored = _logprobs(asked, tokens) if delta.get("content") or tokens else None
        shown = scored.model_dump() if scored else None
        return {"index": 0, "delta": delta, "logprobs": shown, "finish_reason": finish}

    async with aclosing(pieces):
        try:
            yield chunk([choice({"role": "assistant", "content": ""})])
            piece = first
            while isinstance(piece, Piece):
                if piece.text or piece.tokens:
                    yield chunk([choice({"content": piece.text}, piece.tokens)])
                piece = await anext(pieces)
            await _keep(service, http, asked, piece)
            yield chunk([choice({}, finish=_finish(piece))], feedback_token=service.tokens.issue(asked.id))
            if usage:
                yield chunk([], usage=_usage(piece).model_dump())
        except Exception as error:
            refusal = as_api_error(error)
            visit(http.scope).detail["broken_off"] = refusal.code
            yield _event(envelope(refusal))
        yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


class _Events(StreamingResponse):
    """A stream that is closed at once when its reader hangs up: the model stops writing for nobody."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self._events = events
        super().__init__(events, headers=NOT_HELD_BACK)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The request's task may be cancelled by now: closing must not be.
            await asyncio.shield(self._events.aclose())


def _logprobs(asked: Asked, tokens: Iterable[Scored]) -> wire.ChatLogprobs | None:
    if asked.sampling.top_logprobs is None:
        return None
    content = [
        wire.TokenScore(
            token=one.token,
            logprob=one.logp,
            bytes=_bytes(one.token),
            top_logprobs=[wire.TopToken(token=token, logprob=logp, bytes=_bytes(token)) for token, logp in one.top],
        )
        for one in tokens
    ]
    return wire.ChatLogprobs(content=content)


def _bytes(token: str) -> list[int]:
    return list(token.encode("utf-8", "replace"))


def _finish(reply: Reply) -> Any:
    return "length" if reply.finish == "length" else "stop"


def _usage(reply: Reply) -> wire.Usage:
    read, written = reply.prompt_tokens, reply.completion_tokens
    return wire.Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
