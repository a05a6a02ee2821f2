"""Published answer shares (question, options, shares per country), as if their respondents had been seen.

A table holds no persons. For each country and question, as many respondents as the table counts
are given the published shares, in a random order of their own for each question: everything that
works on one question at a time (shares, intervals, respondent-disjoint halves, noise floors) then
works as on microdata, and nothing that needs a person's other answers finds any.

Shape letters: ``C`` countries, ``K`` answers of a question, non-answers included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.instruments import data_file
from valuealign.surveys.rows import Rows, first_note, first_people, in_order, literal, number, read_rows, refuse_keys
from valuealign.surveys.table import Survey
from valuealign.surveys.wordings import DONT_KNOW, EITHER, NO_ANSWER, non_answer, ordered, plain_words
from valuealign.types import Item, Option

TIDY = ("question", "option", "country", "share")
WIDE = ("question", "selections", "options")
EXTRA = ("n", "source", "ordinal", "order")
OUTCOMES = (DONT_KNOW, NO_ANSWER, EITHER)
# Shares of one distribution may miss 1 by half a point for each answer, and always by two points.
ROUNDING, SLACK = 0.005, 0.02
UNKNOWN = np.iinfo(np.int16).min
# People, and people times items (two bytes each), of the reconstructed table: more is a slip in n.
MOST_PEOPLE, MOST_ANSWERS = 5_000_000, 1_000_000_000


class Distribution(NamedTuple):
    """What is published for one country: a share for each answer, how many people, and the row that says so."""

    shares: list[float]
    n: int | None
    row: int


@dataclass
class Question:
    """A question with its answers and its ``cells``: a distribution for each country that was asked."""

    text: str
    row: int
    answers: list[str]
    ordinal: bool | None
    cells: dict[str, Distribution] = field(default_factory=dict)


def read(config: SurveyConfig, seed: int) -> Survey:
    """The survey that ``config.file`` (CSV, JSON lines, Parquet) publishes; deterministic from ``seed``.

    Two layouts: a row for each question, option and country (columns ``question``, ``option``, ``country``,
    ``share``), or a row for each question as in GlobalOpinionQA (Durmus et al. 2023, arXiv 2306.16388):
    ``question``, ``selections`` (country -> shares), ``options``. Optional in both: ``n``, ``source``,
    ``ordinal``; in the first also ``order``, a number for each option. Shares are fractions or percents,
    one of the two in the whole file. Country is the only trait. ``config.rows`` keeps the first
    reconstructed people.

    Raises SurveyError where no file is named, ConfigError for a key that means nothing here, and
    AnswerError (file, column, line, the mend) for the data.
    """
    refuse_keys(config, ("codebook", "weight", "waves", "statements"))
    path = data_file(config)
    rows = read_rows(path)
    found, questions, rescaled = distributions(rows)
    sizes = _sizes(questions, config)
    kinds = {answer: non_answer(answer) for question in questions for answer in question.answers}
    outcomes = tuple(kind for kind in (DONT_KNOW, NO_ANSWER, EITHER) if kind in kinds.values())
    items = _items(questions, kinds, rows)
    people = _people(
        items, questions, [_codes(question, kinds, outcomes) for question in questions], sizes, config, seed
    )
    sources = dict.fromkeys(str(source) for source in rows.columns.get("source", ()) if source is not None)
    book = Codebook(
        name=path.stem,
        title=path.stem.replace("_", " "),
        items=items,
        traits=(Trait("country", "country", tuple(sizes), {name: f"from {name}" for name in sizes}),),
        source=", ".join(sources),
        where=str(path),
        outcomes=outcomes,
        country="country",
    )
    notes = [
        *_notes(questions, items, sizes, config),
        *_wording_notes(kinds),
        rescaled,
        f"{len(found) - len(questions)} questions without any shares were left out" if found != questions else "",
        _unused(rows),
        first_note(people, config),
        _order_note(questions, items, rows),
    ]
    return Survey(book, first_people(people, items, config), notes=tuple(filter(None, notes)))


def distributions(rows: Rows) -> tuple[list[Question], list[Question], str]:
    """All questions of a table, those that anybody has shares for (summing to 1), and what was rounded for that.

    Raises AnswerError for the data.
    """
    found = _wide(rows) if "selections" in rows.columns else _tidy(rows)
    questions = [question for question in found if question.cells]
    return found, questions, _to_fractions(questions, rows)


def apportion(shares_CK: np.ndarray, n_C: np.ndarray) -> np.ndarray:
    """Whole people [C, K] with the given shares (each row sums to 1), ``n_C`` of them: largest remainders.

    Each count differs from ``share * n`` by less than 1; equal remainders go to the earlier answer,
    and a share of 0 stays 0.
    """
    # Rounded, for 0.29 * 100 is a little less than 29.
    quota_CK = np.round(shares_CK * n_C[:, None], 9)
    counts_CK = np.floor(quota_CK).astype(np.int64)
    rank_CK = np.argsort(np.argsort(counts_CK - quota_CK, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(counts_CK + (rank_CK < (n_C - counts_CK.sum(axis=1))[:, None]))


def _tidy(rows: Rows) -> list[Question]:
    """Questions of a table with a row for each question, answer and country; an absent row is a share of 0."""
    rows.need(TIDY, f"a table has {', '.join(TIDY)}; or {', '.join(WIDE)}")
    questions: dict[str, Question] = {}
    found: dict[tuple[str, str], dict[str, float]] = {}
    places: dict[str, dict[str, float | None]] = {}
    for row in range(rows.height):
        text, answer, country = (rows.text(name, row) for name in TIDY[:3])
        question = questions.setdefault(text, Question(text, row, [], _flag(rows, row)))
        if _flag(rows, row) != question.ordinal:
            where, mend = rows.where(row, "ordinal"), "say the same in all rows of a question"
            raise AnswerError("the rows of the question differ", where=where, mend=mend)
        shares = found.setdefault((text, country), {})
        cell = question.cells.setdefault(country, Distribution([], _asked(rows, row, country), row))
        if _asked(rows, row, country) != cell.n:
            where, mend = rows.where(row, "n"), f"give all rows of the question in '{country}' the same n"
            raise AnswerError(f"n was {cell.n} before", where=where, mend=mend)
        if answer in shares:
            where = rows.where(row, "option")
            raise AnswerError(f"'{answer}' stands a second time for '{country}'", where=where, mend="keep one of them")
        shares[answer] = _share(rows, row, "share", rows.columns["share"][row])
        _place(rows, row, places.setdefault(text, {}), answer)
    lists: dict[str, dict[tuple[str, ...], None]] = {}
    for (text, _), shares in found.items():
        lists.setdefault(text, {})[tuple(shares)] = None
    for text, question in questions.items():
        question.answers = _ordered(question, lists[text], places[text], rows)
    for (text, country), shares in found.items():
        questions[text].cells[country].shares.extend(shares.get(answer, 0.0) for answer in questions[text].answers)
    return list(questions.values())


def _place(rows: Rows, row: int, places: dict[str, float | None], answer: str) -> None:
    """Note an option's ``order``, which is one for all countries, and that its words are no other's but for case."""
    words = plain_words(answer)
    alike = next((other for other in places if answer not in places and plain_words(other) == words), None)
    if alike is not None and non_answer(answer) is None:
        raise AnswerError(
            f"'{answer}' and '{alike}' read alike and would be two options",
            where=rows.where(row, "option"),
            mend="write an option in the same words throughout: where it has no row, its share is 0",
        )
    value = rows.value("order", row)
    place = number(value)
    if place is None and value is not None and value != "":
        what = f"the order '{value}' is no number"
        raise AnswerError(what, where=rows.where(row, "order"), mend="number the options 1, 2, 3, ...")
    if places.setdefault(answer, place) != place or (place is not None and list(places.values()).count(place) > 1):
        mend = "give every option of a question a number of its own, the same for all countries"
        raise AnswerError(f"the order of '{answer}' is not clear", where=rows.where(row, "order"), mend=mend)


def _ordered(
    question: Question, lists: Iterable[Sequence[str]], places: Mapping[str, float | None], rows: Rows
) -> list[str]:
    """The answers of the countries' rows as one list, non-answers last."""
    known = {answer: place for answer, place in places.items() if place is not None}
    without = [answer for answer in places if known and answer not in known and non_answer(answer) is None]
    if without:
        where, mend = rows.where(question.row, "order"), "number every option of the question, or none"
        raise AnswerError(f"'{without[0]}' has no order", where=where, mend=mend)
    apart = [sorted(answers, key=lambda answer: non_answer(answer) is not None) for answers in lists]
    answers, clash = in_order(apart, known)
    if question.ordinal and clash and non_answer(clash) is None:
        raise AnswerError(
            f"the countries list the options in different orders ('{clash}')",
            where=rows.where(question.row, "option"),
            mend="list them in one order for every country, or add a column 'order' that numbers them",
        )
    return answers


