"""What few people stand behind is not shown by name, and the record says what may be passed on."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from known_public import CONFIG, SEED, public

from valuealign.config import GroupsConfig, SurveyConfig
from valuealign.dataset import LEAST_N
from valuealign.evaluate import UNNAMED, Evaluation, Exam, Sharing, build_exam, sharing
from valuealign.evaluate.profiles import value_exam
from valuealign.population import find_groups
from valuealign.report import summary, write_report
from valuealign.splits import Splits, split
from valuealign.surveys import read_survey
from valuealign.surveys.table import Survey
from valuealign.types import Group


class Small:
    """So few people that crossings of traits have fewer than ten of them in the report part."""

    def __init__(self) -> None:
        whole, _ = public()
        self.survey = Survey(replace(whole.codebook, licence="Ours", tier="closed"), whole.people[:300])
        self.weights = np.ones(300)
        self.groups: tuple[Group, ...] = find_groups(self.survey, self.weights, GroupsConfig(min_n_eff=20.0))
        self.splits: Splits = split(self.survey, self.weights, self.groups, CONFIG, seed=SEED)
        self.exam: Exam = build_exam(self.survey, self.weights, self.groups, self.splits, bootstrap=20, seed=SEED)
        report = self.survey.people.filter(pl.Series(self.splits.people("report")))
        self.persons = {
            group.name: report.filter(*(pl.col(trait) == level for trait, level in group.traits)).height
            for group in self.groups
        }

    @cached_property
    def sharing(self) -> Sharing:
        return sharing(self.survey, self.weights, self.groups, self.splits, self.exam)

    @cached_property
    def judged(self) -> Evaluation:
        rng = np.random.default_rng(0)
        by_chance = [np.log(rng.dirichlet(np.ones(len(cell.completions)))) for cell in self.exam.cells]
        return self.exam.judge({"base": by_chance})


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


def test_no_cell_of_few_people_has_figures_of_its_own(small: Small, tmp_path: Path) -> None:
    judged = small.judged
    few = {name for name, n in small.persons.items() if n < LEAST_N}
    assert few & {one.group for one in judged.tested} and {one.group for one in judged.tested} - few
    shown = small.sharing.of(judged)
    assert [one for one in judged.tested if one.group not in few] == list(shown.tested)
    assert shown.facts["withheld"] == {"fewer_than": 10, "cells": len(judged.tested) - len(shown.tested)}
    assert shown.figure("seen", "base") == judged.figure("seen", "base"), "means keep every cell"
    page = write_report(tmp_path, title="Few", evaluation=shown).read_text(encoding="utf-8")
    for name in few:
        for text in (page, shown.to_json(), shown.to_csv(), shown.cells_csv()):
            assert name.replace("&", "&amp;") not in text and name not in text
    assert {row["group"] for row in csv.DictReader(io.StringIO(shown.cells_csv()))} <= set(small.persons) - few
    assert f"Withheld, since fewer than 10 people stand behind each: {shown.facts['withheld']['cells']} cells" in page


def test_the_worst_group_is_not_named_where_it_is_small(small: Small) -> None:
    judged = small.judged
    (first,) = [row for row in judged.rows if row.metric == "worst_group_jsd_bits" and row.split == "seen"]
    for n, note in ((LEAST_N - 1, UNNAMED), (LEAST_N, first.note)):
        cells = {("seen", one.item, one.group) for one in judged.tested if one.group == first.note}
        shown = replace(small.sharing, small=frozenset(cells if n < LEAST_N else ())).of(judged)
        assert shown.row("seen", "base", "worst_group_jsd_bits").note == note
        told = " ".join(summary(shown))
        assert (first.note in told) == (n == LEAST_N) and ("a small group" in told) == (n < LEAST_N)


def test_a_question_that_few_answered_has_no_portrait(small: Small) -> None:
    judged = small.judged
    one = judged.portraits[0]
    shown = replace(small.sharing, small=frozenset({(one.split, one.item, "everyone")})).of(judged)
    assert shown.portraits == judged.portraits[1:] and one.question not in shown.questions_csv()


def test_no_value_profile_of_a_small_group_is_kept() -> None:
    survey = read_survey(SurveyConfig(people=120), 0)
    weights, rows_P = np.ones(120), np.arange(120) % 4 == 0
    groups = find_groups(survey, weights, GroupsConfig(min_n_eff=1.0, crossings=1))
    exam = value_exam(survey, weights, groups, rows_P)
    assert exam is not None
    people, model = exam.standings({"m": [np.zeros(len(cell.completions)) for cell in exam.cells]})
    inside = survey.people.filter(pl.Series(rows_P))
    for group in groups:
        n = inside.filter(*(pl.col(trait) == level for trait, level in group.traits)).height
        if n < LEAST_N:
            assert group.name in exam.small and group.name not in people.groups and group.name not in model.groups
    assert exam.small and "everyone" in people.groups and set(people.groups) == set(model.groups)


@pytest.mark.parametrize("tier", ["closed", "open"])
def test_page_and_json_say_whether_they_may_be_passed_on(small: Small, tmp_path: Path, tier: str) -> None:
    judged = replace(small.judged, portraits=small.judged.portraits[:1])  # each is a chart to draw
    shown = replace(small.sharing, tier=tier).of(judged)
    page = write_report(tmp_path, title="Run", evaluation=shown).read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["facts"]
    assert (facts["licence"], facts["tier"]) == ("Ours", tier) and "(Ours; tier" in page
    for text in (page, facts["sharing"][0]):
        assert ("Not to be passed on" in text) == (tier == "closed")


def test_screens_that_mark_few_people_are_withheld(tmp_path: Path) -> None:
    same = {"screen": "speeders", "flagged_share": 0.1, "items": 3, "largest_item": "q1"}
    moved = {"mean_distance": 0.01, "largest_distance": 0.02}
    rows = [{"group": g, "n": n, "flagged": f} for g, n, f in (("everyone", 900, 40), ("a=1", 90, 9), ("a=2", 9, 0))]
    screens = pl.DataFrame([{**same, **moved, **row} for row in rows])
    page = write_report(tmp_path, title="Run", evaluation=Evaluation("report", (), ()), screens=screens).read_text()
    assert "speeders: everyone" in page and "a=1" not in page and "a=2" not in page
    facts = json.loads((tmp_path / "evaluation.json").read_text())["facts"]
    assert [row["group"] for row in facts["screens"]["rows"]] == ["everyone"] and facts["screens"]["withheld"] == 2
    assert "Withheld: 2 rows of groups with fewer than 10 people" in page
