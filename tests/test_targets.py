"""Shrinking, the table of targets and the noise floor, by hand and by simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import gammaln
from test_population import town

from valuealign.config import GroupsConfig
from valuealign.errors import ConfigError, SurveyError
from valuealign.metrics.distances import jsd_bits, total_variation, wasserstein
from valuealign.population import ShareTable, find_groups, noise_floor, shrink, tabulate, target_frame
from valuealign.population.table import intervals
from valuealign.signals.targets import survey_cells
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group, Item, Option


def item(number: int, options: int) -> Item:
    return Item(f"q{number}", f"Question {number}?", tuple(Option(k + 1, f"o{k}", float(k)) for k in range(options)))


def regions(shares_GK: np.ndarray, n_G: np.ndarray, whole_K: np.ndarray) -> ShareTable:
    """A table of one item: everyone (``whole_K`` from 100,000 people) and then a group for each row."""
    groups = (EVERYONE, *(Group((("region", str(g)),)) for g in range(len(n_G))))
    n_GI = np.array([[100_000.0], *[[n] for n in n_G]])
    shares_GIK = np.concatenate([whole_K[None], shares_GK])[:, None]
    return ShareTable((item(0, len(whole_K)),), groups, shares_GIK, n_GI.astype(np.int64), n_GI)


def simulated(seed: int, *, kappa: float, regions_: int = 150) -> tuple[ShareTable, np.ndarray]:
    rng = np.random.default_rng(seed)
    whole_K = np.array([0.5, 0.3, 0.15, 0.05])
    true_GK = rng.dirichlet(kappa * whole_K, regions_)
    n_G = rng.integers(20, 200, regions_)
    counts_GK = np.array([rng.multinomial(n, true_K) for n, true_K in zip(n_G, true_GK, strict=True)])
    return regions(counts_GK / n_G[:, None], n_G, whole_K), true_GK


def likelihood(table: ShareTable, kappa: float) -> float:
    """Dirichlet-multinomial, term by term."""
    p0, total = table.shares_GIK[0, 0], 0.0
    for g in range(1, len(table.groups)):
        n = float(table.n_eff_GI[g, 0])
        total += gammaln(kappa) - gammaln(n + kappa)
        for k, one in enumerate(p0):
            total += gammaln(n * table.shares_GIK[g, 0, k] + kappa * one) - gammaln(kappa * one)
    return total


@pytest.mark.parametrize("regions_", [6, 60])
def test_shrunk_targets_have_the_stated_mean_and_variance(regions_: int) -> None:
    """Against a fine sum over kappa, evenly in the pull of a group of middling size."""
    table, _ = simulated(0, kappa=40, regions_=regions_)
    shrunk = shrink(table)
    middle = np.exp(np.mean(np.log(table.n_eff_GI[1:, 0])))
    even = (np.arange(500) + 0.5) / 500
    kappas = middle * even / (1 - even)
    weights = np.array([likelihood(table, kappa) for kappa in kappas])
    weights = np.exp(weights - weights.max()) / np.exp(weights - weights.max()).sum()
    p0, n0 = table.shares_GIK[0, 0], 100_000
    alpha, beta = shrunk.posterior()
    for g in range(1, len(table.groups)):
        n, p = table.n_eff_GI[g, 0], table.shares_GIK[g, 0]
        pulls = kappas / (n + kappas)
        pull = weights @ pulls
        assert shrunk.pull_GI[g, 0] == pytest.approx(pull, abs=0.002)
        assert shrunk.shares_GIK[g, 0] == pytest.approx((1 - pull) * p + pull * p0, abs=0.002)
        mean = (1 - pull) * p + pull * (n0 * p0 + 0.5) / (n0 + 1)
        within = weights @ (1 / (n + kappas + 1) + (1 - (1 - pulls) ** 2) / (n0 + 1))
        variance = mean * (1 - mean) * within + weights @ (pulls - pull) ** 2 * (p - p0) ** 2
        a, b = alpha[g, 0], beta[g, 0]
        assert a / (a + b) == pytest.approx(mean, abs=0.002)
        assert a * b / (a + b) ** 2 / (a + b + 1) == pytest.approx(variance, rel=0.03)
    best = kappas[np.argmax(weights)]
    assert shrunk.kappa_I[0] == pytest.approx(best, rel=0.1 if regions_ == 60 else 0.7)
    assert np.array_equal(shrunk.shares_GIK[0], table.shares_GIK[0]) and shrunk.pull_GI[0, 0] == 0
    assert np.array_equal(shrunk.posterior()[0][0], table.posterior()[0][0])
    assert shrunk.n_GI is table.n_GI and shrunk.n_eff_GI is table.n_eff_GI and shrunk.raw is table


def test_groups_that_share_people_say_no_more_than_their_people() -> None:
    """The same groups three times over, of the same people: the same kappa, as surely known."""
    table, _ = simulated(3, kappa=100, regions_=20)
    n_GI = np.concatenate([[[table.n_GI[1:].sum()]], table.n_GI[1:]])
    once = ShareTable(table.items, table.groups, table.shares_GIK, n_GI, table.n_eff_GI)
    again = tuple(Group((("again", f"{t}-{g}"),)) for t in range(2) for g in range(20))

    def thrice(numbers: np.ndarray) -> np.ndarray:
        return np.concatenate([numbers, numbers[1:], numbers[1:]])

    more = ShareTable(table.items, (*table.groups, *again), *map(thrice, (once.shares_GIK, once.n_GI, once.n_eff_GI)))
    assert shrink(more).pull_GI == pytest.approx(thrice(shrink(once).pull_GI))
    assert shrink(more).worth_GIK[1:] == pytest.approx(thrice(shrink(once).worth_GIK)[1:])


@pytest.mark.parametrize("kappa", [8.0, 40.0, 300.0])
def test_kappa_is_found_again_and_shrinking_helps(kappa: float) -> None:
    found, before, after = [], [], []
    for seed in range(8):
        table, true_GK = simulated(seed, kappa=kappa)
        shrunk = shrink(table)
        found.append(shrunk.kappa_I[0])
        before.append(np.mean((table.shares_GIK[1:, 0] - true_GK) ** 2))
        after.append(np.mean((shrunk.shares_GIK[1:, 0] - true_GK) ** 2))
    assert np.median(found) == pytest.approx(kappa, rel=0.25)
    assert np.mean(after) < np.mean(before)


LONG = [0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01]


def drawn(kappa: float, shares: list[float], regions_: int, items: int) -> tuple[ShareTable, np.ndarray]:
    """Groups of 60 who make up everyone, and their true shares [G, I, K]; kappa inf: the groups are equal."""
    rng, size, n = np.random.default_rng(7), (regions_, items), 60
    true_GIK = (
        np.broadcast_to(shares, (*size, len(shares)))
        if np.isinf(kappa)
        else rng.dirichlet(kappa * np.array(shares), size)
    )
    found_GIK = rng.multinomial(n, true_GIK) / n
    groups = (EVERYONE, *(Group((("region", str(g)),)) for g in range(regions_)))
    n_GI = np.full((regions_ + 1, items), n)
    n_GI[0] = n * regions_
    table = ShareTable(
        tuple(item(i, len(shares)) for i in range(items)),
        groups,
        np.concatenate([found_GIK.mean(axis=0, keepdims=True), found_GIK]),
        n_GI,
        n_GI.astype(float),
    )
    return table, true_GIK


@pytest.mark.parametrize("shares", [[0.6, 0.3, 0.1], LONG])
@pytest.mark.parametrize(("regions_", "items"), [(8, 100), (150, 15)])
@pytest.mark.parametrize("kappa", [20.0, 100.0, 400.0, np.inf])
def test_intervals_of_shrunk_targets_cover_the_truth(
    kappa: float, regions_: int, items: int, shares: list[float]
) -> None:
    table, true_GIK = drawn(kappa, shares, regions_, items)
    shrunk = shrink(table)
    low, high = intervals(*shrunk.posterior(), shrunk.shares_GIK)
    covered = ((low[1:] <= true_GIK) & (true_GIK <= high[1:])).mean()
    # Equal groups cannot be told from groups that differ a little: their intervals hold more than they say.
    assert 0.9 < covered < (0.985 if np.isfinite(kappa) else 1.01)
    assert (shrunk.worth_GIK[1:] <= table.n_eff_GI[0, 0]).all(), "never surer than of everyone"
    raw = np.subtract(*intervals(*table.posterior(), table.shares_GIK)[::-1])
    assert (high - low)[1:].mean() < raw[1:].mean()


def test_groups_that_do_not_differ_are_pooled() -> None:
    rng = np.random.default_rng(2)
    whole_K = np.array([0.6, 0.4, 0.0])
    table = regions(rng.multinomial(50, whole_K, 200) / 50, np.full(200, 50), whole_K)
    shrunk = shrink(table)
    assert np.median(shrunk.pull_GI[1:]) > 0.85
    assert (shrunk.shares_GIK[:, 0, 2] == 0).all(), "what nobody chose stays at 0"
    target = shrunk.target("q0", table.groups[1])
    assert target.low[2] == 0 < target.high[2] < 0.05
    assert target.low[0] <= target.shares[0] <= target.high[0] and target.n == 50


def test_intervals_of_a_handful_of_answers() -> None:
    """Groups of one to three answers, some far from everyone: wide intervals that hold their targets."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        n_G = rng.integers(1, 4, rng.integers(1, 5))
        shares_GK = np.array([rng.multinomial(n, [0.5, 0.3, 0.2]) / n for n in n_G])
        shrunk = shrink(regions(shares_GK, n_G, rng.dirichlet([0.3, 0.3, 0.3])))
        low, high = intervals(*shrunk.posterior(), shrunk.shares_GIK)
        assert (shrunk.worth_GIK[1:] >= 1).all()
        assert (low <= shrunk.shares_GIK).all() and (shrunk.shares_GIK <= high).all()


