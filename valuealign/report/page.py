"""One offline HTML page a run, with the same figures as JSON and CSV beside it.

The page needs no network and runs no script; its charts are inline SVG.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import polars as pl

from valuealign.dataset import LEAST_N, large_enough
from valuealign.evaluate import BASELINE, FLOOR, Evaluation
from valuealign.evaluate.gained import Outcome
from valuealign.metrics import METRICS
from valuealign.report import charts, gained
from valuealign.report.table import figures, sheet_tables, within
from valuealign.report.titles import calibration_title, changes_title, groups_title, sweep_title, values_title
from valuealign.report.value_charts import value_circle, value_map
from valuealign.report.words import (
    SPLIT_WORDS,
    WORDS,
    before,
    columns,
    distance,
    find,
    findings,
    legend,
    sharing,
    summary,
    title_of,
)
from valuealign.types import EVERYONE, Estimate
from valuealign.weighting import Gap

# Questions in view; the others are folded.
PORTRAITS = 6
# Groups of each screen in the table, beside everyone.
MOST_MOVED = 3


def template(name: str) -> jinja2.Template:
    """A page's template; every text put into it is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


class Figure(NamedTuple):
    """A chart with a title that says what it shows."""

    title: str
    below: str
    svg: str


def write_report(
    folder: Path,
    *,
    title: str,
    evaluation: Evaluation,
    facts: Mapping[str, Mapping[str, object]] | None = None,
    behaviour: Mapping[str, Estimate] | None = None,
    lineage: Sequence[str] = (),
    gaps: Sequence[Gap] = (),
    screens: pl.DataFrame | None = None,
    sweep: Sequence[Mapping[str, Any]] = (),
    swept: Mapping[str, Any] | None = None,
    configuration: str = "",
) -> Path:
    """Write ``report.html`` and ``evaluation.json``, ``evaluation.csv`` and, where there are any, ``questions.csv``
    and ``cells.csv``; returns the page's path.

    ``facts`` are sections of key and value (data, weighting); ``behaviour`` an AUC for each stage;
    ``lineage`` the versions this model descends from, oldest first; ``gaps`` what weighting mended of
    each margin; ``screens`` what ``population.with_and_without`` says of each screen and group; ``sweep``
    the trials behind a version (``charts.sweep_surface``); ``swept`` how they ended (``gained.kept_outcome``);
    ``configuration`` the run's YAML. Files are written
    aside and renamed, the page last.
    """
    if behaviour:
        evaluation = evaluation.with_behaviour(behaviour)
    sections = {name: {key: str(value) for key, value in pairs.items()} for name, pairs in (facts or {}).items()}
    whole: dict[str, Any] = {"title": title, "lineage": list(lineage), "run": sections}
    whole |= {"configuration": configuration} if configuration else {}
    whole |= {"sweep": [dict(one) for one in sweep]} if sweep else {}
    whole |= {"sweep_outcome": dict(swept)} if swept else {}
    kept = None if screens is None else large_enough(screens)
    whole |= {"margins": [gap._asdict() for gap in gaps]} if gaps else {}
    if screens is not None and kept is not None:
        whole["screens"] = {"rows": kept.to_dicts(), "fewer_than": LEAST_N, "withheld": screens.height - kept.height}
    whole |= {"summary": summary(evaluation), "sharing": sharing(evaluation)}
    record = replace(evaluation, facts={**evaluation.facts, **whole})
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / "evaluation.json", record.to_json())
    write_aside(folder / "evaluation.csv", record.to_csv())
    if record.portraits:
        write_aside(folder / "questions.csv", record.questions_csv())
    if record.tested:
        write_aside(folder / "cells.csv", record.cells_csv())
    page = _page(
        evaluation,
        gaps,
        kept,
        unscreened=whole.get("screens", {}).get("withheld", 0),
        title=title,
        sections=sections,
        lineage=lineage,
        sweep=sweep,
        swept=swept,
        configuration=configuration,
    )
    return write_aside(folder / "report.html", page)


def write_love_plot(path: Path, gaps: Sequence[Gap]) -> Path:
    """``charts.love_plot`` as a picture by itself (SVG on white)."""
    return write_aside(path, charts.svg(charts.love_plot(gaps).properties(title=charts.LOVE_TITLE), background="white"))


