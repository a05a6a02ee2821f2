"""What the store hands out: plain frozen records, no rows and no connections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from valuealign.types import Message

Kind = Literal["chat", "distribution"]
Verdict = Literal["desirable", "undesirable", "correction", "shares"]
Status = Literal["quarantined", "accepted", "declined", "used"]
Scope = Literal["query", "feedback", "review", "admin"]


@dataclass(frozen=True)
class Response:
    """One answer that was served: who gave it, to what. A distribution's ``answer`` is its most
    probable option; ``detail`` holds the rest (options and shares, or how it was sampled).
    ``person`` asked, through the key ``key_id``, where either is known."""

    id: str
    kind: Kind
    name: str
    version: str
    messages: tuple[Message, ...]
    answer: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    key_id: str | None = None
    person: str | None = None


@dataclass(frozen=True)
class Feedback:
    """What somebody said about a response.

    ``correction`` is set exactly for that verdict; ``shares`` (option -> share) with ``n``, how many
    people stand behind them, exactly for the verdict of that name. ``person`` said it, through the
    key ``key_id``, as part of ``campaign``; ``traits`` are those that the person let be used.
    ``screened`` is what screening found.
    """

    id: str
    response_id: str
    verdict: Verdict
    correction: str | None
    status: Status
    created: str
    reviewer: str | None = None
    reason: str | None = None
    reviewed: str | None = None
    shares: Mapping[str, float] | None = None
    n: float | None = None
    comment: str | None = None
    metadata: Mapping[str, Any] | None = None
    person: str | None = None
    traits: Mapping[str, Any] | None = None
    campaign: str | None = None
    key_id: str | None = None
    screened: Mapping[str, Any] | None = None
    manifest_id: str | None = None


@dataclass(frozen=True)
class Judged:
    """Feedback together with the response that it judges: what becomes a training cell."""

    feedback: Feedback
    response: Response


@dataclass(frozen=True)
class Page:
    """Some feedback, oldest first, and the ``after`` that the page behind it is asked for with
    (``None``: this is the last)."""

    items: tuple[Judged, ...]
    next: str | None


@dataclass(frozen=True)
class Receipt:
    """The answer to a feedback post; ``replayed`` if an earlier post with the same key made it."""

    id: str
    response_id: str
    status: Status
    created: str
    replayed: bool = False


@dataclass(frozen=True)
class Key:
    """One who may ask, and what for; the secret itself is kept nowhere. ``per_minute`` bounds its
    requests (``None``: the service's own bound). ``revoked`` is when it ended, if it did."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    per_minute: int | None
    created: str
    revoked: str | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the key is for ``scope``; one of an administrator is for all of them."""
        return self.revoked is None and (scope in self.scopes or "admin" in self.scopes)


@dataclass(frozen=True)
class Erased:
    """The receipt of one erasure: how many ``rows`` went from each table, the ids of the ``feedback``
    that went and of the ``manifests`` that had held any of it. ``replayed`` if an earlier request
    with the same key made it."""

    id: str
    created: str
    rows: Mapping[str, int]
    feedback: tuple[str, ...]
    manifests: tuple[str, ...]
    replayed: bool = False


@dataclass(frozen=True)
class Manifest:
    """An immutable list of feedback that one update holds under a lease. ``sha256`` is over the ids."""

    id: str
    name: str
    items: tuple[Judged, ...]
    sha256: str
    claimed_by: str
    lease_until: str

    @property
    def ids(self) -> tuple[str, ...]:
        """Feedback ids, sorted."""
        return tuple(judged.feedback.id for judged in self.items)


@dataclass(frozen=True)
class AliasState:
    """Where an alias points. ``epoch`` grows by one with each move."""

    name: str
    alias: str
    version: str
    epoch: int


@dataclass(frozen=True)
class Move:
    """One entry of an alias's history."""

    name: str
    alias: str
    kind: Literal["move", "rollback"]
    from_version: str | None
    to_version: str
    epoch: int
    who: str
    why: str
    figures: Mapping[str, Any]
    created: str


@dataclass(frozen=True)
class Event:
    """One entry of the audit."""

    id: int
    created: str
    who: str
    event: str
    subject: str
    detail: Mapping[str, Any]
