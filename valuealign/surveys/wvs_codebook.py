"""What the questions of the World Values Survey's wave 7 are: from JSON files or from a file's own labels.

The survey's codebook is its owner's: none of it is kept here. The user names a folder with three
files that the WVS-based benchmarks use (the third one may be absent):

- ``codebook.json``: variable -> ``{"question": label, "type": "multiple_choice" | "objective",
  "choices": {code: label}}``;
- ``question_metadata.json``: variable -> ``{"question": wording, "use_case": "value" |
  "demographic", "answer_data_type": "ordinal" | "non_ordinal"}``;
- ``answer_adjustment.json``: variable -> ``{code: code in the scale's order}``, where ``""``
  takes a code off the scale and two codes with one new code become one option.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from valuealign.errors import CodebookError
from valuealign.surveys.codebook import Column
from valuealign.surveys.files import Layout
from valuealign.types import Item, Option

BOOK, METADATA, ADJUSTMENT = "codebook.json", "question_metadata.json", "answer_adjustment.json"
COUNTRY = ("B_COUNTRY_ALPHA", "B_COUNTRY")  # letters, number
# What stands for an answer: negative codes of every question, and codes taken off a scale.
OUTCOMES = ("don't know", "no answer", "other answer")
DONT_KNOW, NO_ANSWER, OTHER = -1, -2, -3
MISSING = frozenset({"-3", "-4", "-5"})  # not applicable, not asked, missing
LAST_ITEM = 259  # Q260 and later ask about the person
MOST_OPTIONS = 11  # the longest scales run from 0 to 10; longer lists are lists of parties and the like
# Facts about the questionnaire: questions without an order, and (UNORDERED) those whose codes are
# not in the order of the scale, or hold an answer that lies outside it.
NOMINAL = frozenset({"Q42", "Q91", "Q92", "Q93", *(f"Q{number}" for number in range(152, 158))})
UNORDERED = frozenset({"Q56", "Q111", "Q119", "Q221", "Q222", "Q254"})
# A first and a second choice from one list: held out together.
FAMILIES = {
    name: family
    for family, names in (
        ("aims of the country", ("Q152", "Q153")),
        ("aims of the respondent", ("Q154", "Q155")),
        ("most important aims", ("Q156", "Q157")),
        ("voting in elections", ("Q221", "Q222")),
    )
    for name in names
}


@dataclass(frozen=True)
class Question:
    """A question: its short label, its choices (code -> label), its wording (empty: label only)."""

    label: str
    choices: Mapping[str, str]
    wording: str = ""
    ordinal: bool = True
    # Code -> code in the scale's order; None: the codes are in order as they stand, as far as known.
    adjustment: Mapping[str, int | None] | None = None


@dataclass(frozen=True)
class Questions:
    """The value questions of a codebook, and the names of countries by alpha-3 and by numeric code."""

    where: str
    values: Mapping[str, Question]
    countries: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)


def from_json(folder: Path) -> Questions:
    """The questions of a folder's JSON files, in the order of its codebook.

    With ``question_metadata.json`` the items are its records of use_case ``value``; without it
    every multiple-choice question from Q1 to Q259, by its label. Raises CodebookError (file,
    record, mend) for a file that is absent, no JSON, or laid out otherwise.
    """
    book = _load(folder / BOOK)
    words = _load(folder / METADATA) if (folder / METADATA).exists() else None
    moved = _load(folder / ADJUSTMENT) if (folder / ADJUSTMENT).exists() else {}
    if words is None:
        wanted = [
            name for name in book if _is_item(name) and _text(book[name], "type", folder / BOOK, name) != "objective"
        ]
    else:
        asked = {name for name in words if _text(words[name], "use_case", folder / METADATA, name) == "value"}
        _known(asked, book, folder / METADATA)
        wanted = [name for name in book if name in asked]
    _known(moved, book, folder / ADJUSTMENT)
    values = {}
    for name in wanted:
        label, choices = _text(book[name], "question", folder / BOOK, name), _choices(book[name], folder / BOOK, name)
        wording, ordinal = "", name not in NOMINAL
        if words is not None:
            wording = _text(words[name], "question", folder / METADATA, name)
            ordinal = _text(words[name], "answer_data_type", folder / METADATA, name) == "ordinal"
        adjustment = _adjustment(moved[name], choices, folder / ADJUSTMENT, name) if name in moved else None
        values[name] = Question(label, choices, wording, ordinal, adjustment)
    if not values:
        raise CodebookError("no value question", where=str(folder), mend="give records with use_case 'value'")
    names = {name: _choices(book[name], folder / BOOK, name) for name in COUNTRY if name in book}
    return Questions(str(folder), values, names.get(COUNTRY[0], {}), names.get(COUNTRY[1], {}))


def from_labels(layout: Layout) -> Questions:
    """The questions Q1 to Q259 of a .sav or .dta file whose values have labels, by their labels."""
    column = {name.upper(): name for name in layout.names}
    values = {}
    for name in column:
        labelled = layout.values.get(column[name], {})
        choices = _filled({code: text for code, text in labelled.items() if re.fullmatch(r"-?\d{1,6}", code)})
        if _is_item(name) and 2 <= len(_scale(choices)) <= MOST_OPTIONS:
            values[name] = Question(layout.labels.get(column[name]) or name, choices, ordinal=name not in NOMINAL)
    names = [dict(layout.values.get(column.get(name, name), {})) for name in COUNTRY]
    return Questions(str(layout.path), values, names[0], names[1])


def item(name: str, question: Question, column: str, where: str) -> tuple[Item, Column]:
    """The item of a question, and how ``column`` of the data is read.

    Codes count by their place in the scale's order. Codes with one place become one option, worded
    as the code whose place it was; codes without a place are the outcome "other answer".
    """
    place = {code: code for code in _scale(question.choices)}
    moved = {int(code): new for code, new in (question.adjustment or {}).items()}
    placed = {code: moved.get(code, code) for code in place}
    order = sorted({at for at in placed.values() if at is not None})
    # An unmoved code words its option; else the first code that was moved there.
    head = {
        at: min((code for code in placed if placed[code] == at), key=lambda code: (code in moved, code)) for at in order
    }
    if len(order) < 2:
        raise CodebookError(
            f"'{name}' has fewer than two options", where=where, mend="list its answers with their codes"
        )
    ordinal = question.ordinal and not (name in UNORDERED and question.adjustment is None)
    texts = _texts([(at, question.choices[str(head[at])]) for at in order])
    options = tuple(
        Option(head[at], text, float(index) if ordinal else None)
        for index, (at, text) in enumerate(zip(order, texts, strict=True))
    )
    codes: dict[str, int | str] = {"-1": DONT_KNOW, "-2": NO_ANSWER}
    codes |= {str(code): OTHER if at is None else order.index(at) for code, at in placed.items()}
    missing = MISSING | {code for code in question.choices if int(code) < 0} - set(codes)
    found = Item(name, question.wording or question.label, options, ordinal, family=FAMILIES.get(name, ""))
    return found, Column(column, codes, missing)


def _texts(options: list[tuple[int, str]]) -> list[str]:
    """Options as a prompt shows them: scales of which only the ends have words are numbered."""
    plain = [text.strip() for _, text in options]
    if all(plain) and len(set(plain)) == len(plain) and not any(text == str(at) for at, text in options):
        return plain
    return [
        str(at) if text in ("", str(at)) else f"{at} ({text})" for (at, _), text in zip(options, plain, strict=True)
    ]


def _scale(choices: Mapping[str, str]) -> list[int]:
    return sorted(int(code) for code in choices if int(code) >= 0)


def _filled(choices: Mapping[str, str]) -> dict[str, str]:
    """Labels with the unlabelled codes between the ends of a short scale: its own number."""
    scale = _scale(choices)
    between = range(scale[0], scale[-1] + 1) if scale and scale[-1] < MOST_OPTIONS else range(0)
    return {**{str(code): str(code) for code in between}, **choices}


def _is_item(name: str) -> bool:
    return bool(re.fullmatch(r"Q[1-9]\d{0,2}", name)) and int(name[1:]) <= LAST_ITEM


def _load(path: Path) -> dict[str, Any]:
    """A JSON object, no key named twice."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=lambda pairs: _once(pairs, path))
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair cannot be written anywhere
    except OSError as error:
        raise CodebookError(
            f"cannot read it ({error.strerror})", where=str(path), mend=f"survey.codebook is a folder with {BOOK}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CodebookError(f"not valid JSON: {error}", where=str(path), mend="write it as JSON in UTF-8") from None
    if isinstance(found, dict) and not all(name.strip() for name in found):
        raise CodebookError("a record has no name", where=str(path), mend='name it: {"Q1": {...}}')
    if not isinstance(found, dict):
        raise CodebookError("no object", where=str(path), mend='lay it out as {"Q1": {...}, "Q2": {...}}')
    return found


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CodebookError(f"'{twice}' stands twice", where=str(path), mend="keep one of the two")
    return found


def _known(names: Mapping[str, Any] | set[str], book: Mapping[str, Any], path: Path) -> None:
    for name in sorted(set(names) - set(book)):
        raise CodebookError(f"'{name}' is not in {BOOK}", where=str(path), mend="take it out, or add it there")


def _record(record: Any, key: str, path: Path, name: str) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise CodebookError(f"no '{key}'", where=f"{path}, '{name}'", mend=f'give it: {{"{key}": ...}}')
    return record[key]


def _text(record: Any, key: str, path: Path, name: str) -> str:
    found = _record(record, key, path, name)
    if not isinstance(found, str) or not found.strip():
        raise CodebookError(f"'{key}' is no text", where=f"{path}, '{name}'", mend="write words in quotes")
    return found.strip()


def _choices(record: Any, path: Path, name: str) -> dict[str, str]:
    """Code -> label; whole numbers as codes, but for the countries' letters."""
    found = _record(record, "choices", path, name)
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise CodebookError("'choices' maps no codes to texts", where=f"{path}, '{name}'", mend='write {"1": "Agree"}')
    wrong = [code for code in found if name != COUNTRY[0] and not re.fullmatch(r"-?\d{1,6}", code)]
    if wrong:
        mend = "codes are whole numbers: below 0 for a missing answer"
        raise CodebookError(f"the code '{wrong[0]}' is no number", where=f"{path}, '{name}'", mend=mend)
    plain = {code if name == COUNTRY[0] else str(int(code)): text.strip() for code, text in found.items()}
    if len(plain) < len(found):
        raise CodebookError("a code stands twice", where=f"{path}, '{name}'", mend="write 1, not also 01")
    return plain


def _adjustment(moved: Any, choices: Mapping[str, str], path: Path, name: str) -> dict[str, int | None]:
    mend = 'write {"code": "new code"}, and "" for an answer that lies outside the scale'
    if not isinstance(moved, dict):
        raise CodebookError("no object of codes", where=f"{path}, '{name}'", mend=mend)
    for code, new in moved.items():
        if code not in choices or int(code) < 0:
            raise CodebookError(f"'{name}' has no answer with the code '{code}'", where=str(path), mend=mend)
        if not isinstance(new, str) or not re.fullmatch(r"\d{0,6}", new):
            raise CodebookError(f"the new code of '{code}' is no number", where=f"{path}, '{name}'", mend=mend)
    return {code: int(new) if new else None for code, new in moved.items()}
