"""The distances by hand and against scipy; the behaviour AUC against all pairs counted one by one."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm, t, wasserstein_distance

from valuealign import metrics
from valuealign.metrics import (
    METRICS,
    Parts,
    behaviour_auc,
    crossed_draws,
    crossed_interval,
    interval,
    pairing,
    ratio_draws,
)
from valuealign.metrics.intervals import widening
from valuealign.metrics.nulls import additive, mean_shares, uniform

NAN = math.nan


@pytest.fixture
def shares() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    p, q = rng.dirichlet(np.full(5, 0.5), size=(2, 40))
    p[:10, 2] = 0  # zeros on one side and on both
    q[5:15, 2] = 0
    return p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)


def test_jsd_is_scipys_distance_squared_in_base_2(shares: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = shares
    assert np.allclose(metrics.jsd_bits(p, q), jensenshannon(p, q, base=2, axis=-1) ** 2, atol=1e-12)


def test_wasserstein_is_scipys_over_the_scales_range(shares: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = shares
    places = np.array([1.0, 2.0, 4.0, 4.5, 11.0])  # unequal spacing
    expected = [wasserstein_distance(places, places, a, b) / 10 for a, b in zip(p, q, strict=True)]
    assert np.allclose(metrics.wasserstein(p, q, places), expected)


def test_wasserstein_does_not_depend_on_the_order_of_the_options(shares: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = shares
    places, mixed = np.array([1.0, 2.0, 4.0, 4.5, 11.0]), [3, 0, 4, 1, 2]
    assert np.allclose(metrics.wasserstein(p[:, mixed], q[:, mixed], places[mixed]), metrics.wasserstein(p, q, places))


def test_distances_by_hand() -> None:
    left, right, even = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.5, 0.5])
    scale = np.array([0.0, 1.0])
    assert metrics.jsd_bits(left, right) == 1.0 and metrics.jsd_bits(left, left) == 0.0
    assert metrics.wasserstein(left, right, scale) == 1.0 and metrics.wasserstein(left, even, scale) == 0.5
    assert metrics.total_variation(left, right) == 1.0 and metrics.total_variation(left, even) == 0.5
    assert metrics.entropy_bits(even) == 1.0 and metrics.entropy_bits(left) == 0.0
    # Half the people move two of the scale's three steps.
    assert metrics.wasserstein(np.array([1.0, 0, 0, 0]), np.array([0.5, 0, 0.5, 0]), np.arange(4.0)) == pytest.approx(
        1 / 3
    )


@pytest.mark.parametrize("name", METRICS)
def test_padding_with_nan_changes_no_metric(name: str, shares: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = shares
    places = np.broadcast_to(np.array([1.0, 2.0, 4.0, 4.5, 11.0]), p.shape)
    pad = ((0, 0), (0, 3))
    wide = [np.pad(one, pad, constant_values=NAN) for one in (p, q, places)]
    for ours, theirs in zip(METRICS[name].measure(*wide), METRICS[name].measure(p, q, places), strict=True):
        assert np.allclose(ours, theirs)


@pytest.mark.parametrize("name", METRICS)
def test_a_cell_that_nobody_answered_counts_for_nothing(name: str) -> None:
    p = np.array([[0.4, 0.6], [0.2, 0.8]])
    q = np.array([[0.9, 0.1], [NAN, NAN]])
    parts = METRICS[name].measure(p, q, np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert parts.top[1] == 0 and parts.bottom[1] == 0 and parts.bottom[0] > 0


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_answer_is_perfect(name: str, shares: tuple[np.ndarray, np.ndarray]) -> None:
    p, _ = shares
    parts = METRICS[name].measure(p, p, np.broadcast_to(np.arange(5.0), p.shape))
    best = 0.0 if METRICS[name].better == "lower" else 1.0
    assert parts.top.sum() / parts.bottom.sum() == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_leading_axes_are_free(name: str, shares: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = shares
    places = np.broadcast_to(np.arange(5.0), p.shape)
    many = METRICS[name].measure(p[None], np.stack([q, p]), places)
    one = METRICS[name].measure(p, q, places)
    assert many.top.shape == (2, 40) and np.allclose(many.top[0], one.top)


def test_one_option_and_nominal_items() -> None:
    one = np.array([[1.0, NAN]])
    assert metrics.jsd_bits(one, one)[0] == 0 and metrics.wasserstein(one, one, np.array([[3.0, NAN]]))[0] == 0
    parts = METRICS["wasserstein"].measure(np.array([[0.3, 0.7]]), np.array([[0.5, 0.5]]), np.array([[NAN, NAN]]))
    assert parts == Parts(np.array([0.0]), np.array([0.0]))


def ratio(name: str, model: object, people: object, positions: object) -> float:
    """A metric's figure over cells given as lists."""
    parts = METRICS[name].measure(*(np.array(one, dtype=float) for one in (model, people, positions)))
    return float(parts.top.sum() / parts.bottom.sum())


