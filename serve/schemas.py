"""The wire: what the service takes and gives. Unknown fields are refused everywhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MODEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(@[A-Za-z0-9][A-Za-z0-9_.-]*)?$"
Verdict = Literal["desirable", "undesirable"]
Status = Literal["quarantined", "accepted", "declined", "used"]


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("text must not hold the character NUL")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("text must not be blank")
    return text


Text = Annotated[str, Field(min_length=1, max_length=16_000), AfterValidator(_no_nul), AfterValidator(_not_blank)]
ShortText = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_no_nul), AfterValidator(_not_blank)]
ModelName = Annotated[
    str,
    Field(max_length=257, pattern=MODEL_PATTERN, description="name (its champion), name@alias or name@v12"),
]
Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z]+-[0-9a-f]+$")]


class Wire(BaseModel):
    """Base of everything on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ErrorBody(Wire):
    """What went wrong, in OpenAI's shape."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(Wire):
    """The body of every answer with status 4xx or 5xx."""

    error: ErrorBody


# POST /v1/chat/completions


class ChatMessage(Wire):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: Text


class ChatRequest(Wire):
    """OpenAI's request, as far as the service goes. ``temperature`` 0 is greedy."""

    model: ModelName
    messages: list[ChatMessage] = Field(min_length=1, max_length=64)
    max_tokens: int | None = Field(None, ge=1, description="at most the service's own limit, which is the default")
    max_completion_tokens: int | None = Field(None, ge=1, description="OpenAI's newer name of max_tokens")
    temperature: float = Field(1.0, ge=0, le=2)
    seed: int | None = Field(None, ge=0, lt=2**31)
    n: Literal[1] = 1
    stream: bool = Field(False, description="true is not supported yet")

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        return self


class ChatChoice(Wire):
    """The one answer."""

    index: Literal[0] = 0
    message: ChatMessageOut
    finish_reason: Literal["stop", "length"]


class ChatMessageOut(Wire):
    """The assistant's turn (its text may be empty)."""

    role: Literal["assistant"] = "assistant"
    content: str


class Usage(Wire):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(Wire):
    """OpenAI's response; ``id`` is what feedback names, ``model`` the version that answered."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


# POST /v1/distributions


class Question(Wire):
    """A closed question; ``group`` is a phrase such as "a woman aged 25 to 34" (absent: everyone)."""

    item: ShortText
    options: list[ShortText] = Field(min_length=2, max_length=50)
    group: ShortText | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Question:
        if len(set(self.options)) < len(self.options):
            raise ValueError("options must differ from each other")
        return self


class DistributionRequest(Wire):
    """One question (``item``, ``options``, ``group``) or several (``questions``)."""

    model: ModelName
    item: ShortText | None = None
    options: list[ShortText] | None = Field(None, min_length=2, max_length=50)
    group: ShortText | None = None
    questions: list[Question] | None = Field(None, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _one_form(self) -> DistributionRequest:
        single = [self.item, self.options, self.group]
        if self.questions is not None and any(part is not None for part in single):
            raise ValueError("give item and options, or questions, not both")
        if self.questions is None and (self.item is None or self.options is None):
            raise ValueError("give item and options, or a list of questions")
        if self.options is not None and len(set(self.options)) < len(self.options):
            raise ValueError("options must differ from each other")
        return self

    def asked(self) -> list[Question]:
        """The questions, in either form."""
        if self.questions is not None:
            return self.questions
        return [Question.model_validate({"item": self.item, "options": self.options, "group": self.group})]


class Distribution(Wire):
    """How the model's answers to one question are shared out.

    ``shares`` add up to 1 over the options; ``raw_mass`` is the probability that falls on the
    options at all. ``response_id`` is what feedback names; it judges the most probable option,
    ``answer``.
    """

    response_id: str
    item: str
    group: str | None
    shares: dict[str, float]
    raw_mass: float
    answer: str


class DistributionResponse(Wire):
    """One distribution for each question, in order; ``model`` is the version that answered."""

    object: Literal["distributions"] = "distributions"
    created: int
    model: str
    distributions: list[Distribution]


# POST /v1/feedback


class FeedbackRequest(Wire):
    """A verdict on a response, or a corrected text. For a distribution, one of its options."""

    response_id: Id
    verdict: Verdict | None = None
    correction: Text | None = None

    @model_validator(mode="after")
    def _one_of(self) -> FeedbackRequest:
        if (self.verdict is None) == (self.correction is None):
            raise ValueError("give either verdict or correction")
        return self


class FeedbackReceipt(Wire):
    """The feedback is on disk; it trains nothing before a person has accepted it."""

    id: str
    object: Literal["feedback"] = "feedback"
    response_id: str
    status: Status
    created: str


class FeedbackStatus(FeedbackReceipt):
    """How far a piece of feedback has come."""

    verdict: Literal["desirable", "undesirable", "correction"]
    reason: str | None = None
    reviewed: str | None = None


# GET /v1/models, /livez, /readyz


class ModelEntry(Wire):
    """One version; ``id`` is what requests name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["valuealign"] = "valuealign"
    aliases: list[str]
    base: str | None
    parent: str | None


class ModelList(Wire):
    """Every version of the served family, newest first."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Health(Wire):
    """``ok``; readiness also names the version that ``name`` stands for now."""

    status: Literal["ok"] = "ok"
    model: str | None = None


ChatChoice.model_rebuild()
