"""People sorted once into the finest cells that the groups tell apart; groups are sums of cells.

An item then costs one pass over its answers and one small sparse product, however many groups
there are, and no array is people x groups.

Shape letters: ``P`` people (rows of ``survey.people``), ``U`` cells, ``G`` groups, ``K`` options,
``Q`` units (one person within one cell), ``M`` (unit, group) pairs and ``R`` (person, group) pairs
of the persons who are in several cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from valuealign.surveys.table import Survey, in_level
from valuealign.types import Group


class Load(NamedTuple):
    """What rows weigh: ``weight_P``, how often each counts, and their products (mass, sum of squares)."""

    weight_P: np.ndarray
    times_P: np.ndarray
    mass_P: np.ndarray
    square_P: np.ndarray


class Sums(NamedTuple):
    """One item's ``mass_GK`` (summed weights), persons ``n_G`` and their sum of squared weights ``square_G``."""

    mass_GK: np.ndarray
    n_G: np.ndarray
    square_G: np.ndarray


def load(weights_P: np.ndarray, multiplicity_P: np.ndarray | None = None) -> Load:
    """Weights with how often each row counts (``multiplicity_P``; once without it)."""
    weight_P = np.asarray(weights_P, dtype=np.float64)
    times_P = np.ones(len(weight_P)) if multiplicity_P is None else np.asarray(multiplicity_P, dtype=np.float64)
    mass_P = weight_P * times_P
    return Load(weight_P, times_P, mass_P, mass_P * weight_P)


def slots(answers: pl.Series, options: int) -> np.ndarray:
    """Option indices [P] of an item; outcomes (negative), nulls and anything beyond become ``options``."""
    codes_P = answers.cast(pl.Int16).fill_null(-1).to_numpy()
    # As unsigned numbers the negative codes lie beyond every option.
    return np.asarray(np.minimum(codes_P.view(np.uint16), np.uint16(options)))


def person_codes(survey: Survey) -> tuple[np.ndarray, int]:
    """Each row's person as a number from 0 (in the order of their ids), and how many persons there are."""
    person_P = survey.people["person"].rank("dense").to_numpy().astype(np.int64) - 1
    return person_P, int(person_P.max()) + 1


def membership(survey: Survey, groups: Sequence[Group]) -> np.ndarray:
    """Booleans [P, G]: who belongs to which group (an unknown trait belongs to none)."""
    has = {pair: in_level(survey.people, *pair) for pair in _pairs(groups)}
    member_PG = np.ones((survey.people.height, len(groups)), dtype=bool)
    for g, group in enumerate(groups):
        for pair in group.traits:
            member_PG[:, g] &= has[pair]
    return member_PG


