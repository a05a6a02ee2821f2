"""Survey files as columns of codes: CSV, Parquet, SPSS ``.sav`` and Stata ``.dta`` look alike from here.

Shape letter: ``P`` the rows that were read.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import polars as pl

from valuealign.errors import AnswerError
from valuealign.surveys import csv_lines
from valuealign.surveys.codebook import plain_code

Kind = Literal["csv", "parquet", "sav", "dta"]
T = TypeVar("T")
# Columns of at most so many distinct texts are coded together.
FEW_CODES = 1000

SUFFIXES: Mapping[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".sav": "sav",
    ".zsav": "sav",
    ".dta": "dta",
}
NAMES: Mapping[Kind, str] = {"csv": "CSV", "parquet": "Parquet", "sav": "SPSS data", "dta": "Stata data"}
MENDS: Mapping[Kind, str] = {
    "csv": "export the data as CSV in UTF-8",
    "parquet": "write the Parquet file again, or export the data as CSV",
    "sav": "save the file again in SPSS, or export the data as CSV",
    "dta": "save the file again in Stata, or export the data as CSV",
}
# Stata's missing value "." as a whole number; .a to .z follow it (help dta, "Representation of numeric types").
STATA_DOT = 0x7FFFFFE5


@dataclass(frozen=True)
class Layout:
    """What a file says of itself: its columns, their labels and the labels of their codes.

    ``labels[column]`` is the label of a column, ``values[column][code]`` that of a code; CSV and
    Parquet have neither.
    """

    path: Path
    kind: Kind
    names: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Codes(NamedTuple):
    """A column: row p holds ``texts[index_P[p]]``; an empty value is ``""``, a code may stand in ``texts`` twice."""

    texts: list[str]
    index_P: np.ndarray


@dataclass(frozen=True)
class Table:
    """The wanted columns of a file, as they are stored there; ``row_P`` holds each row's number in the file, from 0."""

    layout: Layout
    frame: pl.DataFrame
    row_P: np.ndarray
    separator: str = ","

    def __contains__(self, name: str) -> bool:
        return name in self.frame.columns

    @cached_property
    def _coded(self) -> dict[str, Codes]:
        """The text columns of few codes, all at once: Polars then works on several of them at a time."""
        text = [name for name, dtype in self.frame.schema.items() if dtype == pl.String]
        found = self.frame.select(pl.col(text).drop_nulls().unique().implode()) if text else pl.DataFrame()
        distinct = {name: found[name][0] for name in text if len(found[name][0]) <= FEW_CODES}
        index = self.frame.select(
            pl.col(name).cast(pl.Enum(codes)).to_physical().cast(pl.UInt16) for name, codes in distinct.items()
        )
        return {
            name: Codes([_code(code) for code in codes] + [""], index[name].fill_null(len(codes)).to_numpy())
            for name, codes in distinct.items()
        }

    def codes(self, name: str) -> Codes:
        """A column as codes in the form of ``plain_code``. Raises AnswerError where it holds no single values."""
        if name in self._coded:
            return self._coded[name]
        column = self._plain(name)
        distinct = column.drop_nulls().unique()
        places = pl.Series(range(len(distinct)), dtype=pl.UInt32)
        index = column.replace_strict(distinct, places, default=len(distinct), return_dtype=pl.UInt32)
        return Codes([_code(value) for value in distinct.to_list()] + [""], index.to_numpy())

    def numbers(self, name: str) -> np.ndarray:
        """A column as numbers [P]: NaN where it is empty or holds no number."""
        column = self._plain(name)
        if column.dtype == pl.String:
            column = column.str.strip_chars()
        return np.asarray(column.cast(pl.Float64, strict=False).fill_null(math.nan).to_numpy())

    def texts(self, name: str) -> pl.Series:
        """A column as text [P] in the form of ``plain_code``, empty where nothing stands."""
        column = self._plain(name)
        if column.dtype != pl.String:
            codes = self.codes(name)
            return pl.Series(name, codes.texts, dtype=pl.String)[codes.index_P]
        return column.str.strip_chars().str.replace(r"^([+-]?\d+)\.0+$", "$1").fill_null("")

    def where(self, name: str, row: int | np.integer[Any]) -> str:
        """File, column and line (CSV) or row of the ``row``-th row that was read, for messages."""
        number = int(self.row_P[row])
        if self.layout.kind == "csv":
            place = f"line {csv_lines.line_of(self.layout.path, self.separator, number)}"
        else:
            place = f"row {number + 1}"
        return f"{self.layout.path}, column '{name}', {place}"

    def _plain(self, name: str) -> pl.Series:
        """The column as text, whole numbers or floats."""
        column = self.frame[name]
        if column.dtype == pl.String or column.dtype.is_integer() or column.dtype.is_float():
            return column
        if column.dtype.is_decimal():
            return column.cast(pl.Float64)
        if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
            raise AnswerError(
                f"the column holds values of the kind {column.dtype}, no codes",
                where=f"{self.layout.path}, column '{name}'",
                mend="store one number or one text in each row",
            )
        return column.cast(pl.String)


