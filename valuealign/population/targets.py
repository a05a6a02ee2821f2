"""Training targets: small groups drawn towards a centre (empirical Bayes), and the table of all targets.

Shrinking trades a little bias for much noise, which is right for what a model is trained on and
wrong for what it is judged by: evaluation reads the raw ``ShareTable`` only.

The centre is everyone, or what the traits of a group say of it (``centre``). kappa, the number of respondents that
the centre's shares are worth, is not known but estimated, and so are those shares: the intervals of shrunk targets
hold both uncertainties.

Shape letters: ``R`` values of kappa, ``G`` groups, ``I`` items, ``K`` options (padded to the most that an item has).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import gammaln

from valuealign.population.centre import Centre, Pairs, everyone, used_cells
from valuealign.population.floor import Floor
from valuealign.population.table import JEFFREYS, ShareTable, intervals
from valuealign.types import EVERYONE

# kappa is weighed at this many values, first over its whole range and then where it may lie.
GRID = 25


@dataclass(frozen=True)
class Shrunk(ShareTable):
    """A ShareTable whose shares are drawn towards a centre's; ``n_GI`` and ``n_eff_GI`` stay as counted.

    ``pull_GI`` is the weight of the centre's shares in a target: 0 for everyone itself, NaN where
    nobody answered. ``kappa_I`` is what the centre's shares are worth, in respondents (NaN where no
    group answered); ``worth_GIK`` how many answers stand behind each target's interval. ``raw`` is
    the table that was shrunk, ``centre`` what it was drawn towards.
    """

    raw: ShareTable
    centre: Centre
    kappa_I: np.ndarray
    pull_GI: np.ndarray
    worth_GIK: np.ndarray

    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Beta parameters [G, I, K] of each target: its mean and its variance are those that ``shrink`` states.

        The centre's shares enter with Jeffreys' prior, so that an option that nobody chose stays
        possible. Everyone's own are the raw table's.
        """
        mean_GIK = _drawn(self.raw.shares_GIK, _smooth(self.centre), self.pull_GI)
        counts = self.worth_GIK * mean_GIK, self.worth_GIK * (1 - mean_GIK)
        whole_G11 = (np.arange(len(self.groups)) == self.group_index[EVERYONE])[:, None, None]
        alpha, beta = (np.where(whole_G11, *both) for both in zip(self.raw.posterior(), counts, strict=True))
        return alpha, beta


def shrink(table: ShareTable, centre: Centre | None = None, used: Pairs | None = None) -> Shrunk:
    """Draw each group's shares towards the centre's (None: everyone's), item by item, as far as the data say.

    The shares of an item's groups are taken as draws from Dirichlet(kappa p0) with p0 the centre's
    shares: the marginal likelihood of the n_eff-scaled counts is Dirichlet-multinomial (Mosimann
    1962). kappa is weighed by it, on a grid that is even in the pull kappa / (n + kappa) of a group
    of middling n (the uniform-shrinkage prior, Daniels 1999). target = (1 - b) p + b p0, with b the
    weighted mean of kappa / (n_eff + kappa). Everyone is left as it is.

    Behind the intervals stands a Beta for each share with the target's mean m and, by the law of
    total variance, the variance m (1 - m) E[1 / (n_eff + kappa + 1)], given kappa, + (p - p0)^2
    Var[b], kappa's own, + m (1 - m) E[1 - (1 - b)^2] / (n0 + 1), of the centre's n0 effective answers,
    among which the group's own are. So no target is worth more answers than the centre's shares,
    unless the group by itself is. Where groups do not differ from the centre at all, the intervals are
    wider than they need be: that they differ a little cannot be ruled out.

    kappa is estimated from all other groups with an answer, of the cells ``used`` if these are given. Groups that
    share people (a trait and its crossings) count each; the likelihood is then flattened to what as many persons
    would say.

    Raises SurveyError where the table lacks everyone.
    """
    centre = centre or everyone(table)
    about = _estimate(table, centre, used_cells(table, used))
    shares_GIK, smooth_GIK = _drawn(table.shares_GIK, centre.shares_GIK, about.pull_GI), _smooth(centre)
    mean_GIK = _drawn(table.shares_GIK, smooth_GIK, about.pull_GI)
    # Only a share of everyone's own may be 0 or 1 here, and its worth is not used.
    spread_GIK = (table.shares_GIK - smooth_GIK) ** 2 / np.maximum(mean_GIK * (1 - mean_GIK), 1e-12)
    # Never less than one answer: about a group of one, far from everyone, the sum says nearly nothing.
    worth_GIK = np.maximum(1 / (about.within_GI[:, :, None] + about.spread_GI[:, :, None] * spread_GIK) - 1, 1.0)
    return Shrunk(
        table.items,
        table.groups,
        shares_GIK,
        table.n_GI,
        table.n_eff_GI,
        table,
        centre,
        about.kappa_I,
        about.pull_GI,
        worth_GIK,
    )


