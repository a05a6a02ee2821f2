"""How many answers are needed: formulas against simulation, and the job."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy.stats import beta, binom
from typed import typed

from valuealign.errors import ConfigError
from valuealign.metrics.distances import jsd_bits, total_variation
from valuealign.population import ShareTable, respondents_needed
from valuealign.population.needed import half_width, jsd_floor, tv_floor
from valuealign.types import EVERYONE, Item, Option

SHAPES = ([0.25, 0.25, 0.25, 0.25], [0.6, 0.25, 0.1, 0.05], [0.9, 0.1], [1 / 7] * 7)


@pytest.mark.parametrize("shares", SHAPES)
def test_expected_floors_equal_a_simulation(shares: list[float]) -> None:
    true_K = np.array(shares)
    drawn = np.random.default_rng(0).multinomial(300, true_K, size=20_000) / 300
    assert jsd_floor(len(shares), 300) == pytest.approx(jsd_bits(drawn, true_K).mean(), rel=0.04)
    assert tv_floor(true_K, 300) == pytest.approx(total_variation(drawn, true_K).mean(), rel=0.02)


@pytest.mark.parametrize("shares", SHAPES)
def test_the_asked_for_floor_is_reached(shares: list[float]) -> None:
    true_K = np.array(shares)
    n = respondents_needed({"a": 1.0}, pilot=[shares], floor_jsd=0.002).n_eff
    drawn = np.random.default_rng(1).multinomial(n, true_K, size=20_000) / n
    assert jsd_bits(drawn, true_K).mean() == pytest.approx(0.002, rel=0.05)
    n = respondents_needed({"a": 1.0}, pilot=[shares], floor_tv=0.03).n_eff
    drawn = np.random.default_rng(1).multinomial(n, true_K, size=20_000) / n
    assert total_variation(drawn, true_K).mean() == pytest.approx(0.03, rel=0.03)


def test_half_width_is_that_of_the_printed_interval() -> None:
    n = respondents_needed({"a": 1.0}, half_width=0.03).n_eff
    assert n == pytest.approx(1.96**2 * 0.25 / 0.03**2, rel=0.01)
    low, high = beta(0.5 * n + 0.5, 0.5 * n + 0.5).ppf([0.025, 0.975])
    assert (high - low) / 2 <= 0.03 < half_width(0.5, n - 1)
    for options in (3, 10):
        shares_K = np.array([0.5, *[0.5 / (options - 1)] * (options - 1)])
        items = (Item("q", "Q?", tuple(Option(k, f"o{k}") for k in range(options))),)
        table = ShareTable(items, (EVERYONE,), shares_K[None, None], np.array([[n]]), np.array([[float(n)]]))
        printed = table.target("q", EVERYONE)
        widths = np.subtract(printed.high, printed.low) / 2
        assert half_width(shares_K, n) == pytest.approx(widths) and widths.max() <= 0.03
        assert respondents_needed({"a": 1.0}, pilot=[shares_K.tolist()], half_width=0.03).n_eff == n
    pilot = [[0.9, 0.1], [0.05, 0.95]]
    fewer = respondents_needed({"a": 1.0}, pilot=pilot, half_width=0.03).n_eff
    assert fewer == pytest.approx(1.96**2 * 0.09 / 0.03**2, rel=0.02), "the most demanding item"


def test_totals_reach_the_smallest_group_as_surely_as_asked() -> None:
    groups = {"maori": 0.17, "pacific": 0.08, "everyone": 1.0}
    needed = respondents_needed(groups, half_width=0.03, design_effect=1.4)
    assert needed.respondents == math.ceil(needed.n_eff * 1.4)
    totals = {need.name: need.total for need in needed.groups}
    assert totals["everyone"] == needed.respondents and needed.total == totals["pacific"]
    for name, share in (("maori", 0.17), ("pacific", 0.08)):
        reached = [binom.sf(needed.respondents - 1, total, share) for total in (totals[name], totals[name] - 1)]
        assert reached[0] >= 0.9 > reached[1]
    even = respondents_needed(groups, half_width=0.03, design_effect=1.4, assurance=0.5)
    assert even.total == pytest.approx(needed.respondents / 0.08, rel=0.01)


def test_worst_cases_stand_in_for_a_pilot() -> None:
    worst = respondents_needed({"a": 1.0}, options=5, floor_tv=0.02).n_eff
    for shares in ([0.4, 0.3, 0.1, 0.1, 0.1], [0.96, 0.01, 0.01, 0.01, 0.01]):
        assert respondents_needed({"a": 1.0}, pilot=[shares], floor_tv=0.02).n_eff < worst
    assert respondents_needed({"a": 1.0}, options=5, floor_jsd=0.01).n_eff == math.ceil(4 / (8 * math.log(2) * 0.01))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "no goals"),
        ({"half_width": 0.1, "floor_tv": 0.1, "options": 3}, "2 goals"),
        ({"half_width": 1.5}, "half_width: a goal of 1.5"),
        ({"half_width": math.nan}, "half_width"),
        ({"half_width": 1e-9}, "more respondents"),
        ({"floor_tv": 0.1}, "options"),
        ({"floor_tv": 0.1, "options": 1}, "at least two"),
        ({"half_width": 0.1, "groups": {}}, "no groups"),
        ({"half_width": 0.1, "groups": {"a": 17}}, "group 'a': a share of 17"),
        ({"half_width": 0.1, "groups": {"a": math.nan}}, "group 'a'"),
        ({"half_width": 0.03, "groups": {"b": 0.5, "a": 1e-4}}, "group 'a': a share of 0.0001: more than 10,000,000"),
        ({"half_width": 0.03, "groups": {"a": 1e-300}}, "leave the group out"),
        ({"half_width": 0.1, "design_effect": 0.5}, "design effect of 0.5"),
        ({"half_width": 0.1, "assurance": 1.0}, "assurance"),
        ({"half_width": 0.1, "pilot": [[0.5, 0.6]]}, "pilot item 1"),
        ({"half_width": 0.1, "pilot": [[0.5, 0.5], [0.5, math.nan]]}, "pilot item 2"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        respondents_needed(**{"groups": {"a": 0.5}, **settings})  # type: ignore[arg-type]


def test_the_job_by_hand_and_refused(home: Path) -> None:
    groups = ("--group", "maori=0.17", "--group", "pacific=0.08")
    command = [sys.executable, "jobs/sample_size.py", *groups, "--half-width", "0.03", "--design-effect", "1.4"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    needed = respondents_needed({"maori": 0.17, "pacific": 0.08}, half_width=0.03, design_effect=1.4)
    assert f"total: {needed.total:,}" in found.stdout and f"{needed.respondents:,} respondents" in found.stdout
    refused = typed("sample_size", "--group", "maori", "--half-width", "0.03")
    assert refused.returncode == 2 and "'maori' is no share" in refused.stderr and "Traceback" not in refused.stderr
    twice = typed("sample_size", "--group", "maori=0.17", "--group", "maori=0.2", "--half-width", "0.03")
    assert twice.returncode == 2 and "group 'maori' twice" in twice.stderr
    both = typed("sample_size", "--options", "5", "--floor-jsd", "0.002")
    assert both.returncode == 2 and "--options: a run's items have their own options" in both.stderr
    assert not list(home.iterdir()), "nothing is written"


def test_the_job_from_a_run(home: Path) -> None:
    """Nothing of the pilot is held out: parts too small for anything else do not matter."""
    tiny = ("splits.train=0.98", "splits.select=0.01", "survey.people=100", "groups.min_n_eff=5")
    found = typed("sample_size", "--floor-jsd", "0.002", "groups.crossings=1", *tiny)
    assert found.returncode == 0, found.stderr
    assert "pilot:" in found.stdout and "total:" in found.stdout and "everyone" in found.stdout
