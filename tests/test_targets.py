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
from valuealign.population import ShareTable, find_groups, halves, noise_floor, shrink, tabulate, target_frame
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


def test_shrunk_targets_are_the_stated_mean() -> None:
    table, _ = simulated(0, kappa=40)
    shrunk = shrink(table)
    kappa = shrunk.kappa_I[0]
    for g in range(1, len(table.groups)):
        n, p, p0 = table.n_eff_GI[g, 0], table.shares_GIK[g, 0], table.shares_GIK[0, 0]
        assert shrunk.shares_GIK[g, 0] == pytest.approx((n * p + kappa * p0) / (n + kappa))
        assert shrunk.pull_GI[g, 0] == pytest.approx(kappa / (n + kappa))
    assert np.array_equal(shrunk.shares_GIK[0], table.shares_GIK[0]) and shrunk.pull_GI[0, 0] == 0
    assert shrunk.median_pull == pytest.approx(np.median(shrunk.pull_GI[1:]))
    assert shrunk.n_GI is table.n_GI and shrunk.n_eff_GI is table.n_eff_GI and shrunk.raw is table


def test_kappa_maximises_the_dirichlet_multinomial() -> None:
    table, _ = simulated(1, kappa=40)
    p0 = table.shares_GIK[0, 0]

    def likelihood(kappa: float) -> float:
        total = 0.0
        for g in range(1, len(table.groups)):
            n = float(table.n_eff_GI[g, 0])
            total += gammaln(kappa) - gammaln(n + kappa)
            for k in range(4):
                total += gammaln(n * table.shares_GIK[g, 0, k] + kappa * p0[k]) - gammaln(kappa * p0[k])
        return total

    best = shrink(table).kappa_I[0]
    grid = np.geomspace(1, 1000, 400)
    assert best == pytest.approx(grid[np.argmax([likelihood(kappa) for kappa in grid])], rel=0.02)


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


def test_intervals_of_shrunk_targets_cover_the_truth() -> None:
    hits = []
    for seed in range(12):
        table, true_GK = simulated(seed, kappa=40)
        frame = target_frame(table, shrink(table)).filter(pl.col("group") != "everyone")
        low, high = (frame[name].to_numpy().reshape(true_GK.shape) for name in ("low", "high"))
        hits.append((low <= true_GK) & (true_GK <= high))
    covered = np.mean(hits, axis=(0, 1))
    assert ((covered > 0.92) & (covered < 0.98)).all(), covered


def test_groups_that_do_not_differ_are_pooled() -> None:
    rng = np.random.default_rng(2)
    whole_K = np.array([0.6, 0.4, 0.0])
    table = regions(rng.multinomial(50, whole_K, 200) / 50, np.full(200, 50), whole_K)
    shrunk = shrink(table)
    assert shrunk.median_pull > 0.9
    assert (shrunk.shares_GIK[:, 0, 2] == 0).all(), "what nobody chose stays at 0"
    target = shrunk.target("q0", table.groups[1])
    assert target.low[2] == 0 < target.high[2] < 0.05
    assert target.low[0] <= target.shares[0] <= target.high[0] and target.n == 50


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
    assert np.isnan(alone.kappa_I).all() and np.isnan(alone.median_pull)
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
    half = halves(survey, np.ones(300), (EVERYONE,), seed=2)[0]
    sample = tabulate(survey, np.ones(300), (EVERYONE,)) if truth == "all" else half
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
