"""Does a profile show the circle of values? Multidimensional scaling of correlations, and the sinusoid fit.

Shape letters: ``P`` people (or groups, or models), ``V`` measured values. Angles are in radians; the
theory's values stand at equal steps from 0, in the theory's order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from valuealign.errors import CodebookError, SurveyError
from valuealign.values.theory import Scores, Theory

# A circle of fewer values has next to no wrong order.
FEWEST = 5
SCALING_ROUNDS, SCALING_STEP = 500, 1e-10


class Circle(NamedTuple):
    """The map of the values in the plane, turned (and mirrored if need be) as near to the theory as it goes.

    ``place_V2`` and ``angle_V`` are the map; ``error_V`` is how far each value stands from its place
    in the theory, in radians, and ``error`` the mean of their sizes (a random order: about pi / 2
    before turning, less after). ``p_value`` is the share of random orders, turned just so, that do at
    least as well. ``stress`` is Kruskal's stress-1 of the map. ``cosine`` is the correlation, over
    pairs of values, between their correlation and the cosine of their angle in the theory (1: a
    perfect circumplex). ``n`` rows with all values took part.
    """

    values: tuple[str, ...]
    correlation_VV: np.ndarray
    place_V2: np.ndarray
    angle_V: np.ndarray
    error_V: np.ndarray
    error: float
    p_value: float
    stress: float
    cosine: float
    n: int


class Sinusoid(NamedTuple):
    """elevation_P + amplitude_P * cos(angle - peak_P), fitted to each profile by least squares.

    ``peak_P`` is in radians in 0..2 pi and ``value_P`` the value nearest to it; ``r2_P`` is the share
    of the profile's variance that the curve explains. A profile without any structure has an r2 of
    2 / (V - 1) on average.
    """

    elevation_P: np.ndarray
    amplitude_P: np.ndarray
    peak_P: np.ndarray
    value_P: tuple[str | None, ...]
    r2_P: np.ndarray


def angles(theory: Theory, values: tuple[str, ...]) -> np.ndarray:
    """The values' angles [V] in the theory. Raises CodebookError where it is no circle, KeyError for other values."""
    if theory.structure != "circle":
        raise CodebookError(f"the values of '{theory.name}' form no circle", mend="use schwartz10 or schwartz19")
    step = 2 * np.pi / len(theory.values)
    place = {value: step * index for index, value in enumerate(theory.values)}
    return np.array([place[value] for value in values])


def circle(
    theory: Theory, scores: Scores, *, weights_P: np.ndarray | None = None, permutations: int = 2000, seed: int = 0
) -> Circle:
    """Map the (weighted) correlations of centred scores into the plane and compare it with the theory's circle.

    Distances sqrt(2 (1 - r)), which are a perfect circumplex's chords, are scaled by SMACOF (de Leeuw
    1977) from the classical solution (Torgerson 1952). Rows are people, or the groups that a model
    was asked to speak for; those that lack a value are left out. Three rows always lie on a perfect
    circle, in some order: few rows say little, whatever the stress, and ``p_value`` says so.

    Raises CodebookError for a theory without a circle or fewer than five measured values, SurveyError
    where fewer than three rows have all values or a value does not vary.
    """
    theory_V = angles(theory, scores.values)
    if len(theory_V) < FEWEST:
        raise CodebookError(f"{len(theory_V)} measured values show no circle", mend=f"measure at least {FEWEST}")
    known_P = ~np.isnan(scores.centred_PV).any(axis=1)
    weights_P = np.ones(len(known_P)) if weights_P is None else weights_P
    known_P &= weights_P > 0
    correlation_VV = _correlation(scores.values, scores.centred_PV[known_P], weights_P[known_P])
    distance_VV = np.sqrt(np.maximum(2 * (1 - correlation_VV), 0))
    place_V2, stress = _scale(distance_VV)
    place_V2 = _align(place_V2, theory_V)
    angle_V = np.arctan2(place_V2[:, 1], place_V2[:, 0])
    error_V = _wrap(angle_V - theory_V)
    error = float(np.abs(error_V).mean())
    first, second = np.triu_indices(len(theory_V), 1)
    cosine = np.corrcoef(correlation_VV[first, second], np.cos(theory_V[first] - theory_V[second]))[0, 1]
    p_value = _p_value(angle_V, theory_V, error, permutations, np.random.default_rng(seed))
    return Circle(
        scores.values,
        correlation_VV,
        place_V2,
        np.mod(angle_V, 2 * np.pi),
        error_V,
        error,
        p_value,
        stress,
        float(cosine),
        int(known_P.sum()),
    )


