"""The report's charts, by Altair, as inline SVG: no script, no network.

Colours are Okabe and Ito's, told apart with any colour vision; shape or place says the same as colour.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from valuealign.evaluate import FLOOR, HALF, Evaluation, Portrait
from valuealign.metrics import METRICS
from valuealign.report.words import NULLS, columns, find, models, words
from valuealign.types import EVERYONE
from valuealign.weighting import Gap

alt.data_transformers.disable_max_rows()  # a chart is drawn here, not sent

INK = {
    "stage": "#0072b2",
    "null": "#d55e00",
    "oracle": "#e7b48a",
    "floor": "#3d4249",
    "half": "#8b929d",
    "reworded": "#56b4e9",
    "shuffled": "#cc79a7",
}
KIND_WORDS = {
    "stage": "model",
    "null": "guess without a model",
    "oracle": "guess that reads the held-out answers",
    "floor": "noise floor",
    "half": "split-half",
    "reworded": "model, asked or read in another way",
    "shuffled": "model, groups shuffled",
}
SHAPES = {
    "stage": "circle",
    "null": "diamond",
    "oracle": "diamond",
    "floor": "triangle-up",
    "half": "square",
    "reworded": "circle",
    "shuffled": "cross",
}
PEOPLE, TONES = "#3d4249", ("#56b4e9", "#0072b2", "#009e73", "#cc79a7", "#d55e00")
QUIET = alt.Axis(labelLimit=230, labelPadding=6, ticks=False, domain=False)
# Characters of an option in a line, and the height of such a line in pixels.
LABEL, LINE = 30, 13
# What portraits of each split are of.
QUESTIONS = {"everyone": "question trained", "items": "question never trained", "survey": "question of another survey"}
# Groups that the map of groups shows.
MOST_GROUPS = 24
LOVE_TITLE = "Margins before and after weighting"


def svg(chart: alt.TopLevelMixin, background: str = "transparent") -> str:
    """The chart as text of an SVG element."""
    return str(vl_convert.vegalite_to_svg(styled(chart, background)))


def styled(chart: alt.TopLevelMixin, background: str = "transparent") -> dict[str, Any]:
    """The chart in the report's dress, as a Vega-Lite specification."""
    # ``configure`` first: it replaces what was configured before it.
    quiet = chart.configure(background=background, padding={"left": 28, "right": 8, "top": 4, "bottom": 4})
    quiet = quiet.configure_view(stroke=None).configure_axis(gridColor="#e8e8e4", labelFontSize=11, titleFontSize=11)
    quiet = quiet.configure_axisX(titleFontWeight="normal").configure_legend(
        orient="bottom", labelFontSize=11, columnPadding=30
    )
    found: dict[str, Any] = quiet.to_dict()
    return found


def distances(evaluation: Evaluation, split: str, metric: str) -> str:
    """Points with 95 % intervals, one line for each guess, stage and floor."""
    mixed = f"{evaluation.stages[-1]} (groups shuffled)" if evaluation.stages else ""
    data: list[dict[str, Any]] = []
    for who in (*NULLS, *models(evaluation), mixed, FLOOR, HALF):
        row = find(evaluation, split, who, metric)
        if row is not None:
            one = row.estimate
            figures = {"value": 1000 * one.value, "low": 1000 * one.low, "high": 1000 * one.high}
            data.append({"who": words(evaluation, who), "kind": row.kind, **figures})
    base = alt.Chart(pl.DataFrame(data))
    y = alt.Y("who:N", sort=[row["who"] for row in data], title=None, axis=QUIET)
    unit = "thousandths of a bit" if metric == "jsd_bits" else METRICS[metric].unit
    x = alt.X(
        "value:Q",
        title=f"{METRICS[metric].title}, {unit}",
        axis=alt.Axis(tickCount=5),
        scale=alt.Scale(domainMin=0, nice=True),
    )
    bars = base.mark_rule(strokeWidth=2).encode(y=y, x=alt.X("low:Q"), x2="high:Q", color=_colour(INK))
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())), legend=None)
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, x=x, color=_colour(INK), shape=shape)
    floor = (
        base.transform_filter(alt.datum.kind == "floor")
        .mark_rule(strokeDash=[3, 3], color=INK["floor"])
        .encode(x="value:Q")
    )
    label = base.mark_text(align="left", dx=8, dy=-7, fontSize=10, color="#333").encode(
        y=y, x="value:Q", text=alt.Text("value:Q", format=".1f")
    )
    return svg((floor + bars + dots + label).properties(width=330, height=23 * len(data)))


