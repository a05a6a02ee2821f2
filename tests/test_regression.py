"""The log-linear regression beside the nulls: its score equations, what it recovers, what it may read."""

from __future__ import annotations

import numpy as np
import pytest
from known_public import the_world

from valuealign.evaluate import HALF, REGRESSION
from valuealign.evaluate.nulls import Nulls
from valuealign.metrics import log_linear, log_linear_shares, softmax
from valuealign.population import tabulate
from valuealign.population.centre import RIDGES

ITEMS, K, LEVELS = 5, 4, 3


def table(rng: np.random.Generator, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shares [G, I, K] of every pair of levels of two traits, masses, design and the true shares (main effects)."""
    pairs = [(a, b) for a in range(LEVELS) for b in range(LEVELS)]
    design = np.zeros((len(pairs), 1 + 2 * LEVELS))
    design[:, 0] = 1
    for g, (a, b) in enumerate(pairs):
        design[g, [1 + a, 1 + LEVELS + b]] = 1
    beta = rng.normal(0, 0.6, (design.shape[1], ITEMS, K))
    beta[:, 0, 3] = -np.inf  # the first item has three options
    logits = np.array([[beta[x > 0, i].sum(0) for i in range(ITEMS)] for x in design])
    logits[np.isinf(logits)] = np.nan
    true = softmax(logits)
    shares = np.full(true.shape, np.nan)
    for g in range(len(pairs)):
        for i in range(ITEMS):
            k = (~np.isnan(true[g, i])).sum()
            shares[g, i, :k] = rng.multinomial(n, true[g, i, :k]) / n
    return shares, np.full(true.shape[:2], float(n)), design, true


def test_the_fit_solves_its_score_equations() -> None:
    """At the penalised maximum, design' mass (fitted - observed) + ridge * coefficient is 0 for every one of them."""
    shares, mass, design, _ = table(np.random.default_rng(0))
    mass[2, 1] = 0
    for ridge in (3.0, 100.0):
        beta = log_linear(shares, mass, design, ridge, np.zeros((design.shape[1], ITEMS, K)))
        fitted = log_linear_shares(beta, design, shares)
        assert np.isnan(fitted[:, 0, 3]).all() and np.nansum(fitted, -1) == pytest.approx(np.ones(mass.shape))
        off = np.nan_to_num(fitted - shares) * mass[..., None]
        score = np.einsum("gf,gik->fik", design, off)
        score[1:] += ridge * beta[1:]
        assert np.abs(score).max() < 0.2, "respondents"


def test_a_large_survey_is_fitted_as_closely_as_a_small_one() -> None:
    """A thousand times as many people and as stiff a ridge: the same coefficients."""
    shares, mass, design, _ = table(np.random.default_rng(2))
    start = np.zeros((design.shape[1], ITEMS, K))
    small, large = (log_linear(shares, n * mass, design, n * 5.0, start) for n in (1, 1000))
    fitted = [log_linear_shares(one, design, shares) for one in (small, large)]
    assert fitted[1] == pytest.approx(fitted[0], abs=2e-4, nan_ok=True)


def test_it_predicts_a_cell_that_was_left_out() -> None:
    """Where the truth has main effects alone, what was not fitted is about as near to it as a sample of its own."""
    off, own, others = [], [], []
    for seed in range(8):
        shares, mass, design, true = table(np.random.default_rng(seed))
        mass[4, 1:3] = 0
        beta = log_linear(shares, mass, design, 5.0, np.zeros((design.shape[1], ITEMS, K)))
        fitted = log_linear_shares(beta, design, shares)
        off.append(np.abs(fitted[4, 1:3] - true[4, 1:3]).mean())
        own.append(np.abs(shares[4, 1:3] - true[4, 1:3]).mean())
        others.append(np.abs(shares[:, 1:3].mean(0) - true[4, 1:3]).mean())
    assert np.mean(off) < 1.3 * np.mean(own) < 0.5 * np.mean(others)


def test_a_stiff_ridge_draws_every_group_to_the_mean() -> None:
    shares, mass, design, _ = table(np.random.default_rng(5))
    start = np.zeros((design.shape[1], ITEMS, K))
    fitted = log_linear_shares(log_linear(shares, mass, design, 1e6, start), design, shares)
    assert fitted == pytest.approx(np.broadcast_to(shares.mean(0), shares.shape), abs=0.01, nan_ok=True)


def test_it_reads_nothing_held_out() -> None:
    """Other answers in the cells that are held out change no guess about them."""
    world = the_world()
    train = tabulate(world.survey, world.weights, world.groups, multiplicity_P=world.splits.people("train"))
    known = set(world.splits.train)
    pairs = [pair for split in ("cells", "groups") for pair in world.splits.pairs[split, "report"]][:40]
    before = Nulls(train, known, 30.0).of("groups", pairs)[REGRESSION]
    shares = train.shares_GIK.copy()
    for g, group in enumerate(train.groups):
        for i, item in enumerate(train.items):
            if (item.id, group) not in known:
                shares[g, i] = np.where(np.isnan(shares[g, i]), np.nan, shares[g, i][::-1])
    object.__setattr__(train, "shares_GIK", shares)
    assert np.array_equal(before, Nulls(train, known, 30.0).of("groups", pairs)[REGRESSION], equal_nan=True)


def test_it_stands_beside_the_nulls_and_every_stage_is_compared_with_it() -> None:
    world = the_world()
    judged = world.exam.judge({"public": world.answers()})
    for split in ("cells", "groups"):
        assert judged.row(split, REGRESSION, "jsd_bits").kind == "null"
        assert judged.figure(split, REGRESSION).value < judged.figure(split, "marginal").value
        apart = judged.figure(split, f"public - {REGRESSION}")
        expected = judged.figure(split, "public").value - judged.figure(split, REGRESSION).value
        assert apart.value == pytest.approx(expected) and judged.figure(split, HALF).value > 0
    assert ("items", REGRESSION) not in {(row.split, row.who) for row in judged.rows}
    assert judged.facts["regression_ridge"] in RIDGES