def test_variance_by_hand() -> None:
    ends, middle, third = np.array([0.5, 0, 0.5]), np.array([0.0, 1, 0]), np.array([0.5, 0.5, 0])
    assert metrics.variance(ends, np.array([1.0, 2, 3])) == 0.25 and metrics.variance(middle, np.arange(3.0)) == 0
    assert metrics.variance(third, np.array([1.0, 2, 11])) == pytest.approx(0.05**2)  # unequal spacing: 0, .1, 1
    assert metrics.variance(third, np.array([11.0, 1, 2])) == pytest.approx(0.25)  # in whatever order
    rng = np.random.default_rng(0)
    p, places = rng.dirichlet(np.ones(5)), np.array([2.0, 3, 3.5, 7, 12])
    drawn = np.repeat((places - 2) / 10, np.round(p * 10**6).astype(int))
    assert metrics.variance(p, places) == pytest.approx(drawn.var(), rel=1e-4)
    assert metrics.variance(np.array([1.0, NAN]), np.array([3.0, NAN])) == 0  # one option
    nominal = metrics.variance(np.stack([third, np.full(3, NAN)]), np.array([[NAN] * 3, [0, 1, 2]]))
    assert np.isnan(nominal).all()


def test_dispersion_of_variances_by_hand() -> None:
    """A model in the middle of its scale is as sure by entropy as one at the ends, not by variance."""
    people, scale = [[0.5, 0, 0.5], [0.25, 0.5, 0.25]], [[0, 1, 2], [0, 1, 2]]  # variances .25 and .125
    model = [[0.25, 0.5, 0.25], [0.25, 0.5, 0.25]]
    assert ratio("dispersion_variance", model, people, scale) == pytest.approx(0.25 / 0.375)
    assert ratio("dispersion", model, people, scale) == pytest.approx(3 / 2.5)
    mixed = METRICS["dispersion_variance"].measure(np.array(model), np.array(people), np.array([scale[0], [NAN] * 3]))
    assert np.allclose(mixed.top, [0.125, 0]) and np.allclose(mixed.bottom, [0.25, 0])


def test_calibration_slope_by_hand() -> None:
    any_scale = [[NAN, NAN], [NAN, NAN]]  # nominal items count
    people = [[0.6, 0.4], [0.3, 0.7]]
    assert ratio("calibration_slope", [[0.7, 0.3], [0.1, 0.9]], people, any_scale) == pytest.approx(0.1 / 0.2)
    assert ratio("calibration_slope", [[0.4, 0.6], [0.7, 0.3]], people, any_scale) == pytest.approx(-1)
    assert ratio("calibration_slope", [[0.55, 0.45], [0.4, 0.6]], people, any_scale) == pytest.approx(2)
    # Cells weigh by how far the model is from even: .3 * .1 + .3 * .1 over .3^2 + .3^2, the even cell adds nothing.
    assert ratio("calibration_slope", [[0.8, 0.2], [0.5, 0.5]], people, any_scale) == pytest.approx(1 / 3)
    one = METRICS["calibration_slope"].measure(np.array([[1.0, NAN]]), np.array([[1.0, NAN]]), np.full((1, 2), NAN))
    assert one == Parts(np.array([0.0]), np.array([0.0]))  # one option: nothing to be sure of
    even = metrics.softmax(np.full((1, 7), -2.3)) + np.array([[1e-15, -1e-15, 0, 0, 0, 0, 0]])
    assert METRICS["calibration_slope"].measure(even, np.full((1, 7), 1 / 7), np.full((1, 7), NAN)).bottom[0] == 0


def test_calibration_slope_is_least_squares_and_not_drawn_to_zero_by_sampling() -> None:
    rng = np.random.default_rng(2)
    model = rng.dirichlet(np.full(4, 2.0), size=3000)
    truth = 0.6 * model + 0.4 / 4  # too sure by design: the slope is .6
    asked = rng.multinomial(25, truth) / 25
    fit = np.polyfit((model - 0.25).ravel(), (asked - 0.25).ravel(), 1)
    slope = ratio("calibration_slope", model, asked, np.full((3000, 4), NAN))
    assert slope == pytest.approx(fit[0]) and slope == pytest.approx(0.6, abs=0.02)
    half = rng.multinomial(25, truth) / 25  # a perfect but sampled guess
    assert ratio("calibration_slope", half, asked, np.full((3000, 4), NAN)) < 0.6


