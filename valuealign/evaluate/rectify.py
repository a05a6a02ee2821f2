"""Rectification: population shares from a model's answers and a small pilot of people (PPI++).

    theta = ybar_pilot + lambda (fbar_frame - fbar_pilot)

``y`` is what the pilot's people answered, ``f`` what the model says that people with their traits
answer. The bracket needs nobody's answer: it corrects the pilot for having drawn, by chance, too many
of a kind. A bias of the model stands in both of its terms and cancels. ``lambda`` makes the variance
least; it is 0 where the model's differences between people say nothing of theirs, and then the pilot
alone is left. docs/rectification.md says what to expect of it.

Source: Angelopoulos, Duchi & Zrnic 2023, "PPI++: Efficient Prediction-Powered Inference" (means, power
tuning). With weights it is survey sampling's difference estimator (Sarndal, Swensson & Wretman 1992,
ch. 6), its variance linearised: weighted influence values, summed by person.

Shape letters: ``N`` rows of the pilot, ``M`` rows of the frame, ``Q`` persons, ``K`` options of one
item, ``G`` groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from valuealign.errors import SurveyError
from valuealign.metrics import Floats
from valuealign.population.table import JEFFREYS, intervals
from valuealign.types import Estimate

Ints = NDArray[np.integer[Any]]
# Fewer persons than this are no basis for a variance.
FEWEST = 20
# A variance below this part of another is none: rounding, or shares that the model knows exactly.
NOTHING = 1e-9


class Frame(NamedTuple):
    """What the model says of the whole population: its mean shares [K], and the variance [K] of these means."""

    mean_K: Floats
    variance_K: Floats

    @classmethod
    def known(cls, shares_GK: Floats, size_G: Floats) -> Frame:
        """Groups that make up the population and whose sizes (on any scale) are known: no variance."""
        sizes_G = np.asarray(size_G, dtype=np.float64)
        return cls(sizes_G @ shares_GK / sizes_G.sum(), np.zeros(shares_GK.shape[1]))

    @classmethod
    def sample(cls, predicted_MK: Floats, weight_M: Floats, person_M: Ints | None = None) -> Frame:
        """A weighted sample of people, none of them in the pilot, of whom the traits alone are known.

        ``predicted_MK`` are the model's shares for people like each; ``person_M`` numbers each
        row's person (None: every row is one).
        """
        mean_K, influence_QK = _influence(predicted_MK, weight_M, person_M)
        return cls(mean_K, np.sum(influence_QK**2, axis=0))


@dataclass(frozen=True)
class Rectified:
    """One item: rectified ``shares`` with 95 % intervals, the ``pilot`` alone and the ``model`` alone beside them.

    ``lambda_`` (0 to 1) is how much of the model's correction is used. The pilot's ``n`` persons are
    worth ``n_eff`` (Kish); the rectified shares are as sure as those of ``worth`` such respondents.
    """

    shares: tuple[Estimate, ...]
    pilot: tuple[Estimate, ...]
    model: tuple[float, ...]
    lambda_: float
    n: int
    n_eff: float
    worth: float

    @property
    def gained(self) -> float:
        """How many respondents the model is worth; chance gives a useless one a little more than none."""
        return self.worth - self.n_eff


def rectify(
    answer_N: Ints, predicted_NK: Floats, weight_N: Floats, frame: Frame, *, person_N: Ints | None = None
) -> Rectified:
    """The shares of one item's K options in the population.

    ``answer_N`` are option indices (below 0: none, the row is left out), ``predicted_NK`` the
    model's shares for people like each row's; ``person_N`` numbers each row's person (None: every row is
    one). No answer of the pilot may have trained the model.

    One lambda serves all options, so that the shares sum to 1: cov(y, f) / (var f + var fbar_frame),
    summed over options, cut to 0..1. The variances of f are the pilot's and the frame's own, where the
    paper pools them: with a known frame this is the regression estimator, and where the model is good
    the errors of the slope's two parts cancel. An interval is that of a share counted (Jeffreys;
    ``ShareTable.posterior``) among as many people as the share is worth. Raises SurveyError where
    fewer than ``FEWEST`` persons answered.
    """
    kept_N = (answer_N >= 0) & (weight_N > 0)
    person_N = (np.arange(len(answer_N)) if person_N is None else person_N)[kept_N]
    answer_N, predicted_NK, weight_N = answer_N[kept_N], predicted_NK[kept_N], weight_N[kept_N]
    mass_Q = np.bincount(np.unique(person_N, return_inverse=True)[1], weight_N)
    n, n_eff = len(mass_Q), float(mass_Q.sum() ** 2 / np.sum(mass_Q**2)) if len(mass_Q) else 0.0
    if n < FEWEST:
        raise SurveyError(f"{n} persons of the pilot answered", mend=f"ask more people: it takes {FEWEST}")
    chosen_NK = (answer_N[:, None] == np.arange(predicted_NK.shape[1])).astype(np.float64)
    counted_K, answer_QK = _influence(chosen_NK, weight_N, person_N)
    guessed_K, guess_QK = _influence(predicted_NK, weight_N, person_N)
    spread = float(np.sum(guess_QK**2) + frame.variance_K.sum())
    alone_K = np.sum(answer_QK**2, axis=0)
    common = float(np.sum(answer_QK * guess_QK))
    lambda_ = float(np.clip(common / spread, 0.0, 1.0)) if spread > NOTHING * alone_K.sum() else 0.0
    left_K = np.sum((answer_QK - lambda_ * guess_QK) ** 2, axis=0) + lambda_**2 * frame.variance_K
    shares_K = np.maximum(counted_K + lambda_ * (frame.mean_K - guessed_K), 0.0)
    narrower = _ratio(alone_K.sum(), left_K.sum(), 1.0)
    narrower_K = np.array([_ratio(a, b, narrower) for a, b in zip(alone_K, left_K, strict=True)])
    # Weights that go with the answers may leave less than Kish's worth; more than it would be luck.
    counts_K = (variance_K := counted_K * (1 - counted_K)) > NOTHING
    worth_K = np.full(len(counted_K), n_eff)
    worth_K[counts_K] = np.minimum(n_eff, variance_K[counts_K] / alone_K[counts_K])
    return Rectified(
        shares=_estimates(shares_K / shares_K.sum(), worth_K * narrower_K, n),
        pilot=_estimates(counted_K, worth_K, n),
        model=tuple(frame.mean_K.tolist()),
        lambda_=lambda_,
        n=n,
        n_eff=n_eff,
        worth=n_eff * narrower,
    )


def _influence(value_NK: Floats, weight_N: Floats, person_N: Ints | None) -> tuple[Floats, Floats]:
    """The weighted mean [K] and each person's part [Q, K] in its error: its variance is the sum of their squares."""
    total = weight_N.sum()
    mean_K = weight_N @ value_NK / total
    part_NK = weight_N[:, None] * (value_NK - mean_K) / total
    if person_N is not None:
        unit_N = np.unique(person_N, return_inverse=True)[1]
        part_NK = np.stack([np.bincount(unit_N, part_N) for part_N in part_NK.T], axis=1)
    q = len(part_NK)
    return mean_K, part_NK * np.sqrt(q / max(q - 1, 1))


def _ratio(top: float, bottom: float, otherwise: float) -> float:
    """``otherwise`` where there is nothing to compare (nobody chose the option)."""
    return top / max(bottom, NOTHING * top) if top > 0 else otherwise


def _estimates(shares_K: Floats, worth_K: Floats, n: int) -> tuple[Estimate, ...]:
    """Shares with the intervals of shares counted among ``worth_K`` people."""
    low_K, high_K = intervals(worth_K * shares_K + JEFFREYS, worth_K * (1 - shares_K) + JEFFREYS, shares_K)
    return tuple(Estimate(float(s), float(a), float(b), n) for s, a, b in zip(shares_K, low_K, high_K, strict=True))