class _Estimate(NamedTuple):
    """kappa, the mean and the variance of the pull over what kappa may be, and the mean variance given kappa.

    The last in units of m (1 - m); all NaN where nobody answered, the last two for everyone too.
    """

    kappa_I: np.ndarray
    pull_GI: np.ndarray
    spread_GI: np.ndarray
    within_GI: np.ndarray


def _estimate(table: ShareTable, centre: Centre, used_GI: NDArray[np.bool_]) -> _Estimate:
    whole = table.group_index[EVERYONE]
    kappa_I = np.full(len(table.items), np.nan)
    pull_GI = np.where(table.n_eff_GI > 0, 0.0, np.nan)
    spread_GI, within_GI = np.full(pull_GI.shape, np.nan), np.full(pull_GI.shape, np.nan)
    for i, item in enumerate(table.items):
        other_G = table.n_eff_GI[:, i] > 0
        other_G[whole] = False
        if other_G.any():
            k, n_G = len(item.options), table.n_eff_GI[other_G, i]
            shares_GK, centre_GK = table.shares_GIK[other_G, i, :k], centre.shares_GIK[other_G, i, :k]
            power = min(1.0, table.n_GI[whole, i] / table.n_GI[other_G, i].sum())
            told_G = used_GI[other_G, i]
            if not told_G.any():  # nothing of the item is used, and nothing of it is asked for
                told_G = np.ones(len(n_G), dtype=bool)
            kappa_R, weight_R = _kappas(n_G[told_G], shares_GK[told_G], centre_GK[told_G], power)
            pull_RG = kappa_R[:, None] / (n_G + kappa_R[:, None])
            within_RG = 1 / (n_G + kappa_R[:, None] + 1) + (1 - (1 - pull_RG) ** 2) / (centre.worth_GI[other_G, i] + 1)
            pull_G, within_GI[other_G, i] = weight_R @ pull_RG, weight_R @ within_RG
            pull_GI[other_G, i], spread_GI[other_G, i] = pull_G, weight_R @ (pull_RG - pull_G) ** 2
            middle = _middling(n_G[told_G])
            kappa_I[i] = middle / (weight_R @ (middle / (middle + kappa_R))) - middle
    return _Estimate(kappa_I, pull_GI, spread_GI, within_GI)


def _drawn(shares_GIK: np.ndarray, centre_GIK: np.ndarray, pull_GI: np.ndarray) -> np.ndarray:
    """The mean of a group's and the centre's shares, weighted by the pull."""
    return np.asarray((1 - pull_GI[:, :, None]) * shares_GIK + pull_GI[:, :, None] * centre_GIK)


def _smooth(centre: Centre) -> np.ndarray:
    """The centre's shares [G, I, K] under Jeffreys' prior: the means of their posterior."""
    n_GI1 = centre.worth_GI[:, :, None]
    return np.asarray((n_GI1 * centre.shares_GIK + JEFFREYS) / (n_GI1 + 2 * JEFFREYS))