def test_shrinking_knows_its_limits() -> None:
    survey = town()
    w = survey.people["weight"].to_numpy()
    empty = Group((("age", "ancient"),))
    table = tabulate(survey, w, (EVERYONE, empty, Group((("age", "old"),))))
    shrunk = shrink(table)
    assert np.isnan(shrunk.shares("q0", empty)).all() and np.isnan(shrunk.pull_GI[1]).all()
    pairs = [(one.id, group) for one in table.items for group in table.groups]
    cells = survey_cells(shrunk, pairs)
    assert len(cells) == 4 and cells[1].desirable == pytest.approx(shrunk.shares("q0", table.groups[2]))
    alone = shrink(tabulate(survey, w, (EVERYONE,)))
    assert np.isnan(alone.kappa_I).all() and (alone.pull_GI == 0).all()
    assert np.array_equal(alone.shares_GIK, alone.raw.shares_GIK, equal_nan=True)
    with pytest.raises(SurveyError, match="everyone"):
        shrink(tabulate(survey, w, (empty,)))


def test_the_table_of_targets(tmp_path: Path) -> None:
    survey = town()
    w = survey.people["weight"].to_numpy()
    groups = (*find_groups(survey, w, GroupsConfig(min_n_eff=1)), Group((("age", "ancient"),)))
    table = tabulate(survey, w, groups)
    shrunk, floor = shrink(table), noise_floor(survey, w, groups, seed=0)
    frame = target_frame(table, shrunk, floor)
    assert frame.height == (len(groups) - 1) * 5, "three and two options; no rows where nobody answered"
    row = frame.row(
        by_predicate=(pl.col("item") == "q0") & (pl.col("group") == "sex=f") & (pl.col("code") == 1), named=True
    )
    women = groups[1]
    target = shrunk.target("q0", women)
    assert row["option"] == "o1" and row["share"] == table.shares("q0", women)[1]
    assert (row["target"], row["low"], row["high"]) == pytest.approx((target.shares[1], target.low[1], target.high[1]))
    assert (row["n"], row["pull"], row["floor"]) == (target.n, shrunk.pull_GI[1, 0], floor.floor_GI[1, 0])
    raw = target_frame(table)
    assert raw["share"].equals(raw["target"]) and (raw["pull"] == 0).all() and raw["floor"].null_count() == raw.height
    plain = table.target("q0", women)
    again = raw.filter((pl.col("item") == "q0") & (pl.col("group") == "sex=f"))
    assert again["low"].to_list() == pytest.approx(plain.low) and again["high"].to_list() == pytest.approx(plain.high)
    frame.write_parquet(tmp_path / "targets.parquet")
    assert pl.read_parquet(tmp_path / "targets.parquet").equals(frame)


