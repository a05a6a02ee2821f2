"""What a published benchmark is: where it comes from, the file it is read from, and how."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from valuealign.evaluate.sheet import Sheet
from valuealign.splits import LEFT_OUT, Leak
from valuealign.surveys.wordings import non_answer
from valuealign.types import Item, Option


class Content(NamedTuple):
    """What a file holds: its ``questions`` by key, each once, and ``sheet``, which makes the sheet of all of them
    but those whose keys it is given."""

    questions: Mapping[str, Item]
    sheet: Callable[[Collection[str]], Sheet]


class Brought(NamedTuple):
    """A sheet, the source of its benchmark, and the questions of its file that are not in it, since training saw
    them."""

    sheet: Sheet
    source: str
    left_out: tuple[Leak, ...]

    @property
    def facts(self) -> dict[str, str]:
        """What one should know of who was asked what."""
        found = {"benchmark": self.source}
        return found | ({LEFT_OUT: "; ".join(map(str, self.left_out))} if self.left_out else {})


@dataclass(frozen=True)
class Benchmark:
    """``title`` and ``source`` name it and its paper; ``form`` says in a sentence what to bring; ``read`` reads
    a file or folder, and raises AnswerError (file, column, line, the mend) for what it cannot read."""

    title: str
    source: str
    form: str
    read: Callable[[Path], Content]


def as_item(key: str, text: str, options: Sequence[str] = ()) -> Item:
    """A benchmark's question as an item without a scale. Non-answers among the options say nothing of it."""
    said = [option for option in options if not non_answer(option)]
    return Item(key, text, tuple(Option(code, option) for code, option in enumerate(said)), ordinal=False)
