"""The figures of an evaluation as one table, for the terminal and for the page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from valuealign.evaluate import BEHAVIOUR, FLOOR, HALF, Evaluation, Row
from valuealign.report.words import NULLS, columns, find, findings, legend, models, shown_split, title_of, words

WIDTH = 116


def print_table(evaluation: Evaluation, *, metric: str = "jsd_bits") -> str:
    """The evaluation as one table: guesses, stages and floor as rows, splits as columns, the headline first.

    ``metric`` is a distance of METRICS; figures are printed in thousandths. Behaviour AUCs come
    from ``Evaluation.with_behaviour``. Ends without a line feed.
    """
    header, rows = figures(evaluation, metric)
    lines = [f"{title_of(metric)}", "", *_aligned([header, *rows], stages=models(evaluation)), ""]
    for line in [*legend(evaluation), *findings(evaluation, metric)]:
        lines += textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
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
