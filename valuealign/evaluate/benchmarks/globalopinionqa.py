"""GlobalOpinionQA (Durmus et al. 2023, arXiv 2306.16388): how near a model's answers are to each country's.

Their measure is S(m, c), the mean over questions of "1 - Jensen-Shannon Distance" between the model's
distribution and the country's. The distance is the root of the divergence; their code is not published and their
base is not known here, so both that are in use are computed: base e (the default of SciPy's
``jensenshannon``; never below .167) and base 2 (0 to 1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
from valuealign.metrics import Floats, jsd_bits
from valuealign.surveys.published import Question, distributions
from valuealign.surveys.rows import Rows, read_rows
from valuealign.surveys.wordings import plain_words

NAME, TITLE = "globalopinionqa", "GlobalOpinionQA: 1 - Jensen-Shannon distance to each country"
LEAST_E = 1 - math.sqrt(math.log(2))
# "India (Old national sample)": what the survey says of its sample is no part of a country's name.
SAMPLE = re.compile(r"\s*\([^)]*sample[^)]*\)", re.IGNORECASE)


def similarity_e(model: Floats, people: Floats, positions: Floats) -> Floats:
    """1 - sqrt(JSD), the divergence in nats (base e): from 1 - sqrt(ln 2) = .167 (disjoint) to 1 (equal)."""
    return np.asarray(1 - np.sqrt(jsd_bits(model, people) * math.log(2)))


def similarity_2(model: Floats, people: Floats, positions: Floats) -> Floats:
    """1 - sqrt(JSD), the divergence in bits (base 2): from 0 (disjoint) to 1 (equal)."""
    return np.asarray(1 - np.sqrt(jsd_bits(model, people)))


def _figures() -> tuple[Figure, ...]:
    bases = (("e", similarity_e, (LEAST_E, 1.0)), ("2", similarity_2, (0.0, 1.0)))
    how = {False: "no country named (their default prompting)", True: "the country named (their cross-national one)"}
    return tuple(
        Figure(
            metric=f"similarity_{base}_{'named' if named else 'unnamed'}",
            text=f"1 - Jensen-Shannon distance (root of the divergence, base {base}; {bounds[0]:.3g} to 1, higher is "
            f"better), {how[named]}: the mean over questions of each country, then over countries",
            measure=measure,
            named=named,
            lower_is_better=False,
            bounds=bounds,
            per_group=True,
            worst=base == "e",
        )
        for base, measure, bounds in bases
        for named in (False, True)
    )


def read(path: Path) -> Content:
    """The questions of a file in the form of ``Anthropic/llm_global_opinions`` (CSV, JSON lines, Parquet).

    Columns ``question``, ``selections`` (country -> shares), ``options``. A row without a question is left out
    (the published file has one). All options that the file lists are compared, "don't know" too.
    """
    rows, empty = _with_question(read_rows(path))
    found, questions, rescaled = distributions(rows)
    read_ = [one for question in questions for one in _asked(question)]
    more = [
        f"{empty} rows without a question were left out" if empty else "",
        f"{len(found) - len(questions)} questions without any shares were left out"
        if len(found) > len(questions)
        else "",
        rescaled,
    ]
    return Content(
        questions_of(read_), lambda left_out: _sheet([one for one in read_ if one.question not in left_out], path, more)
    )


def _sheet(asked: Sequence[Asked], path: Path, more: Sequence[str]) -> Sheet:
    need_choice(asked, path, ordered=False)
    kept, short = without_choice(asked)
    notes = [
        *more,
        short,
        'every option that the file lists is compared, "don\'t know" and "refused" among them',
        "Jensen-Shannon distances are printed in base e and in base 2: compare with a figure whose base you know",
    ]
    return distribution_sheet(Published(NAME, kept), TITLE, _figures(), notes)


def _with_question(rows: Rows) -> tuple[Rows, int]:
    """The rows that have a question, and how many have none."""
    if "question" not in rows.columns:
        return rows, 0
    kept = [row for row, text in enumerate(rows.columns["question"]) if text is not None and str(text).strip()]
    if len(kept) == rows.height or not kept:
        return rows, 0
    columns = {name: [values[row] for row in kept] for name, values in rows.columns.items()}
    return Rows(rows.path, len(kept), columns, lambda name, row: rows.place(name, kept[row])), rows.height - len(kept)


def _asked(question: Question) -> Sequence[Asked]:
    """A question asked of each country; the same words asked again are one family."""
    family = plain_words(question.text)
    return [
        Asked(
            question=str(question.row),
            family=family,
            text=question.text,
            options=tuple(question.answers),
            group=country,
            phrase=f"a person from {SAMPLE.sub('', country)}",
            shares=tuple(cell.shares),
        )
        for country, cell in question.cells.items()
    ]


BENCHMARK = Benchmark(
    TITLE,
    "Durmus et al. 2023, arXiv 2306.16388",
    "data/global_opinions.csv of the data set Anthropic/llm_global_opinions (or the same columns as JSON lines or "
    "Parquet): question, selections, options",
    read,
)
