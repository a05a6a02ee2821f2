"""What settings of one training gained and lost beside the model that all of them started from.

Behaviour gained is the AUC of r against that model, less one half; distribution lost is the paired change in
survey distance. Both are taken once, on people and prompts that no choice has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from valuealign.evaluate.exam import Exam
from valuealign.evaluate.record import FLOOR
from valuealign.metrics import Floats, behaviour_auc, behaviour_difference
from valuealign.types import Cell, Estimate

HEADLINE = ("everyone", "cells", "groups", "items", "seen")
ORIGIN = "stage 1"


@dataclass(frozen=True)
class Gained:
    """One setting: ``behaviour`` (AUC of r less one half) and ``lost`` (bits of Jensen-Shannon divergence)."""

    trial: str
    behaviour: Estimate
    lost: Estimate


@dataclass(frozen=True)
class Outcome:
    """All settings on the report part, by ``split`` of the survey.

    ``marks`` are how much further from the people than stage 1 each null and the noise floor are (bits); ``apart``
    is the AUC of the first of ``trials`` less that of the second, paired (None: there is no second to compare).
    """

    split: str
    trials: tuple[Gained, ...]
    marks: Mapping[str, float]
    apart: Estimate | None

    def record(self) -> dict[str, Any]:
        """The outcome as plain data; ``Outcome.read`` takes it back."""
        return asdict(self)

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Outcome:
        """What ``record`` gave, from JSON too."""
        trials = tuple(
            Gained(str(one["trial"]), Estimate(**one["behaviour"]), Estimate(**one["lost"])) for one in tree["trials"]
        )
        apart = Estimate(**tree["apart"]) if tree["apart"] else None
        return cls(str(tree["split"]), trials, {name: float(at) for name, at in tree["marks"].items()}, apart)


def outcome(
    exam: Exam,
    marks: Sequence[Cell],
    surveyed: Mapping[str, Sequence[Floats]],
    marked: Mapping[str, Sequence[Floats]],
    *,
    compared: int,
    seed: int = 0,
) -> Outcome:
    """Every trial beside stage 1 on the report part of ``exam`` and the held-out answers ``marks``.

    ``surveyed`` and ``marked`` hold raw log-probabilities [K] of each cell by who: ``ORIGIN`` first, then the trials,
    best first. The first two are compared if ``compared`` (how many of them are in the running) is at least 2. Raises
    Diverged as ``Exam.judge`` does.
    """
    evaluation = exam.judge(surveyed, part="report")
    split = next(name for name in HEADLINE if name in evaluation.splits)
    at = evaluation.figure(split, ORIGIN).value
    marks_at = {
        row.who: row.estimate.value - at
        for row in evaluation.rows
        if row.split == split and row.metric == "jsd_bits" and (row.kind in ("null", "oracle") or row.who == FLOOR)
    }
    desirable, undesirable = [c.desirable for c in marks], [c.undesirable for c in marks]
    trials = [who for who in surveyed if who != ORIGIN]
    ratios = {who: [now - was for now, was in zip(marked[who], marked[ORIGIN], strict=True)] for who in trials}
    found = []
    for who in trials:
        auc = behaviour_auc(ratios[who], desirable, undesirable, seed=seed)
        gained = Estimate(auc.value - 0.5, auc.low - 0.5, auc.high - 0.5, auc.n)
        found.append(Gained(who, gained, evaluation.figure(split, f"{who} - {ORIGIN}")))
    apart = None
    if compared >= 2:
        first, second = (ratios[who] for who in trials[:2])
        apart = behaviour_difference(first, second, desirable, undesirable, seed=seed)
    return Outcome(split, tuple(found), marks_at, apart)
