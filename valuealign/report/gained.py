"""A sweep's one figure: behaviour gained against distribution lost, and the sentence that says what it shows."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from valuealign.evaluate import FLOOR
from valuealign.evaluate.gained import ORIGIN, Gained, Outcome
from valuealign.report.charts import INK, styled, svg
from valuealign.report.words import SPLIT_WORDS, WORDS

KEPT, LOST = "within the constraints on select", "outside them"
WIDTH, HEIGHT = 460, 340
BELOW = (
    "A point for each trial that ran to its end (beta, lambda_d, lambda_u), with 95 % intervals; the winner (by the"
    " select part) is ringed. Evaluated once, on people and prompts that no choice has seen. Lines: guesses without a"
    " model, the noise floor, the margin."
)


def sentence(outcome: Outcome, trials: Sequence[Mapping[str, Any]], margin: float | None) -> str:
    """Which trials gained behaviour without losing the people, or that none did, and whether the winner stands out.

    ``trials`` are the sweep's rows (``Trial.record``), best first; ``margin`` is the largest loss (bits) that is none,
    None: the interval must hold 0 or less.
    """
    place = {str(one["trial"]): number for number, one in enumerate(trials, start=1)}
    good = [one for one in outcome.trials if one.behaviour.low > 0 and kept(one, margin)]
    of = f"{len(outcome.trials)} trials that ran to their end"
    if not good:
        first = f"None of {of} gained behaviour without losing the people"
    else:
        named = ", ".join(str(place[one.trial]) for one in good)
        first = f"{len(good)} of {of} gained behaviour without losing the people (number {named})"
    if outcome.apart is None:
        return f"{first}; there is no feasible runner-up to hold the winner against."
    one = outcome.apart
    spread = f"{one.value:+.3f} AUC, {one.low:+.3f} to {one.high:+.3f}, paired"
    winner, runner_up = (
        f"number {place[made.trial]}: {setting(trials[place[made.trial] - 1])}" for made in outcome.trials[:2]
    )
    if one.low > 0:
        return f"{first}; the winner ({winner}) beats the runner-up ({runner_up}) beyond noise ({spread})."
    if one.high < 0:
        return (
            f"{first}; the winner on select ({winner}) is behind the runner-up ({runner_up}) beyond noise ({spread})."
        )
    return f"{first}; the winner ({winner}) does not differ from the runner-up ({runner_up}) beyond noise ({spread})."


def kept_outcome(outcome: Outcome, trials: Sequence[Mapping[str, Any]], margin: float | None) -> dict[str, Any]:
    """The outcome with its sentence as plain data, for a version's card and ``write_report``."""
    return {**outcome.record(), "margin": margin, "sentence": sentence(outcome, trials, margin)}


def kept(one: Gained, margin: float | None) -> bool:
    """Whether a trial did not lose the people: the interval of its loss ends within the margin."""
    return one.lost.low <= 0 if margin is None else one.lost.high <= margin


def setting(trial: Mapping[str, Any]) -> str:
    """A trial's three weights, in words."""
    return f"beta {trial['beta']:.3g}, lambda_d {trial['lambda_d']:.3g}, lambda_u {trial['lambda_u']:.3g}"


def rows(outcome: Outcome, trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figure's data: a row a trial (those without figures on the report part too), then stage 1, nulls, floor."""
    on_report = {one.trial: one for one in outcome.trials}
    found: list[dict[str, Any]] = []
    for number, one in enumerate(trials, start=1):
        row: dict[str, Any] = {"kind": "trial", "rank": number, **one}
        if made := on_report.get(str(one["trial"])):
            row |= _figures("report_behaviour", made.behaviour) | _figures("report_lost_bits", made.lost)
        found.append(row)
    found.append({"kind": ORIGIN, "trial": ORIGIN, "report_behaviour": 0.0, "report_lost_bits": 0.0})
    for who, at in outcome.marks.items():
        found.append({"kind": "floor" if who == FLOOR else "null", "trial": who, "report_lost_bits": at})
    return found


def _figures(name: str, one: Any) -> dict[str, float]:
    return {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}


def chart(outcome: Outcome, trials: Sequence[Mapping[str, Any]], margin: float | None) -> alt.HConcatChart:
    """A point for each trial that ran to its end, numbered by rank, with 95 % intervals; stage 1 is the origin.

    To the left is nearer to the people than stage 1 (thousandths of a bit), up is more of what they marked desirable.
    Nulls and floor are lines; those beyond the trials stand at the edge with their distance.
    """
    by_id = {str(one["trial"]): (number, one) for number, one in enumerate(trials, start=1)}
    data = []
    for made in outcome.trials:
        number, one = by_id[made.trial]
        data.append(
            {
                "lost": 1000 * made.lost.value, "lost_low": 1000 * made.lost.low, "lost_high": 1000 * made.lost.high,
                "gained": made.behaviour.value, "low": made.behaviour.low, "high": made.behaviour.high,
                "beta": one["beta"], "kept": KEPT if one.get("feasible") else LOST, "name": str(number),
                "winner": number == 1, "key": f"{number}  {setting(one)}",
            }
        )  # fmt: skip
    ends = [0.0, 1000 * (margin or 0.0), *(row[key] for row in data for key in ("lost_low", "lost_high"))]
    known = [at for at in ends if math.isfinite(at)]
    room = max(max(known) - min(known), 1.0)
    domain = [min(known) - 0.12 * room, max(known) + 0.3 * room]
    x = alt.X(
        "lost:Q",
        title=f"distribution lost: further from the people than stage 1 ({SPLIT_WORDS[outcome.split]}),"
        " thousandths of a bit",
        scale=alt.Scale(domain=domain, nice=False),
    )
    y = alt.Y("gained:Q", title="behaviour gained: AUC of r over one half", scale=alt.Scale(zero=True, padding=12))
    base = alt.Chart(pl.DataFrame(data))
    scale = alt.Scale(type="log", scheme="viridis", reverse=True)
    tint = alt.Color("beta:Q", title="beta", scale=scale, legend=alt.Legend(tickCount=3, format=".2~g"))
    quiet = alt.Color("beta:Q", scale=scale, legend=None)
    shape = alt.Shape("kept:N", title=None, scale=alt.Scale(domain=[KEPT, LOST], range=["circle", "cross"]))
    across = base.mark_rule(strokeWidth=1.2, opacity=0.55).encode(
        x=alt.X("lost_low:Q"), x2="lost_high:Q", y=y, color=quiet
    )
    along = base.mark_rule(strokeWidth=1.2, opacity=0.55).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=quiet)
    dots = base.mark_point(filled=True, size=110, opacity=1, stroke="#1d2126", strokeWidth=0.6).encode(
        x=x, y=y, color=tint, shape=shape
    )
    ring = base.transform_filter("datum.winner").mark_point(size=330, strokeWidth=1.6, color="#1d2126").encode(x=x, y=y)
    name = base.mark_text(align="left", dx=9, dy=-9, fontSize=10, color="#1d2126").encode(x=x, y=y, text="name:N")
    behind = _axes() + _lines(outcome, margin, domain)
    whole: alt.LayerChart = behind + across + along + ring + dots + name + _origin()
    line = alt.Y("name:N", sort=[row["name"] for row in data], axis=None)
    key = base.mark_text(align="left", fontSize=10, color="#1d2126").encode(y=line, text="key:N", x=alt.value(0))
    both: alt.HConcatChart = alt.hconcat(
        whole.properties(width=WIDTH, height=HEIGHT), key.properties(width=190, height=14 * len(data)), spacing=8
    ).resolve_scale(y="independent")
    return both


