"""The human values of the European Social Survey: the 21 portraits of the PVQ-21.

Names and codes are the survey's own. Code 1 is "very much like me", so positions fall from 5 to 0:
a high score means important. Rounds that were filled in alone spell the items with a final ``a``
(``ipcrtiva``); both spellings are read, also side by side in one file of several rounds.

The portraits below are paraphrases, not the fielded sentences, which are copyrighted: the user's own
wordings come from a YAML in ``survey.codebook`` (``items: {ipcrtiv: "..."}``), laid over this profile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError
from valuealign.surveys import files, generic, profiles
from valuealign.surveys.codebook import Codebook
from valuealign.surveys.instruments import data_file, laid_over
from valuealign.surveys.table import Survey
from valuealign.values import THEORIES

# In the order of the questionnaire: item n of the PVQ-21 is the n-th.
PORTRAITS: Mapping[str, str] = {
    "ipcrtiv": "to be inventive and to go about things in a way of their own",
    "imprich": "to be wealthy and to own costly things",
    "ipeqopt": "that all human beings are treated alike and get the same chances",
    "ipshabt": "to let others see what they are capable of and to be looked up to for it",
    "impsafe": "to live where nothing threatens them",
    "impdiff": "to try out one new thing after another and have a varied life",
    "ipfrule": "that people keep to the rules, watched or not",
    "ipudrst": "to hear out people unlike themselves and to grasp their point of view",
    "ipmodst": "to stay humble and in the background",
    "ipgdtim": "to enjoy themselves and to treat themselves well",
    "impfree": "to make their own choices and to need nobody's permission",
    "iphlppl": "to be of help to those around them and look after how they fare",
    "ipsuces": "to achieve a great deal and have it noticed",
    "ipstrgv": "that the state is strong and shields them from whatever threatens it",
    "ipadvnt": "to seek adventure and risk",
    "ipbhprp": "to conduct themselves properly and give nobody cause for reproach",
    "iprspot": "that others look up to them and do as they say",
    "iplylfr": "to stand by friends and be devoted to those who are close to them",
    "impenv": "that nature is cared for and the environment kept",
    "imptrad": "to keep up what religion or family has handed down",
    "impfun": "to take every chance of having fun and doing what pleases them",
}
QUESTION = "Think of a person to whom it is important {}. How much is this person like you?"
LIKENESS = (
    "very much like me",
    "like me",
    "somewhat like me",
    "a little like me",
    "not like me",
    "not like me at all",
)
ANSWERS = [str(code) for code in range(1, len(LIKENESS) + 1)]
OUTCOMES = {"refused": ["77"], "don't know": ["88"], "no answer": ["99"]}
NOT_APPLICABLE = ["66"]
# fmt: off
COUNTRIES: Mapping[str, str] = {
    "AL": "Albania", "AT": "Austria", "BE": "Belgium", "BG": "Bulgaria", "CH": "Switzerland", "CY": "Cyprus",
    "CZ": "Czechia", "DE": "Germany", "DK": "Denmark", "EE": "Estonia", "ES": "Spain", "FI": "Finland", "FR": "France",
    "GB": "United Kingdom", "GR": "Greece", "HR": "Croatia", "HU": "Hungary", "IE": "Ireland", "IL": "Israel",
    "IS": "Iceland", "IT": "Italy", "LT": "Lithuania", "LU": "Luxembourg", "LV": "Latvia", "ME": "Montenegro",
    "MK": "North Macedonia", "NL": "Netherlands", "NO": "Norway", "PL": "Poland", "PT": "Portugal",
    "RO": "Romania", "RS": "Serbia", "RU": "Russia", "SE": "Sweden", "SI": "Slovenia", "SK": "Slovakia",
    "TR": "Turkey", "UA": "Ukraine", "XK": "Kosovo",
}
# fmt: on
# idno is unique within a country and a round only: the three together say who somebody is.
COUNTRY, NUMBER = "cntry", "idno"
PERSON = (COUNTRY, "essround", NUMBER)
PARAPHRASED = "Paraphrases, not the fielded wordings (survey.codebook takes those): "


def read(config: SurveyConfig, seed: int) -> Survey:
    """The 21 items and the traits of an ESS file of one or more rounds; ``seed`` plays no part.

    ``config.codebook`` is laid over the profile (instruments.py). ``config.weight`` may name
    ``anweight``, which brings countries to the sizes of their populations; the profile's
    ``pspwght`` does not. ``config.waves`` names rounds. Raises SurveyError without a file,
    CodebookError for the YAML, AnswerError for the data, a file without ``idno`` included unless the
    YAML names the ``person``.
    """
    path = data_file(config)
    separator = files.separator(path)
    names = {name.lower(): name for name in files.layout(path, separator=separator).names}
    spelt = {name: [names[each] for each in (name, name + "a") if each in names] for name in PORTRAITS}
    doubled = {name for name, columns in spelt.items() if len(columns) > 1}
    wanted = [names[name] for name in PERSON if name in names] + [each for name in doubled for each in spelt[name]]
    known = files.load(path, columns=wanted or list(names.values())[:1], separator=separator, rows=config.rows)
    asked_P = _asked(known, names, config)
    for name in doubled:
        spelt[name] = _used(known, spelt[name], asked_P) or spelt[name][:1]

    book = laid_over(profile(names, spelt), config.codebook)
    if not {book.columns[item.id].name for item in book.items} & set(names.values()):
        raise AnswerError(
            f"the file has none of the 21 items ({', '.join(list(PORTRAITS)[:3])}, ...)",
            where=str(path),
            mend="download the round with the module on human values, under the variables' own names",
        )
    if COUNTRY in names:
        codes = set(known.texts(names[COUNTRY])) - {""}
        countries = {code: COUNTRIES.get(code, code) for code in codes}
        book = profiles.with_country(book, countries, column=names[COUNTRY], missing=())
    if book.person is None and NUMBER not in names:
        raise AnswerError(
            f"no column '{NUMBER}': persons cannot be told apart",
            where=str(path),
            mend=f"download the file with {', '.join(PERSON)}; or name the column that numbers the persons with "
            "'person: COLUMN' in survey.codebook",
        )
    weight = (config.weight or book.weight or "").lower()
    book = replace(
        book,
        separator=separator,
        wave=book.wave or names.get("essround"),
        weight_scale="population" if weight == "anweight" else book.weight_scale,
    )
    twins = {name: columns[1] for name, columns in spelt.items() if len(columns) > 1 and name not in book.own}
    for name in twins:
        _check_once(known, spelt[name], asked_P)
    survey = _joined(generic.read_survey(path, _with_twins(book, twins), config, prune=True), twins)
    if book.person is None:
        survey = _named(survey, known, [names[name] for name in PERSON if name in names])
    own = [item.id for item in survey.codebook.items if item.text == QUESTION.format(PORTRAITS.get(item.id, ""))]
    notes = [PARAPHRASED + ", ".join(own) + "."] if own else []
    if book.country is None:
        notes.append(profiles.no_country([COUNTRY]))
    return replace(survey, notes=(*notes, *survey.notes))


def profile(names: Mapping[str, str], spelt: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The codebook in the shape of its YAML (docs/surveys.md) for a file with the columns ``names``.

    ``names`` maps names in lower case to names; ``spelt`` holds the columns of each of the 21 items,
    of which the first is read. The country is not in it: its levels are those of the data.
    """
    key = THEORIES["schwartz10"].instruments["PVQ-21"]
    items = {
        name: {
            "text": QUESTION.format(words),
            "column": (*spelt[name], name)[0],
            "scale": "likeness",
            # Not at the codebook's top: 66, 77 and 88 are also ages.
            "missing": NOT_APPLICABLE,
            "outcomes": OUTCOMES,
            "values": [value for value, numbers in key.items() if number in numbers],
        }
        for number, (name, words) in enumerate(PORTRAITS.items(), start=1)
    }
    return {
        "name": "ess",
        "title": "European Social Survey, human values (PVQ-21)",
        # Non-commercial and share-alike: shares computed from the answers are passed on, answers are not.
        "licence": "CC BY-NC-SA 4.0",
        "tier": "aggregates",
        "source": "European Social Survey ERIC, https://www.europeansocialsurvey.org",
        "weight": names.get("pspwght", "pspwght"),
        "outcomes": {name: [] for name in OUTCOMES},
        "scales": {
            "likeness": [{"code": code, "text": text, "position": 6 - code} for code, text in enumerate(LIKENESS, 1)]
        },
        "items": items,
        "traits": {
            "sex": {
                "column": names.get("gndr", "gndr"),
                "as": "noun",
                "missing": ["9"],
                "levels": {"male": {"codes": ["1"], "text": "man"}, "female": {"codes": ["2"], "text": "woman"}},
            },
            "age": {
                "column": names.get("agea", "agea"),
                "missing": ["999"],
                "bands": {
                    level: {"text": phrase, "from": low, **({"to": high} if math.isfinite(high) else {})}
                    for level, phrase, low, high in profiles.AGES
                },
            },
            "education": {
                "column": names.get("eisced", "eisced"),
                "missing": ["0", "55", "77", "88", "99"],  # other, and not to be harmonised, besides no answer
                "levels": {
                    "lower": {"codes": ["1", "2"], "text": "with lower education"},
                    "middle": {"codes": ["3", "4"], "text": "with middle education"},
                    "higher": {"codes": ["5", "6", "7"], "text": "with higher education"},
                },
            },
        },
    }