def _wide(rows: Rows) -> list[Question]:
    """Questions of a table with a row for each; a country without a list was not asked."""
    rows.need(WIDE, f"a table has {', '.join(WIDE)}; or {', '.join(TIDY)}")
    questions = []
    for row in range(rows.height):
        answers = literal(rows, row, "options", list, "a list of answers, as in ['Yes', 'No']")
        odd = [answer for answer in answers if not isinstance(answer, str | int | float) or not str(answer).strip()]
        if odd:
            where, mend = rows.where(row, "options"), "write every answer in words; take out what is none"
            raise AnswerError(f"{odd[0]!r} is no answer", where=where, mend=mend)
        question = Question(
            rows.text("question", row), row, [str(answer).strip() for answer in answers], _flag(rows, row)
        )
        selections = literal(rows, row, "selections", dict, "country -> shares, as in {'Chile': [0.4, 0.6]}")
        for country, given in ((str(name).strip(), given) for name, given in selections.items()):
            if given is None or given == []:
                continue
            if not isinstance(given, list) or len(given) != len(answers):
                has = f"{len(given)} shares" if isinstance(given, list) else "no list of shares"
                where, mend = rows.where(row, "selections"), "give one share for each of 'options', in their order"
                raise AnswerError(f"'{country}' has {has}; {len(answers)} answers are listed", where=where, mend=mend)
            if country in question.cells or not country:
                what = f"'{country}' stands twice" if country else "a country has no name"
                raise AnswerError(what, where=rows.where(row, "selections"), mend="name every country once")
            shares = [_share(rows, row, "selections", share) for share in given]
            question.cells[country] = Distribution(shares, _asked(rows, row, country), row)
        questions.append(question)
    return questions


