"""What of a record may be shown: nothing by name that only a few people stand behind.

The rule is that of released data sets (``dataset.release``): the distance of one person's answer from a known
share gives the answer away. Means over cells keep every cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from valuealign.dataset import LEAST_N
from valuealign.evaluate.exam import Exam, Key
from valuealign.evaluate.record import Evaluation, Row
from valuealign.metrics import Floats
from valuealign.population import tabulate
from valuealign.splits import WAVES, Splits
from valuealign.surveys.codebook import Tier
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group

WORST = "worst_group_jsd_bits"
UNNAMED = f"not named: fewer than {LEAST_N} people answered some of its questions"


@dataclass(frozen=True)
class Sharing:
    """The survey's ``licence`` and ``tier``, and the ``small`` cells of the report part (split, item id, group name):
    those that fewer than ``LEAST_N`` persons answered."""

    licence: str
    tier: Tier
    small: frozenset[Key]

    def of(self, evaluation: Evaluation) -> Evaluation:
        """The record without small cells' own figures, and without the names of groups that have any.

        Its facts say under which ``licence`` and ``tier`` it stands and, as ``withheld``, how many were left out.
        """
        groups = {(split, group) for split, _, group in self.small}
        tested = tuple(one for one in evaluation.tested if (one.split, one.item, one.group) not in self.small)
        portraits = tuple(one for one in evaluation.portraits if (one.split, one.item, EVERYONE.name) not in self.small)
        facts = {
            "licence": self.licence,
            "tier": self.tier,
            "withheld": {"fewer_than": LEAST_N, "cells": len(evaluation.tested) - len(tested)},
        }
        rows = tuple(_unnamed(row) if (row.split, row.note) in groups else row for row in evaluation.rows)
        return replace(evaluation, rows=rows, tested=tested, portraits=portraits, facts={**evaluation.facts, **facts})


def _unnamed(row: Row) -> Row:
    return replace(row, note=UNNAMED) if row.metric == WORST else row


def sharing(survey: Survey, weights_P: Floats, groups: Sequence[Group], splits: Splits, exam: Exam) -> Sharing:
    """What may be shown of a judgement on the report part of ``exam``, made of these people and splits."""
    place = {group.name: g for g, group in enumerate(groups)}
    small: set[Key] = set()
    for later in (False, True):
        panels = [one for one in exam.panels if one.part == "report" and (one.split == WAVES) == later]
        if not panels:
            continue
        people = tabulate(survey, weights_P, groups, multiplicity_P=splits.rows("report", WAVES if later else "seen"))
        small |= {
            (panel.split, item, group)
            for panel in panels
            for item, group in zip(panel.items, panel.groups, strict=True)
            if people.n_GI[place[group], people.item_index[item]] < LEAST_N
        }
    return Sharing(survey.codebook.licence, survey.codebook.tier, frozenset(small))
