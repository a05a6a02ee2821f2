"""THEORIES: theories of values by name (one file, one line here)."""

from __future__ import annotations

from valuealign.values.kiesel import KIESEL
from valuealign.values.rokeach import ROKEACH
from valuealign.values.schwartz10 import SCHWARTZ10
from valuealign.values.schwartz19 import SCHWARTZ19
from valuealign.values.theory import Scores, Theory, score

__all__ = ["THEORIES", "Scores", "Theory", "score"]

THEORIES: dict[str, Theory] = {
    "schwartz10": SCHWARTZ10,
    "schwartz19": SCHWARTZ19,
    "rokeach": ROKEACH,
    "kiesel": KIESEL,
}
