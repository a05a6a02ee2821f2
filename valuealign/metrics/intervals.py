"""95 % intervals from bootstrap draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from valuealign.metrics.distances import Floats, Parts
from valuealign.types import Estimate

FEW = 20  # clusters; under so many the widening is worth a word
ALIKE = 1e-9  # clusters whose variance is this small a part of the people's differ by rounding alone
MIDDLE = (0.158655, 0.841345)  # a normal distribution's mean, one standard deviation either way
UPPER, NORMAL = 0.975, 1.959963984540054  # where a 95 % interval ends above, and the normal quantile there


def ratio_draws(parts: Parts, cluster_C: NDArray[np.intp], picks_BI: Floats) -> Floats:
    """sum(top)/sum(bottom) for each of B resamples, NaN where nothing counts.

    ``parts`` holds [B, C] (or [C]: the same in every resample); cell c belongs to item
    ``cluster_C[c]``, which resample b drew ``picks_BI[b, item]`` times.
    """
    weight_BC = picks_BI[:, cluster_C]
    top_B = np.sum(weight_BC * parts.top, axis=-1)
    bottom_B = np.sum(weight_BC * parts.bottom, axis=-1)
    draws: Floats = np.divide(top_B, bottom_B, out=np.full(len(top_B), np.nan), where=bottom_B > 0)
    return draws


def interval(
    value: float,
    draws_B: Floats,
    *,
    n: int,
    clusters: int,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """The figure with a 95 % interval: quantiles of its draws, centred on the figure.

    A distance to a *resampled* truth carries the sampling noise twice, which shifts all draws up;
    only their spread is used. Resampling m ``clusters`` (items) is too narrow, by their number and
    as the normal quantile is: half-widths are multiplied by ``widening(m)``.
    """
    known = draws_B[np.isfinite(draws_B)]
    if not np.isfinite(value) or len(known) < 2:
        return Estimate(value, float("nan"), float("nan"), n)
    low, high = np.quantile(known, [0.025, 0.975]) - known.mean()
    wide = widening(clusters)
    least, most = bounds
    return Estimate(
        float(value),
        float(np.clip(value + wide * low, least, most)),
        float(np.clip(value + wide * high, least, most)),
        n,
    )


def around(value: Floats, draws_B: Floats) -> tuple[Floats, Floats]:
    """Low and high [...] of shares from draws of them [B, ...], as ``interval`` has them; within 0 and 1."""
    low, high = np.nanquantile(draws_B, [0.025, 0.975], axis=0) - np.nanmean(draws_B, axis=0)
    return np.clip(value + low, 0.0, 1.0), np.clip(value + high, 0.0, 1.0)


def crossed_draws(
    observed: Parts, resampled: Parts, cluster_C: NDArray[np.intp], picks_BI: Floats, shuffled_BI: NDArray[np.intp]
) -> Floats:
    """sum(top)/sum(bottom) [3, B] under three resamplings of what two things make vary, clusters and people.

    First the clusters (``picks_BI``, see ``ratio_draws``) of the ``observed`` parts [C]; then the
    people, whose ``resampled`` parts are [B, C]; then the people again, but other ones for each
    cluster: column i of ``shuffled_BI`` holds 0..B-1 in an order of its own.
    """
    member_CI = (cluster_C[:, None] == np.arange(picks_BI.shape[1])).astype(np.float64)
    own_I, own_bottom_I = observed.top @ member_CI, observed.bottom @ member_CI
    top_BI, bottom_BI = resampled.top @ member_CI, resampled.bottom @ member_CI
    apart = [np.take_along_axis(one_BI, shuffled_BI, axis=0) for one_BI in (top_BI, bottom_BI)]
    top_3B = np.stack([picks_BI @ own_I, top_BI.sum(1), apart[0].sum(1)])
    bottom_3B = np.stack([picks_BI @ own_bottom_I, bottom_BI.sum(1), apart[1].sum(1)])
    draws: Floats = np.divide(top_3B, bottom_3B, out=np.full(top_3B.shape, np.nan), where=bottom_3B > 0)
    return draws


def crossed_interval(
    value: float, draws_3B: Floats, *, n: int, clusters: int, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """As ``interval``, of ``crossed_draws`` or of any function of several figures' draws.

    Clusters differ among themselves, the noise of the people's answers included, and that is what
    resampling clusters shows. People add to it only what moves several clusters at once: the
    variance when all clusters meet the same people, less the variance when each meets others.
    Resampling both jointly would count the noise twice and more (Owen 2007, "The pigeonhole
    bootstrap"). Where no clusters are resampled, or all are alike, people alone are.
    """
    known = [row_B[np.isfinite(row_B)] for row_B in draws_3B]
    if any(len(one) < 2 for one in known):
        return Estimate(value, float("nan"), float("nan"), n)
    # By the middle two thirds: a gain over little room has draws without a variance.
    items, people, apart = (float(np.diff(np.quantile(one, MIDDLE))[0] / 2) ** 2 for one in known)
    if clusters < 2 or items <= ALIKE * people:
        return interval(value, known[1], n=n, clusters=1, bounds=bounds)
    stretch = np.sqrt(1 + max(0.0, people - apart) / (items * widening(clusters) ** 2))
    return interval(value, (known[0] - known[0].mean()) * stretch, n=n, clusters=clusters, bounds=bounds)


def widening(clusters: int) -> float:
    """t(m - 1) / 1.96 * sqrt(m / (m - 1)) for m resampled clusters; 1 for a single one, which is not resampled.

    Without it six clusters cover .86 of the time.
    """
    if clusters < 2:
        return 1.0
    return float(stdtrit(clusters - 1, UPPER) / NORMAL * np.sqrt(clusters / (clusters - 1)))
