"""The Rokeach Value Survey: 18 terminal and 18 instrumental values, each list ranked 1 (most important) to 18.

A ranking says which of two values comes first, and that is what it is read as: one question for
each of the 153 pairs of a list, "Which matters more to you: A or B?". Each pair stands once, A
before B in the alphabetical order of the lists, so no question is another one turned round. (Pairs
still share values: who ranks A before B and B before C has answered A against C.)

The rule on ties and gaps, for each person and list:

- two values of equal rank: no preference, the pair is not answered;
- ranks 1 to m, each given once, and no other ones: a list of the m foremost. What was ranked
  comes before what was not; two values that were not ranked: not answered;
- any other incomplete ranking: only pairs of two ranked values are answered;
- a rank that is no whole number from 1 to 18 is refused, with its line.

Shape letters: ``P`` rows (persons), ``V`` the 18 values of a list, ``Q`` its pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError
from valuealign.surveys import generic
from valuealign.surveys.codebook import Codebook
from valuealign.surveys.instruments import bare, data_file, laid_over, placed
from valuealign.surveys.table import Survey
from valuealign.types import Item, Option
from valuealign.values import THEORIES

RANKS = 18
UNRANKED = RANKS + 1
LISTS = THEORIES["rokeach"].higher
# How the columns of a list may begin when they are numbered in the lists' order.
STEMS = {
    "terminal": (r"(?:rvs|rokeach)?[\s_.-]*t(?:erm|erminal)?",),
    "instrumental": (r"(?:rvs|rokeach)?[\s_.-]*i(?:nst|nstr|nstrumental)?",),
}


def base() -> dict[str, Any]:
    """The 36 values as a codebook in the shape of its YAML; each value's column holds its rank."""
    values = [value for names in LISTS.values() for value in names]
    return {
        "name": "rvs",
        "title": "Rokeach Value Survey",
        "source": THEORIES["rokeach"].source,
        "scales": {"rank": [{str(rank): str(rank)} for rank in range(1, RANKS + 1)]},
        "items": {value: {"text": _words(value), "scale": "rank"} for value in values},
    }


def read(config: SurveyConfig, seed: int) -> Survey:
    """Rankings as answers to pairs; ``seed`` plays no part.

    A value's column bears its name (``freedom``, ``A comfortable life``) or its number in the
    alphabetical list (``t1`` to ``t18``, ``i1`` to ``i18``). ``config.codebook`` may be a YAML with
    the person, the weight, traits, missing codes, other items, and other names or columns of values
    (``items: {freedom: {text: ..., column: ...}}``), laid over the built-in one. A file may have one
    of the two lists only.

    Raises SurveyError without a file, CodebookError for the YAML, AnswerError (file, column, line)
    for a rank outside 1..18, where values have no column, and where nobody ranked any value before another.
    """
    path = data_file(config)
    lists = [dict(enumerate(LISTS[name], start=1)) for name in STEMS]
    book = placed(laid_over(base(), config.codebook), path, lists, tuple(STEMS.values()))
    # A value that nobody ranked loses to those that were: only then is it known what nobody answered.
    survey = _paired(generic.unpruned(path, book, config, lenient=True), path)
    return generic.pruned(replace(survey, notes=(*_notes(book), *survey.notes)))


def pair_id(first: str, second: str) -> str:
    """The id of the question about two values."""
    return f"{first}_or_{second}"


def preferences(rank_PV: np.ndarray) -> np.ndarray:
    """Ranks [P, V] (1 foremost, NaN: not ranked) -> answers [P, Q] by the rule above.

    The pairs stand in the order of ``combinations``; 0: the first of the two comes before the
    second, 1: the other way round, -1: not answered.
    """
    given_PV = ~np.isnan(rank_PV)
    many_P = given_PV.sum(axis=1)
    sorted_PV = np.sort(rank_PV, axis=1)  # NaN last
    steps_PV = np.arange(1, rank_PV.shape[1] + 1)
    # A list of the foremost: sorted, the given ranks read 1, 2, ..., m.
    foremost_P = np.all((sorted_PV == steps_PV) | (steps_PV > many_P[:, None]), axis=1) & (many_P > 0)
    full_PV = np.where(~given_PV & foremost_P[:, None], UNRANKED, rank_PV)
    first, second = np.triu_indices(rank_PV.shape[1], k=1)
    with np.errstate(invalid="ignore"):
        gap_PQ = full_PV[:, second] - full_PV[:, first]
    answer_PQ = np.where(gap_PQ > 0, 0, np.where(gap_PQ < 0, 1, -1))
    return answer_PQ.astype(np.int16)


def _paired(survey: Survey, path: Path) -> Survey:
    """The survey with the items of the ranks replaced by those of the pairs."""
    people, book = survey.people, survey.codebook
    texts = {item.id: item.text for item in book.items}
    items, columns, open_pairs = list[Item](), list[pl.Series](), 0
    for values in LISTS.values():
        if not any(value in texts for value in values):
            continue
        answer_PQ = preferences(_ranks(people, values))
        for q, (first, second) in enumerate(combinations(values, 2)):
            if (answer_PQ[:, q] == -1).all():
                open_pairs += 1
                continue
            answer = pl.Series(pair_id(first, second), answer_PQ[:, q])
            columns.append(answer.set(answer == -1, None))
            items.append(_item(first, second, texts))
    if not items:
        raise AnswerError(
            "nobody ranked one value before another", where=str(path), mend="give the ranks 1, 2, 3, ..., each once"
        )
    ranked = {value for values in LISTS.values() for value in values}
    others = [item for item in book.items if item.id not in ranked]
    book = book.among(others, book.traits)
    book = replace(book, items=(*items, *others), columns={k: c for k, c in book.columns.items() if k not in ranked})
    people = people.drop([name for name in people.columns if name in ranked]).with_columns(columns)
    notes = (f"Pairs of values that nobody put in an order, left out: {open_pairs}.",) if open_pairs else ()
    return replace(survey, codebook=book, people=people, notes=(*survey.notes, *notes))


def _ranks(people: pl.DataFrame, values: Sequence[str]) -> np.ndarray:
    """[P, V]: the ranks; NaN where none was given."""
    ranks = [people[value].cast(pl.Float64).to_numpy() + 1 for value in values]
    # A negative index is an outcome (no answer): no rank.
    return np.stack([np.where(rank >= 1, rank, np.nan) for rank in ranks], axis=1)


def _words(value: str) -> str:
    """A value's name in a sentence; the instrumental ones are adjectives."""
    words = value.replace("-", " ").replace("self ", "self-")
    return f"being {words}" if value in LISTS["instrumental"] else words


def _item(first: str, second: str, texts: dict[str, str]) -> Item:
    named = [texts.get(value, _words(value)) for value in (first, second)]
    return Item(
        id=pair_id(first, second),
        text=f"Which matters more to you: {named[0]} or {named[1]}?",
        options=(Option(1, named[0]), Option(2, named[1])),
        ordinal=False,
        values=(first, second),
    )


def _notes(book: Codebook) -> tuple[str, ...]:
    numbered = [item.id for item in book.items if bare(book.columns[item.id].name) != bare(item.id)]
    numbered = [value for value in numbered if any(value in values for values in LISTS.values())]
    if not numbered:
        return ()
    shown = f"'{book.columns[numbered[0]].name}' as '{numbered[0]}'"
    return (
        f"Numbered columns were read as Rokeach's values in alphabetical order ({shown}): check the questionnaire.",
    )
