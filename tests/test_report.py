"""The table and the page say what the record says, offline, with every text escaped."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from valuealign.evaluate import FLOOR, HALF, Evaluation, Portrait, Row, Standing
from valuealign.report import love_plot, print_sheets, print_table, summary, write_love_plot, write_report
from valuealign.report.charts import portrait
from valuealign.types import Estimate
from valuealign.weighting import Gap

EVIL = "<script>alert('x')</script> & \"co\""


def row(split: str, who: str, kind: str, value: float, metric: str = "jsd_bits", note: str = "") -> Row:
    return Row(split, "report", who, metric, kind, Estimate(value, value - 0.002, value + 0.004, 9), note)  # type: ignore[arg-type]


@pytest.fixture
def evaluation() -> Evaluation:
    rows = []
    for split, baseline in (
        ("cells", "additive"),
        ("groups", "additive"),
        ("items", "training items"),
        ("everyone", "uniform"),
    ):
        for metric in ("jsd_bits", "wasserstein", "total_variation"):
            if not (metric == "wasserstein" and split == "groups"):  # nominal items only
                rows += [row(split, "uniform", "null", 0.2, metric), row(split, baseline, "null", 0.0512, metric)]
                rows += [row(split, "base", "stage", 0.1234, metric), row(split, "kto", "stage", 0.0311, metric)]
                rows += [row(split, FLOOR, "floor", 0.0101, metric), row(split, HALF, "half", 0.02, metric)]
        rows += [row(split, "marginal", "oracle" if split == "items" else "null", 0.0777)]
        rows += [row(split, "kto", "gain", 0.49, "gain(jsd_bits)", f"over {baseline}")]
        rows += [row(split, "kto - base", "difference", -0.0923)]
        rows += [row(split, "kto", "stage", 0.87, "dispersion"), row(split, "kto", "stage", 0.95, "raw_mass")]
        rows += [row(split, "kto", "stage", 0.4, "worst_group_jsd_bits", note=f"city={EVIL}")]
    splits = {"cells": {"cells": 9, "items": 3, "groups": 4, "median_n_eff": 81.2, "interval": "respondents resampled"}}
    portrait = Portrait("q1", f"Why? {EVIL}", (f"a {EVIL}", "b"), (0.4, 0.6), {"base": (0.5, 0.5), "kto": (0.45, 0.55)})
    return Evaluation("report", ("base", "kto"), tuple(rows), {"people": 1234, "splits": splits}, (portrait,))


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name) and re.search(r"\d\.\d", line)][:1]
    return re.split(r"\s{2,}", line.strip())[1:]


def test_table_holds_stages_nulls_and_floor(evaluation: Evaluation) -> None:
    text = print_table(evaluation)
    assert cells(text, "guess: all answers alike") == ["200.0"] * 4
    assert cells(text, "guess: everyone's average") == ["77.7", "77.7", "77.7", "(77.7)"]  # an oracle in brackets
    assert cells(text, "guess: traits added up") == ["-", "51.2", "51.2", "-"]
    assert cells(text, "kto") == ["31.1 ±3.0"] * 4 + ["0.870", "0.950"]
    assert cells(text, "noise floor") == ["10.1"] * 4
    assert "(in brackets after a model)" not in text


def test_a_stage_in_other_words_stands_below_it(evaluation: Evaluation) -> None:
    who = "base (asked as card, never trained)"
    more = (row("cells", who, "reworded", 0.222), row("cells", who, "reworded", 0.3, "raw_mass"))
    text = print_table(replace(evaluation, rows=evaluation.rows + more))
    assert cells(text, "base (asked") == ["-", "222.0 ±3.0", "-", "-", "-", "-"]
    lines = [line.strip() for line in text.splitlines()]
    (place,) = [n for n, line in enumerate(lines) if line.startswith("base (asked")]
    assert lines[place - 1].startswith("base  ") and lines[place + 1].startswith("kto ")
    assert any(line.startswith("(in brackets after a model)") for line in lines)
    assert "Lower is better" in text and "1,234 people" in text and "log base 2, no root" in text
    text = " ".join(text.split())
    assert "49 % (95 %: 49 % to 49 %)" in text and "cells -92.3 (-94.3 to -88.3)" in text
    assert "behaviour" not in text


def test_behaviour_is_a_column_where_it_is_known(evaluation: Evaluation) -> None:
    aucs = {"base": Estimate(0.5, 0.4, 0.6, 20), "kto": Estimate(0.8125, 0.7, 0.9, 20)}
    text = print_table(evaluation.with_behaviour(aucs, note="20 held-out prompts"))
    assert cells(text, "kto")[-1] == "0.812" and "20 held-out prompts" in " ".join(text.split())
    again = evaluation.with_behaviour(aucs).with_behaviour({"kto": Estimate(0.9, 0.8, 1, 20)})
    assert again.figure("behaviour", "kto", "auc").value == 0.9
    with pytest.raises(KeyError):
        again.figure("behaviour", "base", "auc")


def test_another_metric_and_a_figure_that_does_not_exist(evaluation: Evaluation) -> None:
    text = print_table(evaluation, metric="wasserstein")
    assert "ordinal Wasserstein" in text and cells(text, "kto")[:4] == ["31.1 ±3.0", "31.1 ±3.0", "-", "31.1 ±3.0"]


class Page(HTMLParser):
    """Collects tags, attributes and text; complains where tags don't nest."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_report_is_offline_escaped_and_has_charts(evaluation: Evaluation, tmp_path: Path) -> None:
    aucs = {"base": Estimate(0.5, 0.4, 0.6, 20), "kto": Estimate(0.8, 0.7, 0.9, 20)}
    path = write_report(
        tmp_path / "new" / "run",
        title=f"Run {EVIL}",
        evaluation=evaluation,
        facts={f"Data {EVIL}": {"file": EVIL, "people": 4000}},
        behaviour=aucs,
        lineage=["seed", f"v1 {EVIL}"],
    )
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    tags = [tag for tag, _ in page.seen]
    assert not {"script", "link", "img", "iframe", "object"} & set(tags)
    assert tags.count("svg") == 6  # a chart of distances for each split, one question, what changed
    for _, attributes in page.seen:
        for name, value in attributes.items():
            assert not name.startswith("on") and (name.startswith("xmlns") or "://" not in (value or ""))
    assert "url(" not in text.replace("url(#", "") and "@import" not in text
    assert page.words.count("<script>alert('x')</script>") >= 8  # shown as text, everywhere it was given
    for shown in ("31.1 ±3.0", "(77.7)", "0.800", "4000", "median n_eff 81", "total variation"):
        assert shown in page.words


