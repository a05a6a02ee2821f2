"""Targets drawn towards what a group's traits say: the centre, its worth, and what it may read."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from known_public import the_world

from valuealign import config as configuration
from valuealign.dataset import build
from valuealign.errors import ConfigError, SurveyError
from valuealign.metrics import total_variation
from valuealign.population import (
    ShareTable,
    by_traits,
    choose_ridge,
    everyone,
    membership,
    regress,
    relations,
    shrink,
    tabulate,
)
from valuealign.population.centre import RIDGES
from valuealign.population.table import intervals
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group, Item, Option

OPTIONS = tuple(Option(place, text, float(place)) for place, text in enumerate(("no", "perhaps", "yes")))
RIDGE = 10.0
LEVELS = [("sex", "f"), ("sex", "m"), ("age", "old"), ("age", "mid"), ("age", "young")]
PAIRS = [(sex, age) for sex in LEVELS[:2] for age in LEVELS[2:]]
# Which of the six disjoint groups each group holds, and so how the shares of two groups go together.
WITHIN = np.array([[1] * 6, *([int(one in pair) for pair in PAIRS] for one in LEVELS), *np.eye(6, dtype=int).tolist()])
RELATED = WITHIN @ WITHIN.T / np.sqrt(np.outer(WITHIN.sum(1), WITHIN.sum(1)))
GROUPS = (EVERYONE, *(Group((one,)) for one in LEVELS), *(Group(tuple(sorted(pair))) for pair in PAIRS))


def world(rng: np.random.Generator, people: int = 120, items: int = 8) -> tuple[ShareTable, np.ndarray]:
    """A table of people whose traits shift their answers each on its own, and the pairs' true shares [G, I, K]."""
    base, shift = rng.normal(0, 0.5, (items, 3)), {one: rng.normal(0, 0.5, (items, 3)) for one in LEVELS}
    power = {pair: np.exp(base + shift[pair[0]] + shift[pair[1]]) for pair in PAIRS}
    true = {pair: one / one.sum(-1, keepdims=True) for pair, one in power.items()}
    counts = {pair: np.array([rng.multinomial(people, one) for one in true[pair]]) for pair in PAIRS}
    masses = [sum(counts.values())]
    masses += [sum(counts[pair] for pair in PAIRS if one in pair) for one in LEVELS]
    masses += [counts[pair] for pair in PAIRS]
    counted = np.array(masses, dtype=float)
    n_GI = counted.sum(-1)
    named = tuple(Item(f"q{i}", f"Question {i}?", OPTIONS) for i in range(items))
    table = ShareTable(named, GROUPS, counted / n_GI[..., None], n_GI.astype(np.int64), n_GI)
    return table, np.array([true[pair] for pair in PAIRS])


def test_targets_drawn_towards_traits_are_nearer_to_the_truth() -> None:
    """Where traits act each on its own: nearer than as counted, and than drawn towards everyone."""
    off: dict[str, list[float]] = {"counted": [], "everyone": [], "traits": []}
    for seed in range(6):
        table, true = world(np.random.default_rng(seed))
        ways = {"counted": table, "everyone": shrink(table), "traits": shrink(table, by_traits(table, RIDGE, RELATED))}
        for name, one in ways.items():
            off[name].append(float(total_variation(one.shares_GIK[6:], true).mean()))
    assert np.mean(off["traits"]) < 0.8 * np.mean(off["counted"])
    assert np.mean(off["traits"]) < 0.9 * np.mean(off["everyone"])


def test_what_a_centre_is_worth() -> None:
    """Six disjoint groups of 120 and four coefficients: each is worth 720 / 4, and a level its own people."""
    table, _ = world(np.random.default_rng(1))
    worth = by_traits(table, RIDGE, RELATED).worth_GI
    assert worth[0] == pytest.approx(np.full(8, 720))
    assert worth[1:6] == pytest.approx(table.n_eff_GI[1:6]), "no share of a level is known better than by its people"
    assert worth[6:] == pytest.approx(np.full((6, 8), 180)), "pairs borrow from their traits"
    assert (everyone(table).worth_GI == 720).all()