def _share(rows: Rows, row: int, name: str, value: object) -> float:
    share = number(value)
    if share is None or share < 0:
        what = f"the share '{value}' is {'no number' if share is None else 'negative'}"
        raise AnswerError(what, where=rows.where(row, name), mend="a share is a number from 0 to 1, or from 0 to 100")
    return share


def _asked(rows: Rows, row: int, country: str) -> int | None:
    """How many people the table counts: one number for the row, or a mapping from countries."""
    value = rows.value("n", row)
    if isinstance(value, str) and "{" in value:
        value = literal(rows, row, "n", dict, "a number, or country -> number")
    if isinstance(value, Mapping):
        value = value.get(country)
    if value is None or value == "":
        return None
    n = number(value)
    if n is None or n < 1 or n != int(n):
        mend = "n is a whole number of people; leave it empty where it is not known"
        raise AnswerError(f"'{value}' is no number of people", where=rows.where(row, "n"), mend=mend)
    return int(n)


def _flag(rows: Rows, row: int) -> bool | None:
    value = rows.value("ordinal", row)
    if value is None or value == "":
        return None
    said = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(str(value).lower())
    if said is None:
        where, mend = rows.where(row, "ordinal"), "write true or false, or nothing"
        raise AnswerError(f"'{value}' is neither true nor false", where=where, mend=mend)
    return said