def _axes() -> alt.LayerChart:
    """The lines of no change."""
    zero = alt.Chart(pl.DataFrame({"at": [0.0]}))
    line = zero.mark_rule(color="#b8b6ae")
    both: alt.LayerChart = line.encode(x="at:Q") + line.encode(y="at:Q")
    return both


def _origin() -> alt.LayerChart:
    at = alt.Chart(pl.DataFrame({"lost": [0.0], "gained": [0.0], "name": [ORIGIN]})).encode(x="lost:Q", y="gained:Q")
    point = at.mark_point(filled=True, size=120, shape="diamond", color="#1d2126", opacity=1)
    word = at.mark_text(align="right", dx=-9, dy=13, fontSize=11, fontWeight="bold").encode(text="name:N")
    both: alt.LayerChart = point + word
    return both


def _lines(outcome: Outcome, margin: float | None, domain: Sequence[float]) -> alt.LayerChart:
    """Nulls, floor and margin at their places, or at the edge with an arrow and their distance."""
    there = {WORDS.get(who, who): (1000 * at, "floor" if who == FLOOR else "null") for who, at in outcome.marks.items()}
    if margin is not None:
        there["margin"] = (1000 * margin, "margin")
    inside = [
        {"at": at, "kind": kind, "name": name} for name, (at, kind) in there.items() if domain[0] <= at <= domain[1]
    ]
    outside = [(at, kind, name) for name, (at, kind) in there.items() if not domain[0] <= at <= domain[1]]
    inks = {"null": INK["null"], "floor": INK["floor"], "margin": "#0072b2"}
    tint = alt.Color("kind:N", scale=alt.Scale(domain=list(inks), range=list(inks.values())), legend=None)
    found = _axes()
    if inside:
        base = alt.Chart(pl.DataFrame(inside)).encode(x="at:Q", color=tint)
        found = found + base.mark_rule(strokeDash=[4, 3])
        found = found + base.mark_text(angle=270, align="right", dy=-6, fontSize=10).encode(
            y=alt.value(4), text="name:N"
        )
    for over in (False, True):
        beyond = sorted(one for one in outside if (one[0] > domain[1]) == over)
        for line, (at, kind, name) in enumerate(beyond):
            text = pl.DataFrame({"name": [f"{name} {at:+.1f} →" if over else f"← {name} {at:+.1f}"]})
            mark = alt.Chart(text).mark_text(align="right" if over else "left", fontSize=10, color=inks[kind])
            place = {"x": alt.value(WIDTH - 6 if over else 6), "y": alt.value(HEIGHT - 8 - 13 * line)}
            found = found + mark.encode(**place, text="name:N")
    return found


def write_outcome(
    folder: Path, outcome: Outcome, trials: Sequence[Mapping[str, Any]], margin: float | None
) -> dict[str, Path]:
    """The figure as ``outcome.svg`` and ``outcome.pdf``, its data as ``outcome.csv`` and ``outcome.parquet``."""
    drawn = chart(outcome, trials, margin)
    paths = {kind: folder / f"outcome.{kind}" for kind in ("svg", "pdf", "csv", "parquet")}
    table = pl.DataFrame(rows(outcome, trials), infer_schema_length=None, strict=False)
    made = {
        "svg": svg(drawn, background="white").encode(),
        "pdf": vl_convert.vegalite_to_pdf(styled(drawn, background="white")),
        "csv": table.write_csv().encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for kind, path in paths.items():
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        if kind == "parquet":
            table.write_parquet(aside)
        else:
            aside.write_bytes(made[kind])
        aside.replace(path)
    return paths