def test_files_beside_the_page_hold_the_same_figures(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(tmp_path, title="Run", evaluation=evaluation, behaviour={"kto": Estimate(0.8, 0.7, math.nan, 20)})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "evaluation.csv",
        "evaluation.json",
        "questions.csv",
        "report.html",
    ]
    shares = list(csv.DictReader((tmp_path / "questions.csv").open(encoding="utf-8")))
    assert [(one["option"], one["people"], one["kto"]) for one in shares] == [
        (f"a {EVIL}", "0.4", "0.45"),
        ("b", "0.6", "0.55"),
    ]
    back = Evaluation.from_json((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert back.rows[: len(evaluation.rows)] == evaluation.rows and back.facts["title"] == "Run"
    assert math.isnan(back.figure("behaviour", "kto", "auc").high) and back.portraits == evaluation.portraits
    table = list(csv.DictReader((tmp_path / "evaluation.csv").open(encoding="utf-8")))
    assert len(table) == len(evaluation.rows) + 1
    for line, one in zip(table, evaluation.rows, strict=False):
        assert (line["who"], line["note"], float(line["value"])) == (one.who, one.note, one.estimate.value)


def test_a_second_report_replaces_the_first(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(tmp_path, title="First", evaluation=evaluation)
    path = write_report(tmp_path, title="Second", evaluation=evaluation)
    assert "<h1>Second</h1>" in path.read_text(encoding="utf-8") and len(list(tmp_path.iterdir())) == 4


def test_one_stage_on_one_split_is_enough() -> None:
    rows = (
        row("cells", "base", "stage", 0.1),
        row("cells", FLOOR, "floor", 0.01),
        row("cells", "uniform", "null", 0.2),
    )
    text = print_table(Evaluation("select", ("base",), rows))
    assert cells(text, "base")[0] == "100.0 ±3.0" and "changed" not in text


def test_love_plot_shows_each_level_before_and_after(tmp_path: Path, evaluation: Evaluation) -> None:
    gaps = (Gap("sex", "f", 0.52, 0.60, 0.52), Gap("age", "18-34", 0.3, 0.1, 0.301))
    rows = love_plot(gaps).to_dict()["datasets"].popitem()[1]
    found = {(row["level"], row["weights"]): row["points"] for row in rows}
    assert found == pytest.approx(
        {("sex: f", "before"): 8, ("sex: f", "after"): 0, ("age: 18-34", "before"): 20, ("age: 18-34", "after"): 0.1}
    )
    assert rows[0]["level"] == "age: 18-34", "the widest gap comes first"
    page = write_report(tmp_path, title="Run", evaluation=evaluation, gaps=gaps).read_text()
    facts = json.loads((tmp_path / "evaluation.json").read_text())["facts"]
    assert facts["margins"] == [gap._asdict() for gap in gaps] and "screens" not in facts
    assert "Margins before and after weighting" in page and "age: 18-34" in page
    assert "Margins before" not in write_report(tmp_path, title="Run", evaluation=evaluation).read_text()
    picture = write_love_plot(tmp_path / "margins.svg", gaps).read_text()
    assert picture.startswith("<svg") and "age: 18-34" in picture and "Margins before and after" in picture


def test_the_report_shows_what_screens_change(tmp_path: Path, evaluation: Evaluation) -> None:
    names = ("everyone", "sex=f", "sex=m", "age=a", "age=b", f"age={EVIL}", "age=few")
    moves = (0.01, 0.02, 0.0, 0.05, 0.03, 0.04, None)
    screens = pl.DataFrame(
        {
            "screen": "speeders",
            "group": names,
            "n": 100,
            "flagged": [17] * 7,
            "flagged_share": 0.08,
            "items": 9,
            "mean_distance": moves,
            "largest_distance": [None if move is None else 2 * move for move in moves],
            "largest_item": ["q1"] * 6 + [None],
        }
    )
    page = write_report(tmp_path, title="Run", evaluation=evaluation, screens=screens).read_text()
    facts = json.loads((tmp_path / "evaluation.json").read_text())["facts"]
    assert facts["screens"] == {"rows": screens.to_dicts(), "fewer_than": 10, "withheld": 0}
    words = " ".join(Page(page).words.split())
    assert "speeders: everyone 17 of 1008.0 %1.002.00 (q1)" in words, "a cell after the other"
    order = [words.index(f"speeders: {name}") for name in ("everyone", "age=a", f"age={EVIL}", "age=b")]
    assert order == sorted(order) and "speeders: sex" not in words and "speeders: age=few" not in words
    assert "careless" not in write_report(tmp_path, title="Run", evaluation=evaluation).read_text()


def test_what_a_figure_s_note_says_stands_beside_it(tmp_path: Path, evaluation: Evaluation) -> None:
    notes = {
        ("share_under", "base", "stage"): "worst country: Chile",
        ("share_under", "kto", "stage"): f"worst country: {EVIL}",
        ("win_rate", "kto", "stage"): "12 wins, 3 ties; kappa 0.41",
        ("acc", "base", "stage"): "lower is better",
        ("acc", "kto", "stage"): "lower is better",
        ("acc", "kto - base", "difference"): "unpaired",
        ("plain", "kto - base", "difference"): "paired",
    }
    rows = tuple(row("bench", who, kind, 0.3, metric, note) for (metric, who, kind), note in notes.items())
    sheets = {"bench": {"title": "Bench", "metrics": {}, "notes": []}}
    mixed = row("cells", "kto (groups shuffled)", "shuffled", 0.1, note="its answers for another group")
    record = evaluation.joined((*rows, mixed), sheets=sheets)
    wanted = (
        f"base: worst country: Chile; kto: worst country: {EVIL}",
        "12 wins, 3 ties; kappa 0.41",
        "lower is better; kto - base: unpaired",
    )
    words = Page(write_report(tmp_path, title="Run", evaluation=record).read_text(encoding="utf-8")).words
    printed = " ".join(print_sheets(record).split())
    for note, metric in zip(wanted, ("share_under", "win_rate", "acc"), strict=True):
        assert f"{note}\n" in words and f"{metric}: {note}." in printed
    assert "Groups shuffled: its answers for another group." in words
    assert "plain: " not in printed, "that a difference is paired goes without saying"
    bare = evaluation.joined([row("bench", "kto", "stage", 0.3, "acc")], sheets=sheets)
    assert (
        "note"
        not in Page(write_report(tmp_path, title="Run", evaluation=bare).read_text()).words.split("Bench")[1][:60]
    )


def test_of_two_versions_the_first_is_the_before(tmp_path: Path, evaluation: Evaluation) -> None:
    """The base stands in the table, but what changed is from the first version to the second."""
    more = [row("everyone", "v1", "stage", 0.07, name) for name in ("jsd_bits", "total_variation")]
    more += [row("everyone", "kto - v1", "difference", -0.02), row("everyone", "v1 - base", "difference", -0.01)]
    more += [row("quiz", who, "stage", 0.5, "right") for who in ("base", "v1", "kto")]
    more += [row("quiz", f"kto - {one}", "difference", by, "right") for one, by in (("base", 0.11), ("v1", 0.22))]
    portrait = replace(evaluation.portraits[0], stages={**evaluation.portraits[0].stages, "v1": (0.42, 0.58)})
    values = ("calm", "care", "wealth")
    standings = [
        Standing(who, "Three", "circle", values, (0.1, 0.0, -0.1), {}, 0.02) for who in ("people", "base", "v1", "kto")
    ]
    made = replace(evaluation, stages=("base", "v1", "kto"), portraits=(portrait,), standings=tuple(standings))
    made = made.joined(more, sheets={"quiz": {"title": "A quiz", "metrics": {}, "notes": []}})
    before, after = made, made.joined((), before="v1")
    assert "; base: 12.3)" in summary(before)[0] and "; v1: 7.0)" in summary(after)[0]
    for record, first, change in ((before, "base", "0.110 ("), (after, "v1", "0.220 (")):
        page = write_report(tmp_path, title="Run", evaluation=record).read_text(encoding="utf-8")
        assert f"kto - {first}" in print_sheets(record) and change in print_sheets(record)
        questions, circle = page.split('id="questions"')[1].split("</section>")[0], page.split('id="pictures"')[1]
        for drawn in (questions, circle.split("Three: centred scores")[1].split("</figure>")[0]):
            assert (">base<" in drawn) == (first == "base") and (">v1<" in drawn) == (first == "v1")
        assert f">kto - {first}<" in page.split('id="beside"')[1], "the change in the sheet"


def test_a_long_option_is_shown_whole() -> None:
    """On paper there is nothing to hover over: what is cut is lost."""
    long = "The government should see to it that everyone who wants to work has a job and a decent standard of living"
    unbroken = "Verkehrsinfrastrukturfinanzierungsgesellschaft"
    one = Portrait("q", "Which?", (long, unbroken, "no"), (0.5, 0.3, 0.2), {"kto": (0.4, 0.3, 0.3)})
    drawn = portrait(one, ["kto"])
    words = [text for text in re.findall(r">([^<>]+)<", drawn) if text.strip()]
    assert "…" not in drawn and long in " ".join(words) and unbroken in "".join(words)
    short = portrait(replace(one, options=("yes", "maybe", "no")), ["kto"])
    heights = [float(re.findall(r'height="([\d.]+)"', text)[0]) for text in (short, drawn)]
    assert heights[1] - heights[0] >= 3 * 30, "lines of one option don't run into the next one's"
