"""What a user may choose of any survey: some of its people, and what its outcomes count as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from valuealign.errors import ConfigError, SurveyError, nearest
from valuealign.surveys.codebook import Codebook, whole_code
from valuealign.surveys.generic import pruned
from valuealign.surveys.table import Survey, in_level, mean_one
from valuealign.types import Item, Option


def keep_only(survey: Survey, only: Mapping[str, Sequence[str]]) -> Survey:
    """The people who are, for each trait of ``only``, in one of its levels; their weights have mean 1.

    Levels and items that then have nobody go, and so do margins and truth, which are of everyone.
    Raises ConfigError for an unknown trait or level, SurveyError where nobody is left.
    """
    if not only:
        return survey
    book, people = survey.codebook, survey.people
    known = {trait.id: trait for trait in book.traits}
    kept_P = np.ones(people.height, bool)
    for name, levels in only.items():
        if name not in known:
            mend = nearest(name, known) if known else "the survey has no traits: leave it out"
            raise ConfigError(f"no trait is called '{name}'", where="survey.only", mend=mend)
        for level in levels:
            if level not in known[name].levels:
                mend = nearest(level, known[name].levels)
                raise ConfigError(f"'{name}' has no level '{level}'", where=f"survey.only.{name}", mend=mend)
        kept_P &= np.any([np.zeros(people.height, bool), *(in_level(people, name, level) for level in levels)], axis=0)
    left = people.filter(pl.Series(kept_P))
    said = " and ".join(f"{name} {', '.join(levels)}" for name, levels in only.items())
    if not left["weight"].sum():
        raise SurveyError(f"nobody is left of {said}", where="survey.only", mend="name more levels, or fewer traits")
    traits = [trait.among(only[trait.id]) if trait.id in only and not trait.several else trait for trait in book.traits]
    notes = [*survey.notes, f"Only {said}: {left.height} of {people.height} rows."]
    if survey.margins is not None or survey.truth is not None:
        notes.append("The known margins and shares are those of everyone and not used for this part of the people.")
    return pruned(
        Survey(
            codebook=book.among(book.items, traits),
            people=left.with_columns(mean_one(left["weight"])),
            notes=tuple(notes),
        )
    )


def outcomes_as_options(survey: Survey) -> Survey:
    """Every outcome of an item that occurs becomes one more of its options; the item is then nominal.

    An outcome with the words of an option counts as that option. Known shares of everyone are left
    out where an item changed: they count no outcomes.
    """
    book = survey.codebook
    changed: dict[str, Item] = {}
    columns, answers = dict(book.columns), list[pl.Series]()
    for item in book.items:
        column = survey.people[item.id]
        seen = sorted((value for value in column.unique().drop_nulls().to_list() if value < 0), reverse=True)
        if not seen:
            continue
        texts = [option.text for option in item.options]
        names = [book.outcomes[-1 - value] for value in seen]
        added = [name for name in names if name not in texts]
        texts += added
        places = {value: texts.index(name) for value, name in zip(seen, names, strict=True)}
        new = [Option(_code(book, item, name), name) for name in added]
        options = (*(replace(option, position=None) for option in item.options), *new)
        changed[item.id] = replace(item, options=options, ordinal=False)
        answers.append(column.replace(places))
        if item.id in columns:
            codes = {code: places.get(int(place), place) for code, place in columns[item.id].codes.items()}
            columns[item.id] = replace(columns[item.id], codes=codes)
    if not changed:
        return survey
    note = f"What people did instead of answering counts as an option of {len(changed)} items, now without an order."
    items = tuple(changed.get(item.id, item) for item in book.items)
    return replace(
        survey,
        codebook=replace(book, items=items, columns=columns),
        people=survey.people.with_columns(answers),
        truth=None,
        notes=(*survey.notes, note),
    )


def _code(book: Codebook, item: Item, outcome: str) -> int:
    """The outcome's code in the file where it is a number, else the next free one."""
    place = -1 - book.outcomes.index(outcome)
    column = book.columns.get(item.id)
    for code, meant in column.codes.items() if column else ():
        number = whole_code(code)
        if meant == place and number is not None:
            return number
    return max(option.code for option in item.options) + 1 - place