def _colour(inks: Mapping[str, str]) -> alt.Color:
    return alt.Color("kind:N", scale=alt.Scale(domain=list(inks), range=list(inks.values())), legend=None)


def changes(evaluation: Evaluation, later: str, earlier: str, metric: str = "jsd_bits") -> str:
    """How much nearer or further ``later`` is than ``earlier`` in each split, paired; empty where nothing is known."""
    rows = [(split, find(evaluation, split, f"{later} - {earlier}", metric)) for split in columns(evaluation)]
    data = [
        {"split": split, "value": 1000 * row.estimate.value, "low": 1000 * row.estimate.low,
         "high": 1000 * row.estimate.high}
        for split, row in rows if row is not None
    ]  # fmt: skip
    if not data:
        return ""
    base = alt.Chart(pl.DataFrame(data))
    y = alt.Y("split:N", sort=[str(row["split"]) for row in data], title=None, axis=QUIET)
    x = alt.X("value:Q", title=f"{later} - {earlier}: thousandths of a bit, below 0 is nearer to the people")
    zero = alt.Chart(pl.DataFrame({"zero": [0.0]})).mark_rule(color=INK["floor"]).encode(x="zero:Q")
    bars = base.mark_rule(strokeWidth=2, color=INK["stage"]).encode(y=y, x=alt.X("low:Q"), x2="high:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1, color=INK["stage"]).encode(y=y, x=x)
    return svg((zero + bars + dots).properties(width=330, height=26 * len(data)))


def portrait(one: Portrait, stages: Sequence[str]) -> str:
    """Bars of the people's shares, with their intervals, and of the stages' for one question."""
    series = {"people": one.people, **{stage: one.stages[stage] for stage in stages}}
    tones = [PEOPLE, *(TONES[:2] if len(stages) > 1 else TONES[1:2])]
    return bars(one.options, series, {"people": (one.low, one.high)} if one.low else {}, tones)


def bars(
    options: Sequence[str],
    series: Mapping[str, Sequence[float]],
    spans: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    tones: Sequence[str],
) -> str:
    """Bars of the shares [K] of each of ``series``, with the lower and upper limits in ``spans``; long options wrap."""
    options = [textwrap.fill(option, LABEL) for option in options]
    lines = max(option.count("\n") + 1 for option in options)
    data = [
        {"option": option, "who": who, "share": 100 * share}
        for who, shares in series.items()
        for option, share in zip(options, shares, strict=True)
    ]
    broken = "split(datum.value, '\\n')"
    rise = alt.ExprRef(f"{LINE / 2} * (1 - length({broken}))")  # else a label's first line stands in the middle
    label = alt.Axis(labelLimit=0, labelLineHeight=LINE, labelExpr=broken, labelOffset=rise, ticks=False)
    y = alt.Y("option:N", sort=options, title=None, axis=label)
    offset = alt.YOffset("who:N", sort=list(series))
    chart: Any = (
        alt.Chart(pl.DataFrame(data))
        .mark_bar()
        .encode(
            y=y,
            yOffset=offset,
            x=alt.X("share:Q", title="share of answers, %", axis=alt.Axis(tickCount=5), scale=alt.Scale(domainMin=0)),
            color=alt.Color(
                "who:N", sort=list(series), title=None, scale=alt.Scale(domain=list(series), range=list(tones))
            ),
        )
    )
    around = [
        {"option": option, "who": who, "low": 100 * low, "high": 100 * high}
        for who, limits in spans.items()
        for option, low, high in zip(options, *limits, strict=True)
    ]
    if around:
        whisker = alt.Chart(pl.DataFrame(around)).mark_rule(strokeWidth=1.5, color="#000")
        chart = chart + whisker.encode(y=y, yOffset=offset, x=alt.X("low:Q"), x2="high:Q")
    each = max(11 * len(series) + 8, LINE * lines + 8)
    return svg(chart.properties(width=230, height=len(options) * each))


def calibration(evaluation: Evaluation, stage: str) -> str:
    """Each answer to each question that names no group: the model's share against the people's; empty without any."""
    data = [
        {"model": 100 * mine, "people": 100 * theirs, "low": 100 * low, "high": 100 * high, "question": one.split}
        for one in evaluation.portraits
        if stage in one.stages and one.low
        for mine, theirs, low, high in zip(one.stages[stage], one.people, one.low, one.high, strict=True)
    ]
    if not data:
        return ""
    data = [{**row, "question": QUESTIONS[str(row["question"])]} for row in data]
    there = [kind for kind in QUESTIONS.values() if any(row["question"] == kind for row in data)]
    base = alt.Chart(pl.DataFrame(data))
    shape = alt.Shape(
        "question:N", title=None, scale=alt.Scale(domain=there, range=["circle", "cross", "diamond"][: len(there)])
    )
    tint = alt.Color(
        "question:N", title=None, scale=alt.Scale(domain=there, range=[TONES[1], TONES[4], TONES[2]][: len(there)])
    )
    x = alt.X("model:Q", title=f"share of {stage}'s answer, %", scale=alt.Scale(domain=[0, 100]))
    y = alt.Y("people:Q", title="share of the people, %", scale=alt.Scale(domain=[0, 100]))
    line = alt.Chart(pl.DataFrame({"x": [0, 100], "y": [0, 100]})).mark_line(color="#b8b6ae", strokeDash=[4, 3])
    whisker = base.mark_rule(opacity=0.35).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=tint)
    dots = base.mark_point(filled=True, size=45, opacity=0.9).encode(x=x, y=y, color=tint, shape=shape)
    return svg((line.encode(x="x:Q", y="y:Q") + whisker + dots).properties(width=330, height=330))


