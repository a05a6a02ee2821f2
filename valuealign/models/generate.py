"""Answers to chats, sampled or greedy: each is a draft, and a cohort of drafts is written side by side."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from valuealign.errors import ModelError
from valuealign.models.cohort import Cohort
from valuealign.prompts import Reading, answer_text, prompt_ids, turn
from valuealign.types import Message, Sampling, Scored

ABANDONED = "abandoned"  # the finish of a draft that nobody waits for


class Answer(NamedTuple):
    """A generated text, its cost in tokens, and why it ended (``stop`` at the turn's end, EOS or a stop text, else
    ``length``); ``tokens`` are its log-probabilities where they were asked for."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str
    tokens: tuple[Scored, ...] = ()


class Draft:
    """The answer to one chat while it is written. Its randomness is its own: nobody who is answered beside it
    changes it. ``finish`` is None until it is done; ``tokens`` are scored where that was asked for."""

    def __init__(self, prompt: Sequence[int], tokenizer: Any, sampling: Sampling, *, limit: int) -> None:
        self.prompt, self.sampling = tuple(prompt), sampling
        self.new: list[int] = []
        self.tokens: list[Scored] = []
        self.finish: str | None = None
        self._tokenizer = tokenizer
        self._ends = {turn(tokenizer).end_id, tokenizer.eos_token_id}
        self._room = min(sampling.max_tokens, limit - len(prompt))
        self._random = random.Random(sampling.seed)
        self._reading = Reading(tokenizer, sampling.stop)
        self._read = 0  # tokens that are in it: only who follows the text pays for reading it token by token

    def uniform(self) -> float:
        """The next of its own random numbers in [0, 1)."""
        return self._random.random()

    def add(self, token: int, logp: float = 0.0, top: Sequence[tuple[int, float]] = ()) -> None:
        """One more token; where they were asked for, its log-probability and the likeliest in its place."""
        if token in self._ends:
            self.new.append(token)
            self.finish = "stop"
            return
        if self.sampling.top_logprobs is not None:
            spelled = self._follow().spelled
            self.tokens.append(Scored(spelled(token), logp, tuple((spelled(other), p) for other, p in top)))
        self.new.append(token)
        if self.sampling.stop and self._follow().stopped:
            self.finish = "stop"
        elif len(self.new) >= self._room:
            self.finish = "length"

    def _follow(self) -> Reading:
        """The reading of all tokens that are there."""
        for token in self.new[self._read :]:
            if token not in self._ends and not self._reading.stopped:
                self._reading.add(token)
        self._read = len(self.new)
        return self._reading

    def abandon(self) -> None:
        """Nobody waits for it: its cohort leaves it out from now on."""
        self.finish = self.finish or ABANDONED

    @property
    def text(self) -> str:
        """What is certain of the answer's text so far; all of it when it is done."""
        if self.finish and not self._read:
            return answer_text([token for token in self.new if token not in self._ends], self._tokenizer)
        reading = self._follow()
        return reading.end() if self.finish else reading.certain

    def answer(self) -> Answer:
        """The finished answer."""
        assert self.finish, "it is still written"
        return Answer(self.text, len(self.prompt), len(self.new), self.finish, tuple(self.tokens))


def draft(model: Any, tokenizer: Any, messages: Sequence[Message], sampling: Sampling) -> Draft:
    """A chat as a draft without tokens. Raises ModelError if the chat leaves no room for an answer."""
    ids, limit = prompt_ids(messages, tokenizer), reads(model)
    if len(ids) >= limit:
        raise ModelError(
            f"the chat has {len(ids)} tokens, the model reads {limit}", where="messages", mend="shorten it"
        )
    return Draft(ids, tokenizer, sampling, limit=limit)


def reads(model: Any) -> int:
    """How many tokens a model reads (a large number where its configuration does not say)."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)


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
    one = draft(model, tokenizer, messages, Sampling(max_tokens, temperature, seed))
    cohort = Cohort(model, [one])
    while cohort.drafts:
        cohort.step(model)
    return one.answer()
