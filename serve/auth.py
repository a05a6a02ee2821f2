"""Who asks, what they may, and how often: API keys, and the tokens that let a browser judge one answer."""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request
from itsdangerous import BadSignature, TimestampSigner
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool

from serve import schemas as wire
from serve.errors import ApiError
from valuealign.store import Key, Scope, Store

KNOWN_FOR = 1.0  # seconds that a looked-up key is believed: a revocation takes effect after at most so long
REMEMBERED = 4096  # keys, known and unknown ones
WHO = 113  # characters of a key's name where its id (12) must fit behind it: the columns hold 128
GIVE_A_KEY = "give an API key: Authorization: Bearer va-..."
FIRST_KEY = "no key exists yet: make one with `python jobs/keys.py create --name me --scope admin`"


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request: a key or, where the service asks for none (``key`` is None), anybody."""

    key: Key | None

    @property
    def id(self) -> str | None:
        """The key's id."""
        return self.key.id if self.key else None

    @property
    def principal(self) -> str:
        """Whose idempotency keys these are."""
        return self.key.id if self.key else ""

    @property
    def who(self) -> str:
        """As the audit and the history name it."""
        return f"{self.key.name[:WHO]} ({self.key.id})" if self.key else "api"

    def may(self, scope: Scope) -> bool:
        """Whether it may do what ``scope`` is for."""
        return self.key is None or self.key.may(scope)


class Gatekeeper:
    """Finds out who asks, and turns away who may not or who asks too often.

    Limits are counted in this process, over the last minute; ``per_minute`` (None: no limit) is of
    the keys that have no limit of their own.
    """

    def __init__(self, store: Store, *, auth: bool, per_minute: int | None) -> None:
        self._store, self.auth, self._per_minute = store, auth, per_minute
        self._found: dict[bytes, tuple[float, Key | None]] = {}
        self._windows = MovingWindowRateLimiter(MemoryStorage())
        self._any_key = False

    async def admit(self, authorization: str | None) -> Caller:
        """Who an ``Authorization`` header speaks for. Raises ApiError 401 or 429."""
        if not self.auth:
            return Caller(None)
        kind, _, text = (authorization or "").strip().partition(" ")
        if kind.lower() != "bearer" or not text.strip():
            raise unauthorized(GIVE_A_KEY if await self._keys_exist() else FIRST_KEY)
        key = await self._find(text.strip())
        if key is None:
            said = "this key is unknown or was revoked" if await self._keys_exist() else FIRST_KEY
            raise unauthorized(said, "invalid_api_key")
        self._count(key)
        return Caller(key)

    async def _find(self, text: str) -> Key | None:
        digest, moment = hashlib.sha256(text.encode()).digest(), time.monotonic()
        until, key = self._found.get(digest, (0.0, None))
        if moment < until:
            return key
        key = await run_in_threadpool(self._store.keys.find, text)
        if len(self._found) >= REMEMBERED:
            self._found.clear()
        self._found[digest] = (moment + KNOWN_FOR, key)
        return key

    async def _keys_exist(self) -> bool:
        self._any_key = self._any_key or bool(await run_in_threadpool(self._store.keys.list))
        return self._any_key

    def _count(self, key: Key) -> None:
        amount = key.per_minute or self._per_minute
        if amount is None:
            return
        limit = RateLimitItemPerMinute(amount)
        if not self._windows.hit(limit, key.id):
            wait = max(1, math.ceil(self._windows.get_window_stats(limit, key.id).reset_time - time.time()))
            said = f"this key may ask {amount} times a minute"
            raise ApiError(429, said, code="rate_limit_exceeded", headers={"Retry-After": str(wait)})


class Tokens:
    """Signed words that stand for the right to judge one answer once; they end after ``seconds``."""

    def __init__(self, secret: bytes, *, seconds: int) -> None:
        self._seconds = seconds
        self._signer = TimestampSigner(
            secret, salt="feedback-token", key_derivation="hmac", digest_method=hashlib.sha256
        )

    def issue(self, response_id: str) -> str:
        """The token of an answer."""
        return self._signer.sign(response_id).decode()

    def check(self, token: str, response_id: str) -> None:
        """Raises ApiError 401 unless the token is ours, of now, and of that answer."""
        try:
            named = self._signer.unsign(token, max_age=self._seconds).decode()
        except BadSignature:
            raise unauthorized("the token is not valid, or no longer", "invalid_token") from None
        if named != response_id:
            raise unauthorized("the token is for another answer", "invalid_token")


def unauthorized(message: str, code: str = "missing_api_key") -> ApiError:
    """A refusal that says how to ask."""
    reason = "" if code == "missing_api_key" else ', error="invalid_token"'
    return ApiError(401, message, code=code, headers={"WWW-Authenticate": f'Bearer realm="valuealign"{reason}'})


def caller(request: Request) -> Caller | None:
    """Who sent the request; None: it came without a key, to a route that takes tokens too."""
    found: Caller | None = request.scope["state"]["visit"].caller
    return found


def needs(scope: Scope) -> dict[str, Any]:
    """What makes a route refuse callers without ``scope`` (403), and says so in its description."""

    async def check(request: Request) -> None:
        asking = caller(request)
        if asking is None:
            raise unauthorized(GIVE_A_KEY)
        if not asking.may(scope):
            raise forbidden(scope)
        known_query(request)

    return {"dependencies": [Depends(check)], "openapi_extra": {"security": [{"key": []}], "x-scope": scope}}


def known_query(request: Request) -> None:
    """Refuse what a route does not take after the ? (400): a misspelt name would be left out unsaid, and of a
    name that is given twice all values but the last."""
    taken = {field.alias for field in request.scope["route"].dependant.query_params}
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in taken:
            raise ApiError(400, f"unknown parameter '{name}'", code="invalid_parameter", param=name)
        if times > 1:
            raise ApiError(400, f"the parameter '{name}' is given {times} times", code="invalid_parameter", param=name)


def forbidden(scope: Scope) -> ApiError:
    """A refusal of a key that is for other things."""
    return ApiError(403, f"this key lacks the scope '{scope}'", code="insufficient_scope")


def describe(schema: dict[str, Any], *, auth: bool) -> dict[str, Any]:
    """The OpenAPI document with the keys in it (without, if the service asks for none), and the events of a stream."""
    parts = schema["components"]
    chunk = wire.ChatChunk.model_json_schema(ref_template="#/components/schemas/{model}")
    parts["schemas"] |= {**chunk.pop("$defs"), "ChatChunk": chunk}  # no route returns one, its stream does
    if auth:
        scheme = {"type": "http", "scheme": "bearer", "description": "an API key, made by jobs/keys.py"}
        parts["securitySchemes"] = {"key": scheme}
    else:
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation.pop("security", None)
    return schema