def test_mode_accuracy_shares_ties() -> None:
    people = np.array([0.4, 0.4, 0.2])
    assert metrics.mode_accuracy(np.array([0.1, 0.8, 0.1]), people) == 1
    assert metrics.mode_accuracy(np.array([0.1, 0.1, 0.8]), people) == 0
    assert metrics.mode_accuracy(np.full(3, 1 / 3), people) == pytest.approx(2 / 3)


def test_softmax_and_raw_mass() -> None:
    logp = np.log(np.array([[0.1, 0.3, NAN]]))
    assert np.allclose(metrics.softmax(logp)[0, :2], [0.25, 0.75]) and np.isnan(metrics.softmax(logp)[0, 2])
    assert metrics.raw_mass(logp)[0] == pytest.approx(0.4)
    assert np.allclose(metrics.softmax(np.array([-1000.0, -np.inf])), [1, 0])  # no underflow, an impossible option


def test_nulls_by_hand() -> None:
    p, a, b = np.array([0.5, 0.5]), np.array([0.6, 0.4]), np.array([0.75, 0.25])
    assert np.allclose(additive(p, [a, b]), np.array([0.9, 0.2]) / 1.1)  # .6*.75/.5 and .4*.25/.5, normalised
    assert np.allclose(additive(p, []), p) and np.allclose(additive(p, [a]), a)
    assert np.allclose(additive(np.array([1.0, 0.0]), [np.array([0.0, 1.0])]), [1, 0])
    assert np.allclose(uniform(2, 3), [0.5, 0.5, NAN], equal_nan=True)
    mean = mean_shares([a, b, np.array([NAN, NAN])])
    assert mean is not None and np.allclose(mean, [0.675, 0.325]) and mean_shares([]) is None


def test_interval_is_centred_and_widened_for_few_clusters() -> None:
    draws = np.random.default_rng(0).normal(5.0, 1.0, 20_000)  # shifted on purpose: only the spread counts
    many = interval(2.0, draws, n=9, clusters=100_000)
    assert many.value == 2.0 and many.n == 9
    assert many.low == pytest.approx(2 - 1.96, abs=0.05) and many.high == pytest.approx(2 + 1.96, abs=0.05)
    few = interval(2.0, draws, n=9, clusters=6)
    assert few.high - few.low == pytest.approx((many.high - many.low) * 2.571 / 1.96 * math.sqrt(6 / 5), rel=1e-3)
    assert widening(1) == 1 and 1 < widening(24) < widening(19) and widening(100_000) == pytest.approx(1, abs=1e-4)
    assert widening(24) == pytest.approx(t(23).ppf(0.975) / norm.ppf(0.975) * math.sqrt(24 / 23))
    assert interval(0.1, draws, n=1, clusters=50, bounds=(0, 1)).low == 0


def test_the_widened_interval_covers_where_the_plain_bootstrap_does_not() -> None:
    rng = np.random.default_rng(3)
    plain = wide = 0
    for _ in range(400):
        sample = rng.normal(0, 1, 6)
        picks = rng.multinomial(6, np.full(6, 1 / 6), size=200).astype(float)
        draws = ratio_draws(Parts(sample, np.ones(6)), np.arange(6), picks)
        for clusters in (6, 100_000):
            one = interval(float(sample.mean()), draws, n=6, clusters=clusters)
            hit = one.low <= 0 <= one.high
            wide += hit if clusters == 6 else 0
            plain += hit if clusters == 100_000 else 0
    assert plain / 400 < 0.90 < 0.925 < wide / 400 <= 0.99


def test_ratio_draws_by_hand() -> None:
    parts = Parts(np.array([1.0, 2.0, 3.0]), np.ones(3))
    picks = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    assert np.allclose(ratio_draws(parts, np.array([0, 0, 1]), picks), [2.0, 1.5, 3.0])


def test_crossed_draws_by_hand() -> None:
    own = Parts(np.array([1.0, 2.0, 3.0]), np.ones(3))  # cells of the items 0, 0, 1
    met = Parts(np.array([[1.0, 1.0, 4.0], [2.0, 2.0, 8.0]]), np.ones((2, 3)))
    picks, shuffled = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[1, 0], [0, 1]])
    found = crossed_draws(own, met, np.array([0, 0, 1]), picks, shuffled)
    assert np.allclose(found, [[1.5, 3.0], [2.0, 4.0], [8 / 3, 10 / 3]])


