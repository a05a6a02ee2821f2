"""The figures of an evaluation for people: one table for the terminal, one offline HTML page with charts.

The page needs no network and runs no script; its charts are inline SVG. ``evaluation.json`` and
``evaluation.csv`` beside it hold the same figures, unrounded.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import polars as pl
import vl_convert

from valuealign.evaluate import BASELINE, BEHAVIOUR, FLOOR, HALF, Evaluation, Portrait, Row
from valuealign.metrics import METRICS
from valuealign.types import EVERYONE, Estimate
from valuealign.weighting import Gap

NULLS = ("uniform", "marginal", "others", "additive", "training items", "persistence")
COLUMNS = ("cells", "groups", "items", "everyone", "waves", "survey")
WORDS = {
    "uniform": "guess: all answers alike",
    "marginal": "guess: everyone's average",
    "others": "guess: mean of other groups",
    "additive": "guess: traits added up",
    "training items": "guess: mean of other questions",
    "persistence": "guess: as in the earlier waves",
    FLOOR: "noise floor",
    HALF: "split-half",
}
SPLIT_WORDS = {
    "cells": "question and group known, not together",
    "groups": "group never trained",
    "items": "question never trained",
    "everyone": "no group named, question trained",
    "seen": "trained cells, other people",
    "waves": "trained cells, in waves never trained",
    "survey": "another survey, of which nothing was trained",
}
# Explanations under the table, each a plain sentence.
LEGEND = (
    "Lower is better. Every figure compares answers with {people} people who took no part in training.",
    "noise floor: what a perfect model would score against this many people; nothing honest goes lower for long.",
    "split-half: the training people's own answers, held against these people's.",
    "guess: what can be said without a model, from the training people; a model below it has learnt something.",
    "(in brackets): that guess reads the very answers that are held out here; no model could know them.",
    "cells: question and group were trained, but not together; groups: the group is new; items: the question is new;"
    " everyone: no group is named; waves: the wave is new.",
    "dispersion: 1 means answers as varied as the people's, under 1 a model that is too sure (held-out {shown}).",
    "on options: how much of the model's probability falls on the listed answers at all (held-out {shown}).",
)
REWORDED_LEGEND = "(asked as ...): the same model, its questions put in other words."
AUC_LEGEND = "behaviour: how often an answer people called desirable beats one they did not; 0.5 is chance{note}."
INK = {
    "stage": "#0b6e69",
    "null": "#9a6a1c",
    "oracle": "#c9b48f",
    "floor": "#555b66",
    "half": "#9aa1ad",
    "reworded": "#6fa8a4",
    "shuffled": "#b4525a",
}
KIND_WORDS = {
    "stage": "model",
    "null": "guess without a model",
    "oracle": "guess that reads the held-out answers",
    "floor": "noise floor",
    "half": "split-half",
    "reworded": "model, asked in other words",
    "shuffled": "model, groups shuffled",
}
PORTRAITS = 6
# Groups of each screen in the table, beside everyone.
MOST_MOVED = 3
LOVE_TITLE = "Margins before and after weighting"
WIDTH = 116
PAGE = Path(__file__).with_name("report.html.jinja")


def print_table(evaluation: Evaluation, *, metric: str = "jsd_bits") -> str:
    """The evaluation as one table: guesses, stages and floor as rows, held-out splits as columns.

    ``metric`` is a distance of METRICS; figures are printed in thousandths. Behaviour AUCs come
    from ``Evaluation.with_behaviour``. Ends without a line feed.
    """
    header, rows = figures(evaluation, metric)
    lines = [f"{_title(metric)}", "", *_aligned([header, *rows], stages=_models(evaluation)), ""]
    for line in [*_legend(evaluation), *_findings(evaluation, metric)]:
        lines += textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return "\n".join(lines)


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
) -> Path:
    """Write ``report.html``, ``evaluation.json`` and ``evaluation.csv``; returns the page's path.

    ``facts`` are sections of key and value (data, weighting, configuration); ``behaviour`` an AUC
    for each stage; ``lineage`` the versions this model descends from, oldest first; ``gaps`` what
    weighting mended of each margin; ``screens`` what ``population.with_and_without`` says of each
    screen and group. Files are written aside and renamed, the page last.
    """
    if behaviour:
        evaluation = evaluation.with_behaviour(behaviour)
    sections = {name: {key: str(value) for key, value in pairs.items()} for name, pairs in (facts or {}).items()}
    record = replace(evaluation, facts={**evaluation.facts, "title": title, "lineage": list(lineage), "run": sections})
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "evaluation.json", record.to_json())
    _write(folder / "evaluation.csv", record.to_csv())
    return _write(folder / "report.html", _page(title, evaluation, sections, lineage, gaps, screens))


def _write(path: Path, text: str) -> Path:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path


def _title(metric: str) -> str:
    unit = "thousandths of a bit" if metric == "jsd_bits" else f"thousandths, {METRICS[metric].unit}"
    how = ", log base 2, no root" if metric == "jsd_bits" else ""
    return f"How far answers are from the people's: {METRICS[metric].title} ({unit}{how})"


def _find(evaluation: Evaluation, split: str, who: str, metric: str) -> Row | None:
    try:
        return evaluation.row(split, who, metric)
    except KeyError:
        return None


def _shown(evaluation: Evaluation) -> str:
    """The split whose dispersion and raw mass the table shows."""
    return next(split for split in (*COLUMNS, "seen") if split in evaluation.splits)


def _columns(evaluation: Evaluation) -> list[str]:
    return [split for split in COLUMNS if split in evaluation.splits]


def figures(evaluation: Evaluation, metric: str = "jsd_bits") -> tuple[list[str], list[list[str]]]:
    """The table's header and rows as texts, distances in thousandths; see ``print_table``."""
    columns, shown = _columns(evaluation), _shown(evaluation)
    aucs = any(row.split == BEHAVIOUR for row in evaluation.rows)
    header = ["", *columns, "dispersion", "on options", *(["behaviour"] if aucs else [])]
    there = {row.who for row in evaluation.rows if row.metric == metric}
    rows = []
    models = _models(evaluation)
    for who in [who for who in (*NULLS, *models, FLOOR, HALF) if who in there]:
        is_model = who in models
        cells = [_milli(_find(evaluation, split, who, metric)) for split in columns]
        extra = [(shown, "dispersion"), (shown, "raw_mass"), *([(BEHAVIOUR, "auc")] if aucs else [])]
        more = [_plain(_find(evaluation, split, who, name)) if is_model else "" for split, name in extra]
        rows.append([_words(evaluation, who), *cells, *more])
    return header, rows


