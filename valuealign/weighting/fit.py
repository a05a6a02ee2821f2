"""The fitting: raking or post-stratification by the ``svy`` library, alternating with its trimming.

Shape letters: ``P`` people (rows of the survey), ``F`` rows of one fielding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from valuealign.errors import WeightingError
from valuealign.weighting.targets import Fielding

Method = Literal["rake", "poststratify"]

# Raking aims at the first relative misfit of a margin level; above the second it is refused.
RAKE_TOLERANCE = 1e-9
RAKE_REFUSED = 1e-7
RAKE_ROUNDS = 2000
# Trimming aims this much (relative) below the cap, so that it and fitting in turn end below it, ...
CAP_MARGIN = 1e-5
TRIM_ROUNDS = 300
# ... unless so many rounds leave this part of the excess: then they come no nearer to the cap.
STALL_ROUNDS, STALL_PART = 10, 0.8


def fit(fieldings: Sequence[Fielding], method: Method, people: int) -> np.ndarray:
    """Weights [P] of mean 1 that meet the margins in every fielding; each keeps its total, who is in none has 0.

    Raises WeightingError where the margins cannot be met.
    """
    fitted_P = np.zeros(people)
    for one in fieldings:
        fitted_P[one.rows_F] = _solve(one, method, one.weight_F)
    return np.asarray(fitted_P / fitted_P.mean())


def trim(fieldings: Sequence[Fielding], method: Method, fitted_P: np.ndarray, ratio: float) -> np.ndarray:
    """Fitted weights [P] with none above ``ratio`` times the mean positive weight of its country and fielding.

    Trimming and fitting take turns until both hold. Raises WeightingError where they come no further:
    that is not to say that no other weights would hold both.
    """
    trimmed_P = np.zeros(len(fitted_P))
    for one in fieldings:
        trimmed_P[one.rows_F] = _trim(one, method, fitted_P[one.rows_F], ratio)
    return np.asarray(trimmed_P / trimmed_P.mean())


def ratios(fieldings: Sequence[Fielding], weights_P: np.ndarray) -> np.ndarray:
    """Each weight [P] over the mean positive weight of its country and fielding."""
    ratio_P = np.zeros(len(weights_P))
    for one in fieldings:
        ratio_P[one.rows_F] = _ratios(one, weights_P[one.rows_F])
    return ratio_P


def _ratios(one: Fielding, weight_F: np.ndarray) -> np.ndarray:
    positive = pl.when(pl.col("weight") > 0).then(pl.col("weight"))
    frame = pl.DataFrame({"weight": weight_F, "country": one.country_F})
    over = frame.select((positive / positive.mean().over("country")).fill_null(0.0))
    return np.asarray(over.to_series().to_numpy())


def _trim(one: Fielding, method: Method, fitted_F: np.ndarray, ratio: float) -> np.ndarray:
    """The fit comes last, so the margins are met."""
    import svy  # a second's import that most runs of the tests never need

    largest = [float(_ratios(one, fitted_F).max())]
    while largest[-1] > ratio:
        past = largest[-1 - STALL_ROUNDS] if len(largest) > STALL_ROUNDS else np.inf
        if largest[-1] - ratio > STALL_PART * (past - ratio) or len(largest) > TRIM_ROUNDS:
            turns = len(largest) - 1
            detail = f"fitting and trimming in turn ({turns} times) left {largest[-1]:.4g} times the mean"
            raise _refused(one, ratio, detail)
        sample = svy.Sample(pl.DataFrame({"weight": fitted_F, "country": one.country_F}), svy.Design(wgt="weight"))
        trimmed = sample.weighting.trim(
            upper=svy.Threshold("mean", ratio * (1 - CAP_MARGIN)),
            by="country",
            min_cell_size=1,
            max_iter=TRIM_ROUNDS,
            wgt_name="fitted",
            on_nonconvergence="ignore",
        )
        fitted_F = _solve(one, method, _fitted(trimmed), ratio)
        largest.append(float(_ratios(one, fitted_F).max()))
    return fitted_F


def _solve(one: Fielding, method: Method, weight_F: np.ndarray, ratio: float | None = None) -> np.ndarray:
    """The weights [F] fitted to the margins, without a cap (``ratio`` is for the message)."""
    import svy

    names = [str(k) for k in range(len(one.labels))]
    frame = pl.DataFrame([pl.Series("weight", weight_F), *(c.alias(n) for n, c in zip(names, one.labels, strict=True))])
    weighting = svy.Sample(frame, svy.Design(wgt="weight")).weighting
    shares: dict[str, Any] = {name: dict(levels) for name, levels in zip(names, one.shares.values(), strict=True)}
    try:
        if method == "poststratify":
            fitted = weighting.poststratify(shares=shares["0"], cells="0", wgt_name="fitted")
        else:
            options: dict[str, Any] = {"tol": RAKE_TOLERANCE, "max_iter": RAKE_ROUNDS, "on_nonconvergence": "ignore"}
            fitted = weighting.rake(shares=shares, wgt_name="fitted", **options)
    except svy.SvyError as error:
        raise _refused(one, ratio, "they contradict each other") from error
    fitted_F = _fitted(fitted)
    misfit, worst = _misfit(one, fitted_F)
    if not misfit <= RAKE_REFUSED:
        raise _refused(one, ratio, worst)
    return fitted_F


def _fitted(sample: Any) -> np.ndarray:
    return np.asarray(sample.data.lazy().collect()["fitted"].to_numpy(), dtype=np.float64)


def _misfit(one: Fielding, fitted_F: np.ndarray) -> tuple[float, str]:
    """The largest relative misfit of a margin level, and which it is."""
    total, found = fitted_F.sum(), [(0.0, "")]
    for (margin, levels), column in zip(one.shares.items(), one.labels, strict=True):
        sums = pl.DataFrame({"label": column, "weight": fitted_F}).group_by("label").agg(pl.col("weight").sum())
        share = {label: weight / total for label, weight in sums.iter_rows()}
        for label, wanted in levels.items():
            what = f"{margin} {label} ends at {share[label]:.4f} where {wanted:.4f} is wanted"
            found.append((float(abs(share[label] / wanted - 1)), what))
    return max(found)


def _refused(one: Fielding, ratio: float | None, detail: str) -> WeightingError:
    bound = "" if ratio is None else f" with no weight above {ratio:.4g} times the mean"
    return WeightingError(
        f"the weights do not meet the margins of {', '.join(one.shares)}{bound}{one.wave}: {detail}",
        where=one.where,
        mend="merge small levels, leave out a trait, or raise weighting.trim"
        if ratio is not None
        else "merge small levels, leave out a trait whose levels exclude another's, or see whether two margins name "
        "different shares of the same trait",
    )