def _to_fractions(questions: Sequence[Question], rows: Rows) -> str:
    """Make the shares of every cell sum to 1, in place; says what was rounded."""
    cells = [(country, cell) for question in questions for country, cell in question.cells.items()]
    if not cells:
        raise AnswerError("no country has any shares", where=str(rows.path), mend="fill the shares in")
    totals = np.array([sum(cell.shares) for _, cell in cells])
    slack = np.maximum(SLACK, [ROUNDING * len(cell.shares) for _, cell in cells]) + 1e-9
    off = {unit: ~(np.abs(totals / unit - 1) <= slack) for unit in (1, 100)}
    unit = min(off, key=lambda unit: int(off[unit].sum()))
    if off[unit].any():
        first = int(off[unit].argmax())
        country, cell = cells[first]
        more = f" (and {off[unit].sum() - 1} more such distributions)" if off[unit].sum() > 1 else ""
        raise AnswerError(
            f"the shares of '{country}' sum to {totals[first]:g}{more}",
            where=rows.where(cell.row, "selections" if "selections" in rows.columns else "share"),
            mend="they sum to 1, or in the whole file to 100; rounding may cost half a point for each answer, "
            "or two points: mend the shares, or delete what is wrong",
        )
    for (_, cell), total in zip(cells, totals.tolist(), strict=True):
        cell.shares[:] = [share / total for share in cell.shares]
    error = np.abs(totals / unit - 1)
    if not (error > 0.0005).any():
        return ""
    return (
        f"{(error > 0.0005).sum():,} of {len(cells):,} distributions do not sum to 1 exactly "
        f"(furthest: {100 * error.max():.1f} points, taken as rounding) and were scaled to it"
    )


def _sizes(questions: Sequence[Question], config: SurveyConfig) -> dict[str, int]:
    """Country -> how many people it takes to hold its largest question."""
    sizes: dict[str, int] = {}
    for question in questions:
        for country, cell in question.cells.items():
            sizes[country] = max(sizes.get(country, 0), cell.n or config.assumed_n)
    people = sum(sizes.values())
    if people > MOST_PEOPLE or people * len(questions) > MOST_ANSWERS:
        raise AnswerError(
            f"{people:,} people times {len(questions):,} questions are more than can be reconstructed",
            where=str(config.file),
            mend="check n; if it is right, split the file, or scale n down (intervals then widen)",
        )
    return sizes


def _items(questions: Sequence[Question], kinds: Mapping[str, str | None], rows: Rows) -> tuple[Item, ...]:
    """The questions with their real options; those of the same words are one family."""
    items, first = [], dict[str, str]()
    same = [plain_words(question.text) for question in questions]
    again = {words for words, times in Counter(same).items() if times > 1}
    for place, question in enumerate(questions):
        texts = [answer for answer in question.answers if kinds[answer] is None]
        if len(texts) < 2 or len(set(question.answers)) < len(question.answers):
            few = len(texts) < 2
            raise AnswerError(
                "the question has fewer than two options, non-answers apart" if few else "two answers read the same",
                where=rows.where(question.row, "options" if "options" in rows.columns else "option"),
                mend="take the question out" if few else "word every answer differently",
            )
        ordinal = ordered(texts) if question.ordinal is None else question.ordinal
        first.setdefault(same[place], f"q{place + 1}")
        items.append(
            Item(
                id=f"q{place + 1}",
                text=question.text,
                options=tuple(Option(k + 1, text, float(k) if ordinal else None) for k, text in enumerate(texts)),
                ordinal=ordinal,
                family=first[same[place]] if same[place] in again else "",
            )
        )
    return tuple(items)


def _codes(question: Question, kinds: Mapping[str, str | None], outcomes: Sequence[str]) -> np.ndarray:
    """What stands for each answer [K] in the table of people: an option's index, an outcome, or UNKNOWN."""
    codes, options = [], 0
    for kind in (kinds[answer] for answer in question.answers):
        if kind is None:
            codes.append(options)
            options += 1
        else:
            codes.append(-1 - outcomes.index(kind) if kind in outcomes else UNKNOWN)
    return np.array(codes, dtype=np.int16)