def _models(evaluation: Evaluation) -> list[str]:
    """The stages, each followed by itself asked in other words."""
    reworded = dict.fromkeys(row.who for row in evaluation.rows if row.kind == "reworded")
    found: list[str] = []
    for stage in evaluation.stages:
        found += [stage, *(who for who in reworded if who.startswith(f"{stage} ("))]
    return found


def _words(evaluation: Evaluation, who: str) -> str:
    return who if who in evaluation.stages else WORDS.get(who, who)


def _milli(row: Row | None) -> str:
    if row is None or not math.isfinite(row.estimate.value):
        return "-"
    text = f"{1000 * row.estimate.value:.1f}"
    if row.kind in ("stage", "reworded"):
        text += f" ±{500 * (row.estimate.high - row.estimate.low):.1f}"
    return f"({text})" if row.kind == "oracle" else text


def _plain(row: Row | None) -> str:
    return "-" if row is None or not math.isfinite(row.estimate.value) else f"{row.estimate.value:.3f}"


def _aligned(rows: Sequence[Sequence[str]], *, stages: Sequence[str]) -> list[str]:
    """Columns in line; a rule below the header and around the stages."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines, rule = [], "  " + "-" * (sum(widths) + 2 * (len(widths) - 1))
    for n, row in enumerate(rows):
        edge = n > 0 and (row[0] in stages) != (rows[n - 1][0] in stages)
        if n == 1 or edge:
            lines.append(rule)
        cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def _legend(evaluation: Evaluation) -> list[str]:
    people = evaluation.facts.get("people", "the")
    oracle = any(row.kind == "oracle" for row in evaluation.rows)
    kept = [line for line in LEGEND if oracle or not line.startswith("(in brackets)")]
    lines = [
        line.format(people=f"{people:,}" if isinstance(people, int) else people, shown=_shown(evaluation))
        for line in kept
    ]
    lines += [REWORDED_LEGEND] if any(row.kind == "reworded" for row in evaluation.rows) else []
    auc = next((row for row in evaluation.rows if row.split == BEHAVIOUR), None)
    return [*lines, AUC_LEGEND.format(note=f" ({auc.note})" if auc.note else "")] if auc else lines


def _findings(evaluation: Evaluation, metric: str) -> list[str]:
    """Sentences with the gain of the last stage and what it changed against the one before."""
    if not evaluation.stages:
        return []
    last, lines = evaluation.stages[-1], []
    for split in _columns(evaluation):
        row = _find(evaluation, split, last, f"gain({metric})")
        if row and math.isfinite(row.estimate.value):
            share = (
                f"{_percent(row.estimate.value)} (95 %: {_percent(row.estimate.low)} to {_percent(row.estimate.high)})"
            )
            null = WORDS[BASELINE[split]]
            lines.append(f"{split}: {last} made {share} of the possible gain over '{null}'.")
        elif row:
            lines.append(f"{split}: {row.note}.")
    if len(evaluation.stages) > 1:
        apart = f"{last} - {evaluation.stages[-2]}"
        found = [(split, _find(evaluation, split, apart, metric)) for split in _columns(evaluation)]
        changes = [f"{split} {_signed(row.estimate)}" for split, row in found if row]
        lines.append(f"{last} changed the distance by (below 0: nearer to the people): {'; '.join(changes)}.")
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _signed(one: Estimate) -> str:
    return f"{1000 * one.value:+.1f} ({1000 * one.low:+.1f} to {1000 * one.high:+.1f})"


def _distance_chart(evaluation: Evaluation, split: str, metric: str) -> str:
    """Points with 95 % intervals, one line for each guess, stage and floor."""
    mixed = f"{evaluation.stages[-1]} (groups shuffled)" if evaluation.stages else ""
    data: list[dict[str, Any]] = []
    for who in (*NULLS, *_models(evaluation), mixed, FLOOR, HALF):
        row = _find(evaluation, split, who, metric)
        if row is not None and math.isfinite(row.estimate.value):
            one = row.estimate
            figures = {"value": 1000 * one.value, "low": 1000 * one.low, "high": 1000 * one.high}
            data.append({"who": _words(evaluation, who), "kind": row.kind, **figures})
    order = [row["who"] for row in data]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=list(INK), range=list(INK.values())), legend=None)
    y = alt.Y("who:N", sort=order, title=None, axis=alt.Axis(labelLimit=230, ticks=False, domain=False))
    x = alt.X(
        "value:Q", title=f"{METRICS[metric].title}, thousandths of a bit", scale=alt.Scale(domainMin=0, nice=True)
    )
    base = alt.Chart(pl.DataFrame(data))
    bars = base.mark_rule(strokeWidth=2).encode(y=y, x=alt.X("low:Q"), x2="high:Q", color=colour)
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, x=x, color=colour)
    floor = (
        base.transform_filter(alt.datum.kind == "floor")
        .mark_rule(strokeDash=[3, 3], color=INK["floor"])
        .encode(x="value:Q")
    )
    label = base.mark_text(align="left", dx=8, dy=-7, fontSize=10, color="#333").encode(
        y=y, x="value:Q", text=alt.Text("value:Q", format=".1f")
    )
    return _svg((floor + bars + dots + label).properties(width=330, height=23 * len(data)))


def _portrait_chart(one: Portrait, stages: Sequence[str]) -> str:
    """Bars of the people's shares and of the stages' for one question."""
    series = {"people": one.people, **{stage: one.stages[stage] for stage in stages}}
    data = [
        {"option": option, "who": who, "share": 100 * share}
        for who, shares in series.items()
        for option, share in zip(one.options, shares, strict=True)
    ]
    tones = ["#555b66", "#8fc1bd", "#0b6e69", "#c98a2b", "#7d5ba6"]
    chart = (
        alt.Chart(pl.DataFrame(data))
        .mark_bar()
        .encode(
            y=alt.Y("option:N", sort=list(one.options), title=None, axis=alt.Axis(labelLimit=170, ticks=False)),
            yOffset=alt.YOffset("who:N", sort=list(series)),
            x=alt.X("share:Q", title="share of answers, %"),
            color=alt.Color(
                "who:N", sort=list(series), title=None, scale=alt.Scale(domain=list(series), range=tones[: len(series)])
            ),
        )
    )
    return _svg(chart.properties(width=230, height=len(one.options) * (11 * len(series) + 8)))


def love_plot(gaps: Sequence[Gap]) -> alt.LayerChart:
    """How far each margin level is from the population's share, in percentage points, before and after weighting.

    One line a level, widest gap before weighting first, with the two absolute differences and the
    way between them (Love, in Ahmed et al. 2006).
    """
    tones = {"before": "#9a6a1c", "after": "#0b6e69"}
    data = [
        {"level": f"{gap.trait}: {gap.level}", "weights": when, "points": 100 * abs(getattr(gap, when) - gap.target)}
        for gap in sorted(gaps, key=lambda gap: -abs(gap.before - gap.target))
        for when in tones
    ]
    order = list(dict.fromkeys(str(row["level"]) for row in data))
    base = alt.Chart(pl.DataFrame(data))
    y = alt.Y(
        "level:N", sort=order, title=None, axis=alt.Axis(labelLimit=230, labelPadding=10, ticks=False, domain=False)
    )
    x = alt.X("points:Q", title="distance from the population's share, percentage points", scale=alt.Scale(domainMin=0))
    way = base.mark_line(color="#d5d2c8", strokeWidth=2).encode(y=y, x=x, detail="level:N")
    colour = alt.Color("weights:N", title=None, scale=alt.Scale(domain=list(tones), range=list(tones.values())))
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, x=x, color=colour)
    chart: alt.LayerChart = (way + dots).properties(width=360, height=19 * len(order))
    return chart


def write_love_plot(path: Path, gaps: Sequence[Gap]) -> Path:
    """``love_plot`` as a picture by itself (SVG on white)."""
    return _write(path, _svg(love_plot(gaps).properties(title=LOVE_TITLE), background="white"))


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


def _svg(chart: alt.LayerChart | alt.Chart, background: str = "transparent") -> str:
    # ``configure`` first: it replaces what was configured before it.
    quiet = chart.configure(background=background, padding={"left": 28, "right": 8, "top": 4, "bottom": 4})
    quiet = quiet.configure_view(stroke=None).configure_axis(gridColor="#e8e8e4", labelFontSize=11, titleFontSize=11)
    quiet = quiet.configure_axisX(titleFontWeight="normal").configure_legend(orient="bottom", labelFontSize=11)
    return str(vl_convert.vegalite_to_svg(quiet.to_dict()))


def _page(
    title: str,
    evaluation: Evaluation,
    sections: Mapping[str, Mapping[str, str]],
    lineage: Sequence[str],
    gaps: Sequence[Gap],
    screens: pl.DataFrame | None,
) -> str:
    metric = "jsd_bits"
    header, rows = figures(evaluation, metric)
    charts = [
        (split, SPLIT_WORDS[split], _described(evaluation, split), _distance_chart(evaluation, split, metric))
        for split in _columns(evaluation)
    ]
    shown = list(dict.fromkeys([*evaluation.stages[:1], *evaluation.stages[-1:]]))
    portraits = [(one.question, _portrait_chart(one, shown)) for one in evaluation.portraits[:PORTRAITS]]
    others = [
        (METRICS[name].title, METRICS[name].unit, *figures(evaluation, name))
        for name in ("wasserstein", "total_variation")
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(PAGE.read_text(encoding="utf-8")).render(
        title=title,
        heading=_title(metric),
        header=header,
        rows=rows,
        stages=set(evaluation.stages),
        others=others,
        legend=_legend(evaluation),
        findings=_findings(evaluation, metric),
        charts=charts,
        keys=[(INK[kind], KIND_WORDS[kind]) for kind in INK if any(row.kind == kind for row in evaluation.rows)],
        portraits=portraits,
        sections=sections,
        margins=_svg(love_plot(gaps)) if gaps else "",
        screens=_screens(screens) if screens is not None else [],
        lineage=lineage,
        part=evaluation.part,
        worst=[row for row in evaluation.rows if row.metric == "worst_group_jsd_bits" and row.split in COLUMNS],
    )


def _described(evaluation: Evaluation, split: str) -> str:
    about = evaluation.facts.get("splits", {}).get(split, {})
    if not about:
        return ""
    return (
        f"{about['cells']} cells: {about['items']} questions, {about['groups']} groups,"
        f" median n_eff {about['median_n_eff']:.0f}. Intervals: {about['interval']}."
    )
