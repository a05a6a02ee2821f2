"""Rectified shares for people: one offline page of the report's family, with the same figures as CSV and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from valuealign.evaluate import Evaluation, Row
from valuealign.evaluate.pilot import MODEL, PILOT, RECTIFIED, Beside, as_table, how_far
from valuealign.report.charts import PEOPLE, TONES, bars
from valuealign.report.page import Figure, template, write_aside
from valuealign.report.titles import Ways, sorted_by
from valuealign.report.words import distance, may

# Who is shown for each answer, and in which colour.
SHOWN = {"other people": PEOPLE, MODEL: TONES[0], PILOT: TONES[3], RECTIFIED: TONES[1]}


def write_rectified(
    folder: Path, found: Sequence[Beside], *, version: str, licence: str, tier: str, facts: Mapping[str, object]
) -> Path:
    """Write ``rectified.csv``, ``rectified.json`` and ``rectified.html`` into ``folder``; returns the page's path.

    ``licence`` and ``tier`` are the survey's; ``facts`` are further keys of the JSON, shown on the page too.
    """
    table, rows = as_table(found), how_far(found)
    sentences = [*_summary(found, rows), may(licence, tier)]
    record = {
        "version": version,
        **facts,
        "licence": licence,
        "tier": tier,
        "summary": sentences,
        "distances": json.loads(Evaluation("report", (), tuple(rows)).to_json())["rows"],
        "shares": table.to_dicts(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / "rectified.csv", table.write_csv())
    write_aside(folder / "rectified.json", json.dumps(record, ensure_ascii=False, indent=1))
    page = template("rectified.html.jinja").render(
        title=f"{version}, rectified by a pilot of people",
        summary=sentences[:-1],
        sharing=sentences[-1],
        closed=tier == "closed",
        stages={RECTIFIED},
        distances=[[row.who, f"{_hundredths(row)}"] for row in rows],
        figures=[_figure(one) for one in sorted(found, key=_off, reverse=True)],
        facts=facts,
    )
    return write_aside(folder / "rectified.html", page)


def _summary(found: Sequence[Beside], rows: Sequence[Row]) -> list[str]:
    """What the model was worth and how near each way is to the other people, as far as the intervals show."""
    n_eff, gained = (np.mean([getattr(one.rectified, key) for one in found]) for key in ("n_eff", "gained"))
    apart = {row.who: row for row in rows}
    pairs = {
        f"{other} ({_hundredths(row)})": row for other in (PILOT, MODEL) if (row := apart[f"{RECTIFIED} - {other}"])
    }
    ways = Ways("nearer to the other people than", "further from them than", "not shown to be nearer than")
    told = sorted_by({name: row.estimate for name, row in pairs.items()}, ways)
    return [
        f"On average over {len(found)} questions the pilot is worth {n_eff:.0f} respondents, and the model"
        f" {gained:.1f} more.",
        f"{RECTIFIED} is {told}: hundredths of all answers that would have to be others, paired, with 95 % intervals.",
    ]


def _hundredths(row: Row) -> str:
    value, low, high = (100 * x for x in (row.estimate.value, row.estimate.low, row.estimate.high))
    if not math.isfinite(low):  # of a single question
        return f"{value:+.2f}, no interval" if row.kind == "difference" else f"{value:.2f} (no interval)"
    return (
        f"{value:+.2f}, {low:+.2f} to {high:+.2f}"
        if row.kind == "difference"
        else f"{value:.2f} ({low:.2f} to {high:.2f})"
    )


def _off(one: Beside) -> float:
    return distance(one.rectified.model, one.truth.shares)


def _figure(one: Beside) -> Figure:
    r = one.rectified
    outside = [
        option.text
        for option, share, span in zip(one.item.options, r.model, r.shares, strict=True)
        if not span.low <= share <= span.high
    ]
    biased = f"shown to be off on {', '.join(f'“{text}”' for text in outside)}" if outside else "not shown to be off"
    series = dict(
        zip(SHOWN, (one.truth.shares, r.model, *([e.value for e in es] for es in (r.pilot, r.shares))), strict=True)
    )
    spans = {
        "other people": (one.truth.low, one.truth.high),
        PILOT: ([e.low for e in r.pilot], [e.high for e in r.pilot]),
        RECTIFIED: ([e.low for e in r.shares], [e.high for e in r.shares]),
    }
    below = (
        f"{r.n} people of the pilot, lambda {r.lambda_:.2f}; the model is worth {r.gained:+.0f} beside {r.n_eff:.0f}"
        f" respondents, and alone it is {biased}."
    )
    options = [option.text for option in one.item.options]
    return Figure(one.item.text, below, bars(options, series, spans, list(SHOWN.values())))
