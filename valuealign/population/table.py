"""Answers x weights: p(option | item, group) with n, n_eff and an interval. Nothing here is shrunk.

Shape letters: ``G`` groups, ``I`` items, ``K`` options (padded to the most that an item has),
``O`` outcomes, ``P`` people (rows of ``survey.people``). Nothing loops over answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.special import betaincinv

from valuealign.errors import SurveyError
from valuealign.population.cells import Cells, load, slots
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group, Item, Target

# Added to the n_eff-scaled counts of an option and of all others: Jeffreys' prior of a share.
JEFFREYS = 0.5
# The normal quantile of a 95 % interval, and the least count from which ``intervals`` uses a closed form.
Z95, MANY = 1.959963984540054, 5.0


@dataclass(frozen=True)
class ShareTable:
    """Weighted answer shares of groups, as counted: evaluation's truth is such a table.

    ``shares_GIK`` is NaN where nobody answered and beyond an item's own K; ``n_GI`` counts the
    persons who answered and ``n_eff_GI`` is what they are worth (Kish, among those who answered).
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

    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Beta parameters [G, I, K] of each share: n_eff p + 1/2 and n_eff (1 - p) + 1/2; NaN as in shares.

        Each option is taken against all others under Jeffreys' prior for two outcomes. The shares of
        one Dirichlet would do no better: with 1/2 for each of K options the others weigh (K - 1)/2,
        which draws a large share down (95 % intervals of p = .9 hold it 65 times in 100 at n = 30, K =
        10); with 1/K each, an option that few choose gets too low a limit (p = .02: 70 in 100 at n =
        60, K = 10).
        """
        n_GI1 = self.n_eff_GI[:, :, None]
        return n_GI1 * self.shares_GIK + JEFFREYS, n_GI1 * (1 - self.shares_GIK) + JEFFREYS

    def target(self, item_id: str, group: Group) -> Target:
        """The shares with a 95 % interval of each.

        The interval is that of the share's ``posterior``, widened to hold the share itself. Raises
        SurveyError where nobody answered (there is no target then), KeyError for an unknown item or
        group.
        """
        shares_K = self.shares(item_id, group)
        g, i = self.group_index[group], self.item_index[item_id]
        if not self.n_GI[g, i]:
            raise SurveyError(
                f"nobody of '{group.name}' answered '{item_id}'", mend="raise groups.min_n_eff, or leave the item out"
            )
        alpha_K, beta_K = (counts[g, i, : len(shares_K)] for counts in self.posterior())
        low_K, high_K = intervals(alpha_K, beta_K, shares_K)
        return Target(
            item=item_id,
            group=group,
            shares=tuple(shares_K.tolist()),
            n=int(self.n_GI[g, i]),
            n_eff=float(self.n_eff_GI[g, i]),
            low=tuple(low_K.tolist()),
            high=tuple(high_K.tolist()),
        )


class Repair(NamedTuple):
    """Mean error of the targets of everyone against the known truth (total variation), before and after raking."""

    before: float
    after: float


def intervals(alpha: np.ndarray, beta: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % limits [...] of shares under Beta(alpha, beta), widened to hold ``shares``; NaN where one is NaN.

    Where alpha and beta are both ``MANY`` or more, by a closed form for the quantiles of the F
    distribution (Carter 1947; Abramowitz & Stegun 26.5.22), within 0.3 % of the interval's length.
    """
    many = (alpha >= MANY) & (beta >= MANY)
    low, high = np.full(shares.shape, np.nan), np.full(shares.shape, np.nan)
    few = ~many & ~np.isnan(shares)
    for limit, z, level in ((low, Z95, 0.025), (high, -Z95, 0.975)):
        limit[many] = _quantile(alpha[many], beta[many], z)
        limit[few] = betaincinv(alpha[few], beta[few], level)
    return np.minimum(low, shares), np.maximum(high, shares)


def _quantile(alpha: np.ndarray, beta: np.ndarray, z: float) -> np.ndarray:
    """Carter's approximation of the quantile of Beta(alpha, beta) with normal upper tail ``z``."""
    one, two = 1 / (2 * alpha - 1), 1 / (2 * beta - 1)
    size, shift = 2 / (one + two), (z**2 - 3) / 6
    w = z * np.sqrt(size + shift) / size - (two - one) * (shift + 5 / 6 - 2 / (3 * size))
    return np.asarray(alpha / (alpha + beta * np.exp(2 * w)))


def tabulate(
    survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], *, multiplicity_P: np.ndarray | None = None
) -> ShareTable:
    """Weighted shares of every item in every group.

    ``multiplicity_P`` says how often a row counts: 0/1 for a subset of the people, counts for a
    bootstrap resample; the same for all rows of a person, or 0. Each copy counts as one person in
    ``n`` and in ``n_eff``. A person's rows (waves) add up: ``n`` counts persons and ``n_eff`` is
    (sum_p W_p)^2 / sum_p W_p^2 over persons' summed weights W_p, while shares stay row-weighted.
    """
    return _table(survey, Cells(survey, groups), weights_P, multiplicity_P)


def outcome_shares(survey: Survey, weights_P: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    """Weighted share [G, I, O] of each of the codebook's outcomes among those asked (answers and outcomes).

    NaN where nobody of a group was asked an item, or their weights are all 0.
    """
    cells, rows = Cells(survey, groups), load(weights_P)
    items, outcomes = survey.codebook.items, len(survey.codebook.outcomes)
    shares_GIO = np.full((len(groups), len(items), outcomes), np.nan)
    for i, item in enumerate(items):
        # -1 - j becomes j, any option the slot after the outcomes; null and the rest lie beyond.
        code = pl.col(item.id)
        turned = pl.when(code >= 0).then(pl.lit(outcomes, pl.Int16)).otherwise(-1 - code)
        asked = survey.people.select(turned.alias("asked"))["asked"]
        mass_GX = cells.masses(slots(asked, outcomes + 1), outcomes + 1, rows.mass_P)
        total_G1 = mass_GX.sum(axis=1, keepdims=True)
        np.divide(mass_GX[:, :outcomes], total_G1, out=shares_GIO[:, i], where=total_G1 > 0)
    return shares_GIO


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


def _table(survey: Survey, cells: Cells, weights_P: np.ndarray, multiplicity_P: np.ndarray | None) -> ShareTable:
    items, rows = survey.codebook.items, load(weights_P, multiplicity_P)
    shape = (len(cells.groups), len(items))
    shares_GIK = np.full((*shape, max(len(item.options) for item in items)), np.nan)
    n_GI, n_eff_GI = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    for i, item in enumerate(items):
        options = len(item.options)
        mass_GK, n_G, square_G = cells.sums(slots(survey.people[item.id], options), options, rows)
        total_G = mass_GK.sum(axis=1)
        # People whose weights are all 0 say nothing.
        alive_G = total_G > 0
        np.divide(mass_GK, total_G[:, None], out=shares_GIK[:, i, :options], where=alive_G[:, None])
        np.divide(total_G**2, square_G, out=n_eff_GI[:, i], where=alive_G)
        n_GI[:, i] = np.where(alive_G, np.rint(n_G), 0)
    return ShareTable(items, cells.groups, shares_GIK, n_GI, n_eff_GI)