def _asked(known: files.Table, names: Mapping[str, str], config: SurveyConfig) -> pl.Series:
    """Booleans [P]: whose round is read."""
    if config.waves is None or "essround" not in names:
        return pl.repeat(True, len(known.row_P), eager=True)
    return known.texts(names["essround"]).is_in(list(config.waves))


def _used(known: files.Table, columns: Sequence[str], asked_P: pl.Series) -> list[str]:
    """Those of an item's two columns in which somebody answered in the rounds that are read."""
    return [column for column in columns if (known.texts(column).is_in(ANSWERS) & asked_P).any()]


def _check_once(known: files.Table, columns: Sequence[str], asked_P: pl.Series) -> None:
    """Nobody gave one item two answers. Raises AnswerError with the line."""
    first, second = (known.texts(column) for column in columns)
    both = (first.is_in(ANSWERS) & second.is_in(ANSWERS) & (first != second) & asked_P).arg_true()
    if len(both):
        row = both[0]
        raise AnswerError(
            f"the answer is {second[row]} here and {first[row]} in '{columns[0]}', the same item's other column",
            where=known.where(columns[1], row),
            mend="leave one of the two empty",
        )


def _with_twins(book: Codebook, twins: Mapping[str, str]) -> Codebook:
    """With an item more, ``NAMEa``, for each item that the rounds of the file spell in two ways."""
    items = [replace(book.item(name), id=name + "a") for name in twins]
    columns = {name + "a": replace(book.columns[name], name=column) for name, column in twins.items()}
    return replace(book, items=(*book.items, *items), columns={**book.columns, **columns})


