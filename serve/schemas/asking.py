"""What the model is asked, and what it answers: chats and distributions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from serve.schemas.base import Label, Metadata, ModelName, ShortText, Text, Wire


def _several(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


Several = Annotated[list[Text], Field(min_length=1, max_length=4)]
Stops = Annotated[Several, BeforeValidator(_several, json_schema_input_type=Text | Several)]
TOKEN = "posts feedback on this answer once, without a key; for a browser"

# POST /v1/chat/completions


class ChatMessage(Wire):
    """One turn (``developer`` is OpenAI's newer name of ``system``)."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text


class StreamOptions(Wire):
    """What a streamed answer brings besides."""

    include_usage: bool = Field(False, description="a last chunk with the tokens read and written")


class ChatRequest(Wire):
    """OpenAI's request, as far as the service goes. ``temperature`` 0 is greedy."""

    model: ModelName
    messages: list[ChatMessage] = Field(min_length=1, max_length=64)
    max_tokens: int | None = Field(None, ge=1, description="at most the service's own limit, which is the default")
    max_completion_tokens: int | None = Field(None, ge=1, description="OpenAI's newer name of max_tokens")
    temperature: float = Field(1.0, ge=0, le=2)
    seed: int | None = Field(None, ge=0, lt=2**31)
    stop: Stops | None = Field(None, description="up to four texts; the answer ends before the first of them")
    stream: bool = Field(False, description="server-sent events, the last of them [DONE]")
    stream_options: StreamOptions | None = None
    logprobs: bool = Field(False, description="the log-probability of each token written")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="and of the likeliest in its place")
    user: Label | None = Field(None, description="a pseudonym of whoever asks; erasure requests name it")
    metadata: Metadata | None = None
    n: Literal[1] = 1
    top_p: float | None = Field(None, ge=1, le=1, description="only 1: no probability is cut off")
    frequency_penalty: float | None = Field(None, ge=0, le=0, description="only 0")
    presence_penalty: float | None = Field(None, ge=0, le=0, description="only 0")

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which the answer ends."""
        return tuple(self.stop or ())


class TopToken(Wire):
    """A token and its log-probability (nats); ``bytes`` are its UTF-8."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenScore(TopToken):
    """A token of the answer, and the likeliest tokens in its place."""

    top_logprobs: list[TopToken]


class ChatLogprobs(Wire):
    """The tokens of the answer, in order."""

    content: list[TokenScore]


class ChatMessageOut(Wire):
    """The assistant's turn (its text may be empty)."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(Wire):
    """The one answer."""

    index: Literal[0] = 0
    message: ChatMessageOut
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


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
    feedback_token: str = Field(description=TOKEN)


class ChatDelta(Wire):
    """What the answer grows by."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Wire):
    """The one answer's growth; ``finish_reason`` comes once, when it is whole and kept."""

    index: Literal[0] = 0
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(Wire):
    """One event of a streamed answer. The one with ``finish_reason`` carries the token for feedback."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    feedback_token: str | None = Field(None, description=TOKEN)


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
    orders: int = Field(
        1, ge=1, le=50, description="put each question in so many orders of its options (as many as it has options)"
    )
    user: Label | None = Field(None, description="a pseudonym of whoever asks; erasure requests name it")

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
    options at all. With several ``orders`` both are means over them, and ``order_spread`` says for
    each option how far its largest and smallest share lie apart. ``response_id`` is what feedback
    names; it judges the most probable option, ``answer``, or corrects the shares.
    """

    response_id: str
    item: str
    group: str | None
    shares: dict[str, float]
    raw_mass: float
    answer: str
    orders: int
    order_spread: dict[str, float] | None
    feedback_token: str = Field(description=TOKEN)


class DistributionResponse(Wire):
    """One distribution for each question, in order; ``model`` is the version that answered."""

    object: Literal["distributions"] = "distributions"
    created: int
    model: str
    distributions: list[Distribution]
