"""Training targets: small groups drawn towards everyone (empirical Bayes), and the table of all targets.

Shrinking trades a little bias for much noise, which is right for what a model is trained on and
wrong for what it is judged by: evaluation reads the raw ``ShareTable`` only.

Shape letters: ``G`` groups, ``I`` items, ``K`` options (padded to the most that an item has).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from valuealign.errors import SurveyError
from valuealign.population.floor import Floor
from valuealign.population.table import JEFFREYS, ShareTable, intervals
from valuealign.types import EVERYONE

# kappa is looked for between these: one respondent's worth of prior, and groups that do not differ at all.
KAPPA_BOUNDS = (1.0, 1e6)


@dataclass(frozen=True)
class Shrunk(ShareTable):
    """A ShareTable whose shares are drawn towards everyone's; ``n_GI`` and ``n_eff_GI`` stay as counted.

    ``pull_GI`` = kappa / (n_eff + kappa) is the weight of everyone's shares in a target: 0 for
    everyone itself, NaN where nobody answered. ``kappa_I`` is what everyone's shares are worth, in
    respondents (NaN where no group answered). ``raw`` is the table that was shrunk.
    """

    raw: ShareTable
    kappa_I: np.ndarray
    pull_GI: np.ndarray

    @property
    def median_pull(self) -> float:
        """Median pull over all answered targets but everyone's; NaN where there is none."""
        others_GI = np.delete(self.pull_GI, self.group_index[EVERYONE], axis=0)
        known = others_GI[~np.isnan(others_GI)]
        return float(np.median(known)) if len(known) else float("nan")

    def posterior(self) -> np.ndarray:
        """Dirichlet counts [G, I, K]: n_eff x raw shares + kappa x everyone's shares; everyone's own under Jeffreys.

        Everyone's shares enter with Jeffreys' prior, so that an option that nobody chose stays possible.
        """
        whole, raw = self.group_index[EVERYONE], self.raw.posterior()
        prior_IK = raw[whole] / np.nansum(raw[whole], axis=-1, keepdims=True)
        counts = raw - JEFFREYS + self.kappa_I[:, None] * prior_IK
        counts[whole] = raw[whole]
        return np.asarray(counts)


def shrink(table: ShareTable) -> Shrunk:
    """Draw each group's shares towards everyone's, item by item, as far as the data say.

    The shares of an item's groups are taken as draws from Dirichlet(kappa p0) with p0 everyone's
    shares; kappa maximises the marginal likelihood of the n_eff-scaled counts (Dirichlet-
    multinomial, Mosimann 1962) within ``KAPPA_BOUNDS``; target = (n_eff p + kappa p0) / (n_eff +
    kappa). Everyone is left as it is. kappa is estimated from all other groups with an answer;
    groups that share people (a trait and its crossings) count each, which makes it a composite
    likelihood: a good estimate whose own uncertainty is not stated.

    Raises SurveyError where the table lacks everyone.
    """
    if EVERYONE not in table.group_index:
        raise SurveyError("no group 'everyone' to shrink towards", mend="tabulate EVERYONE as well")
    whole = table.group_index[EVERYONE]
    kappa_I = np.full(len(table.items), np.nan)
    for i, item in enumerate(table.items):
        counts_GK = (table.shares_GIK[:, i] * table.n_eff_GI[:, i, None])[:, : len(item.options)]
        other_G = (table.n_eff_GI[:, i] > 0) & (np.arange(len(table.groups)) != whole)
        if other_G.any():
            kappa_I[i] = _kappa(counts_GK[other_G], table.shares_GIK[whole, i, : len(item.options)])
    pull_GI = np.where(table.n_eff_GI > 0, kappa_I / (table.n_eff_GI + kappa_I), np.nan)
    pull_GI[whole] = np.where(table.n_eff_GI[whole] > 0, 0.0, np.nan)
    pull_GI1 = pull_GI[:, :, None]
    shares_GIK = (1 - pull_GI1) * table.shares_GIK + pull_GI1 * table.shares_GIK[whole]
    return Shrunk(table.items, table.groups, shares_GIK, table.n_GI, table.n_eff_GI, table, kappa_I, pull_GI)


def _kappa(counts_GK: np.ndarray, prior_K: np.ndarray) -> float:
    """The kappa of greatest marginal likelihood; options that nobody chose say nothing of it."""
    chosen = prior_K > 0
    counts_GK, prior_K = counts_GK[:, chosen], prior_K[chosen]
    n_G = counts_GK.sum(axis=1)

    def surprise(log_kappa: float) -> float:
        kappa = np.exp(log_kappa)
        by_group = len(n_G) * gammaln(kappa) - gammaln(n_G + kappa).sum()
        by_option = gammaln(counts_GK + kappa * prior_K).sum() - len(n_G) * gammaln(kappa * prior_K).sum()
        return -float(by_group + by_option)

    found = minimize_scalar(surprise, bounds=np.log(KAPPA_BOUNDS), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def target_frame(table: ShareTable, shrunk: Shrunk | None = None, floor: Floor | None = None) -> pl.DataFrame:
    """One row per item, group and option that has a target; the groups' and options' order is the table's.

    Columns: ``item``, ``group`` (its name), ``option`` (words), ``code``, ``share`` (as counted),
    ``target`` (shrunk; the share without ``shrunk``), ``pull``, ``low`` and ``high`` (95 % of the
    target), ``n``, ``n_eff``, ``split_half`` and ``floor`` (null without ``floor`` or where a half
    was empty). Pairs that nobody answered have no rows.
    """
    final: ShareTable = shrunk or table
    low_GIK, high_GIK = intervals(final.posterior(), final.shares_GIK)
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
