"""A circumplex that was put in is found, chance is not; the sinusoid against what it was made of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.spatial.distance import pdist, squareform

from valuealign.errors import CodebookError, SurveyError
from valuealign.surveys import embedded
from valuealign.types import Group
from valuealign.values import THEORIES, Scores, Theory, circle, score, score_shares, sinusoid
from valuealign.values.structure import angles

TEN, NINETEEN = THEORIES["schwartz10"], THEORIES["schwartz19"]


def scores_of(values: tuple[str, ...], profile_PV: np.ndarray) -> Scores:
    mean_P = profile_PV.mean(axis=1)
    return Scores(values, profile_PV, mean_P, profile_PV - mean_P[:, None])


def circumplex(
    values: tuple[str, ...], people: int, noise: float, seed: int, order: np.ndarray | None = None
) -> Scores:
    """Each person a sinusoid with a peak somewhere, and noise; ``order`` puts the values elsewhere on the circle."""
    rng = np.random.default_rng(seed)
    angle_V = np.arange(len(values)) * 2 * np.pi / len(values)
    angle_V = angle_V if order is None else angle_V[order]
    pull_P2 = rng.normal(0, 1, (people, 2))
    profile_PV = pull_P2 @ np.stack([np.cos(angle_V), np.sin(angle_V)])
    return scores_of(values, profile_PV + rng.normal(0, noise, (people, len(values))))


@pytest.mark.parametrize("theory", [TEN, NINETEEN], ids=lambda theory: theory.name)
def test_a_circumplex_is_recovered(theory: Theory) -> None:
    pure = circle(theory, circumplex(theory.values, 20_000, 0.0, 0))
    assert pure.error < np.deg2rad(1.5) and pure.stress < 0.01 and pure.cosine > 0.999
    noisy = circle(theory, circumplex(theory.values, 1500, 1.0, 1))
    assert noisy.error < np.deg2rad(10) and noisy.p_value < 0.001 and noisy.cosine > 0.9
    assert noisy.n == 1500 and noisy.values == theory.values
    assert np.allclose(np.cos(noisy.angle_V - angles(theory, theory.values)), np.cos(noisy.error_V))


def test_random_answers_and_a_wrong_order_are_no_circle() -> None:
    rng = np.random.default_rng(2)
    found = [circle(TEN, scores_of(TEN.values, rng.normal(size=(300, 10))), permutations=300) for _ in range(60)]
    p_values = np.array([one.p_value for one in found])
    assert (p_values < 0.05).mean() < 0.15 and 0.35 < p_values.mean() < 0.65
    assert np.mean([one.error for one in found]) > np.deg2rad(45) and max(abs(one.cosine) for one in found) < 0.6
    shuffled = circle(TEN, circumplex(TEN.values, 2000, 0.3, 3, order=np.array([0, 5, 2, 7, 4, 9, 6, 1, 8, 3])))
    assert shuffled.p_value > 0.05 and shuffled.stress < 0.2, "a circle, but not the theory's"


def test_turning_and_mirroring_change_nothing() -> None:
    """The map's own orientation is arbitrary: only the order and the steps count."""
    same = circumplex(TEN.values, 3000, 0.5, 4)
    back = scores_of(TEN.values, same.raw_PV[:, [(3 - v) % 10 for v in range(10)]])
    first, second = circle(TEN, same), circle(TEN, back)
    assert second.error == pytest.approx(first.error, abs=0.01) and second.cosine == pytest.approx(first.cosine)


def test_the_map_cannot_be_bettered_by_a_library() -> None:
    """Its stress against scipy's general minimiser from the same kind of start."""
    from scipy.optimize import minimize

    found = circle(TEN, circumplex(TEN.values, 200, 2.0, 5))
    distance = squareform(np.sqrt(np.maximum(2 * (1 - found.correlation_VV), 0)), checks=False)

    def stress(flat: np.ndarray) -> float:
        return float(np.sqrt(((pdist(flat.reshape(-1, 2)) - distance) ** 2).sum() / (distance**2).sum()))

    assert found.stress == pytest.approx(stress(found.place_V2.ravel()), abs=1e-6)
    assert minimize(stress, found.place_V2.ravel()).fun == pytest.approx(found.stress, abs=1e-4)


def test_weights_and_holes() -> None:
    scores = circumplex(TEN.values, 400, 0.5, 6)
    weights = np.random.default_rng(0).integers(0, 3, 400)
    weighted = circle(TEN, scores, weights_P=weights.astype(float))
    copies = np.repeat(np.arange(400), weights)
    repeated = circle(TEN, scores_of(TEN.values, scores.raw_PV[copies]))
    # Weighted and repeated rows have the same correlations (the divisor cancels).
    assert weighted.correlation_VV == pytest.approx(repeated.correlation_VV) and weighted.n == (weights > 0).sum()
    holes = scores.centred_PV.copy()
    holes[:100, 3] = np.nan
    left_out = circle(TEN, scores._replace(centred_PV=holes))
    assert left_out.n == 300
    some = TEN.values[:7]
    assert circle(TEN, Scores(some, scores.raw_PV[:, :7], scores.mean_P, scores.centred_PV[:, :7])).p_value < 0.05


