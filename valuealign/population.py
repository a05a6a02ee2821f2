"""Answers and weights become targets: p(option | item, group) with n_eff and an interval.

Shape letters: ``G`` groups, ``I`` items, ``K`` options (padded to the most that an item has),
``P`` people (rows of ``survey.people``). Everything is matrix work; nothing loops over answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from valuealign.config import GroupsConfig
from valuealign.errors import ConfigError, SurveyError, nearest
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group, Item, Target
from valuealign.weighting import kish

# Added to each option's n_eff-scaled count for the interval: Jeffreys' prior of a share.
JEFFREYS = 0.5
# One-hot answers are multiplied in blocks of about this many numbers (8 bytes each).
BLOCK = 16_000_000


@dataclass(frozen=True)
class ShareTable:
    """Weighted answer shares of groups.

    ``shares_GIK`` is NaN where nobody answered and beyond an item's own K; ``n_GI`` counts those
    who answered and ``n_eff_GI`` is what they are worth (Kish, among those who answered).
    """

    items: tuple[Item, ...]
    groups: tuple[Group, ...]
    shares_GIK: np.ndarray
    n_GI: np.ndarray
    n_eff_GI: np.ndarray

    @cached_property
    def item_index(self) -> dict[str, int]:
        """Item id -> place on axis I."""
        return {item.id: place for place, item in enumerate(self.items)}

    @cached_property
    def group_index(self) -> dict[Group, int]:
        """Group -> place on axis G."""
        return {group: place for place, group in enumerate(self.groups)}

    def shares(self, item_id: str, group: Group) -> np.ndarray:
        """Shares [K] of the item's own options; NaN where nobody answered. KeyError for unknown ones."""
        place = self.item_index[item_id]
        return np.asarray(self.shares_GIK[self.group_index[group], place, : len(self.items[place].options)])

    def target(self, item_id: str, group: Group) -> Target:
        """The shares with a 95 % interval of each.

        The interval is that of a Dirichlet posterior under Jeffreys' prior, n_eff standing for the
        number of people; the shares themselves are not shrunk. Raises SurveyError where nobody
        answered (there is no target then), KeyError for an unknown item or group.
        """
        shares_K = self.shares(item_id, group)
        g, i = self.group_index[group], self.item_index[item_id]
        if not self.n_GI[g, i]:
            raise SurveyError(
                f"nobody of '{group.name}' answered '{item_id}'", mend="raise groups.min_n_eff, or leave the item out"
            )
        n_eff = float(self.n_eff_GI[g, i])
        alpha_K = shares_K * n_eff + JEFFREYS
        beta_K = alpha_K.sum() - alpha_K
        low_K, high_K = (betaincinv(alpha_K, beta_K, level) for level in (0.025, 0.975))
        return Target(
            item=item_id,
            group=group,
            shares=tuple(shares_K.tolist()),
            n=int(self.n_GI[g, i]),
            n_eff=n_eff,
            low=tuple(np.minimum(low_K, shares_K).tolist()),
            high=tuple(np.maximum(high_K, shares_K).tolist()),
        )


class Repair(NamedTuple):
    """Mean error of the targets of everyone against the known truth (total variation), before and after raking."""

    before: float
    after: float


def find_groups(survey: Survey, weights_P: np.ndarray, config: GroupsConfig) -> tuple[Group, ...]:
    """EVERYONE, then single traits, then pairs of traits, in the codebook's order.

    Left out: groups worth fewer than ``min_n_eff`` respondents; beyond ``max_groups`` (EVERYONE
    counted) the smallest. Raises ConfigError for a trait that the codebook does not have.
    """
    book = survey.codebook
    known = {trait.id: trait for trait in book.traits}
    for name in config.traits or ():
        if name not in known:
            raise ConfigError(f"the survey has no trait '{name}'", where="groups.traits", mend=nearest(name, known))
    traits = [trait for trait in book.traits if config.traits is None or trait.id in config.traits]
    levels = [[(trait.id, level) for level in trait.levels] for trait in traits]
    wanted: list[tuple[tuple[str, str], ...]] = []
    if config.crossings >= 1:
        wanted += [(one,) for trait in levels for one in trait]
    if config.crossings >= 2:
        wanted += [(one, two) for first, second in combinations(levels, 2) for one in first for two in second]
    groups = [EVERYONE, *(Group(tuple(sorted(pairs)), book.phrase(pairs)) for pairs in wanted)]
    member_PG = membership(survey, groups)
    worth = [kish(weights_P[member_PG[:, g]]).n_eff for g in range(len(groups))]
    kept = [g for g in range(len(groups)) if g == 0 or worth[g] >= config.min_n_eff]
    if config.max_groups is not None:
        kept = sorted(sorted(kept, key=lambda g: (g > 0, -worth[g], g))[: config.max_groups])
    return tuple(groups[g] for g in kept)


def membership(survey: Survey, groups: Sequence[Group]) -> np.ndarray:
    """Booleans [P, G]: who belongs to which group (an unknown trait belongs to none)."""
    has: dict[tuple[str, str], np.ndarray] = {}
    member_PG = np.ones((survey.people.height, len(groups)), dtype=bool)
    for g, group in enumerate(groups):
        for trait, level in group.traits:
            if (trait, level) not in has:
                has[trait, level] = (survey.people[trait] == level).fill_null(False).to_numpy()
            member_PG[:, g] &= has[trait, level]
    return member_PG


def tabulate(
    survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], *, multiplicity_P: np.ndarray | None = None
) -> ShareTable:
    """Weighted shares of every item in every group.

    ``multiplicity_P`` says how often a row counts: 0/1 for a subset of the people, counts for a
    bootstrap resample. Each copy counts as one person in ``n`` and in ``n_eff``.
    """
    return _Tabulator(survey, groups).table(weights_P, multiplicity_P)