def test_a_centre_varies_as_its_worth_says() -> None:
    """Over surveys of the same public the variance of a share is m (1 - m) / worth, or a little less by the ridge."""
    drawn = []
    for seed in range(60):
        table, true = world(np.random.default_rng(7), items=4)  # the same public
        rng = np.random.default_rng(seed)
        counts = np.array([[rng.multinomial(120, one) for one in pair] for pair in true])
        sums = [counts.sum(0), *(sum(counts[p] for p, pair in enumerate(PAIRS) if one in pair) for one in LEVELS)]
        mass = np.concatenate([np.array(sums), counts]).astype(float)
        n = mass.sum(-1)
        again = ShareTable(table.items, table.groups, mass / n[..., None], n.astype(np.int64), n)
        centre = by_traits(again, RIDGE, RELATED)
        drawn.append(centre.shares_GIK[6:])
    mean, variance = np.mean(drawn, axis=0), np.var(drawn, axis=0)
    worth = (mean * (1 - mean)).mean() / variance.mean()
    assert worth == pytest.approx(centre.worth_GI[6:].mean(), rel=0.25)


def test_intervals_of_drawn_targets_hold_the_truth() -> None:
    held, wide, plain = [], [], []
    for seed in range(12):
        table, true = world(np.random.default_rng(seed))
        drawn = shrink(table, by_traits(table, RIDGE, RELATED))
        for one, widths in ((drawn, wide), (table, plain)):
            alpha, beta = one.posterior()
            mean, both = alpha / (alpha + beta), alpha + beta
            half = 1.96 * np.sqrt(mean * (1 - mean) / (both + 1))
            widths.append(half[6:].mean())
            if one is drawn:
                held.append((np.abs(mean[6:] - true) <= half[6:]).mean())
    assert np.mean(held) > 0.9 and np.mean(wide) < np.mean(plain)


def test_everyone_stays_as_it_is_and_the_default_is_everyone() -> None:
    table, _ = world(np.random.default_rng(2))
    drawn = shrink(table, by_traits(table, RIDGE, RELATED))
    assert np.array_equal(drawn.shares_GIK[0], table.shares_GIK[0])
    assert np.array_equal(shrink(table).shares_GIK, shrink(table, everyone(table)).shares_GIK)
    lone = without_everyone(table)
    with pytest.raises(SurveyError, match="everyone"):
        by_traits(lone, RIDGE, RELATED[1:, 1:])
    with pytest.raises(SurveyError, match="everyone"):
        everyone(lone)


def without_everyone(table: ShareTable) -> ShareTable:
    return ShareTable(table.items, table.groups[1:], table.shares_GIK[1:], table.n_GI[1:], table.n_eff_GI[1:])


def test_a_regression_reads_no_cell_that_is_not_used() -> None:
    seen = the_world()
    train = tabulate(seen.survey, seen.weights, seen.groups, multiplicity_P=seen.splits.people("train"))
    used = set(seen.splits.train)
    shares = train.shares_GIK.copy()
    for g, group in enumerate(train.groups):
        for i, item in enumerate(train.items):
            if (item.id, group) not in used:
                shares[g, i] = np.where(np.isnan(shares[g, i]), np.nan, shares[g, i][::-1])
    other = ShareTable(train.items, train.groups, shares, train.n_GI, train.n_eff_GI)
    before, after = regress(train, RIDGE, used), regress(other, RIDGE, used)
    for item, group in used:
        g, i = train.group_index[group], train.item_index[item]
        assert np.array_equal(before[g, i], after[g, i], equal_nan=True)


