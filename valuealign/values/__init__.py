"""THEORIES: theories of values by name (one file, one line here)."""

from __future__ import annotations

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
