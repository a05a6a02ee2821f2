"""Answers to chats, sampled or greedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from valuealign.errors import ModelError
from valuealign.prompts import prompt_ids
from valuealign.types import Message


class Answer(NamedTuple):
    """A generated text, its cost in tokens, and why it ended (``stop`` at EOS, else ``length``)."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    max_tokens: int,
    temperature: float,
    seed: int | None = None,
) -> Answer:
    """Answer a chat with at most ``max_tokens`` tokens; temperature 0 is greedy.

    Raises ModelError if the chat leaves no room for an answer.
    """
    ids = prompt_ids(messages, tokenizer)
    limit = int(getattr(model.config, "max_position_embeddings", 1 << 30))
    if len(ids) >= limit:
        raise ModelError(
            f"the chat has {len(ids)} tokens, the model reads {limit}", where="messages", mend="shorten it"
        )
    if seed is not None:
        torch.manual_seed(seed)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    device = next(model.parameters()).device
    prompt_1T = torch.tensor([ids], device=device)
    out_1T = model.generate(
        input_ids=prompt_1T,
        attention_mask=torch.ones_like(prompt_1T),
        max_new_tokens=min(max_tokens, limit - len(ids)),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        repetition_penalty=1.0,  # whatever the checkpoint's own generation settings say
        **sampling,
    )
    new = out_1T[0, len(ids) :].tolist()
    finish = "stop" if new and new[-1] == tokenizer.eos_token_id else "length"
    return Answer(tokenizer.decode(new, skip_special_tokens=True).strip(), len(ids), len(new), finish)
