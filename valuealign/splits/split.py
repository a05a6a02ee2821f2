"""People, items, groups, cells and waves, divided into what trains, what choices may see and what is reported.

People are divided once, by a hash of their id, into train, select and report. Items, groups and
cells are held out of training as well, and what is held out is itself divided between select and
report, so that choices never look at a reported item, group, cell or person. Waves may be held out
whole: their rows then serve the split ``waves`` only, which asks for all that is trained.

Shape letter: ``P`` people (rows of ``survey.people``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from valuealign.config import SplitsConfig
from valuealign.errors import SplitError, nearest
from valuealign.population import tabulate
from valuealign.splits.units import tie
from valuealign.surveys.table import Survey
from valuealign.types import Group, Item

T = TypeVar("T")
Pair = tuple[str, Group]

SPLITS = ("items", "groups", "cells", "seen")
WAVES, SURVEY = "waves", "survey"
PARTS = ("select", "report")
# What each row's number means.
PEOPLE = ("train", *PARTS)
# Fewer people than this in a part are no evidence of anything.
FEWEST_PEOPLE = 10


@dataclass(frozen=True)
class Splits:
    """Who and what is held out.

    ``person_P`` is 0 (train), 1 (select) or 2 (report) for each row of ``survey.people``, disjoint
    by person id. ``pairs[split, part]`` holds (item id, group) pairs: split ``items``, ``groups`` or
    ``cells`` (held out), ``seen`` (trained pairs, judged on other people), where waves are held out
    ``waves`` (trained pairs, judged on other people in those waves), or ``survey`` alone (all pairs
    of a survey that trains nothing); part ``select`` or ``report``. ``train`` holds the pairs that
    training may use. ``tied`` maps an item's id to the first item of its unit; ``held_P`` marks the
    rows of held-out waves (None: there are none).
    """

    person_P: np.ndarray
    pairs: dict[tuple[str, str], tuple[Pair, ...]]
    train: tuple[Pair, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    held_P: np.ndarray | None = None

    @property
    def units(self) -> tuple[tuple[str, ...], ...]:
        """The items that were held out together: units of two or more."""
        members: dict[str, list[str]] = {}
        for item, head in self.tied.items():
            members.setdefault(head, []).append(item)
        return tuple(tuple(unit) for unit in members.values() if len(unit) > 1)

    def people(self, part: str) -> np.ndarray:
        """Booleans [P]: the rows of ``train``, ``select`` or ``report``, without held-out waves."""
        return self.rows(part, "seen")

    def rows(self, part: str, split: str) -> np.ndarray:
        """Booleans [P]: the rows of a part that a split reads: held-out waves for ``waves``, the others else."""
        held_P = np.zeros(len(self.person_P), dtype=bool) if self.held_P is None else self.held_P
        return np.asarray((self.person_P == PEOPLE.index(part)) & (held_P == (split == WAVES)))


def split(survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], config: SplitsConfig, *, seed: int) -> Splits:
    """Divide people, items, groups and cells. Deterministic from ``seed``; a person's part depends
    on nothing but the id and the seed.

    Items of one unit go together (``units.tie``). Pairs of traits are held out before single traits; everyone
    never is. A held-out item's pairs use training groups only (everyone included), a held-out
    group's pairs training items only, and a held-out cell has both its item and its group in
    training. Pairs that nobody of the part answered are left out.

    Raises SplitError where there are too few people, items, groups or cells to hold any out, and
    for waves that cannot be held out.
    """
    rng = np.random.default_rng([seed, 0x73706C69])
    held_P = held_waves(survey, config)
    person_P = _people(survey, config, seed)
    every = survey.codebook.items
    unit = tie(every, config.near_duplicates)
    item_parts = _items(every, unit, config.items, rng)
    group_parts = _groups(groups, config.groups, rng)
    items = [item for item in every if item.id not in item_parts]
    kept = [group for group in groups if group not in group_parts]
    cell_parts = _cells(list(dict.fromkeys(unit[item.id] for item in items)), kept, config.cells, rng)
    training = [(item.id, group) for item in items for group in kept if (unit[item.id], group) not in cell_parts]
    seen_parts = _halve(dict.fromkeys((unit[item_id], group) for item_id, group in training), rng)
    pairs: dict[tuple[str, str], list[Pair]] = {(name, part): [] for name in SPLITS for part in PARTS}
    for item in every:
        for group in groups:
            cell = unit[item.id], group
            if item.id in item_parts and group not in group_parts:
                pairs["items", item_parts[item.id]].append((item.id, group))
            elif item.id not in item_parts and group in group_parts:
                pairs["groups", group_parts[group]].append((item.id, group))
            elif cell in cell_parts:
                pairs["cells", cell_parts[cell]].append((item.id, group))
            elif cell in seen_parts and item.id not in item_parts:
                pairs["seen", seen_parts[cell]].append((item.id, group))
    if held_P is not None:
        pairs |= {(WAVES, part): training for part in PARTS}
    divided = Splits(person_P, {key: tuple(value) for key, value in pairs.items()}, tuple(training), unit, held_P)
    return _answered(survey, weights_P, groups, divided)


def other_survey(
    survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], config: SplitsConfig, *, seed: int
) -> Splits:
    """Splits of a survey that training never saw: every pair is asked, in the split ``survey``.

    People are divided as by ``split``, and the train part asks nothing, so that with the same
    shares and seed nobody who trained in another wave or export is judged here. Select and report
    ask the same pairs of different people. Raises SplitError as ``split`` does.
    """
    bare = Splits(_people(survey, config, seed), {}, ())
    pairs: dict[tuple[str, str], tuple[Pair, ...]] = {}
    for part in PARTS:
        table = tabulate(survey, weights_P, groups, multiplicity_P=bare.people(part))
        asked = [
            (item.id, group)
            for i, item in enumerate(table.items)
            for g, group in enumerate(table.groups)
            if table.n_GI[g, i]
        ]
        if not asked:
            what = f"nobody of the {part} people answered anything"
            raise SplitError(what, where="splits.select", mend="read more people")
        pairs[SURVEY, part] = tuple(asked)
    return replace(bare, pairs=pairs)


def held_waves(survey: Survey, config: SplitsConfig) -> np.ndarray | None:
    """Booleans [P]: the rows of the waves held out; None where none are.

    Raises SplitError for a wave that the survey does not have and where no wave is left.
    """
    if not config.waves:
        return None
    if "wave" not in survey.people.columns:
        what = "the survey is no panel: it has no waves to hold out"
        raise SplitError(what, where="splits.waves", mend="set splits.waves=[]")
    known = survey.people["wave"].drop_nulls().unique().sort().to_list()
    for wave in config.waves:
        if wave not in known:
            what = f"the survey has no wave '{wave}' (its waves: {', '.join(known)})"
            raise SplitError(what, where="splits.waves", mend=nearest(wave, known))
    if set(known) <= set(config.waves):
        mend = "leave at least one wave to train on"
        raise SplitError("every wave of the survey is held out", where="splits.waves", mend=mend)
    return np.asarray(survey.people["wave"].is_in(list(config.waves)).fill_null(False).to_numpy())


def _people(survey: Survey, config: SplitsConfig, seed: int) -> np.ndarray:
    """The part of each row [P], by the person's id alone: the same in every wave, export and order."""
    persons = survey.people["person"].unique()
    place = np.array([_place(seed, person) for person in persons])
    parts = (place >= config.train).astype(np.int8) + (place >= config.train + config.select)
    counts = np.bincount(parts, minlength=len(PEOPLE))
    if counts.min() < FEWEST_PEOPLE:
        raise SplitError(
            f"{len(persons)} people make parts of {counts[0]}, {counts[1]} and {counts[2]}",
            where="splits.train, splits.select",
            mend=f"every part needs at least {FEWEST_PEOPLE} people: read more people or change the shares",
        )
    number = dict(zip(persons, parts.tolist(), strict=True))
    return np.array([number[person] for person in survey.people["person"]], dtype=np.int8)


