"""Feedback -> screened -> cells -> candidate -> gate -> promote or leave; and what undoes it: erasure, rebuilding.

``intake`` says what may train, ``raters`` what each voice weighs, ``lessons`` what is learned and asked, ``gate`` what
a candidate must show, ``update`` does a turn, ``schedule`` says when, ``lineage`` and ``erasure`` what went into what.
docs/loop.md has every rule and its default.
"""

from __future__ import annotations

from valuealign.loop.erasure import Receipt, Served, erase, trace
from valuealign.loop.gate import gate, non_inferior, worst_group
from valuealign.loop.intake import Screening, screen, take_in
from valuealign.loop.lessons import Lessons, lessons
from valuealign.loop.lineage import Anchor, ancestors, anchor, descendants, fed
from valuealign.loop.raters import RaterWeights, known_margins, rater_weights
from valuealign.loop.records import (
    CANDIDATE,
    CHAMPION,
    STAGE1,
    START,
    WHO,
    Candidate,
    Check,
    Distances,
    GateResult,
    Logps,
    Measured,
    Outcome,
    Trainer,
)
from valuealign.loop.schedule import Due, seconds, turns
from valuealign.loop.update import rebuild, update

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "STAGE1",
    "START",
    "WHO",
    "Anchor",
    "Candidate",
    "Check",
    "Distances",
    "Due",
    "GateResult",
    "Lessons",
    "Logps",
    "Measured",
    "Outcome",
    "RaterWeights",
    "Receipt",
    "Screening",
    "Served",
    "Trainer",
    "ancestors",
    "anchor",
    "descendants",
    "erase",
    "fed",
    "gate",
    "known_margins",
    "lessons",
    "non_inferior",
    "rater_weights",
    "rebuild",
    "screen",
    "seconds",
    "take_in",
    "trace",
    "turns",
    "update",
    "worst_group",
]
