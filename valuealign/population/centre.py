"""What small groups' training targets are drawn towards: everyone, or what a group's traits say of it.

Shape letters: ``G`` groups, ``I`` items, ``K`` options (padded), ``F`` features of a group.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from valuealign.errors import SurveyError
from valuealign.metrics import Floats, log_linear, log_linear_shares
from valuealign.population.cells import membership
from valuealign.population.floor import random_halves
from valuealign.population.table import ShareTable, tabulate
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group

Pairs = Collection[tuple[str, Group]]  # cells of a table, by item id and group
# What the ridge is chosen from, in respondents.
RIDGES = (300.0, 170.0, 100.0, 55.0, 30.0, 17.0, 10.0, 5.0)
HALVINGS = 2


class Centre(NamedTuple):
    """Shares [G, I, K], and how many answers stand behind each group's [G, I]."""

    shares_GIK: Floats
    worth_GI: Floats


def everyone(table: ShareTable) -> Centre:
    """Everyone's shares for every group. Raises SurveyError where the table lacks everyone."""
    if EVERYONE not in table.group_index:
        raise SurveyError("no group 'everyone' to shrink towards", mend="tabulate EVERYONE as well")
    whole, (g, i, k) = table.group_index[EVERYONE], table.shares_GIK.shape
    return Centre(
        np.broadcast_to(table.shares_GIK[whole], (g, i, k)), np.broadcast_to(table.n_eff_GI[whole], (g, i)).copy()
    )


def regress(table: ShareTable, ridge: float, used: Pairs | None = None) -> Floats:
    """The groups' shares [G, I, K] from their traits, each acting on its own: main effects, fitted to cells ``used``.

    A cell (item id, group) counts by its n_eff; None: every cell that somebody answered. ``ridge`` is what draws the
    effects to 0, in respondents (``choose_ridge``).
    """
    design_GF = _design(table)
    start_FIK = np.zeros((design_GF.shape[1], *table.shares_GIK.shape[1:]))
    beta_FIK = log_linear(table.shares_GIK, _mass(table, used), design_GF, ridge, start_FIK)
    return log_linear_shares(beta_FIK, design_GF, table.shares_GIK)


def choose_ridge(
    survey: Survey,
    weights_P: np.ndarray,
    groups: Sequence[Group],
    people_P: NDArray[np.bool_],
    used: Pairs | None = None,
) -> float:
    """The ridge of ``RIDGES`` with which the cells of one half of the people say best what the other half answered.

    Halves share no person. Cells left out of a fit to the same people would not do: groups overlap, so the noise of
    the cells that are fitted is also theirs, and a ridge that fits noise would look good.
    """
    first_P = random_halves(survey, people_P, HALVINGS, seed=0)[:, people_P]
    loss_R = np.zeros(len(RIDGES))
    for one_P in first_P:
        sides = []
        for half_P in (one_P, ~one_P):
            rows_P = np.zeros(len(people_P))
            rows_P[people_P] = half_P
            sides.append(tabulate(survey, weights_P, groups, multiplicity_P=rows_P))
        for told, judge in (sides, sides[::-1]):
            loss_R += _losses(told, judge, used)
    return RIDGES[int(np.argmin(loss_R))]


def _losses(told: ShareTable, judge: ShareTable, used: Pairs | None) -> Floats:
    """For each ridge, minus the log-likelihood of ``judge``'s answers (nats a respondent) under a fit to ``told``."""
    design_GF, mass_GI, counted_GI = _design(told), _mass(told, used), _mass(judge, used)
    beta_FIK = np.zeros((design_GF.shape[1], *told.shares_GIK.shape[1:]))
    losses = []
    for ridge in RIDGES:  # from the stiffest on: each fit begins where the last ended
        beta_FIK = log_linear(told.shares_GIK, mass_GI, design_GF, ridge, beta_FIK)
        shares_GIK = log_linear_shares(beta_FIK, design_GF, judge.shares_GIK)
        logp_GIK = np.log(np.maximum(np.nan_to_num(shares_GIK, nan=1.0), np.finfo(np.float64).tiny))
        losses.append(-float((counted_GI[..., None] * np.nan_to_num(judge.shares_GIK) * logp_GIK).sum()))
    return np.array(losses) / max(float(counted_GI.sum()), 1.0)


def by_traits(table: ShareTable, ridge: float, related_GG: Floats, used: Pairs | None = None) -> Centre:
    """``regress``, with the answers behind each group's share: what its variance in least squares is worth.

    Cells share people, so their shares go together: ``related_GG`` are their correlations (``relations``). The ridge is
    left out, so a share is worth a little more. An item of which no cell is used has everyone's shares and worth.
    Raises SurveyError where the table lacks everyone.
    """
    whole = everyone(table)
    design_GF, mass_GI = _design(table), _mass(table, used)
    shares_GIK, worth_GI = regress(table, ridge, used), np.array(whole.worth_GI)
    for i, mass_G in enumerate(mass_GI.T):
        if not mass_G.any():
            shares_GIK[:, i] = whole.shares_GIK[:, i]
            continue
        # Least squares: coefficients = solve_FG @ shares, whose standard deviations go with 1 / sqrt(n).
        weighted_GF = mass_G[:, None] * design_GF
        solve_FG = np.linalg.pinv(design_GF.T @ weighted_GF, hermitian=True) @ weighted_GF.T
        solve_FG = solve_FG / np.sqrt(np.maximum(mass_G, 1.0))
        variance_G = np.einsum("gf,fh,gh->g", design_GF, solve_FG @ related_GG @ solve_FG.T, design_GF)
        worth_GI[:, i] = np.minimum(1 / np.maximum(variance_G, 1e-12), mass_G.sum())
    return Centre(shares_GIK, worth_GI)


def relations(
    survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], people_P: NDArray[np.bool_] | None = None
) -> Floats:
    """[G, G]: how the shares of two groups go together because the same people answer in both, from 0 to 1."""
    mass_P = weights_P if people_P is None else weights_P * people_P
    mass_PG = membership(survey, groups) * mass_P[:, None]
    together_GG = mass_PG.T @ mass_PG
    own_G = np.sqrt(np.maximum(np.diag(together_GG), np.finfo(np.float64).tiny))
    return np.asarray(together_GG / np.outer(own_G, own_G))


def _design(table: ShareTable) -> Floats:
    """[G, F]: an intercept, and a column for each level of each trait that a group names."""
    place = {trait: f for f, trait in enumerate(sorted({one for g in table.groups for one in g.traits}), 1)}
    design_GF = np.zeros((len(table.groups), len(place) + 1))
    design_GF[:, 0] = 1.0
    for g, group in enumerate(table.groups):
        design_GF[g, [place[trait] for trait in group.traits]] = 1.0
    return design_GF


def used_cells(table: ShareTable, used: Pairs | None) -> NDArray[np.bool_]:
    """[G, I]: which cells are among ``used`` (None: every one that somebody answered)."""
    if used is None:
        return np.asarray(table.n_eff_GI > 0)
    found_GI = np.zeros(table.n_eff_GI.shape, dtype=bool)
    for item, group in used:
        found_GI[table.group_index[group], table.item_index[item]] = True
    return found_GI


def _mass(table: ShareTable, used: Pairs | None) -> Floats:
    return np.where(used_cells(table, used), table.n_eff_GI, 0.0)