def layout(path: Path, *, separator: str = ",") -> Layout:
    """Columns and labels of a file, without its rows.

    Raises AnswerError where it cannot be read, names a column twice or has an unknown ending.
    """
    kind = _kind(path)
    if kind == "csv":
        return Layout(path, kind, csv_lines.header(path, separator))
    if kind == "parquet":
        with path.open("rb") as file:
            return Layout(path, kind, tuple(_guarded(lambda: pl.read_parquet_schema(file), path, kind)))
    return _labelled(path, kind, columns=None, rows=1)[0]


def separator(path: Path) -> str:
    """What parts the columns of a CSV file, by its header: releases differ. A comma for other files."""
    return csv_lines.separator_of(path) if SUFFIXES.get(path.suffix.lower()) == "csv" else ","


def load(path: Path, *, columns: Collection[str] | None = None, separator: str = ",", rows: int | None = None) -> Table:
    """The rows of a file, with those of the ``columns`` that it has (None: all), or its first ``rows`` only.

    Blank lines of a CSV are left out. Raises AnswerError (file, line, the mend) for a file that
    cannot be read, is damaged, has no rows, or has a line with too many or too few values.
    """
    kind = _kind(path)
    row_P = None
    if kind in ("sav", "dta"):
        found, frame = _labelled(path, kind, columns=columns, rows=rows)
    else:
        found = layout(path, separator=separator)
        if kind == "csv":
            frame, row_P = _csv_rows(found, columns, separator, rows)
        else:
            wanted = [name for name in found.names if columns is None or name in columns]
            with path.open("rb") as file:
                frame = _guarded(lambda: pl.read_parquet(file, columns=wanted, n_rows=rows), path, kind)
    if not frame.height:
        raise AnswerError("the file has no people", where=str(path), mend="it needs a row per person")
    return Table(found, frame, np.arange(frame.height) if row_P is None else row_P, separator)


def _kind(path: Path) -> Kind:
    if path.suffix.lower() not in SUFFIXES:
        raise AnswerError(
            f"no survey file ends in '{path.suffix}'", where=str(path), mend=f"one of {', '.join(SUFFIXES)} is read"
        )
    try:
        path.open("rb").close()
    except OSError as error:
        raise AnswerError(
            f"cannot read the data ({error.strerror})", where=str(path), mend="name an existing file"
        ) from None
    return SUFFIXES[path.suffix.lower()]


def _guarded(read: Callable[[], T], path: Path, kind: Kind) -> T:
    """What ``read`` gives; whatever a library says of a damaged file becomes one AnswerError."""
    try:
        return read()
    except (KeyboardInterrupt, SystemExit, MemoryError, NameError, TypeError, AttributeError):
        raise  # none of them is the file's fault
    except BaseException as error:  # a panic of a Rust library is no Exception
        words = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise _invalid(words, str(path), kind) from None


def _invalid(why: str, where: str, kind: Kind) -> AnswerError:
    return AnswerError(f"not valid {NAMES[kind]}: {why}", where=where, mend=MENDS[kind])


def _code(value: object) -> str:
    """A stored value as the text of its code: 1.0 is "1"."""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    return plain_code(str(value))


# CSV


