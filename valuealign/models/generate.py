"""Answers to chats, sampled or greedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from valuealign.errors import ModelError
from valuealign.prompts import answer_text, prompt_ids, turn
from valuealign.types import Message


class Answer(NamedTuple):
    """A generated text, its cost in tokens, and why it ended (``stop`` at the turn's end or EOS, else ``length``)."""

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
    ends = sorted({turn(tokenizer).end_id, tokenizer.eos_token_id})
    prompt_1T = torch.tensor([ids], device=device)
    out_1T = model.generate(
        input_ids=prompt_1T,
        attention_mask=torch.ones_like(prompt_1T),
        max_new_tokens=min(max_tokens, limit - len(ids)),
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        repetition_penalty=1.0,  # whatever the checkpoint's own generation settings say
        **sampling,
    )
    new = out_1T[0, len(ids) :].tolist()
    stopped = bool(new) and new[-1] in ends
    text = answer_text(new[:-1] if stopped else new, tokenizer)
    return Answer(text, len(ids), len(new), "stop" if stopped else "length")
