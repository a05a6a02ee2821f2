"""What one can guess about a group without a model. Pure arrays: shares in, shares out ([..., K], NaN padded)."""

from __future__ import annotations

import numpy as np

from valuealign.metrics.distances import Floats


def uniform(options: int, width: int) -> Floats:
    """Equal shares of ``options`` options, NaN up to ``width``."""
    shares = np.full(width, np.nan)
    shares[:options] = 1.0 / options
    return shares


def additive(everyone: Floats, traits: list[Floats]) -> Floats:
    """p_ab proportional to p_a p_b / p (traits act independently on the log scale), normalised.

    ``everyone`` and each of ``traits`` are [K]. An option nobody chose gets 0; where the product
    leaves nothing at all, everyone's shares are returned.
    """
    lift = np.ones_like(everyone)
    for shares in traits:
        lift = lift * np.divide(shares, everyone, out=np.zeros_like(everyone), where=everyone > 0)
    product = np.where(np.isnan(everyone), np.nan, everyone * np.nan_to_num(lift))
    total = np.nansum(product)
    return product / total if total > 0 else everyone.copy()


def mean_shares(shares: list[Floats]) -> Floats | None:
    """The unweighted mean of share vectors [K] of one padding; None where there are none."""
    known = [one for one in shares if not np.isnan(one).all()]
    return np.asarray(np.mean(known, axis=0)) if known else None