def _csv_rows(
    found: Layout, columns: Collection[str] | None, separator: str, rows: int | None
) -> tuple[pl.DataFrame, np.ndarray]:
    """The wanted columns as text, blank lines left out, and the number of each row."""
    path = found.path
    height, blank = csv_lines.check_lines(path, separator, len(found.names), rows)
    wanted = [place for place, name in enumerate(found.names) if columns is None or name in columns]
    frame = _guarded(
        lambda: pl.read_csv(path, separator=separator, columns=wanted, infer_schema=False, n_rows=rows, glob=False),
        path,
        "csv",
    )
    frame.columns = [found.names[place] for place in wanted]
    if len(found.names) == 1:
        return frame, np.arange(frame.height)
    if frame.height != height:
        raise _invalid("its lines end in more than one way", str(path), "csv")
    if not blank:
        return frame, np.arange(height)
    kept = np.setdiff1d(np.arange(height), blank)
    return frame[kept], kept


# SPSS and Stata


def _labelled(
    path: Path, kind: Kind, *, columns: Collection[str] | None, rows: int | None
) -> tuple[Layout, pl.DataFrame]:
    """Layout and wanted columns of an SPSS or Stata file; user-missing codes stay codes."""
    # svy_io.read_sav keeps user-missing codes only as Python objects, a column at a time, and fails
    # on some; its parser below gives plain columns.
    from svy_io import svyreadstat_rs as parser
    from svy_io.temporals import coerce_spss_temporals, coerce_stata_temporals

    def parse(skip: list[str] | None, limit: int | None) -> tuple[bytes, dict[str, Any]]:
        if kind == "sav":
            stream, facts = parser.df_parse_sav_file(str(path), None, True, skip, limit, 0, False)
        else:
            stream, facts = parser.df_parse_dta_file(str(path), skip, limit, 0, None, False)
        return stream, json.loads(facts)

    def read() -> tuple[Layout, pl.DataFrame]:
        skip = None
        if columns is not None:
            skip = [entry["name"] for entry in parse(None, 1)[1]["vars"] if entry["name"] not in columns]
        stream, facts = parse(skip, rows)
        opened = pl.read_ipc if stream[:6] == b"ARROW1" else pl.read_ipc_stream
        frame = opened(io.BytesIO(stream))
        coerce = coerce_spss_temporals if kind == "sav" else coerce_stata_temporals
        whole = parse(None, 1)[1] if skip else facts
        return _facts(path, kind, whole), _tagged(coerce(frame, facts), facts["tagged_missings"])

    return _guarded(read, path, kind)


def _tagged(frame: pl.DataFrame, tagged: list[dict[str, Any]]) -> pl.DataFrame:
    """Stata's missing values ``.a`` to ``.z`` as codes of that name; the bare ``.`` stays empty."""
    for entry in tagged:
        name = entry["col"]
        texts = np.array([_code(value) for value in frame[name].fill_null(math.nan).to_list()], dtype=object)
        texts[entry["rows"]] = [f".{tag}" for tag in entry["tags"]]
        frame = frame.with_columns(pl.Series(name, texts.tolist(), dtype=pl.String))
    return frame


def _facts(path: Path, kind: Kind, facts: Mapping[str, Any]) -> Layout:
    sets = {entry["set_name"]: entry["mapping"] for entry in facts["value_labels"]}
    values = {entry["name"]: sets[entry["label_set"]] for entry in facts["vars"] if entry["label_set"] in sets}
    return Layout(
        path,
        kind,
        tuple(entry["name"] for entry in facts["vars"]),
        {entry["name"]: entry["label"].strip() for entry in facts["vars"] if (entry["label"] or "").strip()},
        {
            name: {_labelled_code(code): text.strip() for code, text in mapping.items()}
            for name, mapping in values.items()
        },
    )


def _labelled_code(code: str) -> str:
    """The code that a label belongs to; Stata writes the labels of .a to .z as numbers above its largest."""
    try:
        number = float(code)
    except ValueError:
        return plain_code(code)
    if STATA_DOT < number <= STATA_DOT + 26:
        return f".{chr(ord('a') + int(number - STATA_DOT) - 1)}"
    return _code(number) if number.is_integer() and "." in code else plain_code(code)
