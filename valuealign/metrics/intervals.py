"""95 % intervals from bootstrap draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from valuealign.metrics.distances import Floats, Parts
from valuealign.types import Estimate

FEW = 20  # under so many clusters a bootstrap is too narrow (six clusters cover .86 of the time)
# Student's t at .975 for 1..18 degrees of freedom, over the normal's 1.960.
# fmt: off
_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262,
    2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
)
# fmt: on


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
    only their spread is used. With fewer than 20 ``clusters`` (resampled items) the half-widths
    are widened by t(clusters - 1) / 1.96 * sqrt(clusters / (clusters - 1)). With a single
    cluster nothing is widened: the interval then speaks of the respondents alone.
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
    low, high = np.nanquantile(draws_B.astype(np.float64), [0.025, 0.975], axis=0) - np.nanmean(draws_B, axis=0)
    return np.clip(value + low, 0.0, 1.0), np.clip(value + high, 0.0, 1.0)


def widening(clusters: int) -> float:
    """The factor on half-widths for few resampled clusters; 1 from 20 on, and for a single one."""
    if clusters >= FEW or clusters < 2:
        return 1.0
    return float(_T975[clusters - 2] / 1.960 * np.sqrt(clusters / (clusters - 1)))