def write_sweep(path: Path, trials: Sequence[Mapping[str, Any]]) -> Path | None:
    """``charts.sweep_surface`` as a picture by itself; None where no trial has figures."""
    drawn = charts.sweep_surface(trials)
    return write_aside(path, drawn) if drawn else None


def write_aside(path: Path, text: str) -> Path:
    """Write a text file aside, rename it into place, and return its path."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path


def _page(
    evaluation: Evaluation,
    gaps: Sequence[Gap],
    screens: pl.DataFrame | None,
    *,
    sweep: Sequence[Mapping[str, Any]],
    swept: Mapping[str, Any] | None,
    **rest: Any,
) -> str:
    metric = "jsd_bits"
    header, rows = figures(evaluation, metric) if columns(evaluation) else ([], [])
    near = _portraits(evaluation)
    there = {row.kind for row in evaluation.rows}
    others = [
        (METRICS[name].title, METRICS[name].unit, *figures(evaluation, name))
        for name in ("wasserstein", "total_variation")
        if columns(evaluation)
    ]
    return template("page.html.jinja").render(
        **rest,
        summary=summary(evaluation),
        sharing=sharing(evaluation),
        closed=evaluation.facts.get("tier") == "closed",
        heading=title_of(metric),
        header=header,
        rows=rows,
        stages=set(evaluation.stages),
        part=evaluation.part,
        others=others,
        legend=legend(evaluation) if columns(evaluation) else [],
        findings=findings(evaluation, metric),
        splits=[_split(evaluation, split, metric) for split in columns(evaluation)],
        keys=[(charts.INK[kind], words) for kind, words in charts.KIND_WORDS.items() if kind in there],
        portraits=near[:PORTRAITS],
        folded=near[PORTRAITS:],
        pictures=[one for one in _pictures(evaluation, sweep, swept) if one.svg],
        dispersion=_dispersion(evaluation),
        sheets=sheet_tables(evaluation),
        margins=charts.svg(charts.love_plot(gaps)) if gaps else "",
        screens=_screens(screens) if screens is not None else [],
        least_n=LEAST_N,
        worst=[
            row for row in evaluation.rows if row.metric == "worst_group_jsd_bits" and row.split in columns(evaluation)
        ],
    )


def _split(evaluation: Evaluation, split: str, metric: str) -> Figure:
    """A split's chart; its title is where the last stage stands between the named guess and a perfect model."""
    last = evaluation.stages[-1] if evaluation.stages else ""
    mine, null, floor = (find(evaluation, split, who, metric) for who in (last, BASELINE[split], FLOOR))
    title = f"{split}: {SPLIT_WORDS[split]}"
    if mine and floor:
        at = ", ".join(
            f"{who} {1000 * row.estimate.value:.1f}"
            for who, row in ((last, mine), ("a perfect model", floor), (WORDS[BASELINE[split]], null))
            if row
        )
        title = f"{split} ({SPLIT_WORDS[split]}): {at}"
    about = evaluation.facts.get("splits", {}).get(split, {})
    below = (
        f"{about['cells']} cells: {about['items']} questions, {about['groups']} groups,"
        f" median n_eff {about['median_n_eff']:.0f}. Intervals: {about['interval']}."
        if about
        else ""
    )
    mixed = find(evaluation, split, f"{last} (groups shuffled)", metric)
    below += f" Groups shuffled: {mixed.note}." if mixed and mixed.note else ""
    return Figure(title, below, charts.distances(evaluation, split, metric))


def _portraits(evaluation: Evaluation) -> list[Figure]:
    """Question by question, where the last stage is furthest first."""
    if not evaluation.stages:
        return []
    last = evaluation.stages[-1]
    shown = list(dict.fromkeys([before(evaluation), last]))
    apart = sorted(
        ((distance(one.people, one.stages[last]), one) for one in evaluation.portraits), key=lambda pair: -pair[0]
    )
    return [
        Figure(
            one.question,
            f"{100 * away:.1f} of 100 answers differ" + ("; question never trained" if one.split == "items" else ""),
            charts.portrait(one, shown),
        )
        for away, one in apart
    ]


