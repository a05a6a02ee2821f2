"""World Values Survey, wave 7 (2017 to 2022), as its owners publish it: Q1 to Q290, CSV, SPSS or Stata.

The data may not be passed on and the codebook is not ours: the user brings both (wvs_codebook.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, CodebookError, SurveyError
from valuealign.surveys import files, generic, profiles, wvs_codebook
from valuealign.surveys.codebook import Codebook, Column, Trait
from valuealign.surveys.codebook_yaml import RESERVED, read_codebook
from valuealign.surveys.instruments import data_file
from valuealign.surveys.table import Survey
from valuealign.surveys.wvs_codebook import ADJUSTMENT, BOOK, COUNTRY, OUTCOMES, UNORDERED, Questions

LICENCE = (
    "World Values Survey Association: free for non-profit use, to be cited; the data may not be passed on, "
    "statistics made from them may"
)
SOURCE = "World Values Survey wave 7 (2017 to 2022), https://www.worldvaluessurvey.org, doi:10.14281/18241.20"
UNKNOWN = frozenset({"-1", "-2", "-3", "-4", "-5"})

SEX = {"male": "man", "female": "woman"}
EDUCATION = {"lower": "with lower education", "middle": "with middle education", "higher": "with higher education"}
SETTLEMENT = {"urban": "living in an urban area", "rural": "living in a rural area"}
INCOME = {"low": "with a low income", "medium": "with a medium income", "high": "with a high income"}
# Codes of the levels. The groups of ISCED 2011 (Q275) and of the ten income steps (Q288) are those of
# the survey's own recodes Q275R and Q288R, which serve where a file has only them.
TWO, THREE = ((1,), (2,)), ((1,), (2,), (3,))
ISCED, STEPS = ((0, 1, 2), (3, 4), (5, 6, 7, 8)), ((1, 2, 3), (4, 5, 6, 7), (8, 9, 10))


def read(config: SurveyConfig, seed: int) -> Survey:
    """Wave 7 of ``config.file``; ``seed`` plays no part.

    ``config.codebook`` is the folder of the survey's JSON codebook (wvs_codebook.py), a codebook in
    our own format (YAML), or nothing: then a .sav or .dta file gives its own labels. Raises
    SurveyError where neither is there, CodebookError for the codebook, AnswerError for the data.
    """
    path = data_file(config)
    if config.codebook is not None and config.codebook.suffix.lower() in (".yaml", ".yml"):
        return _read_own(path, read_codebook(config.codebook), config)
    separator = files.separator(path)
    layout = files.layout(path, separator=separator)
    questions = _questions(config.codebook, layout)
    column = country_column(layout.names)
    countries, unnamed = _countries(config, layout, questions, separator)
    book, unordered = codebook(questions, layout.names, countries)
    survey = generic.read_survey(path, replace(book, separator=separator), config, prune=True)
    _check_persons(survey, path, separator, config.rows)
    unknown = () if column else (profiles.no_country(COUNTRY),)
    return replace(survey, notes=(*unknown, *unnamed, *unordered, *survey.notes))


def _read_own(path: Path, book: Codebook, config: SurveyConfig) -> Survey:
    """By the user's codebook, which must fit the file; where it names no country, by the survey's own column of it."""
    layout = files.layout(path, separator=book.separator)
    column, notes = country_column(layout.names), list[str]()
    if book.country is None and column is None:
        notes.append(profiles.no_country(COUNTRY))
    elif book.country is None:
        labels = {name.upper(): of for name, of in layout.values.items()}
        questions = Questions(str(path), {}, *(labels.get(name, {}) for name in COUNTRY))
        names, unnamed = _countries(config, layout, questions, book.separator)
        book = profiles.with_country(book, names, column=str(column), missing=UNKNOWN)
        notes = [f"The codebook names no country: it was read from {column} (trait '{book.country}').", *unnamed]
    survey = generic.read_survey(path, book, config)
    return replace(survey, notes=(*notes, *survey.notes))


def country_column(names: Iterable[str]) -> str | None:
    """The file's column of countries, by letters or else by number; None where it has neither."""
    at = {name.upper(): name for name in names}
    return next((at[name] for name in COUNTRY if name in at), None)


def _check_persons(survey: Survey, path: Path, separator: str, rows_read: int | None) -> None:
    """Everybody was interviewed once. Raises AnswerError for an interview that stands twice."""
    twice = survey.people["person"].is_duplicated()
    if not twice.any():
        return
    who, name = survey.people["person"].filter(twice)[0], str(survey.codebook.person)
    rows = np.flatnonzero((survey.people["person"] == who).to_numpy())
    table = files.load(path, columns=[name], separator=separator, rows=rows_read)
    raise AnswerError(
        f"the interview {who} stands there twice ({twice.sum()} such rows in all)",
        where=f"{table.where(name, rows[0])} and {table.where(name, rows[1])}",
        mend="delete one of the two",
    )