@pytest.mark.parametrize(("of_items", "of_people", "noise"), [(1.0, 0.0, 1.0), (0.2, 2.0, 2.0), (0.0, 0.0, 6.0)])
def test_crossed_intervals_are_as_wide_as_the_two_ways_of_varying(
    of_items: float, of_people: float, noise: float
) -> None:
    """A mean over items and people: its variance is known, whatever is the items', the people's and neither's."""
    items, people, resamples, sets = 40, 50, 200, 150
    rng = np.random.default_rng(11)
    variance = of_items / items + of_people / people + noise / (items * people)
    held, widths = 0, []
    for _ in range(sets):
        answer_PI = rng.normal(0, math.sqrt(of_items), items) + rng.normal(0, math.sqrt(of_people), (people, 1))
        answer_PI = answer_PI + rng.normal(0, math.sqrt(noise), (people, items))
        drawn_BP = rng.multinomial(people, np.full(people, 1 / people), size=resamples) / people
        own, met = Parts(answer_PI.mean(0), np.ones(items)), drawn_BP @ answer_PI
        picks_BI = rng.multinomial(items, np.full(items, 1 / items), size=resamples).astype(float)
        shuffled_BI = rng.permuted(np.tile(np.arange(resamples)[:, None], (1, items)), axis=0)
        draws = crossed_draws(own, Parts(met, np.ones_like(met)), np.arange(items), picks_BI, shuffled_BI)
        one = crossed_interval(float(own.top.mean()), draws, n=items, clusters=items)
        held += one.low <= 0 <= one.high
        widths.append(one.high - one.low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.1)
    assert 0.9 <= held / sets <= 0.99


def test_a_single_cluster_speaks_of_people_alone() -> None:
    draws = np.random.default_rng(2).normal(0, 1, (3, 5000)) * np.array([[0.0], [2.0], [2.0]])
    one = crossed_interval(1.0, draws, n=1, clusters=1)
    assert one.high - one.low == pytest.approx(2 * 2 * 1.96, rel=0.05)
    assert math.isnan(crossed_interval(1.0, np.full((3, 9), NAN), n=1, clusters=3).low)


def _counted(cells: list[tuple[list[float], list[float], list[float]]], within: bool) -> float:
    won = weight = 0.0
    branches = [(c, k) for c, cell in enumerate(cells) for k in range(len(cell[0]))]
    for (c, i), (e, j) in product(branches, branches):
        if (c, i) == (e, j) or (within and c != e):
            continue
        pair = cells[c][1][i] * cells[e][2][j]
        ours, theirs = cells[c][0][i], cells[e][0][j]
        won += pair * (1.0 if ours > theirs else 0.5 if ours == theirs else 0.0)
        weight += pair
    return won / weight


@pytest.mark.parametrize("within", [True, False])
def test_behaviour_auc_counts_every_pair_by_mass(within: bool) -> None:
    rng = np.random.default_rng(1)
    cells = []
    for _ in range(12):
        k = int(rng.integers(1, 5))
        # Rounded, so that ties occur; answers with both masses, as people disagree.
        cells.append(
            (rng.normal(size=k).round(1).tolist(), rng.uniform(0, 3, k).tolist(), rng.uniform(0, 3, k).tolist())
        )
    ratios, desirable, undesirable = zip(*cells, strict=True)
    auc = behaviour_auc(ratios, desirable, undesirable, pairs="within" if within else "all", bootstrap=100)
    assert auc.value == pytest.approx(_counted(cells, within))
    assert auc.low < auc.value < auc.high


def test_behaviour_auc_knows_right_wrong_and_nothing_to_compare() -> None:
    up, down = [[1.0, 0.0]] * 4, [[0.0, 1.0]] * 4
    assert behaviour_auc([[2.0, 1.0]] * 4, up, down).value == 1
    assert behaviour_auc([[1.0, 2.0]] * 4, up, down).value == 0
    assert behaviour_auc([[0.0, 0.0]] * 4, up, down).value == 0.5  # r = 0 everywhere: the reference itself
    nothing = behaviour_auc([[1.0]], [[1.0]], [[0.0]])
    assert math.isnan(nothing.value) and math.isnan(behaviour_auc([], [], []).value)


def test_single_answers_are_compared_across_prompts() -> None:
    desirable, undesirable = [[1.0], [0.0], [2.0]], [[0.0], [1.0], [0.0]]
    assert pairing(desirable, undesirable) == "all" and pairing([[1.0, 0.0]], [[0.0, 1.0]]) == "within"
    assert behaviour_auc([[0.3], [0.1], [0.0]], desirable, undesirable).value == pytest.approx(1 / 3)
