"""What the store hands out: plain frozen records, no rows and no connections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from valuealign.types import Message

Kind = Literal["chat", "distribution"]
Verdict = Literal["desirable", "undesirable", "correction"]
Status = Literal["quarantined", "accepted", "declined", "used"]


@dataclass(frozen=True)
class Response:
    """One answer that was served: who gave it, to what. A distribution's ``answer`` is its most
    probable option; ``detail`` holds the rest (options and shares, or how it was sampled)."""

    id: str
    kind: Kind
    name: str
    version: str
    messages: tuple[Message, ...]
    answer: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""


@dataclass(frozen=True)
class Feedback:
    """What somebody said about a response. ``correction`` is set exactly for that verdict."""

    id: str
    response_id: str
    verdict: Verdict
    correction: str | None
    status: Status
    created: str
    reviewer: str | None = None
    reason: str | None = None
    reviewed: str | None = None


@dataclass(frozen=True)
class Judged:
    """Feedback together with the response that it judges: what becomes a training cell."""

    feedback: Feedback
    response: Response


@dataclass(frozen=True)
class Receipt:
    """The answer to a feedback post; ``replayed`` if an earlier post with the same key made it."""

    id: str
    response_id: str
    status: Status
    created: str
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