def _pictures(
    evaluation: Evaluation, sweep: Sequence[Mapping[str, Any]], swept: Mapping[str, Any] | None
) -> list[Figure]:
    """What is seen over all questions, groups, values and trials."""
    if not evaluation.stages:
        return []
    first, last = before(evaluation), evaluation.stages[-1]
    found = [
        Figure(
            calibration_title(evaluation, last, _portrayed(evaluation)),
            "A point for each answer to each question that names no group, with the people's 95 % interval. On the line"
            " the model is calibrated. Slopes (95 % intervals) are over all cells of the split; under 1: the model"
            " exaggerates.",
            charts.calibration(evaluation, last),
        ),
    ]
    if drawn := charts.group_map(evaluation):
        cells = "held-out" if charts.held_out_map(evaluation) else "trained"
        found.append(
            Figure(
                groups_title(evaluation, last, charts.group_means(evaluation)),
                f"Mean distance over a group's {cells} cells, in thousandths of a bit; at most {charts.MOST_GROUPS}"
                f" groups, those that {last} is furthest from. No interval stands behind a single group's mean.",
                drawn,
            )
        )
    if evaluation.standings:
        theory = evaluation.standings[0].theory
        shown = list(dict.fromkeys(["people", first, last]))
        circle = evaluation.standings[0].structure == "circle"
        found += [
            Figure(
                values_title(evaluation, last),
                f"{theory}: centred scores of everyone"
                + ("; outside the dashed ring more important than the rest." if circle else "."),
                value_circle(evaluation.standings, shown),
            ),
            Figure(
                f"What {last} makes more or less of than each group of people does",
                f"{theory}, in hundredths of the scale.",
                value_map(evaluation.standings, last),
            ),
        ]
    if len(evaluation.stages) > 1:
        earlier = evaluation.stages[-2]
        found.append(
            Figure(
                changes_title(evaluation, last, earlier),
                "Paired over the same people and questions: 95 % intervals that hold 0 show no change.",
                charts.changes(evaluation, last, earlier),
            )
        )
    if swept:
        how, margin = Outcome.read(swept), swept["margin"]
        found.append(Figure(swept["sentence"], gained.BELOW, charts.svg(gained.chart(how, sweep, margin))))
    below = "On the select part, without intervals; the best of several is flattered by being chosen."
    found.append(Figure(sweep_title(charts.known_trials(sweep)), below, charts.sweep_surface(sweep)))
    return found


def _portrayed(evaluation: Evaluation) -> dict[str, str]:
    """The splits of the questions that name no group, in words."""
    there = {one.split for one in evaluation.portraits}
    return {split: what for split, what in charts.QUESTIONS.items() if split in there}


def _dispersion(evaluation: Evaluation) -> list[list[str]]:
    """Variety of the answers by split and stage: entropy, variance, slope."""
    rows = []
    for split in columns(evaluation):
        for stage in evaluation.stages:
            cells = [
                find(evaluation, split, stage, name)
                for name in ("dispersion", "dispersion_variance", "calibration_slope", "mode_accuracy")
            ]
            if any(cells):
                rows.append([f"{split}: {stage}", *(within(row) for row in cells)])
    return rows


def _screens(screens: pl.DataFrame) -> list[list[str]]:
    """For each screen everyone and the groups whose targets move most without whom it marks."""
    rows = []
    for (screen,), frame in screens.group_by("screen", maintain_order=True):
        whole = pl.col("group") == EVERYONE.name
        moved = frame.filter(~whole, pl.col("mean_distance") > 0).sort("mean_distance", descending=True)
        for row in pl.concat([frame.filter(whole), moved.head(MOST_MOVED)]).iter_rows(named=True):
            share, mean, largest = (row[key] for key in ("flagged_share", "mean_distance", "largest_distance"))
            where = f" ({row['largest_item']})" if row["largest_item"] else ""
            rows.append(
                [
                    f"{screen}: {row['group']}",
                    f"{row['flagged']:,} of {row['n']:,}",
                    "-" if share is None else f"{100 * share:.1f} %",
                    "-" if mean is None else f"{100 * mean:.2f}",
                    "-" if largest is None else f"{100 * largest:.2f}{where}",
                ]
            )
    return rows
