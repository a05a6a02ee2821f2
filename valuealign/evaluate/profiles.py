"""Value profiles of people and of models, side by side, and whether they show the theory's circle.

A model is asked what people are asked: every item that measures a value, for every group. Shape
letters: ``G`` groups, ``I`` items, ``K`` options, ``V`` values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from valuealign.dataset import LEAST_N
from valuealign.errors import CodebookError, SurveyError
from valuealign.evaluate.record import Standing
from valuealign.metrics.distances import Floats, softmax
from valuealign.population import ShareTable, tabulate
from valuealign.prompts import Template
from valuealign.signals import question
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Cell, Group, Item
from valuealign.values import Circle, Scores, Theory, circle, most_measured, score, score_shares, sinusoid

PEOPLE = "people"
UNKEYED = (
    "profiles need items that a theory keys: the ESS, SVS, PVQ and RVS readers bring them; in a codebook of your own "
    "write 'values:' at the items (docs/population.md lists the values)"
)
CentreOn = Literal["keyed", "all"]


@dataclass(frozen=True)
class Profile:
    """The centred profile [V] of everyone according to ``who``, its sinusoid, and the circle over persons or groups.

    ``groups_GV`` are the profiles of all the groups that were asked, in the table's order.

    ``distance`` is the mean absolute difference from the people's profile over groups and values, in
    scale widths (None for the people). ``circle`` is None, and ``why`` says so, where it cannot be seen.
    """

    who: str
    values: tuple[str, ...]
    everyone_V: Floats
    groups_GV: Floats
    peak: str | None
    r2: float
    circle: Circle | None
    why: str = ""
    distance: float | None = None


def profile_items(survey: Survey, theory: Theory) -> tuple[Item, ...]:
    """The items that make a profile, keyed to values of ``theory`` alone.

    Those of ``Codebook.centred_on`` where it names any (an instrument's own items, of which some
    only count for the mean rating), else all that measure a value of the theory. Raises
    CodebookError where none does.
    """
    book = survey.codebook
    keyed = [replace(i, values=tuple(v for v in i.values if v in theory.values)) for i in book.items]
    found = tuple(item for item in keyed if (item.id in book.centred_on if book.centred_on else item.values))
    if not any(item.values for item in found):
        raise CodebookError(f"no item measures {theory.title}", where=book.where or book.name, mend=UNKEYED)
    return found


def profile_cells(items: Sequence[Item], table: ShareTable, template: Template | None = None) -> tuple[Cell, ...]:
    """The cells to ask a model by ``template`` (None: the default one), groups outermost: every item of every
    group of ``table``."""
    flat = ([0.0] * len(item.options) for _ in table.groups for item in items)
    return tuple(
        question(item, group, shares, shares, n_eff=0.0, template=template)
        for (group, item), shares in zip(((g, i) for g in table.groups for i in items), flat, strict=True)
    )


def compare_profiles(
    survey: Survey,
    weights_P: np.ndarray,
    table: ShareTable,
    theory: Theory,
    logps: Mapping[str, Sequence[Floats]],
) -> tuple[Profile, ...]:
    """The people's profile, then each model's; ``logps[who]`` follows ``profile_cells``.

    The people's circle is seen over persons, a model's over the groups that it speaks for: a model
    has no persons. Raises CodebookError for a theory without scores or items.
    """
    items = profile_items(survey, theory)
    centre_on: CentreOn = "all" if survey.codebook.centred_on else "keyed"
    answers_PI = survey.people.select(survey.people[item.id].fill_null(-1) for item in items).to_numpy()
    place = [table.item_index[item.id] for item in items]
    mine = score_shares(theory, items, table.shares_GIK[:, place], centre_on=centre_on)
    whole = table.group_index[EVERYONE]
    found = [_profile(PEOPLE, theory, mine, whole, score(theory, items, answers_PI, centre_on=centre_on), weights_P)]
    for who, logp_C in logps.items():
        shares_GIK = np.full((len(table.groups), len(items), max(len(i.options) for i in items)), np.nan)
        for c, logp_K in enumerate(logp_C):
            g, i = divmod(c, len(items))
            shares_GIK[g, i, : len(items[i].options)] = softmax(np.asarray(logp_K))
        scores = score_shares(theory, items, shares_GIK, centre_on=centre_on)
        away = float(np.nanmean(np.abs(scores.centred_PV - mine.centred_PV)))
        found.append(replace(_profile(who, theory, scores, whole, scores, None), distance=away))
    return tuple(found)


@dataclass(frozen=True)
class ValueExam:
    """The value questions of an evaluation: ``cells`` to score; ``people`` are those who took no part in training."""

    theory: Theory
    people: Survey
    weights_P: Floats
    table: ShareTable
    cells: tuple[Cell, ...]

    @cached_property
    def small(self) -> frozenset[str]:
        """Groups of which fewer than ``LEAST_N`` persons answered some value question: their profiles are not shown."""
        place = [self.table.item_index[item.id] for item in profile_items(self.people, self.theory)]
        n_GI = self.table.n_GI[:, place]
        least_G = np.where(n_GI > 0, n_GI, LEAST_N).min(axis=1)
        return frozenset(group.name for group, n in zip(self.table.groups, least_G, strict=True) if n < LEAST_N)

    def standings(self, logps: Mapping[str, Sequence[Floats]]) -> tuple[Standing, ...]:
        """The people's profile and then each model's; ``logps[who]`` has an array [K] for each of ``cells``."""
        found = compare_profiles(self.people, self.weights_P, self.table, self.theory, logps)
        return tuple(self._standing(one) for one in found)

    def _standing(self, one: Profile) -> Standing:
        groups = {
            group.name: tuple(row_V.tolist())
            for group, row_V in zip(self.table.groups, one.groups_GV, strict=True)
            if group.name not in self.small
        }
        error, p = (float(np.degrees(one.circle.error)), one.circle.p_value) if one.circle else (None, None)
        scores = tuple(one.everyone_V.tolist())
        return Standing(
            one.who, self.theory.title, self.theory.structure, one.values, scores, groups, one.distance, one.peak,
            error, p, one.why,
        )  # fmt: skip


def value_exam(
    survey: Survey,
    weights_P: Floats,
    groups: Sequence[Group],
    rows_P: np.ndarray,
    template: Template | None = None,
) -> ValueExam | None:
    """The value questions for everyone and single traits, the people being those of ``rows_P``; None without any."""
    theory = most_measured(survey.codebook.items)
    if theory is None or not theory.scores_people:
        return None
    part = Survey(survey.codebook, survey.people.filter(pl.Series(rows_P)))
    weights_P = weights_P[rows_P]
    table = tabulate(part, weights_P, [group for group in groups if len(group.traits) <= 1])
    cells = profile_cells(profile_items(survey, theory), table, template)
    return ValueExam(theory, part, weights_P, table, cells)


def _profile(
    who: str, theory: Theory, scores: Scores, whole: int, rows: Scores, weights_P: np.ndarray | None
) -> Profile:
    everyone_V, groups_GV = scores.centred_PV[whole], scores.centred_PV
    if theory.structure != "circle":
        return Profile(who, scores.values, everyone_V, groups_GV, None, np.nan, None, "the theory has no circle")
    try:
        shape = sinusoid(theory, scores.values, everyone_V[None])
        seen, why = circle(theory, rows, weights_P=weights_P), ""
    except (CodebookError, SurveyError) as error:
        return Profile(who, scores.values, everyone_V, groups_GV, None, np.nan, None, error.what)
    return Profile(who, scores.values, everyone_V, groups_GV, shape.value_P[0], float(shape.r2_P[0]), seen, why)


def theory_of(survey: Survey) -> Theory:
    """The theory that measures most of a survey's items. Raises CodebookError where none does."""
    book = survey.codebook
    best = most_measured(book.items)
    if best is None:
        raise CodebookError("no item measures a value", where=book.where or book.name, mend=UNKEYED)
    return best
