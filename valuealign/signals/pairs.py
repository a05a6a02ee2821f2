"""Preference pairs become cells of two answers, the chosen one desirable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from valuealign.signals.raters import Votes
from valuealign.types import Cell, Message


class Pair(NamedTuple):
    """One judgement: ``chosen`` is the better answer to ``prompt``. ``rater`` as in ``Mark``."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    weight: float = 1.0
    rater: str | None = None


def pair_cells(pairs: Iterable[Pair], *, source: str) -> list[Cell]:
    """One open cell (K = 2: chosen, rejected) for each distinct pair, in order of first appearance.

    Equal pairs become one cell with their summed weight. Pairs of one prompt stay apart: in one
    cell, each chosen answer would be held against every rejected one, also of other pairs.
    ``n_eff`` is Kish's over the pair's raters, as in ``collapse``.
    """
    votes: dict[tuple[tuple[Message, ...], str, str], Votes] = {}
    for pair in pairs:
        votes.setdefault((pair.prompt, pair.chosen, pair.rejected), Votes()).add(pair.rater, pair.weight)
    return [
        Cell(
            prompt=prompt,
            completions=(chosen, rejected),
            desirable=(heard.total, 0.0),
            undesirable=(0.0, heard.total),
            n_eff=heard.kish().n_eff,
            source=source,
        )
        for (prompt, chosen, rejected), heard in votes.items()
    ]