def _people(
    items: Sequence[Item],
    questions: Sequence[Question],
    codes: Sequence[np.ndarray],
    sizes: Mapping[str, int],
    config: SurveyConfig,
    seed: int,
) -> pl.DataFrame:
    """Everyone reconstructed, country by country; each question shuffles its people anew."""
    rng = np.random.default_rng([seed, 0x73686172])
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    country = pl.Series("country", list(sizes)).gather(np.repeat(np.arange(len(sizes)), list(sizes.values())))
    person = [str(number) for size in sizes.values() for number in range(1, size + 1)]
    columns = [country + " " + pl.Series("person", person)]
    columns = [columns[0].alias("person"), pl.Series("weight", np.ones(len(person))), country]
    for item, question, code_K in zip(items, questions, codes, strict=True):
        answer_P = np.full(len(person), UNKNOWN, dtype=np.int16)
        n_C = np.array([cell.n or config.assumed_n for cell in question.cells.values()])
        counts_CK = apportion(np.array([cell.shares for cell in question.cells.values()]), n_C)
        for name, counts_K in zip(question.cells, counts_CK, strict=True):
            here = answer_P[starts[name] : starts[name] + sizes[name]]
            here[: counts_K.sum()] = np.repeat(code_K, counts_K)
            rng.shuffle(here)
        columns.append(pl.Series(item.id, answer_P).set(pl.Series(answer_P == UNKNOWN), None))
    return pl.DataFrame(columns)


def _notes(
    questions: Sequence[Question], items: Sequence[Item], sizes: Mapping[str, int], config: SurveyConfig
) -> list[str]:
    cells = [cell for question in questions for cell in question.cells.values()]
    assumed = sum(cell.n is None for cell in cells)
    guessed = sum(item.ordinal for item, question in zip(items, questions, strict=True) if question.ordinal is None)
    some = [name for name in sizes if "sample" in name.casefold()]
    return [
        f"nobody of these people exists: {sum(sizes.values()):,} were reconstructed from shares published for "
        f"{len(sizes)} countries, each question by itself; crossings, correlations, scores of persons and screens "
        "mean nothing",
        f"{assumed:,} of {len(cells):,} distributions do not say how many people they stand for: "
        f"{config.assumed_n} were assumed (survey.assumed_n)"
        if assumed
        else "",
        "people count as the table counts them; the design effect of its samples is not known, so intervals and "
        "noise floors are narrower than the truth",
        f"{guessed:,} of {len(items):,} items were taken as ordered by the wording of their options, the others as "
        "nominal; a column 'ordinal' (true, false) says otherwise"
        if any(question.ordinal is None for question in questions)
        else "",
        f"samples of a part of their country, or older ones, by their names: {', '.join(some)}" if some else "",
    ]


def _numbered(rows: Rows) -> bool:
    """Whether a column 'order' numbers options (one that is there but empty does not)."""
    return "order" in rows.columns and any(value not in (None, "") for value in rows.columns["order"])


def _order_note(questions: Sequence[Question], items: Sequence[Item], rows: Rows) -> str:
    """Where the order of an ordered item's options comes from, if nobody has said so."""
    taken = [item.id for item, question in zip(items, questions, strict=True) if item.ordinal and question.ordinal]
    if not taken or "selections" in rows.columns or _numbered(rows):
        return ""
    return (
        f"the options of the ordered items {', '.join(taken)} stand as their rows do in the table: check that this is "
        "their order, or add a column 'order' that numbers them"
    )


def _wording_notes(kinds: Mapping[str, str | None]) -> list[str]:
    """What was taken as no answer, by kind."""
    found: dict[str, list[str]] = {}
    for answer, kind in kinds.items():
        if kind is not None:
            found.setdefault(kind, []).append(f"'{answer}'")
    return [f"taken as the outcome '{kind}': {', '.join(answers)}" for kind, answers in sorted(found.items())]


def _unused(rows: Rows) -> str:
    used = {*(WIDE if "selections" in rows.columns else TIDY), *EXTRA}
    left = [name for name in rows.columns if name and name not in used]
    return f"columns that are not used: {', '.join(left)}" if left else ""