def codebook(
    questions: Questions, names: Sequence[str], countries: Mapping[str, str]
) -> tuple[Codebook, tuple[str, ...]]:
    """The codebook for a file with the columns ``names``, and notes on what was assumed.

    ``countries`` maps the codes of ``country_column`` to names. Columns are found whatever the case of
    their names; items and traits without a column are kept, for the reading to prune. Raises
    CodebookError for a question with fewer than two options.
    """
    at = {name.upper(): name for name in names}
    found = [
        wvs_codebook.item(name, question, at.get(name, name), questions.where)
        for name, question in questions.values.items()
    ]
    described = _traits(at, countries)
    taken = {item.id for item, _ in found} & {*RESERVED, *(trait.id for trait, _ in described)}
    if taken:
        mend = "rename it: the project has a column of that name itself"
        raise CodebookError(f"a question is called '{min(taken)}'", where=questions.where, mend=mend)
    book = Codebook(
        name="wvs7",
        title="World Values Survey, wave 7",
        items=tuple(item for item, _ in found),
        traits=tuple(trait for trait, _ in described),
        person=at.get("D_INTERVIEW", "D_INTERVIEW"),
        weight=at.get("W_WEIGHT", "W_WEIGHT"),
        duration=at.get("K_DURATION"),
        licence=LICENCE,
        source=SOURCE,
        where=questions.where,
        columns={**{item.id: column for item, column in found}, **{trait.id: column for trait, column in described}},
        outcomes=OUTCOMES,
        country="country" if country_column(names) else None,
        tier="aggregates",
        label_only=tuple(name for name, question in questions.values.items() if not question.wording),
    )
    unordered = [item.id for item, _ in found if item.id in UNORDERED and not item.ordinal]
    note = f"Read as nominal, as their codes do not follow the scale and no {ADJUSTMENT} orders them: "
    return book, (f"{note}{', '.join(unordered)}.",) if unordered else ()


def _traits(at: Mapping[str, str], countries: Mapping[str, str]) -> list[tuple[Trait, Column]]:
    column = country_column(at.values())
    education = ("Q275R", THREE) if "Q275" not in at and "Q275R" in at else ("Q275", ISCED)
    income = ("Q288R", THREE) if "Q288" not in at and "Q288R" in at else ("Q288", STEPS)

    def coded(
        name: str,
        text: str,
        phrases: Mapping[str, str],
        column: str,
        codes: Sequence[Sequence[int]],
        slot: str = "after",
    ) -> tuple[Trait, Column]:
        return profiles.coded(
            name, text, phrases, column=at.get(column, column), codes=codes, missing=UNKNOWN, slot=slot
        )

    return [
        coded("sex", "sex", SEX, "Q260", TWO, slot="noun"),
        *([profiles.country(countries, column=column, missing=UNKNOWN)] if column else []),
        profiles.age(column=at.get("Q262", "Q262"), missing=UNKNOWN),
        coded("education", "education", EDUCATION, *education),
        coded("settlement", "kind of settlement", SETTLEMENT, "H_URBRURAL", TWO),
        coded("income", "household income", INCOME, *income),
    ]


def _questions(path: Path | None, layout: files.Layout) -> Questions:
    if path is not None:
        if path.is_file():
            mend = f"name the folder that holds {BOOK}, or a codebook in YAML"
            raise CodebookError("the codebook is a single file", where=str(path), mend=mend)
        return wvs_codebook.from_json(path)
    questions = wvs_codebook.from_labels(layout)
    if not questions.values:
        raise SurveyError(
            f"{layout.path} does not say what its codes mean",
            where="survey.codebook",
            mend=f"name a folder with {BOOK} (docs/surveys.md), or read the .sav or .dta file, which has labels",
        )
    return questions


def _countries(
    config: SurveyConfig, layout: files.Layout, questions: Questions, separator: str
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The countries of the file, code -> name: the codebook's lists of letters and of numbers both have gaps.

    The code is that of ``country_column``.
    """
    at = {name.upper(): name for name in layout.names}
    columns = [at[name] for name in COUNTRY if name in at]
    if not columns:
        return {}, ()
    table = files.load(layout.path, columns=columns, separator=separator, rows=config.rows)
    seen = pl.DataFrame([table.texts(name) for name in columns]).unique().sort(columns).rows()
    names: dict[str, str] = {}
    for code, *number in seen:
        if code and code not in UNKNOWN:
            known = questions.countries.get(code) or questions.numbers.get((code, *number)[-1])
            names[code] = known or names.get(code, code)
    bare = [code for code, name in names.items() if code == name]
    note = f"Named by their code, as the codebook has no name for them: {', '.join(bare)}."
    return names, (note,) if bare else ()
