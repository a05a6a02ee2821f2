"""The one place where a cell becomes text, for training, evaluation and serving alike.

A survey question becomes a chat: a system turn that names the group (none for ``everyone``), a
user turn with the wording and the options. Prompt and completion are tokenised apart, so that a
boundary never merges, and every completion ends with EOS, so that "agree" is no prefix of
"agree strongly".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from valuealign.types import Cell, Group, Item, Message, Rendered, Tokenizer

# For tokenizers without a chat template of their own (older base models).
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n"
    "{% elif message['role'] == 'user' %}Question: {{ message['content'] }}\n"
    "{% else %}Answer: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)


class ChatTokenizer(Tokenizer, Protocol):
    """A tokenizer that knows its chat template (Hugging Face tokenizers do)."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        chat_template: str | None = ...,
        tokenize: bool = ...,
        add_generation_prompt: bool = ...,
    ) -> str: ...


def survey_messages(item: Item, group: Group) -> tuple[Message, ...]:
    """The chat that asks ``item`` of ``group``; no group is named for everyone."""
    return ask(item.text, [option.text for option in item.options], group.text)


def ask(question: str, options: Sequence[str], group: str = "") -> tuple[Message, ...]:
    """A closed question as a chat. ``group`` is a phrase such as "a woman aged 25 to 34"."""
    listed = "\n".join(f"- {option}" for option in options)
    user = Message("user", f"{question}\n{listed}")
    return (Message("system", f"Answer as {group}."), user) if group else (user,)


def prompt_text(messages: Sequence[Message], tokenizer: ChatTokenizer) -> str:
    """The chat as the text that the model continues (the tokenizer's own template, else a plain one)."""
    return tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        chat_template=tokenizer.chat_template or PLAIN_TEMPLATE,
        tokenize=False,
        add_generation_prompt=True,
    )


def prompt_ids(messages: Sequence[Message], tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of the prompt; a BOS is added where the template leaves it out."""
    text = prompt_text(messages, tokenizer)
    starts = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return tokenizer.encode(text, add_special_tokens=not starts and tokenizer.bos_token is not None)


def completion_ids(completion: str, tokenizer: ChatTokenizer) -> list[int]:
    """Token ids of a completion, EOS at the end."""
    return [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id]


def render(cell: Cell, tokenizer: ChatTokenizer) -> Rendered:
    """The cell as token ids."""
    return Rendered(
        cell=cell,
        prompt_ids=tuple(prompt_ids(cell.prompt, tokenizer)),
        completion_ids=tuple(tuple(completion_ids(c, tokenizer)) for c in cell.completions),
    )
