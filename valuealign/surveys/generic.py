"""Any survey that is a file of rows and columns with a codebook beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, ConfigError, SurveyError, nearest
from valuealign.surveys import files
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.codebook_yaml import read_codebook
from valuealign.surveys.coding import Rows, Wave, asked_in, check_unique, frame
from valuealign.surveys.files import Layout
from valuealign.surveys.table import Survey, mean_one

NUMBERED = (
    "No column says who is who, so people are numbered by their rows: in another order of rows they are in other parts."
)


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
            mend="name the data in survey.file and the YAML in survey.codebook",
        )
    return read_survey(config.file, read_codebook(config.codebook), config)


def read_survey(path: Path, book: Codebook, config: SurveyConfig, *, prune: bool = False) -> Survey:
    """Read the file that a codebook describes, as ``config``'s rows, weight and waves say.

    An empty value is a missing answer, besides the codebook's missing codes. What the codebook
    names and the file lacks (a column, anybody who answered an item, anybody in a level) raises;
    with ``prune``, meant for the profiles of well-known surveys, it is left out and the survey's
    notes say so, but for the columns that the user named (``book.own``). With ``rows`` levels and
    items may be empty.

    Of a panel in a wide file a person has a row for each wave with an answer (or an outcome), and
    ids are unique in the file; in a long file a (person, wave) stands once. Without waves a person
    may have several rows. Raises AnswerError (file, column, line, the mend), and ConfigError for an
    unknown wave.
    """
    survey = unpruned(path, book, config, lenient=prune)
    if prune:
        return pruned(survey)
    if config.rows is None:
        _check_filled(survey.people, path, survey.codebook)
    return survey


def unpruned(path: Path, book: Codebook, config: SurveyConfig, *, lenient: bool) -> Survey:
    """As ``read_survey``, with the items and levels that nobody has; ``lenient`` about a profile's columns."""
    if config.weight is not None:
        book = replace(book, weight=config.weight)
    found = files.layout(path, separator=book.separator)
    notes: list[str] = []
    waves = _waves(book, config)
    book = _placed(book, found, waves, lenient, notes)
    columns = {wave.fill(name) for wave in waves for name in _names(book)}
    table = files.load(path, columns=columns, separator=book.separator, rows=config.rows)
    if book.wave is not None:
        table = asked_in(table, book.wave, config.waves)
    if book.wave is not None or book.waves:
        check_unique(table, book)
    frames = [frame(Rows(table, book, wave)) for wave in waves]
    people = frames[0] if len(frames) == 1 else pl.concat(frames)
    if not people.height:
        raise AnswerError("nobody answered in these waves", where=str(path), mend="look at 'waves' in the codebook")
    people = people.with_columns(mean_one(people["weight"]))
    if book.person is None:
        notes.append(NUMBERED)
    if config.rows is not None:
        notes.append(f"Only the first {config.rows} rows of the file were read.")
    return Survey(codebook=book, people=people, notes=tuple(notes))


def _waves(book: Codebook, config: SurveyConfig) -> list[Wave]:
    """The waves of a wide file to be read, in the codebook's order; one nameless wave for any other file."""
    if config.waves is not None and not book.waves and book.wave is None:
        raise ConfigError(
            "the survey has no waves",
            where="survey.waves",
            mend=f"leave it out, or name them with 'waves' or 'wave' in {book.where or 'the codebook'}",
        )
    if not book.waves:
        return [Wave()]
    for wave in config.waves or ():
        if wave not in book.waves:
            raise ConfigError(f"no wave is called '{wave}'", where="survey.waves", mend=nearest(wave, book.waves))
    return [Wave(wave, mark) for wave, mark in book.waves.items() if config.waves is None or wave in config.waves]


# Columns


def _names(book: Codebook) -> Iterator[str]:
    """Every column name of the codebook, ``{wave}`` not filled in."""
    yield from (name for name in (book.person, book.weight, book.wave, book.duration) if name is not None)
    for name in _ids(book):
        column = book.columns[name]
        yield from column.levels.values() or (column.name,)


def _ids(book: Codebook) -> list[str]:
    return [*(item.id for item in book.items), *(trait.id for trait in book.traits)]


