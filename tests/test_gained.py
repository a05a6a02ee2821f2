"""How a sweep ended: behaviour gained against distribution lost, the sentence, and the figure's files."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_worker import local, make_run
from tiny import behaviour_cells, make_tiny, survey_cells

from valuealign.cluster.ending import judged
from valuealign.cluster.trials import Trial, TrialPlan
from valuealign.cluster.worker import NoCheckpoints, trained_folder, work
from valuealign.config import RunConfig
from valuealign.evaluate import Evaluation, Row
from valuealign.evaluate.gained import ORIGIN, Gained, Outcome
from valuealign.metrics import behaviour_auc, behaviour_difference
from valuealign.report.gained import chart, kept_outcome, sentence, write_outcome
from valuealign.types import Estimate

MARKS = {"uniform": 0.08, "marginal": 0.004, "noise floor": -0.003}


def gained(trial: str, behaviour: tuple[float, float, float], lost: tuple[float, float, float]) -> Gained:
    return Gained(trial, Estimate(*behaviour, n=40), Estimate(*lost, n=12))


def row(trial: str, beta: float, *, feasible: bool = True) -> dict[str, Any]:
    figures = {"auc": 0.7, "change": 0.0, "kto.z0": "auto" if feasible else None}
    return {"trial": trial, "beta": beta, "lambda_d": 1.2, "lambda_u": 1.0, "feasible": feasible, **figures}


ROWS = [row("t1", 0.1), row("t2", 0.2), row("t3", 0.3, feasible=False), row("t4", 0.4)]
GOOD = gained("t1", (0.2, 0.1, 0.3), (0.001, -0.002, 0.004))
DULL = gained("t2", (0.01, -0.05, 0.06), (0.0, -0.002, 0.002))
DEAR = gained("t3", (0.3, 0.2, 0.4), (0.02, 0.012, 0.03))


def outcome(*trials: Gained, apart: tuple[float, float, float] | None = (0.19, 0.1, 0.28)) -> Outcome:
    return Outcome("everyone", trials, MARKS, Estimate(*apart, n=40) if apart else None)


def test_the_sentence_says_who_gained_without_losing_the_people_and_whether_the_winner_stands_out() -> None:
    said = sentence(outcome(GOOD, DULL, DEAR), ROWS, 0.01)
    assert said.startswith("1 of 3 trials that ran to their end gained behaviour without losing the people (number 1);")
    assert "the winner (number 1: beta 0.1, lambda_d 1.2, lambda_u 1) beats the runner-up (number 2: beta 0.2," in said
    assert "beyond noise (+0.190 AUC, +0.100 to" in said
    none = sentence(outcome(DULL, DEAR, apart=(0.0, -0.1, 0.1)), ROWS, 0.01)
    assert none.startswith("None of 2 trials") and "does not differ from the runner-up" in none
    behind = sentence(outcome(DULL, GOOD, apart=(-0.2, -0.3, -0.1)), ROWS, 0.01)
    assert "is behind the runner-up" in behind
    assert "no feasible runner-up" in sentence(outcome(GOOD, apart=None), ROWS, 0.01)
    assert sentence(outcome(GOOD, DEAR), ROWS, 0.003).startswith("None of 2"), "its loss may be .004"
    assert sentence(outcome(GOOD, DEAR), ROWS, None).startswith("1 of 2"), "without a margin: not shown to lose"


def test_the_figure_s_files_hold_what_it_draws(tmp_path: Path) -> None:
    made = outcome(GOOD, DULL, DEAR)
    paths = write_outcome(tmp_path / "sweep", made, ROWS, 0.01)
    assert sorted(one.name for one in (tmp_path / "sweep").iterdir()) == [
        "outcome.csv", "outcome.parquet", "outcome.pdf", "outcome.svg"
    ]  # fmt: skip
    drawn = paths["svg"].read_text()
    for word in (
        "stage 1",
        "margin",
        "noise floor",
        "guess: all answers alike +80.0 →",
        "1  beta 0.1, lambda_d 1.2, lambda_u 1",
        "beta",
    ):
        assert word in drawn, word
    assert paths["pdf"].read_bytes().startswith(b"%PDF")
    table = list(csv.DictReader(paths["csv"].open()))
    kinds = [one["kind"] for one in table]
    assert kinds == ["trial"] * 4 + ["stage 1", "null", "null", "floor"]
    assert (table[0]["report_behaviour"], table[0]["report_lost_bits_high"]) == ("0.2", "0.004")
    assert table[3]["report_behaviour"] == "", "the fourth did not run to its end: it stands there without figures"
    assert pl.read_parquet(paths["parquet"]).height == len(table)
    marks = {"lost", "gained", "beta", "kept"}
    spec = json.dumps(chart(made, ROWS, 0.01).to_dict())
    assert all(f'"{name}"' in spec for name in marks)
    many = [gained(f"t{n}", (0.1, 0.0, 0.2), (0.0, -0.001, 0.001)) for n in range(1, 11)]
    numbered = write_outcome(tmp_path / "many", outcome(*many), [row(one.trial, 0.1) for one in many], None)
    assert ">10</text>" in numbered["svg"].read_text() and "margin" not in numbered["svg"].read_text()


def test_an_outcome_travels_as_plain_data() -> None:
    made = outcome(GOOD, DULL)
    assert Outcome.read(json.loads(json.dumps(made.record()))) == made
    alone = outcome(GOOD, apart=None)
    assert Outcome.read(json.loads(json.dumps(kept_outcome(alone, ROWS, 0.01)))) == alone


def test_two_settings_are_compared_on_the_same_prompts() -> None:
    rng = np.random.default_rng(0)
    desirable, undesirable = [[1.0, 0.0]] * 60, [[0.0, 1.0]] * 60
    one = [rng.normal([0.5, 0.0], 1.0) for _ in range(60)]
    nearly = [ratios + np.array([0.001, 0.0]) for ratios in one]
    apart = behaviour_difference(nearly, one, desirable, undesirable)
    assert abs(apart.value) < 0.02 and apart.high - apart.low < 0.03, "unpaired it would be ten times as wide"
    wide = behaviour_auc(one, desirable, undesirable)
    assert wide.high - wide.low > 0.15
    better = [ratios + np.array([1.0, 0.0]) for ratios in one]
    apart = behaviour_difference(better, one, desirable, undesirable)
    first, second = (behaviour_auc(some, desirable, undesirable).value for some in (better, one))
    assert apart.value == pytest.approx(first - second) and apart.low > 0 and apart.n == 60


class ReportExam:
    """Three questions; whoever is asked is as far from the people as his first option is from a third."""

    cells = survey_cells(3)

    def only(self, part: str) -> ReportExam:
        assert part == "report", "the outcome is of what no choice has seen"
        return self

    def judge(self, surveyed: Any, *, part: str) -> Evaluation:
        at = {who: float(np.mean([abs(np.exp(one[0]) - 1 / 3) for one in logps])) for who, logps in surveyed.items()}
        found = [Row("everyone", part, who, "jsd_bits", "stage", Estimate(x, x, x, 3)) for who, x in at.items()]
        for who, x in at.items():
            apart = Estimate(x - at[ORIGIN], x - at[ORIGIN], x - at[ORIGIN], 3)
            found.append(Row("everyone", part, f"{who} - {ORIGIN}", "jsd_bits", "difference", apart))
        return Evaluation(part, tuple(at), tuple(found), {}, (), ())


def test_a_sweep_is_judged_once_on_the_report_part(tmp_path: Path) -> None:
    model = make_tiny(tmp_path / "model")
    made = make_run(model, tmp_path / "made", score={})
    work(made, local, NoCheckpoints())
    trials = []
    for name, stage in (("moved", "kto"), ("still", "distribution"), ("cut", "")):
        out = tmp_path / "sweep" / "trials" / name
        if stage:
            shutil.copytree(made.trained(stage), trained_folder(out, "kto"))
        trials.append(Trial(name, {}, {"step": 7.0, "steps": 7.0}, (), "", out))
    run = replace(made, out=tmp_path / "sweep", start=made.trained("distribution"))
    plan = TrialPlan(run, RunConfig(), (), ())
    prepared: Any = SimpleNamespace(exam=ReportExam(), behaviour={"report": behaviour_cells(4), "select": ()})
    said: list[str] = []
    found = judged(plan, prepared, trials, said.append)
    assert found is not None and [one.trial for one in found.trials] == ["moved", "still"], "cut left no weights"
    moved, still = found.trials
    assert still.lost.value == still.behaviour.value == 0.0, "it is what all started from"
    assert moved.behaviour.value > 0 and moved.lost.value != 0.0 and found.apart is not None
    assert sum("asking" in line for line in said) == 3
    shutil.rmtree(tmp_path / "sweep" / "trials")
    assert judged(plan, prepared, trials, said.append) == found, "asked again, the same is read"
    assert sum("asking" in line for line in said) == 3
    assert judged(replace(plan, run=replace(run, out=tmp_path / "other")), prepared, trials, said.append) is None
