"""The rows of a sheet: means, their intervals, and paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from valuealign.evaluate.record import Row
from valuealign.evaluate.sheet import Heard, later_minus_earlier, mean_rows
from valuealign.types import Estimate


def by_who(rows: list[Row]) -> dict[str, Row]:
    return {row.who: row for row in rows}


def test_a_mean_with_weights_and_missing_values() -> None:
    rows = by_who(mean_rows("s", "m", {"base": [1.0, np.nan, 3.0], "v1": [2.0, 5.0, 4.0]}, weights=[1, 1, 3]))
    assert rows["base"].estimate.value == pytest.approx((1 + 9) / 4) and rows["base"].estimate.n == 2
    assert rows["v1"].estimate.value == pytest.approx((2 + 5 + 12) / 5)
    assert rows["v1 - base"].estimate.value == pytest.approx(1) and rows["v1 - base"].kind == "difference"
    assert not mean_rows("s", "m", {}) and not mean_rows("s", "m", {"base": [np.nan]})


def test_a_difference_is_paired() -> None:
    """Two who differ by a constant: each is uncertain, their difference is not."""
    values = np.random.default_rng(0).normal(size=60)
    rows = by_who(mean_rows("s", "m", {"base": values, "v1": values + 0.5}))
    assert rows["v1"].estimate.high - rows["v1"].estimate.low > 0.3
    assert rows["v1 - base"].estimate.high - rows["v1 - base"].estimate.low < 1e-9


def test_each_later_one_less_each_earlier_one() -> None:
    found = {"base": 1.0, "v1": 3.0, "v2": 7.0}
    rows = later_minus_earlier("s", "m", found, lambda later, earlier: Estimate(later - earlier, 0.0, 9.0, 5))
    assert [(row.who, row.estimate.value) for row in rows] == [("v1 - base", 2), ("v2 - base", 6), ("v2 - v1", 4)]
    assert {(row.split, row.part, row.metric, row.kind, row.note) for row in rows} == {
        ("s", "report", "m", "difference", "paired")
    }
    assert not later_minus_earlier("s", "m", {"base": 1.0}, lambda later, earlier: Estimate(0.0, 0.0, 0.0, 1))


def test_an_interval_covers_when_clusters_are_alike() -> None:
    """Ten answers to each of 40 questions: questions are what is resampled."""
    rng, held, blind = np.random.default_rng(1), 0, 0
    for seed in range(200):
        question = rng.normal(size=40).repeat(10)
        values = question + 0.3 * rng.normal(size=400)
        (row,) = mean_rows("s", "m", {"v": values}, clusters=list(np.arange(40).repeat(10)), seed=seed)
        (naive,) = mean_rows("s", "m", {"v": values}, seed=seed)
        held += row.estimate.low <= 0 <= row.estimate.high
        blind += naive.estimate.low <= 0 <= naive.estimate.high
    assert held / 200 == pytest.approx(0.95, abs=0.05) and blind / 200 < 0.6


def test_who_answered_keeps_its_order() -> None:
    assert Heard({"base": [], "v2": []}, {"v1": [], "base": []}).who == ("base", "v2", "v1")


def test_a_mean_is_of_the_clusters_that_count() -> None:
    """Two questions of twenty were answered: the interval is as wide as if only they had been asked."""
    clusters = list(np.arange(20).repeat(5))
    values = np.random.default_rng(3).normal(size=20).repeat(5)
    few = np.where(np.array(clusters) < 2, values, np.nan)
    (some,) = mean_rows("s", "m", {"v": few}, clusters=clusters)
    (alone,) = mean_rows("s", "m", {"v": values[:10]}, clusters=clusters[:10])
    assert some.estimate == alone.estimate


def test_a_difference_is_of_what_both_answered() -> None:
    rows = by_who(mean_rows("s", "m", {"base": [1.0, np.nan, 3.0], "v1": [2.0, 50.0, 5.0]}, weights=[1, 1, 3]))
    apart = rows["v1 - base"]
    assert apart.estimate.value == pytest.approx((1 + 3 * 2) / 4) and apart.estimate.n == 2
    assert apart.note == "paired, the 2 of both"
    assert "v1 - base" not in by_who(mean_rows("s", "m", {"base": [1.0, np.nan], "v1": [np.nan, 2.0]}))