def _placed(book: Codebook, found: Layout, waves: list[Wave], lenient: bool, notes: list[str]) -> Codebook:
    """The codebook with what the file has columns for; the rest raises or, where it may be absent, goes into ``notes``.

    An item or a trait needs its column in one of the waves, person and weight in all of them.
    ``lenient`` says that a profile's columns may be absent, but not those of ``book.own``.
    """
    names = set(found.names)

    def may_lack(key: str) -> bool:
        return lenient and key not in book.own

    def somewhere(name: str) -> bool:
        return any(wave.fill(name) in names for wave in waves)

    def missing(name: str, role: str) -> AnswerError:
        return _no_column(found, book, waves[0].fill(name), role)

    for name, role in ((book.person, "person"), (book.weight, "weight"), (book.wave, "wave")):
        for wave in waves if name is not None else ():
            if wave.fill(str(name)) not in names:
                raise _no_column(found, book, wave.fill(str(name)), f"the {role} column")
    if book.duration is not None and not somewhere(book.duration):
        if not may_lack("duration"):
            raise missing(book.duration, "the column of durations")
        notes.append(f"The file has no column {book.duration}: nobody's time is known.")
        book = replace(book, duration=None)
    lost, columns = list[str](), dict(book.columns)
    for key in _ids(book):
        column = book.columns[key]
        absent = [name for name in column.levels.values() or (column.name,) if not somewhere(name)]
        if absent and not may_lack(key):
            raise missing(absent[0], f"of '{key}'")
        if column.levels:
            levels = {level: name for level, name in column.levels.items() if name not in absent}
            columns[key] = replace(column, levels=levels)
        if len(absent) == len(column.levels or (column.name,)):
            lost.append(key)
    if lost:
        notes.append(f"Not in the file and left out: {', '.join(lost)}.")
    kept = book.among(
        (item for item in book.items if item.id not in lost),
        (trait.among(columns[trait.id].levels or trait.levels) for trait in book.traits if trait.id not in lost),
    )
    return replace(kept, columns=columns)


def _no_column(found: Layout, book: Codebook, name: str, role: str) -> AnswerError:
    known = list(found.names)
    close = get_close_matches(name, known, n=1)
    other = [mark for mark in ";\t|," if found.kind == "csv" and mark != book.separator and mark in known[0]]
    if len(known) == 1 and other:
        mend = f"the header seems to be parted by {other[0]!r}: say so with 'separator:' in the codebook"
    elif close:
        mend = f"did you mean '{close[0]}'? Mend the header or {book.where or 'the codebook'}"
        mend += ", or name under 'waves:' only those of the file" if book.waves else ""
    else:
        # A survey's header is too long a list to print.
        mend = f"the header begins {', '.join(known[:5])}; mend it or {book.where or 'the codebook'}"
    where = f"{found.path}, line 1" if found.kind == "csv" else str(found.path)
    return AnswerError(f"no column '{name}' ({role})", where=where, mend=mend)


# What is there


def pruned(survey: Survey) -> Survey:
    """The survey without items that nobody answered and levels that nobody is in; its notes say what went.

    Raises SurveyError where no item is left.
    """
    people, book, notes = survey.people, survey.codebook, list(survey.notes)
    idle = [item.id for item in book.items if not _answered(people, item.id)]
    if idle:
        notes.append(f"Nobody answered and left out: {', '.join(idle)}.")
    items = [item for item in book.items if item.id not in idle]
    if not items:
        raise SurveyError("nobody answered any item", where=book.name, mend="look at the columns and their codes")
    traits = []
    for trait in book.traits:
        present = _present(people, trait)
        gone = [level for level in trait.levels if level not in present]
        if gone:
            notes.append(f"Levels of {trait.id} that nobody is in, left out: {', '.join(gone)}.")
        if present:
            traits.append(trait.among(present))
    lost = [trait.id for trait in book.traits if trait.id not in {kept.id for kept in traits}]
    if book.country in lost:
        notes.append(f"Nobody's {book.country} is known: all people count as one public.")
    return replace(survey, people=people.drop(idle + lost), codebook=book.among(items, traits), notes=tuple(notes))


def _answered(people: pl.DataFrame, item: str) -> bool:
    return bool((people[item] >= 0).any())


def _present(people: pl.DataFrame, trait: Trait) -> set[str]:
    column = people[trait.id].drop_nulls()
    return set((column.explode() if trait.several else column).drop_nulls().unique().to_list())


def _check_filled(people: pl.DataFrame, path: Path, book: Codebook) -> None:
    for item in book.items:
        if not _answered(people, item.id):
            where = f"{path}, column '{book.columns[item.id].name}'"
            raise AnswerError(f"nobody answered '{item.id}'", where=where, mend="take the item out of the codebook")
    for trait in book.traits:
        column, present = book.columns[trait.id], _present(people, trait)
        for level in trait.levels:
            if level not in present:
                raise AnswerError(
                    f"nobody is in the level '{level}' of '{trait.id}'",
                    where=f"{path}, column '{column.levels.get(level, column.name)}'",
                    mend=f"take the level out of {book.where or 'the codebook'}, or mend its codes",
                )
