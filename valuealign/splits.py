"""Who and what is held out: by person, by item, by group and by (item, group) cell.

People are divided once, by person id, into train, select and report. Items, groups and cells are
held out of training as well, and what is held out is itself divided between select and report, so
that choices never look at a reported item, group, cell or person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from valuealign.config import SplitsConfig
from valuealign.errors import SplitError
from valuealign.population import person_codes, tabulate
from valuealign.surveys.table import Survey
from valuealign.types import Group, Item

T = TypeVar("T")
Pair = tuple[str, Group]

TRAIN, SELECT, REPORT = 0, 1, 2
SPLITS = ("items", "groups", "cells", "seen")
PARTS = ("select", "report")
# Fewer people than this in a part are no evidence of anything.
FEWEST_PEOPLE = 10


@dataclass(frozen=True)
class Splits:
    """Who and what is held out.

    ``person_P`` is 0 (train), 1 (select) or 2 (report) for each row of ``survey.people``, disjoint
    by person id. ``pairs[split, part]`` holds (item id, group) pairs: split ``items``, ``groups`` or
    ``cells`` (held out), or ``seen`` (trained pairs, judged on other people); part ``select`` or
    ``report``. ``train`` holds the pairs that training may use.
    """

    person_P: np.ndarray
    pairs: dict[tuple[str, str], tuple[Pair, ...]]
    train: tuple[Pair, ...]

    def people(self, part: str) -> np.ndarray:
        """Booleans [P]: the rows of ``train``, ``select`` or ``report``."""
        return np.asarray(self.person_P == ("train", *PARTS).index(part))


def split(survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], config: SplitsConfig, *, seed: int) -> Splits:
    """Divide people, items, groups and cells. Deterministic from ``seed``.

    Items of one family go together. Pairs of traits are held out before single traits; everyone
    never is. A held-out item's pairs use training groups only (everyone included), a held-out
    group's pairs training items only, and a held-out cell has both its item and its group in
    training. Pairs that nobody of the part answered are left out.

    Raises SplitError where there are too few people, items, groups or cells to hold any out.
    """
    rng = np.random.default_rng([seed, 0x73706C69])
    person_P = _people(survey, config, rng)
    item_parts = _items(survey.codebook.items, config.items, rng)
    group_parts = _groups(groups, config.groups, rng)
    items = [item for item in survey.codebook.items if item.id not in item_parts]
    kept = [group for group in groups if group not in group_parts]
    cell_parts = _cells(items, kept, config.cells, rng)
    training = [(item.id, group) for item in items for group in kept if (_unit(item), group) not in cell_parts]
    unit = {item.id: _unit(item) for item in items}
    seen_parts = _halve(dict.fromkeys((unit[item_id], group) for item_id, group in training), rng)
    pairs: dict[tuple[str, str], list[Pair]] = {(name, part): [] for name in SPLITS for part in PARTS}
    for item in survey.codebook.items:
        for group in groups:
            if item.id in item_parts and group not in group_parts:
                pairs["items", item_parts[item.id]].append((item.id, group))
            elif item.id not in item_parts and group in group_parts:
                pairs["groups", group_parts[group]].append((item.id, group))
            elif (_unit(item), group) in cell_parts:
                pairs["cells", cell_parts[_unit(item), group]].append((item.id, group))
            elif (_unit(item), group) in seen_parts and item.id not in item_parts:
                pairs["seen", seen_parts[_unit(item), group]].append((item.id, group))
    return _answered(
        survey, weights_P, groups, Splits(person_P, {k: tuple(v) for k, v in pairs.items()}, tuple(training))
    )


def _unit(item: Item) -> str:
    """What is held out together: the item's family, else the item alone."""
    return f"family:{item.family}" if item.family else f"item:{item.id}"


def _people(survey: Survey, config: SplitsConfig, rng: np.random.Generator) -> np.ndarray:
    person_P, persons = person_codes(survey)
    train, select = round(persons * config.train), round(persons * config.select)
    if min(train, select, persons - train - select) < FEWEST_PEOPLE:
        raise SplitError(
            f"{persons} people make parts of {train}, {select} and {persons - train - select}",
            where="splits.train, splits.select",
            mend=f"every part needs at least {FEWEST_PEOPLE} people: read more people or change the shares",
        )
    part = np.full(persons, REPORT, dtype=np.int8)
    order = rng.permutation(persons)
    part[order[:train]] = TRAIN
    part[order[train : train + select]] = SELECT
    return np.asarray(part[person_P])