def group_means(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Mean divergence (bits) of each group's held-out cells by who answers: guesses, stages, a perfect model.

    Groups with a single such cell are left out; those that training never named are marked as never trained.
    Trained cells count only where nothing was held out (``held_out_map``); never with the others.
    """
    who = ["marginal", "additive", *evaluation.stages, FLOOR]
    by_group: dict[str, list[Mapping[str, float]]] = {}
    splits = ("cells", "groups") if held_out_map(evaluation) else ("seen",)
    for one in evaluation.tested:
        if one.group != EVERYONE.name and one.split in splits:
            name = f"{one.group} (never trained)" if one.split == "groups" else one.group
            by_group.setdefault(name, []).append(one.apart)
    return {
        group: {name: _mean([apart.get(name, math.nan) for apart in cells]) for name in who}
        for group, cells in by_group.items()
        if len(cells) > 1
    }


def held_out_map(evaluation: Evaluation) -> bool:
    """Whether there are held-out cells of groups."""
    return any(one.split in ("cells", "groups") for one in evaluation.tested)


def group_map(evaluation: Evaluation) -> str:
    """``group_means`` as a map; empty with fewer than two groups.

    Groups where the last stage is furthest come first; figures are in the squares.
    """
    mean = group_means(evaluation)
    if not evaluation.stages or len(mean) < 2:
        return ""
    who = ["marginal", "additive", *evaluation.stages, FLOOR]
    worst = sorted(mean, key=lambda group: -mean[group][evaluation.stages[-1]])[:MOST_GROUPS]
    data = [
        {"group": group, "who": words(evaluation, name), "apart": 1000 * mean[group][name]}
        for group in worst
        for name in who
        if math.isfinite(mean[group][name])
    ]
    base = alt.Chart(pl.DataFrame(data)).encode(
        y=alt.Y("group:N", sort=worst, title=None, axis=alt.Axis(labelLimit=0, ticks=False, domain=False)),
        x=alt.X(
            "who:N", sort=[words(evaluation, name) for name in who], title=None,
            axis=alt.Axis(orient="top", labelAngle=-35, labelLimit=190, ticks=False, domain=False),
        ),
    )  # fmt: skip
    tint = alt.Color("apart:Q", title="thousandths of a bit", scale=alt.Scale(scheme="blues", domainMin=0))
    middle = max(float(str(row["apart"])) for row in data) / 2
    ink = alt.condition(alt.datum.apart > middle, alt.value("#fff"), alt.value("#1d2126"))
    text = base.mark_text(fontSize=10).encode(text=alt.Text("apart:Q", format=".1f"), color=ink)
    squares = base.mark_rect(stroke="#fff").encode(color=tint)
    return svg((squares + text).properties(width=62 * len(who), height=20 * len(worst)))


def known_trials(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Trials of a sweep that have figures: ``beta``, ``lambda_d``, ``lambda_u`` and ``auc``."""
    keys = ("beta", "lambda_d", "lambda_u", "auc")
    return [one for one in trials if all(isinstance(one.get(key), int | float) for key in keys)]


def sweep_surface(trials: Sequence[Mapping[str, Any]]) -> str:
    """Every trial of a sweep by beta and lambda_d / lambda_u: behaviour gained, and whether it kept the people.

    A trial has ``beta``, ``lambda_d``, ``lambda_u``, ``auc`` and ``feasible``; those without figures are left out.
    """
    data = [
        {
            "beta": one["beta"],
            "ratio": one["lambda_d"] / one["lambda_u"],
            "auc": one["auc"],
            "kept": "kept the people" if one.get("feasible") else "lost the people",
            "name": f"{one['auc']:.3f}",
        }
        for one in known_trials(trials)
    ]
    if not data:
        return ""
    base = alt.Chart(pl.DataFrame(data)).encode(
        x=alt.X(
            "beta:Q",
            title="beta (log scale)",
            scale=alt.Scale(type="log", nice=False, padding=24),
            axis=alt.Axis(tickCount=4),
        ),
        y=alt.Y("ratio:Q", title="lambda_d / lambda_u", scale=alt.Scale(zero=False)),
    )
    kept = ["kept the people", "lost the people"]
    dots = base.mark_point(filled=True, size=130, opacity=1, stroke="#1d2126", strokeWidth=0.6).encode(
        color=alt.Color("auc:Q", title="behaviour (AUC)", scale=alt.Scale(scheme="blues")),
        shape=alt.Shape("kept:N", title=None, scale=alt.Scale(domain=kept, range=["circle", "cross"])),
    )
    text = base.mark_text(dy=-13, fontSize=10).encode(text="name:N")
    return svg((dots + text).properties(width=360, height=260))


def love_plot(gaps: Sequence[Gap]) -> alt.LayerChart:
    """How far each margin level is from the population's share, in percentage points, before and after weighting.

    One line a level, widest gap before weighting first, with the two absolute differences and the
    way between them (Love, in Ahmed et al. 2006).
    """
    tones = {"before": INK["null"], "after": INK["stage"]}
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
    shape = alt.Shape("weights:N", title=None, scale=alt.Scale(domain=list(tones), range=["diamond", "circle"]))
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, x=x, color=colour, shape=shape)
    chart: alt.LayerChart = (way + dots).properties(width=360, height=19 * len(order))
    return chart


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
