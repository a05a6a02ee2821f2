"""What people say about answers, and what is decided of it: feedback, reviews, erasures, moves of an alias."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from serve.schemas.base import Alias, Id, Label, Metadata, ShortText, Text, VersionId, Wire

Status = Literal["quarantined", "accepted", "declined", "used"]
Verdict = Literal["desirable", "undesirable", "correction", "shares"]
Share = Annotated[float, Field(ge=0, le=1)]
SUM_TOLERANCE = 0.01  # of shares that should add up to 1: they were rounded for people

# POST /v1/feedback


class Rater(Wire):
    """Who judges: a pseudonym, and traits if that person consented to their use.

    Traits (such as ``{"age": "25-34", "sex": "female"}``) weight the feedback to the population.
    """

    id: Label
    traits: Annotated[dict[Label, Label], Field(min_length=1, max_length=32)] | None = None
    consent: bool = Field(False, description="this person agreed that the traits are kept and used; needed with traits")

    @model_validator(mode="after")
    def _consented(self) -> Rater:
        if self.traits is not None and not self.consent:
            raise ValueError("traits need consent: true")
        return self


class FeedbackRequest(Wire):
    """A verdict on a response, a corrected text, or (for a distribution) corrected shares with an ``n``."""

    response_id: Id
    verdict: Literal["desirable", "undesirable"] | None = None
    correction: Text | None = Field(None, description="the better text; for a distribution, one of its options")
    shares: Annotated[dict[ShortText, Share], Field(min_length=1, max_length=50)] | None = Field(
        None, description="for a distribution: the right shares by option (an option left out has none)"
    )
    n: float | None = Field(None, gt=0, le=1e9, description="how many people the shares were counted over")
    comment: Text | None = Field(None, description="for reviewers; it trains nothing")
    metadata: Metadata | None = None
    rater: Rater | None = Field(None, description="who judges; not with a token, which counts for whoever was answered")
    campaign: Label | None = Field(
        None, description="what the feedback was gathered by; its share of an update is capped"
    )
    token: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None, description="the answer's feedback_token, in place of a key"
    )

    @model_validator(mode="after")
    def _one_of(self) -> FeedbackRequest:
        if sum(part is not None for part in (self.verdict, self.correction, self.shares)) != 1:
            raise ValueError("give one of verdict, correction and shares")
        if (self.shares is None) != (self.n is None):
            raise ValueError("shares and n come together")
        if self.shares is not None and abs(sum(self.shares.values()) - 1) > SUM_TOLERANCE:
            raise ValueError("shares must add up to 1")
        return self


class FeedbackReceipt(Wire):
    """The feedback is on disk; it trains nothing before it has been accepted."""

    id: str
    object: Literal["feedback"] = "feedback"
    response_id: str
    status: Status
    created: str


class FeedbackStatus(FeedbackReceipt):
    """How far a piece of feedback has come."""

    verdict: Verdict
    reason: str | None = None
    reviewed: str | None = None


class Turn(Wire):
    """One turn of what was asked."""

    role: str
    content: str


class JudgedResponse(Wire):
    """The answer that feedback is about, and what was asked."""

    kind: Literal["chat", "distribution"]
    model: str
    messages: list[Turn]
    answer: str


class FeedbackEntry(FeedbackStatus):
    """What a reviewer sees: the feedback in full, and the answer. Whoever posted it is not named."""

    correction: str | None = None
    shares: dict[str, float] | None = None
    n: float | None = None
    comment: str | None = None
    metadata: dict[str, Any] | None = None
    campaign: str | None = None
    screened: dict[str, Any] | None = Field(None, description="what the screens said of it")
    response: JudgedResponse


class FeedbackPage(Wire):
    """Feedback, oldest first. ``next`` is what ``after`` takes to read on; null: this was the last page."""

    object: Literal["list"] = "list"
    data: list[FeedbackEntry]
    has_more: bool
    next: str | None


# POST /v1/feedback/{id}/review


class ReviewRequest(Wire):
    """A person's decision. ``reason`` is shown to whoever asks after the feedback."""

    decision: Literal["accepted", "declined"]
    reason: ShortText | None = None


# POST /v1/models/{name}/promote and /rollback, GET /v1/history


class PromoteRequest(Wire):
    """Point ``alias`` at ``version`` if it still points at ``expected`` (null: it is not set yet)."""

    version: VersionId
    expected: VersionId | None
    alias: Alias = "champion"
    why: ShortText


class RollbackRequest(Wire):
    """Point ``alias`` back at what it pointed at before, if it still points at ``expected``."""

    expected: VersionId
    alias: Alias = "champion"
    why: ShortText


class AliasEntry(Wire):
    """Where an alias points; ``epoch`` grows by one with each move."""

    object: Literal["alias"] = "alias"
    name: str
    alias: str
    version: str
    epoch: int


class MoveEntry(Wire):
    """One move of an alias: who, why, from, to, and the figures it rested on."""

    kind: Literal["move", "rollback"]
    alias: str
    from_version: str | None
    to_version: str
    epoch: int
    who: str
    why: str
    figures: dict[str, Any]
    created: str


class MoveList(Wire):
    """Moves of an alias, newest first. ``next`` is what ``before`` takes to read on; null: this was the last page."""

    object: Literal["list"] = "list"
    data: list[MoveEntry]
    has_more: bool
    next: int | None


# POST /v1/erasure-requests


class ErasureRequest(Wire):
    """Whose answers and feedback are to go: the pseudonym of ``user`` and ``rater.id``."""

    person: Label


class Served(Wire):
    """When an alias pointed at a version; ``until`` null: it still does."""

    model: str
    alias: str
    since: str
    until: str | None


class ErasureReceipt(Wire):
    """What was removed, and what had learned from it: the person is not named again.

    ``trained`` are the versions made with any of the ``feedback``, ``descendants`` those trained from them;
    ``mend`` says what is left to do about them.
    """

    id: str
    object: Literal["erasure"] = "erasure"
    created: str
    rows: dict[str, int]
    feedback: list[str]
    manifests: list[str]
    trained: list[str]
    descendants: list[str]
    served: list[Served]
    mend: str
