"""THEORIES: theories of values by name (one file, one line here)."""

from __future__ import annotations

from collections.abc import Iterable

from valuealign.types import Item
from valuealign.values.kiesel import KIESEL
from valuealign.values.rokeach import ROKEACH
from valuealign.values.schwartz10 import SCHWARTZ10
from valuealign.values.schwartz19 import SCHWARTZ19
from valuealign.values.structure import Circle, Sinusoid, circle, sinusoid
from valuealign.values.theory import Scores, Theory, higher_order, score, score_shares

__all__ = [
    "THEORIES",
    "Circle",
    "Scores",
    "Sinusoid",
    "Theory",
    "circle",
    "higher_order",
    "most_measured",
    "score",
    "score_shares",
    "sinusoid",
]

THEORIES: dict[str, Theory] = {
    "schwartz10": SCHWARTZ10,
    "schwartz19": SCHWARTZ19,
    "rokeach": ROKEACH,
    "kiesel": KIESEL,
}


def most_measured(items: Iterable[Item]) -> Theory | None:
    """The theory that the most of these items measure, among those that score people; None where none does."""
    items = tuple(items)
    counts = {
        name: sum(any(value in theory.values for value in item.values) for item in items)
        for name, theory in THEORIES.items()
        if theory.scores_people
    }
    best = max(counts, key=lambda name: counts[name])
    return THEORIES[best] if counts[best] else None