def sinusoid(theory: Theory, values: tuple[str, ...], profile_PV: np.ndarray) -> Sinusoid:
    """Fit a cosine over the circle's order to each profile (the structural summary: Gurtman 1992).

    A profile is a row of centred scores (of a person, a group, a model), or the correlations of the
    values with something else. A row that lacks a value is NaN throughout, and so is the r2 of a
    flat row. Raises CodebookError for a theory without a circle or fewer than five values.
    """
    theory_V = angles(theory, values)
    if len(theory_V) < FEWEST:
        raise CodebookError(f"{len(theory_V)} measured values show no circle", mend=f"measure at least {FEWEST}")
    design_V3 = np.stack([np.ones_like(theory_V), np.cos(theory_V), np.sin(theory_V)], axis=1)
    fitted_P3 = profile_PV @ np.linalg.pinv(design_V3).T
    elevation_P, x_P, y_P = fitted_P3.T
    around_PV = profile_PV - profile_PV.mean(axis=1, keepdims=True)
    total_P = (around_PV**2).sum(axis=1)
    left_P = ((profile_PV - fitted_P3 @ design_V3.T) ** 2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2_P = np.where(total_P > 1e-20, 1 - left_P / total_P, np.nan)
    peak_P = np.mod(np.arctan2(y_P, x_P), 2 * np.pi)
    away_PV = np.abs(_wrap(peak_P[:, None] - theory_V))
    value_P = tuple(None if np.isnan(row).any() else values[int(row.argmin())] for row in away_PV)
    return Sinusoid(elevation_P, np.hypot(x_P, y_P), peak_P, value_P, r2_P)


def _correlation(values: tuple[str, ...], centred_PV: np.ndarray, weights_P: np.ndarray) -> np.ndarray:
    if len(centred_PV) < 3:
        raise SurveyError(f"{len(centred_PV)} rows have a score of every value", mend="correlations need at least 3")
    covariance_VV = np.cov(centred_PV, rowvar=False, aweights=weights_P)
    deviation_V = np.sqrt(np.diag(covariance_VV))
    if (flat := np.flatnonzero(deviation_V < 1e-12)).size:
        raise SurveyError(
            f"the scores of '{values[flat[0]]}' do not vary", mend="correlations need people, or groups, who differ"
        )
    return np.asarray(covariance_VV / np.outer(deviation_V, deviation_V))


def _scale(distance_VV: np.ndarray) -> tuple[np.ndarray, float]:
    """Places [V, 2] whose distances are as given, as nearly as may be, and the stress-1 that is left."""
    count = len(distance_VV)
    centre_VV = np.eye(count) - 1 / count
    level, axis_VV = np.linalg.eigh(-centre_VV @ distance_VV**2 @ centre_VV / 2)
    place_V2 = axis_VV[:, -2:] * np.sqrt(np.maximum(level[-2:], 1e-12))
    before = np.inf
    for _ in range(SCALING_ROUNDS):
        apart_VV = np.linalg.norm(place_V2[:, None] - place_V2[None], axis=2)
        stress = float(np.sqrt(((apart_VV - distance_VV) ** 2).sum() / (distance_VV**2).sum()))
        if before - stress < SCALING_STEP:
            break
        before = stress
        ratio_VV = np.where(apart_VV > 1e-12, distance_VV / np.maximum(apart_VV, 1e-12), 0)
        place_V2 = (np.diag(ratio_VV.sum(axis=1)) - ratio_VV) @ place_V2 / count  # Guttman's transform
    return place_V2, stress


def _align(place_V2: np.ndarray, theory_V: np.ndarray) -> np.ndarray:
    """Turn and mirror the map so that the sum of the cosines of the angular errors is largest."""
    mirrored_V2 = place_V2 * (1, -1)
    pulls = [np.exp(1j * (theory_V - np.arctan2(m[:, 1], m[:, 0]))).sum() for m in (place_V2, mirrored_V2)]
    best, pull = max(zip((place_V2, mirrored_V2), pulls, strict=True), key=lambda pair: abs(pair[1]))
    turned_V = (best[:, 0] + 1j * best[:, 1]) * np.exp(1j * np.angle(pull))
    return np.stack([turned_V.real, turned_V.imag], axis=1)


def _p_value(
    angle_V: np.ndarray, theory_V: np.ndarray, error: float, permutations: int, rng: np.random.Generator
) -> float:
    """Share of random orders of the map's angles that, turned and mirrored alike, stand as near to the theory."""
    shuffled_RV = rng.permuted(np.tile(angle_V, (permutations, 1)), axis=1)
    best_R, error_R = np.zeros(permutations), np.full(permutations, np.inf)
    for sign in (1, -1):
        pull_R = np.exp(1j * (theory_V - sign * shuffled_RV)).sum(axis=1)
        wrong_R = np.abs(_wrap(sign * shuffled_RV + np.angle(pull_R)[:, None] - theory_V)).mean(axis=1)
        better_R = np.abs(pull_R) > best_R
        best_R, error_R = np.where(better_R, np.abs(pull_R), best_R), np.where(better_R, wrong_R, error_R)
    return float((1 + (error_R <= error + 1e-12).sum()) / (1 + permutations))


def _wrap(angle: np.ndarray) -> np.ndarray:
    """Angles into -pi..pi."""
    return np.asarray(np.mod(angle + np.pi, 2 * np.pi) - np.pi)
