"""What small groups' training targets are drawn towards: everyone, or what a group's traits say of it.

Shape letters: ``G`` groups, ``I`` items, ``K`` options (padded), ``F`` features of a group.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from valuealign.errors import SurveyError
from valuealign.metrics import Floats, fit_log_linear
from valuealign.population.table import ShareTable
from valuealign.types import EVERYONE, Group


class Centre(NamedTuple):
    """Shares [G, I, K], and how many answers stand behind each group's [G, I]."""

    shares_GIK: Floats
    worth_GI: Floats


class Regression(NamedTuple):
    """Shares [G, I, K] that a log-linear regression on traits gives to every group, and the ridge it chose."""

    shares_GIK: Floats
    ridge: float


def everyone(table: ShareTable) -> Centre:
    """Everyone's shares for every group. Raises SurveyError where the table lacks everyone."""
    if EVERYONE not in table.group_index:
        raise SurveyError("no group 'everyone' to shrink towards", mend="tabulate EVERYONE as well")
    whole, (g, i, k) = table.group_index[EVERYONE], table.shares_GIK.shape
    return Centre(
        np.broadcast_to(table.shares_GIK[whole], (g, i, k)), np.broadcast_to(table.n_eff_GI[whole], (g, i)).copy()
    )


def regress(table: ShareTable, used: Collection[tuple[str, Group]] | None = None) -> Regression:
    """The groups' shares from their traits, each acting on its own: main effects, fitted to the cells ``used``.

    A cell counts by its n_eff; None: every cell that somebody answered.
    """
    shares_GIK, ridge = fit_log_linear(table.shares_GIK, _mass(table, used), _design(table))
    return Regression(shares_GIK, ridge)


def by_traits(table: ShareTable, used: Collection[tuple[str, Group]] | None = None) -> Centre:
    """``regress``, with the answers behind each group's share: what its variance in least squares is worth.

    Cells share people, and their shares go together: those of two groups by 1 / n of the people whom the traits that
    both name have in common (as if other traits were independent), and not at all where both name a trait and differ.
    The ridge is left out, so a share is worth a little more. Raises SurveyError where the table lacks everyone.
    """
    if EVERYONE not in table.group_index:
        raise SurveyError("no group 'everyone' to shrink towards", mend="tabulate EVERYONE as well")
    design_GF, mass_GI, common_GG = _design(table), _mass(table, used), _common(table)
    worth_GI = np.full(mass_GI.shape, np.nan)
    for i, mass_G in enumerate(mass_GI.T):
        if mass_G.any():
            # Least squares: coefficients = solve_FG @ shares.
            weighted_GF = mass_G[:, None] * design_GF
            solve_FG = np.linalg.pinv(design_GF.T @ weighted_GF, hermitian=True) @ weighted_GF.T
            n_GG = np.where(common_GG >= 0, table.n_eff_GI[common_GG, i], np.inf)
            together_GG = 1 / np.maximum(n_GG, 1.0)
            variance_G = np.einsum("gf,fh,gh->g", design_GF, solve_FG @ together_GG @ solve_FG.T, design_GF)
            worth_GI[:, i] = 1 / np.maximum(variance_G, 1e-12)
    return Centre(regress(table, used).shares_GIK, worth_GI)


def _common(table: ShareTable) -> NDArray[np.intp]:
    """[G, G]: the group of the traits that two groups share; the larger of both where it is not in the table, and -1
    where they have nobody in common."""
    groups = table.groups
    found = np.empty((len(groups), len(groups)), dtype=np.intp)
    n_G = table.n_eff_GI.max(axis=1, initial=0.0)
    for g, one in enumerate(groups):
        mine = dict(one.traits)
        for h, other in enumerate(groups[: g + 1]):
            both = tuple(trait for trait in one.traits if trait in other.traits)
            apart = any(mine.get(name, level) != level for name, level in other.traits)
            larger = g if n_G[g] >= n_G[h] else h
            found[g, h] = found[h, g] = -1 if apart else table.group_index.get(Group(both), larger)
    return found


def _design(table: ShareTable) -> Floats:
    """[G, F]: an intercept, and a column for each level of each trait that a group names."""
    place = {trait: f for f, trait in enumerate(sorted({one for g in table.groups for one in g.traits}), 1)}
    design_GF = np.zeros((len(table.groups), len(place) + 1))
    design_GF[:, 0] = 1.0
    for g, group in enumerate(table.groups):
        design_GF[g, [place[trait] for trait in group.traits]] = 1.0
    return design_GF


def _mass(table: ShareTable, used: Collection[tuple[str, Group]] | None) -> Floats:
    if used is None:
        return np.asarray(table.n_eff_GI, dtype=np.float64)
    mass_GI = np.zeros(table.n_eff_GI.shape)
    for item, group in used:
        g, i = table.group_index[group], table.item_index[item]
        mass_GI[g, i] = table.n_eff_GI[g, i]
    return mass_GI