def test_the_embedded_people_show_the_circle() -> None:
    public = embedded.draw(4000, 0)
    scores = score(TEN, embedded.codebook().items, public.answer_PI)
    found = circle(TEN, scores)
    assert found.error < np.deg2rad(25) and found.p_value < 0.01 and found.cosine > 0.7


def test_a_model_that_answers_like_the_groups_shows_the_circle_and_a_uniform_one_cannot() -> None:
    items = embedded.codebook().items
    groups = [Group(tuple(sorted(zip(("age", "sex", "region"), cell, strict=True)))) for cell in embedded.cells()]
    width = max(len(item.options) for item in items)
    shares = np.full((len(groups), len(items), width), np.nan)
    for g, group in enumerate(groups):
        for i, item in enumerate(items):
            shares[g, i, : len(item.options)] = embedded.true_shares(item, group)
    like = score_shares(TEN, items, shares)
    found = circle(TEN, like)
    assert found.n == 32 and found.p_value < 0.01 and found.error < np.deg2rad(25)
    # What sets a group apart from the others is a pull to one side of the circle: a sinusoid.
    apart = sinusoid(TEN, like.values, like.centred_PV - like.centred_PV.mean(axis=0))
    assert np.median(apart.r2_P) > 0.7
    uniform = np.stack(
        [np.pad(np.full(len(i.options), 1 / len(i.options)), (0, width - len(i.options))) for i in items]
    )
    with pytest.raises(SurveyError, match="do not vary"):
        circle(TEN, score_shares(TEN, items, np.stack([uniform] * 32)))


def test_the_sinusoid_is_what_it_was_made_of() -> None:
    angle = angles(TEN, TEN.values)
    profiles = np.stack([0.1 + 0.3 * np.cos(angle - 1.3), -0.2 + 0.05 * np.cos(angle - 5.0), np.zeros(10)])
    profiles = np.vstack([profiles, np.where(np.arange(10) == 4, np.nan, profiles[0])])
    found = sinusoid(TEN, TEN.values, profiles)
    assert found.elevation_P[:2] == pytest.approx([0.1, -0.2]) and found.amplitude_P[:3] == pytest.approx(
        [0.3, 0.05, 0]
    )
    assert found.peak_P[:2] == pytest.approx([1.3, 5.0]) and found.r2_P[:2] == pytest.approx([1, 1])
    assert found.value_P[:2] == ("hedonism", "benevolence")
    assert np.isnan(found.r2_P[2:]).all() and found.value_P[3] is None


def test_the_sinusoid_equals_a_general_fit_on_some_of_the_values() -> None:
    rng = np.random.default_rng(8)
    some = tuple(value for value in NINETEEN.values if not value.startswith("universalism"))
    angle = angles(NINETEEN, some)
    profile = 0.4 * np.cos(angle - 2.0) + rng.normal(0, 0.1, len(some))
    found = sinusoid(NINETEEN, some, profile[None])
    (level, size, peak), _ = curve_fit(lambda x, e, a, p: e + a * np.cos(x - p), angle, profile, p0=(0, 0.3, 1.5))
    assert [found.elevation_P[0], found.amplitude_P[0], found.peak_P[0]] == pytest.approx([level, size, peak], abs=1e-5)
    left = profile - level - size * np.cos(angle - peak)
    assert found.r2_P[0] == pytest.approx(1 - left.var() / profile.var(), abs=1e-4)


def test_a_profile_of_noise_has_the_r2_of_chance() -> None:
    noise = np.random.default_rng(9).normal(size=(20_000, 10))
    assert sinusoid(TEN, TEN.values, noise).r2_P.mean() == pytest.approx(2 / 9, abs=0.01)


def test_what_has_no_circle_is_an_error() -> None:
    scores = circumplex(TEN.values, 50, 0.5, 7)
    with pytest.raises(CodebookError, match="form no circle"):
        circle(THEORIES["rokeach"], scores)
    few = Scores(TEN.values[:4], scores.raw_PV[:, :4], scores.mean_P, scores.centred_PV[:, :4])
    with pytest.raises(CodebookError, match="4 measured values"):
        circle(TEN, few)
    with pytest.raises(CodebookError, match="4 measured values"):
        sinusoid(TEN, few.values, few.centred_PV)
    with pytest.raises(SurveyError, match="2 rows have"):
        circle(TEN, scores._replace(centred_PV=scores.centred_PV[:2]))
    flat = scores.centred_PV.copy()
    flat[:, 4] = 0.25
    with pytest.raises(SurveyError, match="'power' do not vary"):
        circle(TEN, scores._replace(centred_PV=flat))
