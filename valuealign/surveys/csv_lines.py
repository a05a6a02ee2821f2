"""The lines of a CSV file: its header, whether every line is whole, and where a row stands."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

from valuealign.errors import AnswerError

MARKS = ",;\t|"
# A whole chat may stand in one field: Python's reader stops at 128 KiB unless told otherwise.
csv.field_size_limit(2**31 - 1)


def separator_of(path: Path) -> str:
    """What parts the columns: the mark that makes most names of the header; a comma where that cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline(1_000_000)
        counts = {mark: len(next(csv.reader([head], delimiter=mark), [])) for mark in MARKS}
    except (OSError, UnicodeDecodeError, csv.Error):
        return ","  # the reading says what is wrong with the file
    return max(counts, key=lambda mark: counts[mark])


def header(path: Path, separator: str) -> tuple[str, ...]:
    """The columns' names. Raises AnswerError for a file that is empty, is no text or names a column twice."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = [name.strip() for name in next(csv.reader(file, delimiter=separator), [])]
    except (UnicodeDecodeError, csv.Error):
        raise _no_csv("it is not UTF-8 text", str(path)) from None
    if not any(names):
        raise AnswerError("the file is empty", where=str(path), mend="it needs a header and a line per person")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise AnswerError(
                f"the header names '{name}' twice", where=f"{path}, line 1", mend="rename one of the columns"
            )
        seen.add(name)
    return tuple(names)


def check_lines(path: Path, separator: str, width: int, rows: int | None) -> tuple[int, list[int]]:
    """Every line has a value for every column: Polars would fill a short line up in silence.

    Returns how many rows there are and which of them are blank.
    """
    counted = _count_separators(path, separator, width, rows)
    if counted is not None:
        return counted
    blank: list[int] = []
    place = -1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            next(reader)
            for place, row in enumerate(islice(reader, rows)):
                if row and len(row) != width:
                    raise _uneven(len(row), width, f"{path}, line {reader.line_num}")
                if not any(row):
                    blank.append(place)
    except UnicodeDecodeError:
        raise _no_csv("it is not UTF-8 text", str(path)) from None
    except csv.Error as error:
        raise _no_csv(f"{error} (check the quotes)", f"{path}, line {reader.line_num}") from None
    return place + 1, blank


def _count_separators(path: Path, separator: str, width: int, rows: int | None) -> tuple[int, list[int]] | None:
    """``check_lines`` for a file without quotes, several times quicker; None where a quote or a stray \\r stands."""
    blank: list[int] = []
    place, mark = -1, separator.encode()
    with path.open("rb") as file:
        if not _simple(file.readline()):
            return None
        for place, line in enumerate(islice(file, rows)):
            if not _simple(line):
                return None
            values = line.count(mark) + 1
            if values != width and line.strip(b"\r\n"):
                raise _uneven(values, width, f"{path}, line {place + 2}")
            if not line.strip(mark + b"\r\n"):
                blank.append(place)
    return place + 1, blank


def _simple(line: bytes) -> bool:
    """A line of text without quotes whose only line end is its last."""
    if b'"' in line or b"\r" in line.removesuffix(b"\n").removesuffix(b"\r"):
        return False
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _uneven(values: int, width: int, where: str) -> AnswerError:
    return AnswerError(
        f"{values} values; the header names {width} columns",
        where=where,
        mend="complete the line; put values that hold the separator in quotes",
    )


def line_of(path: Path, separator: str, row: int) -> int:
    """The line of the file where data row ``row`` (from 0, blank lines counted) begins."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        next(reader)
        for _ in islice(reader, row):
            pass
        return reader.line_num + 1


def _no_csv(why: str, where: str) -> AnswerError:
    return AnswerError(f"not valid CSV: {why}", where=where, mend="export the data as CSV in UTF-8")
