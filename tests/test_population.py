"""Targets against plain loops, groups, intervals and resamples."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from valuealign.config import GroupsConfig
from valuealign.errors import ConfigError, SurveyError
from valuealign.population import bootstrap_tables, find_groups, halves, tabulate, truth_error
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group, Item, Option


def town(n: int = 600, seed: int = 0, persons: int | None = None) -> Survey:
    """Two items (3 and 2 options), two traits, holes everywhere; ``persons`` < n gives people several rows."""
    rng = np.random.default_rng(seed)
    items = tuple(Item(f"q{i}", f"Question {i}?", tuple(Option(k, f"o{k}") for k in range(3 - i))) for i in (0, 1))
    traits = (
        Trait("sex", "sex", ("f", "m"), {"f": "woman", "m": "man"}, {"f": "noun", "m": "noun"}),
        Trait("age", "age", ("young", "old"), {"young": "under 40", "old": "over 40"}),
    )
    weight = rng.uniform(0.2, 3, n)
    people = pl.DataFrame(
        {
            "person": [f"p{i % (persons or n)}" for i in range(n)],
            "weight": weight / weight.mean(),
            "sex": pl.Series(rng.choice(["f", "m", None], n, p=[0.5, 0.4, 0.1]).tolist(), dtype=pl.String),
            "age": rng.choice(["young", "old"], n, p=[0.9, 0.1]),
            "q0": pl.Series(rng.choice([0, 1, 2, None], n, p=[0.5, 0.2, 0.1, 0.2]).tolist(), dtype=pl.Int16),
            "q1": pl.Series(rng.choice([0, 1, None], n).tolist(), dtype=pl.Int16),
        }
    )
    return Survey(Codebook("town", "Town", items, traits), people)


def by_hand(
    survey: Survey, w: np.ndarray, item: str, k: int, group: Group, times: np.ndarray
) -> tuple[list[float], int, float]:
    mass, square, n = [0.0] * k, 0.0, 0
    for row, weight, count in zip(survey.people.iter_rows(named=True), w, times, strict=True):
        if row[item] is not None and all(row[t] == level for t, level in group.traits):
            mass[row[item]] += count * weight
            square += count * weight**2
            n += int(count)
    return [m / sum(mass) for m in mass], n, sum(mass) ** 2 / square


@pytest.mark.parametrize("block", [16_000_000, 1])
@pytest.mark.parametrize("resampled", [False, True])
def test_shares_equal_plain_loops(monkeypatch: pytest.MonkeyPatch, block: int, resampled: bool) -> None:
    monkeypatch.setattr("valuealign.population.BLOCK", block)
    survey = town()
    w = survey.people["weight"].to_numpy()
    groups = find_groups(survey, w, GroupsConfig(min_n_eff=1))
    times = np.random.default_rng(1).integers(0, 3, len(w)) if resampled else np.ones(len(w))
    table = tabulate(survey, w, groups, multiplicity_P=times if resampled else None)
    assert table.shares_GIK.shape == (len(groups), 2, 3)
    for group in groups:
        for item in survey.codebook.items:
            target = table.target(item.id, group)
            shares, n, n_eff = by_hand(survey, w, item.id, len(item.options), group, times)
            assert target.shares == pytest.approx(shares) and target.n == n and target.n_eff == pytest.approx(n_eff)
    assert np.isnan(table.shares_GIK[:, 1, 2]).all(), "beyond an item's own options"


def test_groups_come_in_order_with_their_phrases() -> None:
    survey = town()
    w = survey.people["weight"].to_numpy()
    groups = find_groups(survey, w, GroupsConfig(min_n_eff=1))
    assert [len(group.traits) for group in groups] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert groups[0] == EVERYONE and groups[0].text == ""
    assert [group.text for group in groups[1:6]] == [
        "a woman",
        "a man",
        "someone under 40",
        "someone over 40",
        "a woman under 40",
    ]
    assert groups[5].name == "age=young & sex=f"


def test_groups_obey_their_settings() -> None:
    survey = town()
    w = survey.people["weight"].to_numpy()
    assert find_groups(survey, w, GroupsConfig(crossings=0)) == (EVERYONE,)
    names = [group.name for group in find_groups(survey, w, GroupsConfig(traits=("age",), min_n_eff=1))]
    assert names == ["everyone", "age=young", "age=old"]
    big = find_groups(survey, w, GroupsConfig(min_n_eff=60))
    assert "age=old" not in [group.name for group in big] and "sex=f" in [group.name for group in big]
    kept = [group.name for group in find_groups(survey, w, GroupsConfig(min_n_eff=1, max_groups=3))]
    assert kept == ["everyone", "sex=f", "age=young"]
    with pytest.raises(ConfigError, match="did you mean 'age'"):
        find_groups(survey, w, GroupsConfig(traits=("aeg",)))


def test_nobody_answered_is_no_target() -> None:
    survey = town()
    empty = Group((("age", "ancient"),))
    table = tabulate(survey, survey.people["weight"].to_numpy(), (EVERYONE, empty))
    assert np.isnan(table.shares("q0", empty)).all() and table.n_GI[1].sum() == 0 and table.n_eff_GI[1].sum() == 0
    with pytest.raises(SurveyError, match="nobody of 'age=ancient' answered 'q0'"):
        table.target("q0", empty)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    true = np.array([0.6, 0.3, 0.1])
    rng = np.random.default_rng(5)
    survey = town(300)
    inside = []
    for _ in range(300):
        people = survey.people.with_columns(pl.Series("q0", rng.choice(3, 300, p=true), dtype=pl.Int16))
        target = tabulate(Survey(survey.codebook, people), np.ones(300), (EVERYONE,)).target("q0", EVERYONE)
        assert all(
            low <= share <= high for low, share, high in zip(target.low, target.shares, target.high, strict=True)
        )
        inside.append((np.array(target.low) <= true) & (true <= np.array(target.high)))
    assert 0.92 < np.mean(inside) < 0.98


def test_bootstrap_draws_whole_persons_of_the_mask_only() -> None:
    survey = town(persons=200)
    w = np.ones(600)
    mask = (survey.people["person"].str.slice(1).cast(pl.Int32) < 100).to_numpy()
    tables = list(bootstrap_tables(survey, w, (EVERYONE,), people_P=mask, resamples=200, seed=1))
    again = list(bootstrap_tables(survey, w, (EVERYONE,), people_P=mask, resamples=200, seed=1))
    assert all(
        np.array_equal(one.shares_GIK, two.shares_GIK, equal_nan=True) for one, two in zip(tables, again, strict=True)
    )
    whole = tabulate(survey, w, (EVERYONE,), multiplicity_P=mask)
    draws = np.array([table.shares("q0", EVERYONE)[0] for table in tables])
    p, n = whole.shares("q0", EVERYONE)[0], whole.n_GI[0, 0]
    assert draws.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n / 200) + 0.003)
    assert draws.std() == pytest.approx(np.sqrt(p * (1 - p) / n), rel=0.35)
    alone = Survey(survey.codebook, survey.people.filter(pl.Series(mask)))
    inner = list(bootstrap_tables(alone, np.ones(mask.sum()), (EVERYONE,), resamples=5, seed=1))
    assert all(table.n_GI[0, 0] <= 600 for table in inner)


def test_halves_part_the_persons() -> None:
    survey = town(persons=200)
    w = np.ones(600)
    mask = np.arange(600) % 200 < 150
    one, two = halves(survey, w, (EVERYONE,), people_P=mask, seed=0)
    whole = tabulate(survey, w, (EVERYONE,), multiplicity_P=mask)
    assert np.array_equal(one.n_GI + two.n_GI, whole.n_GI)
    # Each person has 3 rows; a half of 75 persons answers about 180 of its 225 rows of q0.
    assert abs(int(one.n_GI[0, 0]) - int(two.n_GI[0, 0])) < 60


def test_truth_error_needs_a_truth() -> None:
    with pytest.raises(SurveyError, match="not known"):
        truth_error(town(), np.ones(600))