def bootstrap_tables(
    survey: Survey,
    weights_P: np.ndarray,
    groups: Sequence[Group],
    *,
    people_P: np.ndarray | None = None,
    resamples: int,
    seed: int,
) -> Iterator[ShareTable]:
    """Tables of person-level resamples (with replacement) of the people in the mask ``people_P``.

    A person with several rows is drawn with all of them. Deterministic from ``seed``.
    """
    rng = np.random.default_rng([seed, 0x626F6F74])
    tabulator = _Tabulator(survey, groups)
    person_P, persons = person_codes(survey)
    drawable = np.unique(person_P if people_P is None else person_P[people_P])
    for _ in range(resamples):
        counts = np.zeros(persons, dtype=np.int64)
        counts[drawable] = rng.multinomial(len(drawable), np.full(len(drawable), 1 / len(drawable)))
        multiplicity_P = counts[person_P] if people_P is None else counts[person_P] * people_P
        yield tabulator.table(weights_P, multiplicity_P)


def halves(
    survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], *, people_P: np.ndarray | None = None, seed: int
) -> tuple[ShareTable, ShareTable]:
    """Tables of two random halves of the people in the mask ``people_P``, disjoint by person."""
    rng = np.random.default_rng([seed, 0x68616C66])
    tabulator = _Tabulator(survey, groups)
    person_P, persons = person_codes(survey)
    drawable = np.unique(person_P if people_P is None else person_P[people_P])
    first = np.zeros(persons, dtype=bool)
    first[rng.permutation(drawable)[: len(drawable) // 2]] = True
    inside_P = np.ones(len(person_P), dtype=bool) if people_P is None else people_P.astype(bool)
    return (
        tabulator.table(weights_P, first[person_P] & inside_P),
        tabulator.table(weights_P, ~first[person_P] & inside_P),
    )


def person_codes(survey: Survey) -> tuple[np.ndarray, int]:
    """Each row's person as a number from 0 (in the order of their ids), and how many persons there are."""
    person_P = survey.people["person"].rank("dense").to_numpy().astype(np.int64) - 1
    return person_P, int(person_P.max()) + 1


def truth_error(survey: Survey, weights_P: np.ndarray) -> float:
    """Mean over items of the total variation distance between everyone's shares and the known truth.

    Raises SurveyError where the survey brings no truth (only the embedded population does).
    """
    if survey.truth is None:
        raise SurveyError(
            "the true shares of this survey are not known", mend="only the embedded population brings them"
        )
    table = tabulate(survey, weights_P, (EVERYONE,))
    return float(
        np.mean([np.abs(table.shares(item.id, EVERYONE) - survey.truth[item.id]).sum() / 2 for item in table.items])
    )


def repair(survey: Survey, weights_P: np.ndarray) -> Repair:
    """What the weights mend: ``truth_error`` under the design weights and under ``weights_P``."""
    return Repair(truth_error(survey, survey.people["weight"].to_numpy()), truth_error(survey, weights_P))


class _Tabulator:
    """One-hot answers and memberships, made once and multiplied for every resample."""

    def __init__(self, survey: Survey, groups: Sequence[Group]) -> None:
        self.items, self.groups = survey.codebook.items, tuple(groups)
        self.member_PG = membership(survey, groups)
        self.width = max(len(item.options) for item in self.items)
        answers_PI = survey.people.select(
            survey.people[item.id].fill_null(-1).alias(item.id) for item in self.items
        ).to_numpy()
        # Option K-1-padding is last, so a slice of the last axis keeps an item's own options.
        self.chosen_PIK = answers_PI[:, :, None] == np.arange(self.width, dtype=np.int16)
        self.own_IK = np.arange(self.width) < np.array([[len(item.options)] for item in self.items])

    def table(self, weights_P: np.ndarray, multiplicity_P: np.ndarray | None) -> ShareTable:
        times_P = np.ones(len(weights_P)) if multiplicity_P is None else np.asarray(multiplicity_P, dtype=np.float64)
        rows = np.flatnonzero(times_P * self.member_PG.any(axis=1))
        weight_P, times_P, member_PG = weights_P[rows], times_P[rows], self.member_PG[rows]
        shape = (len(self.groups), len(self.items))
        mass_GIK = np.zeros((*shape, self.width))
        n_GI, square_GI = np.zeros(shape), np.zeros(shape)
        counts_GP = np.ascontiguousarray((member_PG * times_P[:, None]).T)
        masses_GP, squares_GP = counts_GP * weight_P, counts_GP * weight_P**2
        step = max(1, BLOCK // max(1, len(rows) * self.width))
        for start in range(0, len(self.items), step):
            block = slice(start, start + step)
            chosen_PIK = self.chosen_PIK[rows, block].astype(np.float64)
            answered_PI = chosen_PIK.sum(axis=2)
            mass_GIK[:, block] = (masses_GP @ chosen_PIK.reshape(len(rows), -1)).reshape(shape[0], -1, self.width)
            n_GI[:, block] = counts_GP @ answered_PI
            square_GI[:, block] = squares_GP @ answered_PI
        total_GI = mass_GIK.sum(axis=2)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares_GIK = np.where(self.own_IK, mass_GIK / total_GI[:, :, None], np.nan)
            n_eff_GI = np.where(square_GI > 0, total_GI**2 / square_GI, 0.0)
        # People whose weights are all 0 say nothing.
        n_GI = np.where(total_GI > 0, np.rint(n_GI), 0).astype(np.int64)
        return ShareTable(self.items, self.groups, shares_GIK, n_GI, n_eff_GI)
