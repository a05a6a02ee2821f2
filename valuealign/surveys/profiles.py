"""What the built-in profiles of international surveys share: traits, and how a release parts its columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from valuealign.errors import CodebookError
from valuealign.surveys.codebook import Codebook, Column, Trait

# Names that need an article in "from ...".
_WITH_THE = re.compile(r"(United|Netherlands|Philippines|Maldives|Gambia|Bahamas)\b|.*\b(Republic|Federation|Islands)$")

# Four bands: three would make one level of half an ageing country; six leave pairs of traits too few
# of a country's 1,000 to 2,000 interviews. Surveys differ in the age they begin at (15, 16 or 18).
AGES = (
    ("under 30", "under 30 years old", 0.0, 29.0),
    ("30-44", "aged 30 to 44", 30.0, 44.0),
    ("45-59", "aged 45 to 59", 45.0, 59.0),
    ("60+", "aged 60 or over", 60.0, float("inf")),
)


def coded(
    name: str,
    text: str,
    phrases: Mapping[str, str],
    *,
    column: str,
    codes: Sequence[Iterable[int | str]],
    missing: Iterable[str],
    slot: str = "after",
) -> tuple[Trait, Column]:
    """A trait whose levels, in the order of ``phrases`` (level -> phrase), have the codes of ``codes``."""
    levels = tuple(phrases)
    read: dict[str, int | str] = {str(code): level for level, ones in zip(levels, codes, strict=True) for code in ones}
    trait = Trait(name, text, levels, dict(phrases), dict.fromkeys(levels, slot))
    return trait, Column(column, read, frozenset(missing))


def age(*, column: str, missing: Iterable[str]) -> tuple[Trait, Column]:
    """Age in years as four bands (AGES)."""
    phrases = {level: phrase for level, phrase, _, _ in AGES}
    bands = tuple((level, low, high) for level, _, low, high in AGES)
    return Trait("age", "age", tuple(phrases), phrases), Column(column, {}, frozenset(missing), bands)


def country(names: Mapping[str, str], *, column: str, missing: Iterable[str]) -> tuple[Trait, Column]:
    """The country of the interview: code -> name, levels sorted by code; a prompt says "from NAME"."""
    phrases = {code: f"from {with_article(names[code])}" for code in sorted(names)}
    return coded("country", "country", phrases, column=column, codes=[(code,) for code in phrases], missing=missing)


def with_country(book: Codebook, names: Mapping[str, str], *, column: str, missing: Iterable[str]) -> Codebook:
    """The codebook with a trait that says where a person was asked, for a survey of many countries.

    Its own ``country`` stays; else a trait that reads the file's ``column`` code by code is it; else
    there is a new one, of the countries ``names`` (code -> name). Raises CodebookError where another
    trait or item has its name.
    """
    if book.country is not None:
        return book
    for trait in book.traits:
        codes = book.columns[trait.id].codes
        if book.columns[trait.id].name == column and len(set(codes.values())) == len(codes) > 0:
            return replace(book, country=trait.id)
    if "country" in book.columns:
        raise CodebookError(
            "it does not say where people were asked, and has a 'country' that is not the file's column of that",
            where=book.where,
            mend=f"add 'country: country' at the top if it is, or rename it: '{column}' is then read besides",
        )
    trait, read = country(names, column=column, missing=missing)
    return replace(book, traits=(*book.traits, trait), columns={**book.columns, trait.id: read}, country=trait.id)


def no_country(columns: Iterable[str]) -> str:
    """The note on a file of a survey of many countries that does not say where anybody was asked."""
    return (
        f"The file has no column {' or '.join(columns)}: in which country people were asked is not known, and all "
        "count as one public."
    )


def with_article(name: str) -> str:
    """A country's name as it stands after "from"."""
    return f"the {name}" if _WITH_THE.match(name) else name
