"""Feedback files through the ``datasets`` library: JSON, Parquet and CSV as rows that know their place.

CSV and JSON are asked for as text and typed here, field by field. The library's own guesses go by
the whole column: an answer "42" among chats becomes a number, dates become times, the label "true"
becomes true; and it does not say on which line a file is broken.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from valuealign.errors import AnswerError, SignalError
from valuealign.signals._lines import Line
from valuealign.surveys import csv_lines

MENDS = {
    "JSON": "write one JSON object a line",
    "Parquet": "write the file again, with texts, numbers, lists and structs as columns",
    "CSV": "export the rows as CSV in UTF-8",
}
# Fields that hold a chat or text: in a CSV, a chat is JSON text.
CHATS = ("prompt", "messages", "completion", "response", "chosen", "rejected")
CHAT = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']""")
# Fields that are true or false.
FLAGS = ("label", "harmful")
LABELS = {"true": True, "1": True, "false": False, "0": False}
# How much of a library's complaint is passed on, in characters.
QUOTED = 200
# Rows that are taken from a Parquet file at a time.
BATCH = 1000

Place = Callable[[], str]


def read_lines(path: Path | str) -> list[Line]:
    """The rows of a JSON lines (or JSON array), Parquet or CSV file; blank lines are skipped.

    Raises SignalError naming file and line (Parquet and JSON arrays: row).
    """
    path = Path(path)
    read = ENDINGS.get(path.suffix.lower())
    if read is None:
        raise SignalError(
            f"no feedback file ends in '{path.suffix}'", where=str(path), mend=f"one of {', '.join(ENDINGS)} is read"
        )
    try:
        path.open("rb").close()
    except OSError as error:
        raise SignalError(
            f"cannot read the file ({error.strerror})", where=str(path), mend="name an existing feedback file"
        ) from None
    lines = read(path)
    if not lines:
        raise SignalError("the file holds no rows", where=str(path), mend="write one row for each answer or pair")
    return lines


def _rows(reader: str, path: Path, kind: str, **options: Any) -> list[dict[str, Any]]:
    """Every row, by ``datasets``, which leaves nothing behind; what it says of a damaged file is one SignalError."""
    import datasets  # a second's import that a run without a feedback file never needs

    logs = datasets.utils.logging
    level = logs.get_verbosity()
    with tempfile.TemporaryDirectory(prefix="valuealign-") as scratch:
        # A name of our own: in a path the library takes "*" and "[" for patterns and "::" for a chain of archives.
        link = Path(scratch) / f"rows{path.suffix}"
        link.symlink_to(path.absolute())
        logs.set_verbosity(logs.CRITICAL)
        try:
            streamed = datasets.load_dataset(
                reader, data_files=str(link), split="train", streaming=True, cache_dir=scratch, **options
            )
            return list(streamed)
        except UnicodeDecodeError:
            raise SignalError("the file is not UTF-8 text", where=str(path), mend="save it as UTF-8") from None
        except Exception as error:
            words = next(iter(str(error).splitlines()), "").replace(str(link), path.name)[:QUOTED]
            what = f"not valid {kind}: {words or type(error).__name__}"
            raise SignalError(what, where=str(path), mend=MENDS[kind]) from None
        finally:
            logs.set_verbosity(level)


# JSON


def _json(path: Path) -> list[Line]:
    texts = [row["text"] for row in _rows("text", path, "JSON", encoding="utf-8-sig")]
    filled = [(number, text) for number, text in enumerate(texts, start=1) if text.strip()]
    if filled and path.suffix.lower() == ".json" and filled[0][1].lstrip().startswith("["):
        return _json_array("\n".join(texts), path)
    return [Line(_object(_parse(text, at), at), at) for number, text in filled for at in [_place(path, "line", number)]]


def _json_array(text: str, path: Path) -> list[Line]:
    rows = enumerate(_parse(text, lambda: str(path)), start=1)
    return [Line(_object(row, at), at) for number, row in rows for at in [_place(path, "row", number)]]


