"""Whom a target really speaks for, where everyone is the people of several countries.

A country in which an item was not asked, or of which a group has nobody, is not in that target: the
others then share its part among them.

Shape letters: ``P`` people, ``G`` groups, ``C`` countries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from valuealign.population.cells import Cells
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group


@dataclass(frozen=True)
class Missing:
    """Which countries are not in which targets.

    ``items``: item id -> countries where nobody answered it; ``groups``: group -> countries of which
    it has nobody (groups of one country left out); ``pairs``: how many more (item, group) pairs lack a
    country. ``shift``, ``item`` and ``country``: how far the part of a country among those who answered
    an item is at most from its part of everyone, among the items that every country answered.
    """

    items: dict[str, tuple[str, ...]]
    groups: dict[Group, tuple[str, ...]]
    pairs: int
    shift: float
    item: str
    country: str


def missing_countries(survey: Survey, weights_P: np.ndarray, groups: Sequence[Group]) -> Missing | None:
    """The countries that targets lack; None where the survey has fewer than two (of positive weight)."""
    trait = survey.codebook.country
    if trait is None:
        return None
    names = survey.people.filter(pl.Series(weights_P > 0))[trait].drop_nulls().unique().sort().to_list()
    if len(names) < 2:
        return None
    number = pl.col(trait).replace_strict(names, range(len(names)), default=len(names), return_dtype=pl.Int64)
    country_P = survey.people.select(number).to_series().to_numpy()
    several = [EVERYONE, *(group for group in groups if group.traits and trait not in dict(group.traits))]
    cells = Cells(survey, several)
    whole_GC = cells.masses(country_P, len(names), weights_P)
    lacking = {group: _where(whole_GC[g] == 0, names) for g, group in enumerate(several)}
    items: dict[str, tuple[str, ...]] = {}
    pairs, largest = 0, (0.0, "", "")
    for item in survey.codebook.items:
        answered_P = (survey.people[item.id] >= 0).fill_null(False).to_numpy()
        mass_GC = cells.masses(np.where(answered_P, country_P, len(names)), len(names), weights_P)
        none_GC = (mass_GC == 0) & (whole_GC > 0) & (mass_GC.sum(axis=1, keepdims=True) > 0)
        if none_GC[0].any():
            items[item.id] = _where(none_GC[0], names)
        elif mass_GC[0].any():
            apart_C = np.abs(mass_GC[0] / mass_GC[0].sum() - whole_GC[0] / whole_GC[0].sum())
            largest = max(largest, (float(apart_C.max()), item.id, names[int(apart_C.argmax())]))
        pairs += int((none_GC[1:] & ~none_GC[0]).any(axis=1).sum())
    return Missing(items, {group: those for group, those in lacking.items() if those}, pairs, *largest)


def _where(marked_C: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name, marked in zip(names, marked_C, strict=True) if marked)
