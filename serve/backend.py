"""The seam between the API and whatever holds the models: what is asked, and what comes back.

Log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from valuealign.registry import Version
from valuealign.types import Cell, Message


class Sampling(NamedTuple):
    """How an answer is drawn. ``temperature`` 0 is greedy; ``stop`` ends it before any of these texts;
    ``top_logprobs`` asks for each token's log-probability and that many alternatives (None: for neither)."""

    max_tokens: int
    temperature: float
    seed: int | None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


class Scored(NamedTuple):
    """A token that was written: its text, its log-probability, and the likeliest in its place with theirs."""

    token: str
    logp: float
    top: tuple[tuple[str, float], ...]


class Piece(NamedTuple):
    """Text that an answer has grown by, and the tokens it was made of (if they were asked for)."""

    text: str
    tokens: tuple[Scored, ...] = ()


class Reply(NamedTuple):
    """The whole answer; ``finish`` is ``stop`` or ``length``. Its text is its pieces' texts, joined."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish: str
    tokens: tuple[Scored, ...] = ()


class Backend(Protocol):
    """Whatever holds the models. Raises ModelError for what does not fit a model, before the first piece."""

    waiting: int  # requests that no model has begun yet

    def chat(
        self, version: Version, messages: Sequence[Message], sampling: Sampling
    ) -> AsyncGenerator[Piece | Reply, None]:
        """Answer a chat: pieces as they come, the Reply last. Closing the iterator ends the work on it."""
        ...

    async def score(self, version: Version, cells: Sequence[Cell]) -> Sequence[np.ndarray]:
        """Raw log-probabilities [K] of each cell's completions."""
        ...
