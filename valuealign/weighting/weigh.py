"""The survey's weights: what everyone means, then the population's margins, then trimming.

The fitting is done by the ``svy`` library. Shape letter: ``P`` people (rows of the survey).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl

from valuealign.config import WeightingConfig
from valuealign.errors import WeightingError
from valuealign.weighting.everyone import Spoken, everyone
from valuealign.weighting.fit import fit, ratios, trim
from valuealign.weighting.margins import Margins
from valuealign.weighting.targets import Fielding, inside, targets

# The cap behind a wanted design effect is sought to this relative precision.
CAP_PRECISION = 1e-3


class Weighted(Protocol):
    """What weighting needs of a survey: a row per interview, ``person``, ``weight``, traits, a panel's ``wave``."""

    @property
    def people(self) -> pl.DataFrame: ...


class Kish(NamedTuple):
    """What weighted answers are worth: ``n`` people, ``design_effect`` n sum(w^2) / sum(w)^2, ``n_eff`` n / deff."""

    n: int
    design_effect: float
    n_eff: float


class Gap(NamedTuple):
    """One margin level: the population's share, the sample's design-weighted share, the share after weighting."""

    trait: str
    level: str
    target: float
    before: float
    after: float


@dataclass(frozen=True)
class Weights:
    """Survey weights ``weights_P`` (mean 1, rows of ``survey.people``), what they cost and what they mended.

    ``everyone`` says whom they speak for, to be printed, and ``notes`` what else to know.
    ``rescaled`` says that countries were brought to their parts of everyone. ``trimmed`` counts the
    rows that would weigh more without the trimming.
    """

    weights_P: np.ndarray
    design_effect: float
    n_eff: float
    gaps: tuple[Gap, ...] = ()
    everyone: str = ""
    trimmed: int = 0
    rescaled: bool = False
    notes: tuple[str, ...] = ()


def kish(weights_P: np.ndarray) -> Kish:
    """Kish's design effect and effective sample size of the people with positive weight (Kish 1965, 11.7)."""
    positive = weights_P[weights_P > 0]
    if not len(positive):
        return Kish(0, math.nan, 0.0)
    n_eff = float(positive.sum() ** 2 / (positive**2).sum())
    return Kish(len(positive), len(positive) / n_eff, n_eff)


def worth(people: pl.DataFrame, weights_P: np.ndarray) -> Kish:
    """``kish`` over persons: the rows (waves) of a person add up, as one person is asked several times, not several."""
    if people["person"].is_unique().all():
        return kish(weights_P)
    summed = people.select("person", weight=pl.Series(weights_P)).group_by("person").agg(pl.col("weight").sum())
    return kish(summed["weight"].to_numpy())


def weigh(
    survey: Weighted,
    margins: Margins | None,
    config: WeightingConfig,
    *,
    country: str | None,
    population_weights: bool,
) -> Weights:
    """Fit the design weights to the population: countries first (``everyone``), then the margins.

    ``country`` is the trait that names a person's country; ``population_weights`` says that the
    design weights already bring countries to their sizes. The margins are raked (Deming & Stephan
    1940) or, a single joint one, post-stratified, in each wave of a panel by itself; waves keep
    their totals, and so do several countries. No weight is larger than ``config.trim`` times the
    mean positive weight of its country and wave, or the cap is the loosest that gives
    ``config.design_effect``; trimmed weights are fitted again until both hold. Without margins the
    survey's own weights are trimmed to a stated design effect only.

    Raises WeightingError for what ``everyone`` refuses, a margin of a trait or level that nobody in
    the sample has, a person whose level is unknown or has no margin, margins that cannot be met
    (within the trimming), and a design effect that is not reached.
    """
    people = survey.people
    spoken = everyone(people, config, country=country, population_weights=population_weights)
    if config.method == "poststratify" and (margins is None or len(margins.shares) != 1):
        what = f"post-stratification takes one margin, not {0 if margins is None else len(margins.shares)}"
        mend = "give one joint margin, as in 'age & sex', or set weighting.method=rake"
        raise WeightingError(what, where="weighting.margins", mend=mend)
    fieldings = targets(people.with_columns(pl.Series("weight", spoken.weights_P)), margins, country)
    if margins is None and config.design_effect is None:
        notes = _untrimmed(float(ratios(fieldings, spoken.weights_P).max(initial=0)), config.trim)
        return _weights(people, None, spoken.weights_P, spoken._replace(notes=spoken.notes + notes), 0)
    most = max((one.shares for one in fieldings), key=len)
    if config.method == "poststratify" and len(most) > 1:
        what = f"post-stratification would have to meet {', '.join(most)} at once"
        mend = "give one joint margin that names the country too, or set weighting.method=rake"
        raise WeightingError(what, where="weighting.method", mend=mend)
    free_P = fit(fieldings, config.method, people.height)
    ratio = config.trim
    if config.design_effect is not None:
        ratio, fitted_P = _to_design_effect(people, fieldings, config, free_P)
    else:
        fitted_P = free_P if ratio is None else trim(fieldings, config.method, free_P, ratio)
    above = 0 if ratio is None else int((ratios(fieldings, free_P) > ratio).sum())
    return _weights(people, margins, fitted_P, spoken, above)


