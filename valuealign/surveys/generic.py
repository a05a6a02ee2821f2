"""Any survey that is a CSV file with a codebook beside it."""

from __future__ import annotations

import csv
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import polars as pl

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, SurveyError
from valuealign.surveys.codebook import Codebook, Column, plain_code, read_codebook
from valuealign.surveys.table import Survey

# Holds the row's number while a file is read; no header can name a column so.
LINE = "\nline"


def read(config: SurveyConfig, seed: int) -> Survey:
    """The survey of ``config.file`` and ``config.codebook``; ``seed`` plays no part.

    Raises SurveyError where one of the two is not named, CodebookError for the codebook, and
    AnswerError (file, column, line, the mend) for the data.
    """
    if config.file is None or config.codebook is None:
        lacking = "file" if config.file is None else "codebook"
        raise SurveyError(
            f"reader generic needs survey.{lacking}",
            where=f"survey.{lacking}",
            mend="name the CSV in survey.file and the YAML in survey.codebook",
        )
    return read_survey(config.file, read_codebook(config.codebook), rows=config.rows)


def read_survey(path: Path, book: Codebook, *, rows: int | None = None) -> Survey:
    """Read the data of a codebook; ``rows`` reads the first rows only (a level may then be empty).

    An empty value is a missing answer, besides the codebook's missing codes.
    """
    raw = _load(path, book, rows)
    people = pl.DataFrame({"person": _persons(raw, path, book), "weight": _weights(raw, path, book)})
    for item in book.items:
        people = people.with_columns(_codes(raw, path, book, item.id, pl.Int16))
    for trait in book.traits:
        column = book.columns[trait.id]
        level = _bands(raw, path, book, trait.id) if column.bands else _codes(raw, path, book, trait.id, pl.String)
        people = people.with_columns(level)
    if rows is None:
        _check_filled(people, path, book)
    return Survey(codebook=book, people=people)