def crowd(n: int, true_K: np.ndarray, items: int, seed: int) -> Survey:
    """People who answer every item by the same true shares."""
    rng = np.random.default_rng(seed)
    answers = {f"q{i}": pl.Series(rng.choice(len(true_K), n, p=true_K), dtype=pl.Int16) for i in range(items)}
    people = pl.DataFrame({"person": [str(p) for p in range(n)], "weight": np.ones(n), **answers})
    return Survey(Codebook("crowd", "Crowd", tuple(item(i, len(true_K)) for i in range(items)), ()), people)


@pytest.mark.parametrize("metric", ["jsd_bits", "total_variation", "wasserstein"])
@pytest.mark.parametrize("truth", ["all", "half"])
def test_the_floor_is_what_a_perfect_model_gets(metric: str, truth: str) -> None:
    """400 items are 400 samples of the same people's shares: the floor's mean is the true shares' distance."""
    true_K = np.array([0.4, 0.3, 0.2, 0.1])
    survey = crowd(300, true_K, 400, seed=4)
    floor = noise_floor(survey, np.ones(300), (EVERYONE,), seed=1, metric=metric, halvings=3, truth=truth)  # type: ignore[arg-type]
    kept = np.arange(300) < (300 if truth == "all" else 150)
    sample = tabulate(survey, np.ones(300), (EVERYONE,), multiplicity_P=kept)
    places = np.arange(4.0)
    perfect = {
        "jsd_bits": jsd_bits(sample.shares_GIK[0], true_K),
        "total_variation": total_variation(sample.shares_GIK[0], true_K),
        "wasserstein": wasserstein(sample.shares_GIK[0], true_K, places),
    }[metric]
    error = 4 * perfect.std() / np.sqrt(400)
    assert floor.floor_GI.mean() == pytest.approx(perfect.mean(), abs=error)
    assert floor.floor_GI == pytest.approx(floor.factor * floor.split_half_GI)
    # The factor matters: the other one would be far outside.
    assert abs(floor.split_half_GI.mean() - perfect.mean()) > error