class Cells:
    """``cell_P`` is each row's cell; ``member_GU`` (sparse) which cells make up each group."""

    def __init__(self, survey: Survey, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        self.cell_P, has = _sort(survey.people, _pairs(groups))
        self.cells = int(self.cell_P.max(initial=0)) + 1
        inside = [_inside(group, has, self.cells) for group in groups]
        starts = np.cumsum([0, *map(len, inside)])
        column = np.concatenate(inside) if inside else np.zeros(0, dtype=np.int64)
        self.member_GU = csr_array((np.ones(len(column)), column, starts), shape=(len(groups), self.cells))
        single = survey.people["person"].n_unique() == survey.people.height
        self.repeats = None if single else _Repeats(person_codes(survey)[0], self.cell_P, self.member_GU)

    def masses(self, slot_P: np.ndarray, options: int, mass_P: np.ndarray) -> np.ndarray:
        """Summed masses [G, K] of the options; ``slot_P`` = K stands for no answer."""
        return np.asarray(self.member_GU @ self._count(slot_P, options, mass_P))

    def sums(self, slot_P: np.ndarray, options: int, rows: Load) -> Sums:
        """Masses, persons and squares of one item (``slot_P``: see ``slots``).

        A person's rows in a group count as one person who weighs their sum, so that n_eff is
        Kish's over persons. ``times_P`` is the same for all rows of a person, or 0.
        """
        mass_UK = self._count(slot_P, options, rows.mass_P)
        if self.repeats is None:
            n_U = self._count(slot_P, options, rows.times_P).sum(axis=1)
            square_U = self._count(slot_P, options, rows.square_P).sum(axis=1)
            extra_G2 = np.zeros((len(self.groups), 2))
        else:
            n_U, square_U, extra_G2 = self.repeats.count(slot_P < options, rows, self.cells)
        total_GX = self.member_GU @ np.column_stack([mass_UK, n_U, square_U])
        total_GX[:, options:] += extra_G2
        return Sums(total_GX[:, :options], total_GX[:, options], total_GX[:, options + 1])

    def _count(self, slot_P: np.ndarray, options: int, number_P: np.ndarray) -> np.ndarray:
        place_P = self.cell_P * (options + 1) + slot_P
        counted = np.bincount(place_P, number_P, self.cells * (options + 1))
        return np.asarray(counted.reshape(self.cells, options + 1)[:, :options])


class _Repeats:
    """Persons with several rows. Who stays within one cell is counted there, by person; movers by group."""

    def __init__(self, person_P: np.ndarray, cell_P: np.ndarray, member_GU: csr_array) -> None:
        groups, cells = member_GU.shape
        unit_Q, self.unit_P = np.unique(person_P * cells + cell_P, return_inverse=True)
        person_Q, self.cell_Q = np.divmod(unit_Q, cells)
        self.stays_Q = np.bincount(person_Q)[person_Q] == 1
        mover = np.flatnonzero(~self.stays_Q)
        groups_of = member_GU.tocsc()[:, self.cell_Q[mover]]
        self.unit_M = np.repeat(mover, np.diff(groups_of.indptr))
        pair_R, self.pair_M = np.unique(person_Q[self.unit_M] * groups + groups_of.indices, return_inverse=True)
        self.group_R, self.groups = pair_R % groups, groups

    def count(self, answered_P: np.ndarray, rows: Load, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Stayers' n [U] and squares [U]; movers' n and squares [G, 2]."""
        counted_P = answered_P & (rows.times_P > 0)
        mass_Q = np.bincount(self.unit_P, rows.weight_P * counted_P, len(self.cell_Q))
        times_Q = np.zeros(len(mass_Q))
        np.maximum.at(times_Q, self.unit_P, rows.times_P * counted_P)
        mass_R = np.bincount(self.pair_M, mass_Q[self.unit_M], len(self.group_R))
        times_R = np.zeros(len(mass_R))
        np.maximum.at(times_R, self.pair_M, times_Q[self.unit_M])
        stayed_Q = times_Q * self.stays_Q
        return (
            np.bincount(self.cell_Q, stayed_Q, cells),
            np.bincount(self.cell_Q, stayed_Q * mass_Q**2, cells),
            np.column_stack([np.bincount(self.group_R, t, self.groups) for t in (times_R, times_R * mass_R**2)]),
        )


def _pairs(groups: Iterable[Group]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(pair for group in groups for pair in group.traits))


def _inside(group: Group, has: dict[tuple[str, str], np.ndarray], cells: int) -> np.ndarray:
    inside_U = np.ones(cells, dtype=bool)
    for pair in group.traits:
        inside_U &= has[pair]
    return np.flatnonzero(inside_U)


def _sort(
    people: pl.DataFrame, pairs: Sequence[tuple[str, str]]
) -> tuple[np.ndarray, dict[tuple[str, str], np.ndarray]]:
    """Each row's cell [P], and for each (trait, level) which cells have it [U]."""
    if not pairs:
        return np.zeros(people.height, dtype=np.int64), {}
    schema = people.schema  # polars makes it anew, over all columns, each time that it is asked for
    keys: dict[str, pl.Series] = {}
    for place, (trait, level) in enumerate(pairs):
        if schema[trait] == pl.String:
            keys[f"one {trait}"] = people[trait]
        else:  # several levels at once: each is a key of its own
            keys[f"several {place}"] = pl.Series(in_level(people, trait, level))
    table = pl.DataFrame(keys)
    cells = table.unique(maintain_order=True).with_row_index("cell")
    found = table.join(cells, on=table.columns, how="left", nulls_equal=True, maintain_order="left")
    has = {}
    for place, (trait, level) in enumerate(pairs):
        key = f"several {place}"
        inside = cells[key] if key in keys else cells[f"one {trait}"] == level
        has[trait, level] = inside.fill_null(False).to_numpy()
    return found["cell"].to_numpy().astype(np.int64), has
