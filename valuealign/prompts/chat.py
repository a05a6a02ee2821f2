"""A chat as the tokens that a model reads: its own template, and where an answer begins and ends.

Prompt and completion are tokenised apart, so that a boundary never merges. Around an answer a completion
has what the model's own chat template writes there, and it ends with the token that ends a turn, so that
"agree" is no prefix of "agree strongly".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from jinja2 import TemplateError

from valuealign.errors import ModelError
from valuealign.types import Cell, Message, Rendered, Tokenizer

# For tokenizers without a chat template of their own (older base models).
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n"
    "{% elif message['role'] == 'user' %}Question: {{ message['content'] }}\n"
    "{% else %}Answer: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)


# These stand for any question and answer, to see what a template writes around them.
ASKED, SAID = "Is that so?", "Quite so."
CHATS = "choose a model whose template takes turns of plain text"


class ChatTokenizer(Tokenizer, Protocol):
    """A tokenizer that knows its chat template (Hugging Face tokenizers do)."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """The tokens that no text is merged into, control tokens among them, by id."""
        ...

    def __hash__(self) -> int: ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        chat_template: str | None = ...,
        tokenize: bool = ...,
        add_generation_prompt: bool = ...,
    ) -> str: ...


@dataclass(frozen=True)
class Turn:
    """How a chat template writes a turn of the assistant, and whether it has turns of the system.

    ``opening`` stands between the generation prompt and the answer, ``closing`` between the answer and
    ``end_id``, the token that ends the turn. ``remark`` says what is odd about where an answer begins.
    """

    opening: str
    closing: str
    end_id: int
    system: bool
    remark: str


def turn(tokenizer: ChatTokenizer) -> Turn:
    """The turn of the tokenizer's template, read off a chat that it writes.

    A template whose history does not continue its generation prompt has no opening; one that ends
    turns with no control token has them ended by EOS. Raises ModelError if it cannot write a chat.
    """
    return _turn(tokenizer, tokenizer.chat_template or PLAIN_TEMPLATE, tokenizer.eos_token_id)


@lru_cache(maxsize=32)  # another template or EOS makes another entry
def _turn(tokenizer: ChatTokenizer, template: str, eos_id: int) -> Turn:
    asked, said = Message("user", ASKED), Message("assistant", SAID)
    prompt = _text([asked], tokenizer)
    if ASKED not in prompt:
        raise ModelError("the model's chat template leaves out what the user says", where="model.path", mend=CHATS)
    before, found, after = _text([asked, said], tokenizer, ask=False).rpartition(SAID)
    opening = before.removeprefix(prompt) if before.startswith(prompt) else ""
    remark = f"answers begin with {opening!r}, as its chat template has them" if opening.strip() else ""
    if not found or not before.startswith(prompt):
        remark = f"its chat template asks with {prompt[-20:]!r}, but has {before[-20:]!r} before answers given"
    control = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
    ends = sorted((after.index(token), -len(token), token) for token in control if found and token in after)
    try:
        system = SAID in _text([Message("system", SAID), asked], tokenizer)
    except ModelError:
        system = False
    at, _, end = ends[0] if ends else (0, 0, "")
    return Turn(opening, after[:at], control[end] if end else eos_id, system, remark)


def _text(messages: Sequence[Message], tokenizer: ChatTokenizer, *, ask: bool = True) -> str:
    try:
        return tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            chat_template=tokenizer.chat_template or PLAIN_TEMPLATE,
            tokenize=False,
            add_generation_prompt=ask,
        )
    except TemplateError as error:
        raise ModelError(
            f"the model's chat template cannot write this chat: {error}",
            where="messages",
            mend="a chat is at most one system turn, then user and assistant in turn",
        ) from error


def prompt_text(messages: Sequence[Message], tokenizer: ChatTokenizer) -> str:
    """The chat as the text that the model continues (the tokenizer's own template, else a plain one).

    Without any turn it is the start of a plain text: BOS, or EOS where there is none. Where the template
    has no system turns, the system's words stand before the user's. Raises ModelError for a chat that the
    template cannot write.
    """
    if not messages:
        return tokenizer.bos_token or tokenizer.eos_token
    if len(messages) > 1 and messages[0].role == "system" and not turn(tokenizer).system:
        system, first, *rest = messages
        messages = [Message(first.role, f"{system.content}\n\n{first.content}"), *rest]
    return _text(messages, tokenizer)


def prompt_ids(messages: Sequence[Message], tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of the prompt; a BOS is added where the template leaves it out."""
    text = prompt_text(messages, tokenizer)
    starts = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return tokenizer.encode(text, add_special_tokens=not starts and tokenizer.bos_token is not None)


def completion_ids(completion: str, tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of a completion as the template writes it, the end of the turn last."""
    how = turn(tokenizer)
    return [*_inside(how.opening + completion + how.closing, tokenizer), how.end_id]


def answer_opening(tokenizer: ChatTokenizer) -> list[int]:
    """Token ids that a model may write before its answer because the template has them there."""
    return _inside(turn(tokenizer).opening.rstrip(), tokenizer)


def answer_text(ids: Sequence[int], tokenizer: ChatTokenizer) -> str:
    """The answer in what a model wrote after a prompt: ``completion_ids`` undone, less outer space.

    ``ids`` are without the end of the turn.
    """
    opening = answer_opening(tokenizer)
    at = len(opening) if list(ids[: len(opening)]) == opening else 0
    return (
        tokenizer.decode(ids[at:], skip_special_tokens=True)
        .strip()
        .removesuffix(turn(tokenizer).closing.strip())
        .strip()
    )


def _inside(text: str, tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of a text as it stands inside another."""
    if not _adds_space(tokenizer) or text.startswith("\n"):
        return tokenizer.encode(text, add_special_tokens=False)
    line = tokenizer.encode("\n", add_special_tokens=False)
    return tokenizer.encode("\n" + text, add_special_tokens=False)[len(line) :]


@lru_cache(maxsize=32)
def _adds_space(tokenizer: ChatTokenizer) -> bool:
    """Whether the tokenizer puts a space before whatever it is given, as SentencePiece's often do."""
    line, word, both = (tokenizer.encode(text, add_special_tokens=False) for text in ("\n", "a", "\na"))
    return [*line, *word] != both and both[: len(line)] == line


def render(cell: Cell, tokenizer: ChatTokenizer) -> Rendered:
    """The cell as token ids; a cell without a prompt is a plain text, not an answer in a chat."""
    how = tokenizer, tokenizer.chat_template, tokenizer.eos_token_id
    texts = tuple(_completion(text, bool(cell.prompt), *how) for text in cell.completions)
    return Rendered(cell, _prompt(cell.prompt, *how), texts)


# One text is asked for by several sets of a run, by every trial of a sweep in one worker, and (an option) by many
# cells. As with a turn, another template or EOS makes other entries.
@lru_cache(maxsize=1 << 16)
def _prompt(
    messages: tuple[Message, ...], tokenizer: ChatTokenizer, template: str | None, eos_id: int
) -> tuple[int, ...]:
    return tuple(prompt_ids(messages, tokenizer))


@lru_cache(maxsize=1 << 16)
def _completion(
    text: str, answers: bool, tokenizer: ChatTokenizer, template: str | None, eos_id: int
) -> tuple[int, ...]:
    if answers:
        return tuple(completion_ids(text, tokenizer))
    return (*tokenizer.encode(text, add_special_tokens=False), eos_id)