def test_a_ridge_is_chosen_by_people_who_were_not_fitted() -> None:
    """Answers that no trait moves want the stiffest; those that all traits move a softer one. Of the people alone."""
    seen = the_world()
    rng, people_P = np.random.default_rng(0), seen.splits.people("train")
    strong = choose_ridge(seen.survey, seen.weights, seen.groups, people_P)
    mixed = seen.survey.people.with_columns(
        pl.Series(item.id, rng.permutation(seen.survey.people[item.id].to_numpy()))
        for item in seen.survey.codebook.items
    )
    none = choose_ridge(Survey(seen.survey.codebook, mixed), seen.weights, seen.groups, people_P)
    assert none == max(RIDGES) and strong < none
    others = seen.survey.people.with_columns(
        pl.when(pl.Series(people_P)).then(pl.col(item.id)).otherwise(0).alias(item.id)
        for item in seen.survey.codebook.items
    )
    assert choose_ridge(Survey(seen.survey.codebook, others), seen.weights, seen.groups, people_P) == strong


def test_how_shares_go_together() -> None:
    """The correlation of two groups' shares over the answers of the same weighted people."""
    seen = the_world()
    rng, people = np.random.default_rng(0), seen.survey.people.height
    weights = np.exp(rng.normal(0, 0.8, people))
    groups = seen.groups[:8]
    related = relations(seen.survey, weights, groups)
    assert np.allclose(np.diag(related), 1) and np.linalg.eigvalsh(related).min() > -1e-9
    answers = rng.integers(0, 2, (400, people))  # one question, answered anew by the same people
    inside = membership(seen.survey, groups) * weights[:, None]
    shares = answers @ inside / inside.sum(0)
    assert np.corrcoef(shares.T) == pytest.approx(related, abs=0.15)


def test_tables_of_all_kinds_have_a_centre() -> None:
    """Everyone alone, crossings without their traits, a question that nobody answered."""
    seen = the_world()
    pairs = tuple(group for group in seen.groups if len(group.traits) == 2)
    blank = seen.survey.people.with_columns(pl.lit(None, dtype=pl.Int16).alias("q00"))
    for survey, groups in (
        (seen.survey, (EVERYONE,)),
        (seen.survey, (EVERYONE, *pairs)),
        (Survey(seen.survey.codebook, blank), seen.groups),
    ):
        counted = tabulate(survey, seen.weights, groups)
        drawn = shrink(counted, by_traits(counted, RIDGE, relations(survey, seen.weights, groups)))
        there = ~np.isnan(counted.shares_GIK)
        assert np.array_equal(there, ~np.isnan(drawn.shares_GIK)) and np.isfinite(drawn.posterior()[0][there]).all()


def test_a_run_draws_its_targets_so() -> None:
    small = ("survey.people=600", "groups.max_groups=12")
    towards = {way: build(configuration.load(None, [*small, f"groups.shrink={way}"])) for way in ("traits", "off")}
    assert towards["off"].shrunk is None
    drawn = towards["traits"].shrunk
    assert drawn is not None
    made = towards["traits"]
    train_P, used_GI = made.splits.people("train"), np.zeros(drawn.n_GI.shape, bool)
    for item, group in made.splits.train:
        used_GI[drawn.group_index[group], drawn.item_index[item]] = True
    ridge = choose_ridge(made.survey, made.weights.weights_P, made.groups, train_P, made.splits.train)
    related = relations(made.survey, made.weights.weights_P, made.groups, train_P)
    expected = shrink(drawn.raw, by_traits(drawn.raw, ridge, related, made.splits.train), made.splits.train)
    assert np.array_equal(drawn.shares_GIK, expected.shares_GIK, equal_nan=True)
    # Also of a question that is held out altogether, of which no cell is used.
    (low, high), there = (intervals(*drawn.posterior(), drawn.shares_GIK)), ~np.isnan(drawn.raw.shares_GIK)
    assert np.isfinite(low[there]).all() and np.isfinite(high[there]).all() and not used_GI.any(0).all()
    assert build(configuration.load(None, [*small, "groups.shrink=false"])).shrunk is None, "YAML's off is false"
    with pytest.raises(ConfigError, match="groups.shrink"):
        configuration.load(None, ["groups.shrink=true"])