def _middling(n_G: np.ndarray) -> float:
    """The geometric mean."""
    return float(np.exp(np.log(n_G).mean()))


def _kappas(
    n_G: np.ndarray, shares_GK: np.ndarray, centre_GK: np.ndarray, power: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values of kappa [R] and what each weighs; options that the centre rules out say nothing of it."""
    chosen, middle = (centre_GK > 0).all(0), _middling(n_G)
    counts_GK, centre_GK = n_G[:, None] * shares_GK[:, chosen], centre_GK[:, chosen]
    low, high = 0.0, 1.0
    for _ in range(2):
        step = (high - low) / GRID
        pull_R = low + step * (np.arange(GRID) + 0.5)
        kappa_R = middle * pull_R / (1 - pull_R)
        log_R = power * np.array([_likelihood(counts_GK, centre_GK, kappa) for kappa in kappa_R])
        weight_R = np.exp(log_R - log_R.max())
        likely = pull_R[weight_R > 1e-3]
        low, high = max(0.0, likely[0] - 1.5 * step), min(1.0, likely[-1] + 1.5 * step)
    return kappa_R, weight_R / weight_R.sum()


def _likelihood(counts_GK: np.ndarray, centre_GK: np.ndarray, kappa: float) -> float:
    """Log likelihood of kappa, Dirichlet-multinomial, less what does not hang on it."""
    by_group = len(counts_GK) * gammaln(kappa) - gammaln(counts_GK.sum(axis=1) + kappa).sum()
    by_option = (gammaln(counts_GK + kappa * centre_GK) - gammaln(kappa * centre_GK)).sum()
    return float(by_group + by_option)


def target_frame(table: ShareTable, shrunk: Shrunk | None = None, floor: Floor | None = None) -> pl.DataFrame:
    """One row per item, group and option that has a target; the groups' and options' order is the table's.

    Columns: ``item``, ``group`` (its name), ``option`` (words), ``code``, ``share`` (as counted),
    ``target`` (shrunk; the share without ``shrunk``), ``pull``, ``low`` and ``high`` (95 % of the
    target), ``n``, ``n_eff``, ``split_half`` and ``floor`` (null without ``floor`` or where a half
    was empty). Pairs that nobody answered have no rows.
    """
    final: ShareTable = shrunk or table
    low_GIK, high_GIK = intervals(*final.posterior(), final.shares_GIK)
    blank_GI = np.full(table.n_GI.shape, np.nan)
    pull_GI = shrunk.pull_GI if shrunk else np.where(table.n_GI > 0, 0.0, np.nan)
    halves_GI, floor_GI = (floor.split_half_GI, floor.floor_GI) if floor else (blank_GI, blank_GI)
    i, g, k = np.nonzero(~np.isnan(table.shares_GIK.transpose(1, 0, 2)))
    start_I = np.cumsum([0, *(len(item.options) for item in table.items)])[:-1]
    option = start_I[i] + k
    options = [option for item in table.items for option in item.options]
    columns = {
        "item": pl.Series([item.id for item in table.items]).gather(i),
        "group": pl.Series([group.name for group in table.groups]).gather(g),
        "option": pl.Series([option.text for option in options]).gather(option),
        "code": np.array([option.code for option in options], dtype=np.int64)[option],
        "share": table.shares_GIK[g, i, k],
        "target": final.shares_GIK[g, i, k],
        "pull": pull_GI[g, i],
        "low": low_GIK[g, i, k],
        "high": high_GIK[g, i, k],
        "n": table.n_GI[g, i],
        "n_eff": table.n_eff_GI[g, i],
        "split_half": halves_GI[g, i],
        "floor": floor_GI[g, i],
    }
    return pl.DataFrame(columns).with_columns(pl.col("split_half", "floor").fill_nan(None))