def _weights(
    people: pl.DataFrame, margins: Margins | None, fitted_P: np.ndarray, spoken: Spoken, trimmed: int
) -> Weights:
    found = worth(people, fitted_P)
    gaps = () if margins is None else _gaps(people, margins, fitted_P)
    rescaled = not np.allclose(spoken.weights_P, people["weight"].to_numpy())
    return Weights(fitted_P, found.design_effect, found.n_eff, gaps, spoken.sentence, trimmed, rescaled, spoken.notes)


def _untrimmed(largest: float, trim: float | None) -> tuple[str, ...]:
    """A note where ``weighting.trim`` would have had an effect with margins."""
    if trim is None or largest <= trim:
        return ()
    return (
        f"Nothing was trimmed: weighting.trim ({trim:g}) goes with margins, and there are none (the largest weight is "
        f"{largest:.1f} times the mean of its country and wave); weighting.design_effect trims without them.",
    )


def _to_design_effect(
    people: pl.DataFrame, fieldings: list[Fielding], config: WeightingConfig, free_P: np.ndarray
) -> tuple[float | None, np.ndarray]:
    """The loosest cap (by bisection on its logarithm) that gives the wanted design effect, and its weights."""
    wanted = config.design_effect
    assert wanted is not None, "called for a design effect only"
    smallest = worth(people, free_P).design_effect
    if smallest <= wanted:
        return None, free_P
    low, high = 1.0, float(ratios(fieldings, free_P).max())
    best: tuple[float, np.ndarray] | None = None
    while high / low > 1 + CAP_PRECISION:
        ratio = math.sqrt(low * high)
        try:
            fitted_P = trim(fieldings, config.method, free_P, ratio)
        except WeightingError:  # the margins cannot be met under so low a cap
            low = ratio
            continue
        reached = worth(people, fitted_P).design_effect
        smallest = min(smallest, reached)
        if reached <= wanted:
            best, low = (ratio, fitted_P), ratio
        else:
            high = ratio
    if best is None:
        raise WeightingError(
            f"fitting and trimming in turn did not reach a design effect of {wanted:g}; "
            f"the smallest that they reached is {smallest:.3f}",
            where="weighting.design_effect",
            mend=f"{math.ceil(smallest * 1000) / 1000:.3f} is safe; or fit fewer margins",
        )
    return best


def _gaps(people: pl.DataFrame, margins: Margins, after_P: np.ndarray) -> tuple[Gap, ...]:
    gaps = []
    before_P = people["weight"].to_numpy()
    for trait, levels in margins.shares.items():
        for level, target in levels.items():
            has_P = inside(people, trait, level)
            gaps.append(Gap(trait, level, target, *(float(w[has_P].sum() / w.sum()) for w in (before_P, after_P))))
    return tuple(gaps)