def test_split_halves_equal_those_of_two_tables() -> None:
    """With one halving, the distance is the one between the two tables of the same halves."""
    survey = town(persons=200)
    w = survey.people["weight"].to_numpy()
    groups = find_groups(survey, w, GroupsConfig(min_n_eff=1))
    mask = np.arange(600) % 200 < 120
    floor = noise_floor(survey, w, groups, seed=0, people_P=mask, halvings=1, metric="total_variation")
    rng = np.random.default_rng([0, 0x666C6F6F])
    ids = sorted({person for person, inside in zip(survey.people["person"], mask, strict=True) if inside})
    order = sorted(survey.people["person"].unique())
    place = np.array([order.index(person) for person in ids])
    first = {order[p] for p in rng.permutation(np.sort(place))[:60]}
    one = np.array([person in first for person in survey.people["person"]]) & mask
    tables = [tabulate(survey, w, groups, multiplicity_P=half) for half in (one, mask & ~one)]
    apart = total_variation(tables[0].shares_GIK, tables[1].shares_GIK)
    assert floor.split_half_GI == pytest.approx(apart, nan_ok=True)


def test_the_floor_is_unknown_where_a_half_is_empty() -> None:
    survey = crowd(30, np.array([0.5, 0.5]), 2, seed=0)
    one = survey.people.with_columns(
        pl.Series("home", ["here"] + ["there"] * 29),
        pl.when(pl.arange(0, 30) == 3).then(pl.col("q1")).alias("q1"),
    )
    book = Codebook("c", "c", survey.codebook.items, (Trait("home", "home", ("here", "there"), {}),))
    floor = noise_floor(Survey(book, one), np.ones(30), (EVERYONE, Group((("home", "here"),))), seed=0)
    assert np.isfinite(floor.floor_GI[0, 0]) and np.isnan(floor.floor_GI[1]).all() and np.isnan(floor.floor_GI[0, 1])
    with pytest.raises(ConfigError, match="did you mean 'jsd_bits'"):
        noise_floor(survey, np.ones(30), (EVERYONE,), seed=0, metric="jsd_bit")
