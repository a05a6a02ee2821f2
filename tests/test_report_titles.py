"""Titles say what was found, and no more than the intervals allow."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from valuealign.evaluate import FLOOR, Evaluation, Portrait, Row
from valuealign.evaluate import Tested as JudgedCell
from valuealign.evaluate.gained import Gained, Outcome
from valuealign.evaluate.record import Kind
from valuealign.report import print_sheets, write_report
from valuealign.report.charts import group_map, group_means
from valuealign.report.gained import kept_outcome
from valuealign.report.rectified import _hundredths
from valuealign.report.titles import Ways, sorted_by
from valuealign.report.words import worth
from valuealign.types import Estimate

GROUPS = ("sex=f", "sex=m", "age=old", "age=new")


def row(split: str, who: str, metric: str, value: float, half: float, kind: Kind = "stage") -> Row:
    return Row(split, "report", who, metric, kind, Estimate(value, value - half, value + half, 9))


def judged(split: str, group: str, kto: float, additive: float) -> list[JudgedCell]:
    apart = {"marginal": 0.1, "additive": additive, "base": 0.2, "kto": kto, FLOOR: 0.01}
    return [JudgedCell(split, item, group, 50.0, apart) for item in ("q1", "q2")]


@pytest.fixture
def evaluation() -> Evaluation:
    rows = [row(split, "kto", "jsd_bits", 0.05, 0.01) for split in ("everyone", "cells", "groups", "items")]
    rows += [row("everyone", "kto", "calibration_slope", 0.8, 0.1), row("items", "kto", "calibration_slope", 0.9, 0.2)]
    for split, value in (("everyone", -0.02), ("cells", 0.001), ("groups", 0.03), ("items", -0.03)):
        rows.append(row(split, "kto - base", "jsd_bits", value, 0.01, "difference"))
    rows += [row("cells", "kto - additive", "jsd_bits", -0.02, 0.01, "difference")]
    rows += [row("groups", "kto - additive", "jsd_bits", -0.005, 0.01, "difference")]
    for metric, change, half in (("refused", 0.2, 0.1), ("holds", -0.2, 0.1), ("words", 0.1, 0.2)):
        rows += [row("quiz", who, metric, 0.5, 0.1) for who in ("base", "kto")]
        rows.append(row("quiz", "kto - base", metric, change, half, "difference"))
    cells = [*judged("cells", "sex=f", 0.02, 0.03), *judged("cells", "sex=m", 0.04, 0.03)]
    cells += [*judged("groups", "age=old", 0.02, 0.03), *judged("seen", "sex=f", 0.001, 0.03)]
    shares, spread = {"base": (0.5, 0.5), "kto": (0.45, 0.55)}, ((0.3, 0.5), (0.5, 0.7))
    portraits = [
        Portrait(item, f"Question {item}?", ("yes", "no"), (0.4, 0.6), shares, *spread, split)
        for item, split in (("q1", "everyone"), ("q2", "items"))
    ]
    facts = {"sheets": {"quiz": {"title": "A quiz", "metrics": {}, "notes": []}}}
    return Evaluation("report", ("base", "kto"), tuple(rows), facts, tuple(portraits), tuple(cells))


def test_figures_are_sorted_by_what_their_intervals_show() -> None:
    under, over, held = Estimate(-2, -3, -1, 9), Estimate(2, 1, 3, 9), Estimate(0.5, 0, 1, 9)
    ways = Ways("down", "up", "not shown")
    assert sorted_by({"a": under, "b": over, "c": held, "d": under}, ways) == "down a and d; up b; not shown c"
    assert sorted_by(dict.fromkeys("abcde", held), ways, most=3) == "not shown a, b, c and 2 more"
    assert sorted_by({"a": over}, ways, at=2.5) == "not shown a"


def test_titles_state_the_finding(evaluation: Evaluation, tmp_path: Path) -> None:
    page = write_report(tmp_path, title="Run", evaluation=evaluation).read_text(encoding="utf-8")
    for title in (
        "Share by share, kto exaggerates differences on a question trained (slope 0.80, 0.70 to 0.90);"
        " is not shown to distort them on a question never trained (slope 0.90, 0.70 to 1.10)",
        "kto beside base: nearer to the people in everyone and items; further from them in groups; not shown to"
        " differ in cells",
        "kto is nearer to the people than traits added up in 2 of 3 groups; over all of them nearer in cells; not shown"
        " to be nearer in groups",
    ):
        assert f"<h3>{title}</h3>" in page
    changed = "kto - base: lower: holds; higher: refused; not shown to differ: words."
    assert f"<p>{changed}</p>" in page and changed in print_sheets(evaluation)


def test_the_map_of_groups_does_not_mix_trained_cells_with_held_out_ones(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    means = group_means(evaluation)
    assert set(means) == {"sex=f", "sex=m", "age=old (never trained)"}
    assert means["sex=f"]["kto"] == 0.02, "its trained cells would draw it to 0.0105"
    page = write_report(tmp_path, title="Run", evaluation=evaluation).read_text(encoding="utf-8")
    assert "Mean distance over a group&#39;s held-out cells" in page and "age=old (never trained)" in page
    long = "region=North and East & education=upper secondary & work=retired"
    held = (*evaluation.tested, *judged("groups", long, 0.02, 0.03))
    drawn = group_map(replace(evaluation, tested=held))
    assert f"{long.replace('&', '&amp;')} (never trained)" in drawn and "…" not in drawn
    seen = tuple(one for group in GROUPS for one in judged("seen", group, 0.02, 0.03))
    trained = Evaluation("report", ("base", "kto"), evaluation.rows, {}, (), seen)
    assert set(group_means(trained)) == set(GROUPS)
    page = write_report(tmp_path, title="Run", evaluation=trained).read_text(encoding="utf-8")
    assert "Mean distance over a group&#39;s trained cells" in page


def test_the_sweep_s_title_names_its_best_trial_that_kept_the_people(evaluation: Evaluation, tmp_path: Path) -> None:
    sweep = [
        {"beta": 0.1, "lambda_d": 1.2, "lambda_u": 1.0, "auc": 0.8, "feasible": True},
        {"beta": 0.2, "lambda_d": 1.0, "lambda_u": 1.0, "auc": 0.7, "feasible": True},
        {"beta": 0.3, "lambda_d": 0.9, "lambda_u": 1.0, "auc": 0.9, "feasible": False},
        {"beta": 0.4, "lambda_d": 0.9, "lambda_u": 1.0, "auc": None, "feasible": True},
    ]
    page = write_report(tmp_path, title="Run", evaluation=evaluation, sweep=sweep).read_text(encoding="utf-8")
    best = "the most behaviour among them is AUC 0.800, at beta 0.1 and lambda_d / lambda_u 1.20"
    assert f"2 of 3 trials kept the people; {best}" in page
    page = write_report(tmp_path, title="Run", evaluation=evaluation, sweep=sweep[2:3]).read_text(encoding="utf-8")
    assert "None of 1 trials kept the people" in page


def test_a_gain_without_an_interval_is_said_without_one() -> None:
    gain = Row(
        "cells", "report", "kto", "gain(jsd_bits)", "gain", Estimate(0.4, math.nan, math.nan, 9), "over additive"
    )
    assert "40 % (no interval) of the possible gain" in worth(Evaluation("report", ("kto",), (gain,)), "cells", "kto")
    single = Row("r", "report", "a - b", "total_variation", "difference", Estimate(0.02, math.nan, math.nan, 1))
    assert _hundredths(single) == "+2.00, no interval"


def test_the_page_shows_how_a_sweep_ended(evaluation: Evaluation, tmp_path: Path) -> None:
    rows = [{"trial": "t1", "beta": 0.1, "lambda_d": 1.2, "lambda_u": 1.0, "auc": 0.8, "feasible": True}]
    ended = Outcome("everyone", (Gained("t1", Estimate(0.2, 0.1, 0.3), Estimate(0, -0.001, 0.001)),), {}, None)
    swept = kept_outcome(ended, rows, 0.01)
    page = write_report(tmp_path, title="Run", evaluation=evaluation, sweep=rows, swept=swept).read_text()
    assert f"<h3>{swept['sentence']}</h3>" in page and "behaviour gained: AUC of r over one half" in page
    assert "distribution lost" not in write_report(tmp_path, title="Run", evaluation=evaluation, sweep=rows).read_text()
