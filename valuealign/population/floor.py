"""The noise floor: how far a perfect model would be from the sample, for each item and group.

It is measured by halving the persons at random. The halves' shares differ by noise alone; theirs is
the noise of n/2 persons on both sides, a perfect model against all n persons has that of n on one
side. The variance of the difference of shares is 4 s/n between the halves, s/n against the whole
sample and 2 s/n against one half (s: one person's variance). A distance that goes with the square
root of that variance (total variation, Wasserstein) has its floor at 1/2 of the split-half distance
against the whole sample, at 1/sqrt(2) against one half; Jensen-Shannon divergence (no root) goes
with the variance itself: 1/4 and 1/2.

Shape letters: ``G`` groups, ``I`` items, ``K`` options, ``P`` people (rows of ``survey.people``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from valuealign.errors import ConfigError, nearest
from valuealign.metrics.distances import jsd_bits, total_variation, wasserstein
from valuealign.population.cells import Cells, person_codes, slots
from valuealign.surveys.table import Survey
from valuealign.types import Group


class Distance(NamedTuple):
    """A distance of shares [..., K], given the options' positions, and its power of the sampling variance."""

    between: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    power: float


DISTANCES = {
    "jsd_bits": Distance(lambda p, q, positions: jsd_bits(p, q), 1.0),
    "total_variation": Distance(lambda p, q, positions: total_variation(p, q), 0.5),
    "wasserstein": Distance(wasserstein, 0.5),
}
# Variance of a perfect model's error over that of the halves' difference.
VARIANCES = {"all": 1 / 4, "half": 1 / 2}


@dataclass(frozen=True)
class Floor:
    """``split_half_GI`` (mean over ``halvings``) and ``floor_GI``, in units of ``metric``.

    ``factor`` is floor over split-half; ``truth`` says against which sample: ``all`` persons or
    a ``half``. NaN where a half was empty.
    """

    metric: str
    truth: str
    halvings: int
    factor: float
    split_half_GI: np.ndarray
    floor_GI: np.ndarray


def noise_floor(
    survey: Survey,
    weights_P: np.ndarray,
    groups: Sequence[Group],
    *,
    seed: int,
    people_P: np.ndarray | None = None,
    metric: str = "jsd_bits",
    halvings: int = 10,
    truth: Literal["all", "half"] = "all",
) -> Floor:
    """Split-half distance and noise floor of every item and group, over random halves disjoint by person.

    Only people in the mask ``people_P`` count. Deterministic from ``seed``. The factors hold to
    first order: where a group has a handful of answers the floor is a rough figure, and it is NaN
    where any half has none, and for nominal items under ``wasserstein``. Raises ConfigError for an
    unknown metric.
    """
    if metric not in DISTANCES:
        raise ConfigError(f"no noise floor for '{metric}'", where="metric", mend=nearest(metric, DISTANCES))
    assert halvings > 0, "a mean over no halves"
    cells = Cells(survey, groups)
    first_RP = random_halves(survey, people_P, halvings, seed=seed)
    whole_P = weights_P if people_P is None else weights_P * people_P
    distance_RGI = np.full((halvings, len(groups), len(survey.codebook.items)), np.nan)
    for i, item in enumerate(survey.codebook.items):
        options = len(item.options)
        slot_P = slots(survey.people[item.id], options)
        positions_K = np.array(item.positions or [np.nan] * options)
        whole_GK = cells.masses(slot_P, options, whole_P)
        for half, first_P in enumerate(first_RP):
            one_GK = cells.masses(slot_P, options, whole_P * first_P)
            # Rounding may leave a trace of mass where the other half has none.
            two_GK = np.where(whole_GK - one_GK > 1e-9 * whole_GK, whole_GK - one_GK, 0.0)
            distance_RGI[half, :, i] = DISTANCES[metric].between(_shares(one_GK), _shares(two_GK), positions_K)
    split_half_GI = distance_RGI.mean(axis=0)
    factor = VARIANCES[truth] ** DISTANCES[metric].power
    return Floor(metric, truth, halvings, factor, split_half_GI, factor * split_half_GI)


def random_halves(survey: Survey, people_P: np.ndarray | None, halvings: int, *, seed: int) -> NDArray[np.bool_]:
    """[R, P]: the rows of a random half of the persons (of those in ``people_P``), ``halvings`` times."""
    rng = np.random.default_rng([seed, 0x666C6F6F])
    person_P, persons = person_codes(survey)
    drawable = np.unique(person_P if people_P is None else person_P[people_P.astype(bool)])
    first = np.zeros((halvings, persons), dtype=bool)
    for half in first:
        half[rng.permutation(drawable)[: len(drawable) // 2]] = True
    return np.asarray(first[:, person_P])


def _shares(mass_GK: np.ndarray) -> np.ndarray:
    """Shares; NaN where there is no mass."""
    total_G1 = mass_GK.sum(axis=1, keepdims=True)
    shares_GK = np.full_like(mass_GK, np.nan)
    np.divide(mass_GK, total_G1, out=shares_GK, where=total_G1 > 0)
    return shares_GK
