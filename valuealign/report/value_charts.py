"""What people and models stand for, as charts: the circle of values, and values by group."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import polars as pl

from valuealign.evaluate import Standing
from valuealign.report.charts import MOST_GROUPS, PEOPLE, QUIET, TONES, svg


def value_circle(standings: Sequence[Standing], shown: Sequence[str]) -> str:
    """Centred scores of everyone: around the theory's circle, or in a row without one; empty without any."""
    there = [one for one in standings if one.who in shown and all(map(math.isfinite, one.scores))]
    if not there:
        return ""
    series = [one.who for one in there]
    tones = alt.Scale(domain=series, range=[PEOPLE, *TONES[1:]][: len(series)])
    dash = alt.StrokeDash(
        "who:N",
        title=None,
        sort=series,
        scale=alt.Scale(domain=series, range=[[1, 0], [6, 3], [2, 2], [8, 2, 2, 2]][: len(series)]),
    )
    tint = alt.Color("who:N", title=None, sort=series, scale=tones)
    if there[0].structure != "circle":
        data = [
            {"value": value, "who": one.who, "score": score}
            for one in there
            for value, score in zip(one.values, one.scores, strict=True)
        ]
        order = sorted(there[0].values, key=lambda value: -there[0].scores[there[0].values.index(value)])
        chart = (
            alt.Chart(pl.DataFrame(data))
            .mark_point(filled=True, size=60, opacity=0.9)
            .encode(
                y=alt.Y("value:N", sort=order, title=None, axis=QUIET),
                x=alt.X("score:Q", title="above 0: more important than the rest"),
                color=tint,
            )
        )
        return svg(chart.properties(width=330, height=18 * len(order)))
    reach = max(abs(score) for one in there for score in one.scores) or 1.0
    rim = 1.6 * reach  # where a score of 0 lies; the middle is far below the lowest
    turn = 2 * math.pi / len(there[0].values)

    def at(place: int, radius: float) -> dict[str, float]:
        return {"x": radius * math.sin(place * turn), "y": radius * math.cos(place * turn)}

    data = [
        {**at(v % len(one.values), rim + one.scores[v % len(one.values)]), "who": one.who, "order": v}
        for one in there
        for v in range(len(one.values) + 1)
    ]
    names = [{**at(v, rim + 1.35 * reach), "value": value} for v, value in enumerate(there[0].values)]
    ring = [
        {**at(v % 60, 0.0), "x": rim * math.sin(v * math.pi / 30), "y": rim * math.cos(v * math.pi / 30), "order": v}
        for v in range(61)
    ]
    edge = rim + 2.1 * reach
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-edge, edge]))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-edge, edge]))
    lines = (
        alt.Chart(pl.DataFrame(data))
        .mark_line(strokeWidth=2.2)
        .encode(x=x, y=y, color=tint, strokeDash=dash, order="order:Q")
    )
    dots = alt.Chart(pl.DataFrame(data)).mark_point(filled=True, size=30, opacity=1).encode(x=x, y=y, color=tint)
    zero = alt.Chart(pl.DataFrame(ring)).mark_line(color="#b8b6ae", strokeDash=[3, 3]).encode(x=x, y=y, order="order:Q")
    label = alt.Chart(pl.DataFrame(names)).mark_text(fontSize=11).encode(x=x, y=y, text="value:N")
    return svg((zero + lines + dots + label).properties(width=360, height=360))


def value_map(standings: Sequence[Standing], stage: str) -> str:
    """Group by value: how much more ``stage`` makes of a value than the people of that group do; empty without both."""
    by_who = {one.who: one for one in standings}
    people, mine = by_who.get("people"), by_who.get(stage)
    if people is None or mine is None or len(people.groups) < 2:
        return ""
    names = list(people.groups)[:MOST_GROUPS]
    data = [
        {"group": name, "value": value, "more": 100 * (b - a)}
        for name in names
        for value, a, b in zip(people.values, people.groups[name], mine.groups[name], strict=True)
        if math.isfinite(a) and math.isfinite(b)
    ]
    if not data:
        return ""
    reach = max(abs(float(str(row["more"]))) for row in data) or 1.0
    base = alt.Chart(pl.DataFrame(data)).encode(
        y=alt.Y("group:N", sort=names, title=None, axis=alt.Axis(labelLimit=0, ticks=False, domain=False)),
        x=alt.X(
            "value:N", sort=list(people.values), title=None,
            axis=alt.Axis(orient="top", labelAngle=-35, labelLimit=160, ticks=False, domain=False),
        ),
    )  # fmt: skip
    scale = alt.Scale(scheme="purpleorange", domain=[-reach, reach], reverse=True)
    tint = alt.Color("more:Q", title="above 0: more than the people", scale=scale)
    text = base.mark_text(fontSize=10).encode(text=alt.Text("more:Q", format="+.0f"))
    return svg(
        (base.mark_rect(stroke="#fff").encode(color=tint) + text).properties(
            width=44 * len(people.values), height=20 * len(names)
        )
    )