def _place(path: Path, unit: str, number: int) -> Place:
    return lambda: f"{path}, {unit} {number}"


def _parse(text: str, place: Place, name: str = "") -> Any:
    """The value of a JSON text (of the field ``name``). SignalError where it is none, or cannot be written down."""
    broken = f"'{name}' is not valid JSON" if name else "not valid JSON"
    try:
        value = json.loads(text)
        if r"\ud" in text.lower():  # half a surrogate pair passes as text, until it is encoded
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if "\n" in text else f"column {error.colno}"
        why = f"{error.msg} ({at})"
    except UnicodeEncodeError:
        why = "half a surrogate pair (\\ud800 to \\udfff by itself) is no character"
    except RecursionError:
        why = "nested too deeply"
    except ValueError as error:  # a whole number of thousands of digits
        why = str(error)
    else:
        return value
    mend = 'write it as JSON, with "double quotes"' if name else MENDS["JSON"]
    raise SignalError(f"{broken}: {why}", where=place(), mend=mend)


def _object(value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SignalError("the row is no JSON object", where=place(), mend='write {"prompt": ..., ...}')
    return value


# Parquet


def _parquet(path: Path) -> list[Line]:
    rows = enumerate(_rows("parquet", path, "Parquet", batch_size=BATCH), start=1)
    return [Line(_with_traits(row, at), at) for number, row in rows for at in [_place(path, "row", number)]]


def _with_traits(row: dict[str, Any], place: Place) -> dict[str, Any]:
    """``traits`` may be JSON text: a column of one kind cannot hold different traits of different raters."""
    traits = row.get("traits")
    return {**row, "traits": _parse(traits, place, "traits")} if isinstance(traits, str) else row


# CSV


def _csv(path: Path) -> list[Line]:
    import datasets

    with _as_signal_error(path):
        separator = csv_lines.separator_of(path)
        names = csv_lines.header(path, separator)
        height, blank = csv_lines.check_lines(path, separator, len(names), None)
    rows = _rows(
        "csv",
        path,
        "CSV",
        features=datasets.Features({name: datasets.Value("string") for name in names}),
        sep=separator,
        column_names=list(names),
        header=0,
        encoding="utf-8-sig",
        keep_default_na=False,
        na_filter=False,
        skip_blank_lines=False,
    )
    if len(rows) != height:
        what = "not valid CSV: its lines end in more than one way"
        raise SignalError(what, where=str(path), mend=MENDS["CSV"])
    skipped = set(blank)
    kept = [(row, _csv_place(path, separator, n)) for n, row in enumerate(rows) if n not in skipped]
    return [Line(_typed(row, at), at) for row, at in kept]


def _csv_place(path: Path, separator: str, row: int) -> Place:
    """Found when it is asked for: a row may span several lines."""
    return lambda: f"{path}, line {csv_lines.line_of(path, separator, row)}"


@contextlib.contextmanager
def _as_signal_error(path: Path) -> Iterator[None]:
    """What the surveys' reading of CSV lines says of a file, said of this one."""
    if not path.stat().st_size:
        raise SignalError("the file holds no rows", where=str(path), mend="write a header and a row for each answer")
    try:
        yield
    except AnswerError as error:
        raise SignalError(error.what, where=error.where, mend=error.mend) from None


def _typed(row: dict[str, Any], place: Place) -> dict[str, Any]:
    """The fields of a CSV's row, as JSON would have them; empty ones are missing. What does not fit stays text."""
    typed: dict[str, Any] = {name: text for name, text in row.items() if text != ""}
    for name in CHATS:
        if CHAT.match(typed.get(name, "")):
            typed[name] = _parse(typed[name], place, name)
    for name in FLAGS:
        if name in typed:
            typed[name] = LABELS.get(typed[name].strip().lower(), typed[name])
    if "weight" in typed:
        with contextlib.suppress(ValueError):
            typed["weight"] = float(typed["weight"])
    return _with_traits(typed, place)


ENDINGS: dict[str, Callable[[Path], list[Line]]] = {
    ".jsonl": _json,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
}
