"""The rows of a file as what the codebook says of them: options, levels, weights.

Shape letter: ``P`` rows that were read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from valuealign.errors import AnswerError, ConfigError, nearest
from valuealign.surveys.codebook import WAVE, Codebook, Column, Trait, plain_code, plain_number
from valuealign.surveys.files import Table


@dataclass(frozen=True)
class Wave:
    """A wave and what stands for ``{wave}`` in its column names; both empty where a file has no waves."""

    name: str = ""
    mark: str = ""

    def fill(self, name: str) -> str:
        """A column name of the codebook as this wave has it."""
        return name.replace(WAVE, self.mark)


@dataclass(frozen=True)
class Rows:
    """The file as one wave sees it."""

    table: Table
    book: Codebook
    wave: Wave

    def fill(self, name: str) -> str:
        """A column name of the codebook as it stands in the file."""
        return self.wave.fill(name)


def asked_in(table: Table, column: str, waves: tuple[str, ...] | None) -> Table:
    """The rows of the chosen waves of a long file."""
    wave_P = table.texts(column)
    unnamed = (wave_P == "").arg_true()
    if len(unnamed):
        raise AnswerError(
            "a row without a wave", where=table.where(column, unnamed[0]), mend="give every row the name of its wave"
        )
    if waves is None:
        return table
    known = sorted(wave_P.unique().to_list())
    for wave in waves:
        if wave not in known:
            raise ConfigError(f"no wave is called '{wave}'", where="survey.waves", mend=nearest(wave, known))
    kept = wave_P.is_in(list(waves))
    return replace(table, frame=table.frame.filter(kept), row_P=table.row_P[kept.to_numpy()])


def check_unique(table: Table, book: Codebook) -> None:
    """Of a panel every person (of a long file: every person and wave) stands once."""
    if book.person is None:
        return
    parts = [table.texts(name) for name in (book.person, book.wave) if name is not None]
    rows = pl.DataFrame(parts)
    twice = rows.is_duplicated().arg_true()
    if len(twice):
        first = rows.row(twice[0])
        second = next(row for row in twice.to_list()[1:] if rows.row(row) == first)
        who = f"person '{first[0]}'" + (f" in wave '{first[1]}'" if book.wave is not None else "")
        other = table.where(book.person, second).rsplit(", ", 1)[1]
        raise AnswerError(
            f"{who} stands a second time, in {other}",
            where=table.where(book.person, twice[0]),
            mend="keep one of the rows, or give the second its own id",
        )


def frame(rows: Rows) -> pl.DataFrame:
    """``Survey.people`` of one wave, weights as they stand in the file."""
    table, book = rows.table, rows.book
    count = len(table.row_P)
    items = [_answers(rows, item.id) for item in book.items]
    asked = np.ones(count, bool)
    if book.waves:
        asked = np.zeros(count, bool)
        for answers in items:
            asked |= answers.is_not_null().to_numpy()
    columns = [_persons(rows), _weights(rows, asked)]
    if book.wave is not None:
        columns.append(table.texts(book.wave).alias("wave"))
    elif book.waves:
        columns.append(pl.Series("wave", [rows.wave.name], dtype=pl.String).new_from_index(0, count))
    if book.duration is not None:
        columns.append(_duration(rows))
    columns += [_levels(rows, trait) for trait in book.traits]
    people = pl.DataFrame([*columns, *items])
    return people if asked.all() else people.filter(pl.Series(asked))


def _persons(rows: Rows) -> pl.Series:
    table, book = rows.table, rows.book
    if book.person is None:
        return pl.Series("person", table.row_P + 1).cast(pl.String)
    name = rows.fill(book.person)
    ids = table.texts(name)
    unnamed = (ids == "").arg_true()
    if len(unnamed):
        raise AnswerError(
            "a person without an id",
            where=table.where(name, unnamed[0]),
            mend="give every line an id, or leave 'person' out of the codebook",
        )
    return ids.alias("person")


def _weights(rows: Rows, asked: np.ndarray) -> pl.Series:
    """Weights [P] as they stand in the file; those of people who were not asked may be anything."""
    table, book = rows.table, rows.book
    if book.weight is None:
        return pl.Series("weight", np.ones(len(asked)))
    name = rows.fill(book.weight)
    weight = table.numbers(name)
    wrong = np.flatnonzero((~np.isfinite(weight) | (weight < 0)) & asked)
    if len(wrong):
        state = "negative" if weight[wrong[0]] < 0 else "no finite number"
        raise AnswerError(
            f"the weight '{table.texts(name)[int(wrong[0])]}' is {state}" + _such(len(wrong)),
            where=table.where(name, wrong[0]),
            mend="a weight is a number of at least 0; take the line out, or mend its weight",
        )
    if not weight[asked].any() and asked.any():
        raise AnswerError(
            "all weights are 0",
            where=f"{table.layout.path}, column '{name}'",
            mend="name another column in 'weight', or none",
        )
    return pl.Series("weight", weight)


def _duration(rows: Rows) -> pl.Series:
    """How long each interview took [P]; unknown where nothing, a missing code or a negative number stands."""
    name = rows.fill(str(rows.book.duration))
    column = replace(rows.book.columns.get("duration", Column("", {}, frozenset())), name=name)

    def duration(text: str) -> float | None:
        value = _number(text)
        return value if value >= 0 else None

    return _looked_up(rows, "duration", column, duration, pl.Float64(), "write a number, or nothing")


def _answers(rows: Rows, key: str) -> pl.Series:
    """Option indices of an item [P], outcomes below 0; null where missing or not asked in this wave."""
    return _coded(rows, key, rows.book.columns[key], pl.Int16())


def _levels(rows: Rows, trait: Trait) -> pl.Series:
    """Levels of a trait [P]; null where unknown."""
    column = rows.book.columns[trait.id]
    if column.levels:
        return _several(rows, trait, column)
    if not column.bands:
        return _coded(rows, trait.id, column, pl.String())

    def band(text: str) -> str:
        value = _number(text)
        for name, low, high in column.bands:
            if low <= math.floor(value) <= high:
                return name
        raise ValueError(f"{text} lies in no band")

    mend = f"widen the bands of '{trait.id}', or add the value to 'missing', in {rows.book.where or 'the codebook'}"
    return _looked_up(rows, trait.id, column, band, pl.String(), mend)


def _several(rows: Rows, trait: Trait, column: Column) -> pl.Series:
    """The levels of each person [P] as a list; null where none of their columns says anything."""
    flags = [
        _coded(rows, trait.id, replace(column, name=column.levels[level]), pl.String()).alias(str(place))
        for place, level in enumerate(trait.levels)
    ]
    said = [
        pl.when(pl.col(flag.name) == "yes").then(pl.lit(level)) for flag, level in zip(flags, trait.levels, strict=True)
    ]
    known = pl.any_horizontal(pl.col(flag.name).is_not_null() for flag in flags)
    levels = pl.concat_list(said).list.drop_nulls()
    return pl.DataFrame(flags).select(pl.when(known).then(levels).alias(trait.id)).to_series()


def _number(text: str) -> float:
    value = plain_number(text)
    if value is None:
        raise ValueError(f"'{text}' is no number")
    return value


def _coded(rows: Rows, key: str, column: Column, kind: pl.DataType) -> pl.Series:
    """A column [P] as what the codebook says of its codes."""

    def meant(text: str) -> int | str:
        if text not in column.codes:
            raise ValueError(f"the code '{text}' is not in the codebook")
        return column.codes[text]

    known = ", ".join(column.codes)
    # Not every codebook is a YAML: no key of it is named.
    where = rows.book.where or "the codebook"
    mend = f"say at '{key}' in {where} what it means, or that it is missing, or mend the data; known are {known}"
    return _looked_up(rows, key, column, meant, kind, mend)


def _looked_up(
    rows: Rows, key: str, column: Column, read_as: Callable[[str], object], kind: pl.DataType, mend: str
) -> pl.Series:
    """A column [P] with ``read_as`` of each code, which is called once per distinct code.

    Null where the code is missing or this wave lacks the column. What ``read_as`` says with a
    ValueError becomes an AnswerError with the first such line.
    """
    table, name = rows.table, rows.fill(column.name)
    if name not in table:
        return pl.Series(key, [None], dtype=kind).new_from_index(0, len(table.row_P))
    away = {plain_code(code) for code in column.missing} - set(column.codes) | {""}
    texts, index_P = table.codes(name)
    values: list[object] = [None] * len(texts)
    unread: dict[int, str] = {}
    for place, text in enumerate(texts):
        if text not in away:
            try:
                values[place] = read_as(text)
            except ValueError as error:
                unread[place] = str(error)
    if unread:
        lines = np.flatnonzero(np.isin(index_P, list(unread)))
        if len(lines):
            what = unread[int(index_P[lines[0]])] + _such(len(lines))
            raise AnswerError(what, where=table.where(name, lines[0]), mend=mend)
    return pl.Series(key, values, dtype=kind).gather(index_P)


def _such(count: int) -> str:
    return f" ({count} such lines)" if count > 1 else ""