def _place(seed: int, person: str) -> float:
    """A number in [0, 1) that a person's id and the seed fix."""
    digest = hashlib.blake2b(f"{seed}:{person}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _items(items: Sequence[Item], unit: Mapping[str, str], share: float, rng: np.random.Generator) -> dict[str, str]:
    """Held-out item id -> part."""
    if not share:
        return {}
    families: dict[str, list[str]] = {}
    for item in items:
        families.setdefault(unit[item.id], []).append(item.id)
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
    for head in (order[place] for place in rng.permutation(len(order))[:-1]):
        if sum(map(len, parts.values())) >= wanted and all(parts.values()):
            break
        parts[min(PARTS, key=lambda part: len(parts[part]))] += families[head]
    return {item_id: part for part, held in parts.items() for item_id in held}


def _groups(groups: Sequence[Group], share: float, rng: np.random.Generator) -> dict[Group, str]:
    """Held-out group -> part; groups of several traits first. Without any group there is nothing to hold out."""
    named = [group for group in groups if group.traits]
    if not share or not named:
        return {}
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
    units: Sequence[str], groups: Sequence[Group], share: float, rng: np.random.Generator
) -> dict[tuple[str, Group], str]:
    """Held-out (unit, group) -> part, with every item and every group left in training; none without groups."""
    named = [group for group in groups if group.traits]
    if not share or not named:
        return {}
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
    used = [("seen", part) for part in PEOPLE] + [key for key in splits.pairs if key[0] == WAVES]
    counted = {
        (name, part): tabulate(survey, weights_P, groups, multiplicity_P=splits.rows(part, name)) for name, part in used
    }

    def alive(pair: Pair, part: str, name: str = "seen") -> bool:
        table = counted[WAVES if name == WAVES else "seen", part]
        return bool(table.n_GI[table.group_index[pair[1]], table.item_index[pair[0]]])

    train = tuple(pair for pair in splits.train if alive(pair, "train"))
    trained = set(train)
    pairs = {
        (name, part): tuple(
            pair for pair in value if alive(pair, part, name) and (name not in ("seen", WAVES) or pair in trained)
        )
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
    return replace(splits, pairs=pairs, train=train)
