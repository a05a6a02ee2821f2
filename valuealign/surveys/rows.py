"""Small tables that are no table of codes, read whole: what ``files.load`` reads, and JSON lines.

The values are what the file holds: text from CSV; text, numbers, lists and mappings from the
others; ``None`` where there is nothing.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, ConfigError, nearest
from valuealign.surveys import files
from valuealign.surveys.codebook import plain_number
from valuealign.types import Item

JSON_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Rows:
    """Columns by their (lower-case) name; ``place(column, row)`` names file, column and line of a row from 0."""

    path: Path
    height: int
    columns: Mapping[str, list[Any]]
    place: Callable[[str, int], str]

    def where(self, row: int, column: str) -> str:
        """``file, column 'x', line 5``."""
        return self.place(column, row)

    def need(self, names: Collection[str], why: str) -> None:
        """AnswerError with the nearest name where one of the columns is not there."""
        for name in names:
            if name not in self.columns:
                mend = nearest(name, self.columns)
                raise AnswerError(f"no column '{name}' ({why})", where=str(self.path), mend=mend)

    def value(self, name: str, row: int) -> Any:
        """A value; None where there is no such column."""
        return self.columns[name][row] if name in self.columns else None

    def text(self, name: str, row: int) -> str:
        """The text of a value without outer blanks; AnswerError where it is empty, a list or an object."""
        value = self.columns[name][row]
        if isinstance(value, (list, dict)):
            raise AnswerError(f"'{name}' is no text", where=self.where(row, name), mend="write words in quotes")
        if value is None or not str(value).strip():
            raise AnswerError(f"'{name}' is empty", where=self.where(row, name), mend="fill it in, or delete the line")
        return str(value).strip()


def read_rows(path: Path) -> Rows:
    """The file's rows, blank lines left out: CSV, Parquet, JSON lines, or one JSON array of objects.

    Raises AnswerError for a file that cannot be read.
    """
    if path.suffix.lower() in JSON_LINES:
        return _json_array(path) if _starts_a_list(path) else _json_lines(path)
    table = files.load(path, separator=files.separator(path))
    columns = {name: table.frame[name].to_list() for name in table.frame.columns}
    return Rows(path, table.frame.height, _lower(path, columns), table.where)


def number(value: object) -> float | None:
    """A finite number, or text that is one (a percent sign may follow); None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return plain_number(value.strip().removesuffix("%") if isinstance(value, str) else str(value))


def literal(rows: Rows, row: int, name: str, kind: type, wanted: str) -> Any:
    """A list or mapping, or the text that Python prints for one (``defaultdict(...)`` around it or not).

    Raises AnswerError, whose mend is to write ``wanted``, where the value is nothing of that ``kind``.
    """
    value = rows.columns[name][row]
    if isinstance(value, str):
        inner = re.fullmatch(r"defaultdict\(<class '\w+'>,(.*)\)", value.strip(), re.DOTALL)
        try:
            value = ast.literal_eval((inner[1] if inner else value).strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = None
    if not isinstance(value, kind):
        raise AnswerError(f"'{name}' cannot be read", where=rows.where(row, name), mend=f"write {wanted}")
    return value


def refuse_keys(config: SurveyConfig, keys: Collection[str]) -> None:
    """ConfigError for a key of the section ``survey`` that is set although its reader has no use for it."""
    for key in keys:
        if getattr(config, key) is not None:
            what = f"the reader {config.reader} takes no such key"
            raise ConfigError(
                what, where=f"survey.{key}", mend="leave it out, or say in survey.reader which reader takes it"
            )


def first_people(people: pl.DataFrame, items: Sequence[Item], config: SurveyConfig) -> pl.DataFrame:
    """The first ``survey.rows`` people. Raises AnswerError where none of them chose any option."""
    people = people if config.rows is None else people.head(config.rows)
    if not any((people[item.id] >= 0).any() for item in items):
        mend = "read more people (survey.rows)" if config.rows else "check the table"
        raise AnswerError("nobody chose any option", where=str(config.file), mend=mend)
    return people


def first_note(people: pl.DataFrame, config: SurveyConfig) -> str:
    """The note on ``survey.rows`` where it leaves somebody out; else nothing."""
    cut = config.rows is not None and config.rows < people.height
    return f"Only the first {config.rows} of {people.height} people were kept." if cut else ""


def in_order(lists: Iterable[Sequence[str]], places: Mapping[str, float]) -> tuple[list[str], str]:
    """Names that stand in several lists as one list, and a name on which the lists contradict each other, if any.

    By their ``places`` where there are any (a name without one: last); else so that each list's order
    is kept, and what no list decides stands as it first came. A contradicted name does so too.
    """
    left = list(dict.fromkeys(name for names in lists for name in names))
    if places:
        return sorted(left, key=lambda name: places.get(name, math.inf)), ""
    ordered, clash = list[str](), ""
    while left:
        behind = {name for names in lists for name in [each for each in names if each in left][1:]}
        following = next((name for name in left if name not in behind), "")
        clash = clash or ("" if following else left[0])
        ordered.append(following or left[0])
        left.remove(ordered[-1])
    return ordered, clash


def _json_lines(path: Path) -> Rows:
    rows, lines = [], []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    rows.append(_json_object(text, f"{path}, line {line}"))
                    lines.append(line)
    except OSError as error:
        mend = "name an existing file"
        raise AnswerError(f"cannot read the data ({error.strerror})", where=str(path), mend=mend) from None
    except UnicodeDecodeError:
        raise AnswerError("it is not UTF-8 text", where=str(path), mend="save it as UTF-8") from None
    if not rows:
        raise AnswerError("the file has no rows", where=str(path), mend="write one JSON object a line")
    return _of_objects(path, rows, lambda row: f"line {lines[row]}")


def _starts_a_list(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    try:
        with path.open("rb") as file:
            return file.read(100).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    except OSError:
        return False  # ``_json_lines`` says what is wrong


def _json_array(path: Path) -> Rows:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        where, mend = f"{path}, line {error.lineno}", "write one array of objects, or one object a line"
        raise AnswerError(f"no JSON ({error.msg})", where=where, mend=mend) from None
    except (ValueError, RecursionError):
        mend = "save it as UTF-8: one array of objects, or one object a line"
        raise AnswerError("no JSON", where=f"{path}, line 1", mend=mend) from None
    for place, row in enumerate(found, start=1):
        if not isinstance(row, dict):
            raise AnswerError(
                "no JSON object", where=f"{path}, row {place}", mend='write objects: {"question": ..., ...}'
            )
    if not found:
        raise AnswerError("the file has no rows", where=str(path), mend="write one JSON object for each row")
    return _of_objects(path, found, lambda row: f"row {row + 1}")


def _of_objects(path: Path, rows: Sequence[Mapping[str, Any]], place: Callable[[int], str]) -> Rows:
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    return Rows(path, len(rows), _lower(path, columns), lambda name, row: f"{path}, column '{name}', {place(row)}")


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise AnswerError("no JSON object", where=where, mend='write one object a line: {"question": ..., ...}')
    return found


def _lower(path: Path, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, values in columns.items():
        plain = name.strip().lower()
        if plain in found:
            raise AnswerError(f"two columns are called '{plain}'", where=str(path), mend="rename one of them")
        found[plain] = values
    return found