def _items(items: Sequence[Item], share: float, rng: np.random.Generator) -> dict[str, str]:
    """Held-out item id -> part."""
    if not share:
        return {}
    families: dict[str, list[str]] = {}
    for item in items:
        families.setdefault(_unit(item), []).append(item.id)
    wanted = max(2, round(len(items) * share))
    if len(families) < 3:
        raise SplitError(
            f"{len(families)} items (near-duplicates count once) are too few to hold any out",
            where="splits.items",
            mend="it takes 3: one each to train, select and report; add items, or set splits.items=0",
        )
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    order = list(families)
    # At least one family stays in training; the smaller part takes the next family.
    for unit in (order[place] for place in rng.permutation(len(order))[:-1]):
        if sum(map(len, parts.values())) >= wanted and all(parts.values()):
            break
        parts[min(PARTS, key=lambda part: len(parts[part]))] += families[unit]
    return {item_id: part for part, held in parts.items() for item_id in held}


def _groups(groups: Sequence[Group], share: float, rng: np.random.Generator) -> dict[Group, str]:
    """Held-out group -> part; groups of several traits first."""
    if not share:
        return {}
    named = [group for group in groups if group.traits]
    if len(named) < 3:
        raise SplitError(
            f"{len(named)} groups besides everyone are too few to hold any out",
            where="splits.groups",
            mend="it takes 3: lower groups.min_n_eff, raise groups.crossings, or set splits.groups=0",
        )
    wanted = min(max(2, round(len(named) * share)), len(named) - 1)
    shuffled = [named[place] for place in rng.permutation(len(named))]
    held = sorted(shuffled, key=lambda group: -len(group.traits))[:wanted]
    return _alternate(held)


def _cells(
    items: Sequence[Item], groups: Sequence[Group], share: float, rng: np.random.Generator
) -> dict[tuple[str, Group], str]:
    """Held-out (family or item, group) -> part, with every item and every group left in training."""
    if not share:
        return {}
    units = list(dict.fromkeys(_unit(item) for item in items))
    named = [group for group in groups if group.traits]
    wanted = round(len(units) * len(named) * share)
    left_unit = dict.fromkeys(units, len(groups))
    left_group = dict.fromkeys(named, len(units))
    held: list[tuple[str, Group]] = []
    candidates = [(unit, group) for unit in units for group in named]
    for place in rng.permutation(len(candidates)):
        unit, group = candidates[place]
        if len(held) < max(2, wanted) and left_unit[unit] > 1 and left_group[group] > 1:
            left_unit[unit] -= 1
            left_group[group] -= 1
            held.append((unit, group))
    if len(held) < 2:
        raise SplitError(
            f"{len(units)} training items and {len(named)} training groups leave no cells to hold out",
            where="splits.cells",
            mend="add items or groups, or set splits.cells=0",
        )
    return _alternate(held)


def _alternate(held: Sequence[T]) -> dict[T, str]:
    """Units in random order -> select, report, select, ..."""
    return {unit: PARTS[place % 2] for place, unit in enumerate(held)}


def _halve(units: dict[T, None], rng: np.random.Generator) -> dict[T, str]:
    ordered = list(units)
    return _alternate([ordered[place] for place in rng.permutation(len(ordered))])


def _answered(survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], splits: Splits) -> Splits:
    """Without the pairs that nobody of the part answered. Raises SplitError where a part has none left."""
    counted = {
        part: tabulate(survey, weights_P, groups, multiplicity_P=splits.people(part)) for part in ("train", *PARTS)
    }

    def alive(pair: Pair, part: str) -> bool:
        table = counted[part]
        return bool(table.n_GI[table.group_index[pair[1]], table.item_index[pair[0]]])

    train = tuple(pair for pair in splits.train if alive(pair, "train"))
    trained = set(train)
    pairs = {
        (name, part): tuple(pair for pair in value if alive(pair, part) and (name != "seen" or pair in trained))
        for (name, part), value in splits.pairs.items()
    }
    for (name, part), value in splits.pairs.items():
        if value and not pairs[name, part]:
            raise SplitError(
                f"nobody of the {part} people answered any pair of '{name}'",
                where=f"splits.{part if part == 'select' else 'train'}",
                mend="read more people, or raise groups.min_n_eff",
            )
    if not train:
        raise SplitError("nobody of the train people answered anything", where="splits.train", mend="read more people")
    return Splits(splits.person_P, pairs, train)