def _joined(survey: Survey, twins: Mapping[str, str]) -> Survey:
    """The two columns of an item as one: the answer, where one of them has it, else why there is none."""
    people = survey.people.with_columns(
        pl.when(pl.col(name) < 0, pl.col(name + "a") >= 0)
        .then(pl.col(name + "a"))
        .otherwise(pl.coalesce(name, name + "a"))
        .alias(name)
        for name in twins
    )
    second = {name + "a" for name in twins}
    kept = [item for item in survey.codebook.items if item.id not in second]
    return replace(survey, people=people.drop(second), codebook=survey.codebook.among(kept, survey.codebook.traits))


def _named(survey: Survey, known: files.Table, columns: Sequence[str]) -> Survey:
    """With persons called ``COUNTRY-ROUND-NUMBER`` (what the file has of it); so far they are their rows' numbers."""
    parts = pl.DataFrame([known.texts(column) for column in columns])
    for column in columns:
        empty = (parts[column] == "").arg_true()
        if len(empty):
            raise AnswerError(
                "an interview without it",
                where=known.where(column, empty[0]),
                mend="every row needs " + ", ".join(columns),
            )
    twice = (~parts.select(pl.struct(pl.all()).is_first_distinct()).to_series()).arg_true()
    if len(twice):
        raise AnswerError(
            f"person {'-'.join(parts.row(twice[0]))} stands a second time",
            where=known.where(columns[-1], twice[0]),
            mend="keep one of the two rows"
            + (f"; or give the file {', '.join(PERSON)}: a number begins again in each" if len(columns) < 3 else ""),
        )
    who = parts.select(pl.concat_str(pl.all(), separator="-")).to_series()
    rows = pl.Series(known.row_P + 1).cast(pl.String)
    people = survey.people.with_columns(pl.col("person").replace_strict(rows, who))
    notes = tuple(note for note in survey.notes if note != generic.NUMBERED)
    return replace(survey, people=people, codebook=replace(survey.codebook, person=columns[-1]), notes=notes)
