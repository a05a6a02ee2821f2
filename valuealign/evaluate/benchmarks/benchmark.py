"""What a published benchmark is: where it comes from, the file it is read from, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from valuealign.evaluate.sheet import Sheet


@dataclass(frozen=True)
class Benchmark:
    """``title`` and ``source`` name it and its paper; ``form`` says in a sentence what to bring; ``read`` makes
    the sheet of a file or folder, and raises AnswerError (file, column, line, the mend) for what it cannot read."""

    title: str
    source: str
    form: str
    read: Callable[[Path], Sheet]
