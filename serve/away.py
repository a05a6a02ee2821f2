"""What stands in for the engine while the box is lent to training."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import numpy as np

from serve.backend import Piece, Reply, Sampling
from valuealign.errors import Lent
from valuealign.registry import Version
from valuealign.types import Cell, Message


class Away:
    """The backend while the box is lent to training: it has no model."""

    ready, waiting = False, 0

    async def chat(
        self, version: Version, messages: Sequence[Message], sampling: Sampling, *, stream: bool = True
    ) -> AsyncGenerator[Piece | Reply, None]:
        """Raises Lent."""
        raise _lent()
        yield  # what makes it a generator

    async def score(self, version: Version, cells: Sequence[Cell]) -> Sequence[np.ndarray]:
        """Raises Lent."""
        raise _lent()

    def check(self) -> None:
        """It is well."""


def _lent() -> Lent:
    return Lent("a model is trained on the GPUs now", mend=f"try again in {Lent.retry_after} seconds")
