"""The figures of an evaluation as one table, for the terminal and for the page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from valuealign.evaluate import BEHAVIOUR, FLOOR, HALF, Evaluation, Row
from valuealign.report.titles import Ways, sorted_by
from valuealign.report.words import (
    NULLS,
    before,
    columns,
    find,
    findings,
    legend,
    models,
    shown_split,
    title_of,
    words,
)

WIDTH = 116
PAIRED = "paired"  # the note of a difference over the same things


def print_table(evaluation: Evaluation, *, metric: str = "jsd_bits") -> str:
    """The evaluation as one table: guesses, stages and floor as rows, splits as columns, the headline first.

    ``metric`` is a distance of METRICS; figures are printed in thousandths. Behaviour AUCs come
    from ``Evaluation.with_behaviour``. Ends without a line feed.
    """
    if not columns(evaluation):
        return ""
    header, rows = figures(evaluation, metric)
    lines = [f"{title_of(metric)}", "", *_aligned([header, *rows], stages=models(evaluation)), ""]
    for line in [*legend(evaluation), *findings(evaluation, metric)]:
        lines += _wrapped(line)
    return "\n".join(lines)


def figures(evaluation: Evaluation, metric: str = "jsd_bits") -> tuple[list[str], list[list[str]]]:
    """The table's header and rows as texts, distances in thousandths; see ``print_table``."""
    splits, shown = columns(evaluation), shown_split(evaluation)
    aucs = any(row.split == BEHAVIOUR for row in evaluation.rows)
    header = ["", *splits, "dispersion", "on options", *(["behaviour"] if aucs else [])]
    there = {row.who for row in evaluation.rows if row.metric == metric and row.split in splits}
    rows = []
    every = models(evaluation)
    for who in [who for who in (*NULLS, *every, FLOOR, HALF) if who in there]:
        cells = [_milli(find(evaluation, split, who, metric)) for split in splits]
        extra = [(shown, "dispersion"), (shown, "raw_mass"), *([(BEHAVIOUR, "auc")] if aucs else [])]
        more = [_plain(find(evaluation, split, who, name)) if who in every else "" for split, name in extra]
        rows.append([words(evaluation, who), *cells, *more])
    return header, rows


def print_sheets(evaluation: Evaluation, *, most: int = 12) -> str:
    """What was asked beside the survey, a table a sheet: at most ``most`` figures of each (the page has them all)."""
    lines: list[str] = []
    for sheet in sheet_tables(evaluation):
        shown = sheet.rows[:most]
        lines += ["", sheet.title, "", *_aligned([sheet.header, *shown], stages=())]
        lines += _wrapped(sheet.change) if sheet.change else []
        for row, remark in zip(shown, sheet.remarks, strict=False):
            lines += _wrapped(f"{row[0]}: {remark}.") if remark else []
        if len(sheet.rows) > most:
            lines.append(f"  ... and {len(sheet.rows) - most} more in the report")
    return "\n".join(lines[1:])


class SheetTable(NamedTuple):
    """A sheet's figures: a row a metric, a column for each who, and the last stage's change (``words.before``).

    ``words`` and ``remarks`` have a text for each row: what its metric is, and what its figures' notes say.
    ``change`` says which figures moved and which are not shown to have.
    """

    title: str
    notes: Sequence[str]
    header: list[str]
    rows: list[list[str]]
    words: list[str]
    remarks: list[str]
    change: str


def sheet_tables(evaluation: Evaluation) -> list[SheetTable]:
    """Every sheet that has figures."""
    found = []
    for name, about in evaluation.facts.get("sheets", {}).items():
        table: dict[str, dict[str, Row]] = {}
        who: dict[str, None] = {}
        for row in evaluation.rows:
            if row.split == name:
                table.setdefault(row.metric, {})[row.who] = row
                who |= {row.who: None} if row.kind != "difference" else {}
        stages = [one for one in who if one in evaluation.stages]
        later, earlier = stages[-1:], [one for one in stages[:-1] if one == before(evaluation)] or stages[:-1]
        apart = [f"{later[0]} - {earlier[0]}"] if earlier else []
        columns = [*who, *apart]
        rows = [[metric, *(within(by.get(one)) for one in columns)] for metric, by in table.items()]
        told = [about["metrics"].get(m) or about["metrics"].get(m.partition("(")[0], "") for m in table]
        remarks = [_remark({one: by[one] for one in columns if one in by}) for by in table.values()]
        change = _change(table, *apart) if apart else ""
        if rows:
            found.append(SheetTable(about["title"], about["notes"], ["", *columns], rows, told, remarks, change))
    return found


def _change(table: Mapping[str, Mapping[str, Row]], apart: str) -> str:
    """Which metrics of a sheet the paired change raised or lowered, as far as its intervals show."""
    moved = {metric: by[apart].estimate for metric, by in table.items() if apart in by}
    known = {metric: one for metric, one in moved.items() if math.isfinite(one.low) and math.isfinite(one.high)}
    told = sorted_by(known, Ways("lower:", "higher:", "not shown to differ:"))
    return f"{apart}: {told}." if told else ""


def _remark(by_who: Mapping[str, Row]) -> str:
    """The notes of a metric's figures; that differences are paired goes without saying."""
    told: dict[str, list[str]] = {}
    for who, row in by_who.items():
        if row.note not in ("", PAIRED):
            told.setdefault(row.note, []).append(who)
    everybody = [who for who, row in by_who.items() if row.kind != "difference"]
    return "; ".join(note if who == everybody else f"{', '.join(who)}: {note}" for note, who in told.items())


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def within(row: Row | None) -> str:
    """A figure with its interval."""
    if row is None or not math.isfinite(row.estimate.value):
        return "-"
    one = row.estimate
    if not math.isfinite(one.low):
        return f"{one.value:.3f}"
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _milli(row: Row | None) -> str:
    if row is None:
        return "-"
    text = f"{1000 * row.estimate.value:.1f}"
    if row.kind in ("stage", "reworded"):
        text += f" ±{500 * (row.estimate.high - row.estimate.low):.1f}"
    return f"({text})" if row.kind == "oracle" else text


def _plain(row: Row | None) -> str:
    return "-" if row is None else f"{row.estimate.value:.3f}"


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
