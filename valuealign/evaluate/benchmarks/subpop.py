"""SubPOP (Suh et al. 2025, arXiv 2502.16761): ordinal Wasserstein distance to the answers of subpopulations.

sum_i |F_P(i) - F_Q(i)| (o_{i+1} - o_i) / (o_K - o_1), options in the order of their ordinal values o. An option of
a negative ordinal value ("not sure") is left out of both distributions, which are renormalised; so is the
refusal, which the model is offered as the last option.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from valuealign.errors import AnswerError
from valuealign.evaluate.benchmarks import pew
from valuealign.evaluate.benchmarks.benchmark import Benchmark, Content
from valuealign.evaluate.benchmarks.distributions import (
    Asked,
    Figure,
    Published,
    distribution_sheet,
    need_choice,
    questions_of,
    without_choice,
)
from valuealign.evaluate.sheet import Sheet
from valuealign.metrics import wasserstein
from valuealign.surveys.rows import Rows, literal, number, read_rows

NAME, TITLE = "subpop", "SubPOP: ordinal Wasserstein distance to 22 subpopulations of the United States"
COLUMNS = ("qkey", "attribute", "group", "question", "options", "responses", "ordinal")
SLACK = 0.01

FIGURES = tuple(
    Figure(
        metric=f"wasserstein_{'named' if named else 'unnamed'}",
        text="Wasserstein-1 distance over the range of the ordinal values (0 to 1, lower is better), "
        + ("the group named in the prompt as theirs is" if named else "no group named"),
        measure=wasserstein,
        named=named,
        lower_is_better=True,
        worst=named,
    )
    for named in (True, False)
)


def read(path: Path) -> Content:
    """The questions of ``subpop_train.jsonl`` or ``subpop_eval.jsonl`` (or a CSV with the same columns).

    A row is a question and a group: ``options`` [K + 1] end with the refusal, ``responses`` [K] are shares
    without it, ``ordinal`` [K]. Raises AnswerError for a row that does not fit.
    """
    rows = read_rows(path)
    rows.need(COLUMNS, f"a file of SubPOP has {', '.join(COLUMNS)}")
    seen: dict[tuple[str, str], int] = {}
    asked = []
    for row in range(rows.height):
        one = _asked(rows, row)
        if (one.question, one.group) in seen:
            where = rows.where(row, "qkey")
            raise AnswerError(
                f"'{one.question}' stands a second time for {one.group}", where=where, mend="keep one row"
            )
        seen[one.question, one.group] = row
        asked.append(one)
    return Content(
        questions_of(asked), lambda left_out: _sheet([one for one in asked if one.question not in left_out], path)
    )


def _sheet(asked: Sequence[Asked], path: Path) -> Sheet:
    need_choice(asked, path, ordered=True)
    kept, short = without_choice(asked)
    nominal = sum(not one.positions for one in kept)
    notes = [
        short,
        f"{nominal:,} of {len(kept):,} distributions have no order (all their ordinal values are the same) and do not "
        f"count; the published code takes their distance as 0, which makes its mean {1 - nominal / len(kept):.4f} of "
        "the one here"
        if nominal
        else "",
        "refusals are offered to the model and left out of the comparison, as in the published code",
    ]
    return distribution_sheet(Published(NAME, kept), TITLE, FIGURES, notes)


def _asked(rows: Rows, row: int) -> Asked:
    options = tuple(str(option).strip() for option in literal(rows, row, "options", list, "a list of answers"))
    responses, ordinal = (_numbers(rows, row, name) for name in ("responses", "ordinal"))
    if len(options) != len(responses) + 1 or len(ordinal) != len(responses):
        raise AnswerError(
            f"{len(options)} options, {len(responses)} responses and {len(ordinal)} ordinal values do not fit",
            where=rows.where(row, "responses"),
            mend="give a response and an ordinal value for each option but the last, which is the refusal",
        )
    if min(responses) < 0 or abs(sum(responses) - 1) > SLACK:
        where, mend = rows.where(row, "responses"), "responses are shares from 0 to 1, the refusal left out"
        raise AnswerError(f"the responses sum to {sum(responses):g}", where=where, mend=mend)
    counted = [share if place >= 0 else math.nan for share, place in zip(responses, ordinal, strict=True)]
    total = math.fsum(share for share in counted if share == share)
    places = [place if place >= 0 else math.nan for place in ordinal]
    spread = len({place for place in places if place == place}) > 1
    attribute, group, key = (rows.text(name, row) for name in ("attribute", "group", "qkey"))
    return Asked(
        question=key,
        family=key,
        text=rows.text("question", row),
        options=options,
        group=f"{attribute} {group}",
        phrase=pew.phrase(attribute, group),
        # Where nobody chose what counts there is nothing to compare.
        shares=(*(share / total if total > 0 else math.nan for share in counted), math.nan),
        positions=(*places, math.nan) if spread else (),
    )


def _numbers(rows: Rows, row: int, name: str) -> list[float]:
    values: list[Any] = literal(rows, row, name, list, "a list of numbers, as in [0.4, 0.6]")
    found = [number(value) for value in values]
    if not found or None in found:
        raise AnswerError(f"'{name}' is no list of numbers", where=rows.where(row, name), mend="write [0.4, 0.6]")
    return [float(value) for value in found if value is not None]


BENCHMARK = Benchmark(
    TITLE,
    "Suh et al. 2025, arXiv 2502.16761",
    "subpop_train.jsonl or subpop_eval.jsonl of the data set jjssuh/subpop: qkey, attribute, group, question, options "
    "(the refusal last), responses, ordinal",
    read,
)