def _load(path: Path, book: Codebook, rows: int | None) -> pl.DataFrame:
    """All columns as text, a row per person, blank lines left out; ``LINE`` is the row's number."""
    names = _header(path, book.separator)
    _check_lines(path, book.separator, len(names), rows)
    try:
        table = pl.read_csv(
            path, separator=book.separator, infer_schema=False, n_rows=rows, empty_string_is_null=False, glob=False
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _no_csv(str(error).splitlines()[0], str(path)) from None
    table = table.rename(dict(zip(table.columns, names, strict=True))).with_row_index(LINE)
    if len(names) > 1:
        table = table.filter(~pl.all_horizontal(pl.col(name).fill_null("") == "" for name in names))
    if not table.height:
        raise AnswerError("the file has no people", where=str(path), mend="it needs a header and a line per person")
    return table


def _header(path: Path, separator: str) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = [name.strip() for name in next(csv.reader(file, delimiter=separator), [])]
    except OSError as error:
        raise AnswerError(
            f"cannot read the data ({error.strerror})", where=str(path), mend="name an existing CSV file"
        ) from None
    except (UnicodeDecodeError, csv.Error):
        raise _no_csv("it is not UTF-8 text", str(path)) from None
    if not any(names):
        raise AnswerError("the file is empty", where=str(path), mend="it needs a header and a line per person")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AnswerError(
            f"the header names '{twice[0]}' twice", where=f"{path}, line 1", mend="rename one of the columns"
        )
    return names


def _check_lines(path: Path, separator: str, width: int, rows: int | None) -> None:
    """Every line has a value for every column: Polars would fill a short line up in silence."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            for row in islice(reader, None if rows is None else rows + 1):
                if row and len(row) != width:
                    raise AnswerError(
                        f"{len(row)} values; the header names {width} columns",
                        where=f"{path}, line {reader.line_num}",
                        mend="complete the line; put values that hold the separator in quotes",
                    )
    except UnicodeDecodeError:
        raise _no_csv("it is not UTF-8 text", str(path)) from None
    except csv.Error as error:
        raise _no_csv(f"{error} (check the quotes)", f"{path}, line {reader.line_num}") from None


def _no_csv(why: str, where: str) -> AnswerError:
    return AnswerError(f"not valid CSV: {why}", where=where, mend="export the data as CSV in UTF-8")


def _line(path: Path, separator: str, row: int) -> int:
    """The line of the file where data row ``row`` (0-based, blank lines counted) begins."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        next(reader)
        start = reader.line_num + 1
        for _ in range(row):
            next(reader)
            start = reader.line_num + 1
    return start


def _raw(raw: pl.DataFrame, path: Path, book: Codebook, name: str, role: str) -> pl.Series:
    if name in raw.columns:
        return raw[name]
    known = [column for column in raw.columns if column != LINE]
    close = get_close_matches(name, known, n=1)
    other = [mark for mark in ";\t|," if mark != book.separator and mark in known[0]]
    if len(known) == 1 and other:
        mend = f"the header seems to be parted by {other[0]!r}: say so with 'separator:' in the codebook"
    elif close:
        mend = f"did you mean '{close[0]}'? Mend the header or {book.where or 'the codebook'}"
    else:
        # A survey's header is too long a list to print.
        mend = f"the header begins {', '.join(known[:5])}; mend it or {book.where or 'the codebook'}"
    raise AnswerError(f"no column '{name}' ({role})", where=f"{path}, line 1", mend=mend)


def _persons(raw: pl.DataFrame, path: Path, book: Codebook) -> pl.Series:
    if book.person is None:
        return pl.Series("person", raw[LINE] + 1).cast(pl.String)
    ids = _raw(raw, path, book, book.person, "the person column").str.strip_chars()
    if (ids == "").any():
        row = raw[LINE][int((ids == "").arg_max() or 0)]
        where = f"{path}, column '{book.person}', line {_line(path, book.separator, row)}"
        raise AnswerError(
            "a person without an id", where=where, mend="give every line an id, or leave 'person' out of the codebook"
        )
    return ids.alias("person")


def _weights(raw: pl.DataFrame, path: Path, book: Codebook) -> pl.Series:
    """Design weights with mean 1."""
    if book.weight is None:
        return pl.Series("weight", [1.0] * raw.height, dtype=pl.Float64)
    text = _raw(raw, path, book, book.weight, "the weight column").str.strip_chars()
    weight = text.cast(pl.Float64, strict=False)
    wrong = (weight.is_null() | ~weight.is_finite().fill_null(False) | (weight < 0).fill_null(False)).arg_true()
    where = f"{path}, column '{book.weight}'"
    if len(wrong):
        value = text[wrong[0]]
        state = "negative" if weight[wrong[0]] is not None and weight[wrong[0]] < 0 else "no finite number"
        raise AnswerError(
            f"the weight '{value}' is {state}" + (f" ({len(wrong)} such lines)" if len(wrong) > 1 else ""),
            where=f"{where}, line {_line(path, book.separator, raw[LINE][wrong[0]])}",
            mend="a weight is a number of at least 0; take the line out, or mend its weight",
        )
    if not weight.sum():
        raise AnswerError("all weights are 0", where=where, mend="name another column in 'weight', or none")
    return (weight / weight.mean()).alias("weight")


def _codes(
    raw: pl.DataFrame, path: Path, book: Codebook, key: str, kind: type[pl.Int16] | type[pl.String]
) -> pl.Series:
    """A coded column: option indices of an item or levels of a trait; null where missing."""
    column = book.columns[key]
    text = _plain(_raw(raw, path, book, column.name, f"of '{key}'"))
    read = text.replace_strict(dict(column.codes), default=None, return_dtype=kind)
    unknown = (read.is_null() & ~_missing(text, column)).arg_true()
    if len(unknown):
        code = text[unknown[0]]
        known = ", ".join(column.codes)
        raise AnswerError(
            f"the code '{code}' is not in the codebook" + (f" ({len(unknown)} such lines)" if len(unknown) > 1 else ""),
            where=f"{path}, column '{column.name}', line {_line(path, book.separator, raw[LINE][unknown[0]])}",
            mend=f"add it to '{key}' or to 'missing' in {book.where or 'the codebook'}; it knows {known}",
        )
    return read.alias(key)


def _bands(raw: pl.DataFrame, path: Path, book: Codebook, key: str) -> pl.Series:
    """The band of a number; a fraction belongs to its whole years (34.5 is 34)."""
    column = book.columns[key]
    text = _plain(_raw(raw, path, book, column.name, f"of '{key}'"))
    number = text.cast(pl.Float64, strict=False).floor()
    level = pl.Series(key, [None] * raw.height, dtype=pl.String)
    for name, low, high in column.bands:
        inside = ((number >= low) & (number <= high)).fill_null(False)
        level = level.zip_with(~(inside & level.is_null()), pl.Series(key, [name] * raw.height))
    level = level.zip_with(~_missing(text, column), pl.Series(key, [None] * raw.height, dtype=pl.String))
    unknown = (level.is_null() & ~_missing(text, column)).arg_true()
    if len(unknown):
        value = text[unknown[0]]
        what = f"'{value}' is no number" if number[unknown[0]] is None else f"{value} lies in no band"
        raise AnswerError(
            what,
            where=f"{path}, column '{column.name}', line {_line(path, book.separator, raw[LINE][unknown[0]])}",
            mend=f"widen the bands of '{key}', or add the value to 'missing', in {book.where or 'the codebook'}",
        )
    return level.alias(key)


def _plain(text: pl.Series) -> pl.Series:
    """As ``plain_code``, for a column."""
    return text.str.strip_chars().str.replace(r"^([+-]?\d+)\.0+$", "$1")


def _missing(text: pl.Series, column: Column) -> pl.Series:
    away = {plain_code(code) for code in column.missing} - set(column.codes)
    return text.is_in([*away, ""])


def _check_filled(people: pl.DataFrame, path: Path, book: Codebook) -> None:
    for item in book.items:
        if people[item.id].null_count() == people.height:
            where = f"{path}, column '{book.columns[item.id].name}'"
            raise AnswerError(f"nobody answered '{item.id}'", where=where, mend="take the item out of the codebook")
    for trait in book.traits:
        present = set(people[trait.id].drop_nulls().unique())
        for level in trait.levels:
            if level not in present:
                raise AnswerError(
                    f"nobody is in the level '{level}' of '{trait.id}'",
                    where=f"{path}, column '{book.columns[trait.id].name}'",
                    mend=f"take the level out of {book.where or 'the codebook'}, or mend its codes",
                )
