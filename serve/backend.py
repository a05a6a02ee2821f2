"""The seam between the API and whatever holds the models: what is asked, and what comes back.

Log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from valuealign.registry import Version
from valuealign.types import Cell, Message, Sampling, Scored

__all__ = ["Backend", "Piece", "Reply", "Sampling", "Scored"]


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
    """Whatever holds the models. Raises, before the first piece, ModelError for what does not fit a model and Busy
    for what there is no room for."""

    @property
    def ready(self) -> bool:
        """Whether a model is there to answer."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that no model has begun yet."""
        ...

    def chat(
        self, version: Version, messages: Sequence[Message], sampling: Sampling, *, stream: bool = True
    ) -> AsyncGenerator[Piece | Reply, None]:
        """Answer a chat: pieces as they come (none without ``stream``), the Reply last. Closing the iterator ends
        the work on it."""
        ...

    async def score(self, version: Version, cells: Sequence[Cell]) -> Sequence[np.ndarray]:
        """Raw log-probabilities [K] of each cell's completions."""
        ...
