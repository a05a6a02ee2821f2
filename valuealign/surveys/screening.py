"""Signs of careless answering, looked for in a person's own answers and in exact copies of them only.

No screen compares a person with the majority: which option is popular changes no flag. A flag is a
sign, not a proof; ``population.with_and_without`` shows what the flagged people do to each target.

Shape letters: ``P`` people (rows of the survey as given), ``I`` items, ``K`` options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from valuealign.config import ScreensConfig
from valuealign.errors import SurveyError
from valuealign.surveys.table import Survey, mean_one
from valuealign.types import Item

SCREENS = ("longest_string", "variance", "speeders", "duplicates")
# A sum of squares of places 0..1 has this much rounding; equal answers must count as equal.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Screened:
    """What the screens found.

    ``survey`` is without the people of the screens that say ``drop`` (weights with mean 1 again);
    ``flags[screen]`` are booleans [P] of the survey as *given*, for each screen that is not ``off``
    and can be applied, and ``kept_P`` says which of its rows remain. ``notes`` says how many were
    flagged and what could not be applied.
    """

    survey: Survey
    flags: Mapping[str, np.ndarray]
    kept_P: np.ndarray
    notes: tuple[str, ...]


def screen(survey: Survey, config: ScreensConfig) -> Screened:
    """Apply the screens that are not ``off``. People with fewer than ``least_items`` answers are never flagged.

    ``longest_string``: the longest run of the same place over consecutive items of one scale (the
    same option texts, in the codebook's order), as a share of the person's answers to items that
    have such a neighbour (Johnson 2005). Skipped items neither break a run nor lengthen it. It
    cannot tell careless from honestly uniform answers where the items of a scale ask much the same
    and are keyed one way, and it sees little in a survey of many short scales.

    ``variance``: the variance of a person's ratings (ordinal items, places 0..1, none turned round)
    is at most ``variance_below``. It has the same blind spots, across scales.

    ``speeders``: an interview shorter than ``speeders_below`` times the median (of its wave); times
    that are missing or not positive are unknown, and nobody is flagged for them.

    ``duplicates``: the same answers and traits as another *person*, all of them; the first in the
    file stays unflagged. Answers that two honest people among P may well share are no sign: those
    that are one of fewer than P squared possible patterns, where uniform answers to consecutive
    items of one scale count as one answer. A copy that was altered is not seen.

    Raises SurveyError where the screens that drop leave nobody, or nobody with a positive weight.
    """
    modes = {name: getattr(config, name) for name in SCREENS if getattr(config, name) != "off"}
    answers_PI = _answers(survey)
    flags: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for name, mode in modes.items():
        reason, flag_P = _apply(name, survey, answers_PI, config)
        if flag_P is None:
            notes.append(f"the screen {name} was not applied: {reason}")
            continue
        flags[name] = flag_P
        count, total = int(flag_P.sum()), len(flag_P)
        share = f"{100 * count / total:.1f} %" if total else "none"
        notes.append(f"the screen {name} {mode}s {count} of {total} interviews ({share}){reason}")
    kept_P = np.ones(len(answers_PI), dtype=bool)
    for name, flag_P in flags.items():
        kept_P &= ~flag_P if modes[name] == "drop" else True
    remaining = survey if kept_P.all() else dataclasses.replace(survey, people=_kept(survey, kept_P))
    return Screened(remaining, flags, kept_P, tuple(notes))


def _apply(name: str, survey: Survey, answers_PI: np.ndarray, config: ScreensConfig) -> tuple[str, np.ndarray | None]:
    """The flags of one screen with a remark, or None with the reason why it cannot be applied."""
    items = survey.codebook.items
    if name == "longest_string":
        return _longest_string(items, answers_PI, config)
    if name == "variance":
        return _variance(items, answers_PI, config)
    if name == "speeders":
        return _speeders(survey.people, answers_PI, config)
    return "", _duplicates(survey, answers_PI, config)


def _longest_string(
    items: tuple[Item, ...], answers_PI: np.ndarray, config: ScreensConfig
) -> tuple[str, np.ndarray | None]:
    block = _blocks(items)
    beside = np.bincount(block, minlength=1)[block] > 1 if len(items) else np.zeros(0, dtype=bool)
    if beside.sum() < config.least_items:
        return f"fewer than {config.least_items} items stand beside another of the same scale", None
    last_P, run_P, longest_P = (np.zeros(len(answers_PI), dtype=np.int32) for _ in range(3))
    for i in np.flatnonzero(beside):
        if i == 0 or block[i] != block[i - 1]:
            last_P[:] = -1
        known_P = answers_PI[:, i] >= 0
        longer_P = np.where(answers_PI[:, i] == last_P, run_P + 1, 1)
        run_P = np.where(known_P, longer_P, run_P)
        last_P = np.where(known_P, answers_PI[:, i], last_P)
        longest_P = np.where(known_P, np.maximum(longest_P, run_P), longest_P)
    answered_P = (answers_PI[:, beside] >= 0).sum(axis=1)
    long_P = longest_P >= config.longest_string_share * answered_P - ROUNDING
    return "", long_P & (answered_P >= config.least_items)


def _variance(items: tuple[Item, ...], answers_PI: np.ndarray, config: ScreensConfig) -> tuple[str, np.ndarray | None]:
    ordinal = [i for i, item in enumerate(items) if item.places]
    if len(ordinal) < config.least_items:
        return f"fewer than {config.least_items} items are ordinal", None
    n_P, sum_P, square_P = (np.zeros(len(answers_PI)) for _ in range(3))
    for i in ordinal:
        # Outcomes lie below 0, and may be more than the options.
        place_P, known_P = np.array(items[i].places)[np.maximum(answers_PI[:, i], 0)], answers_PI[:, i] >= 0
        n_P += known_P
        sum_P += np.where(known_P, place_P, 0)
        square_P += np.where(known_P, place_P**2, 0)
    many_P = np.maximum(n_P, 1)
    variance_P = square_P / many_P - (sum_P / many_P) ** 2
    return "", (variance_P <= config.variance_below + ROUNDING) & (n_P >= config.least_items)


def _speeders(people: pl.DataFrame, answers_PI: np.ndarray, config: ScreensConfig) -> tuple[str, np.ndarray | None]:
    if "duration" not in people.columns:
        return "the survey does not say how long interviews took", None
    timed = pl.when(pl.col("duration") > 0, pl.col("duration").is_finite()).then(pl.col("duration"))
    median = timed.median().over("wave") if "wave" in people.columns else timed.median()
    found = people.select(timed=timed, fast=timed < config.speeders_below * median)
    untimed = found["timed"].null_count()
    if untimed == people.height:
        return "no interview has a time", None
    fast_P = found["fast"].fill_null(False).to_numpy()
    remark = f"; {untimed} have no time and are not judged" if untimed else ""
    return remark, fast_P & ((answers_PI >= 0).sum(axis=1) >= config.least_items)


def _duplicates(survey: Survey, answers_PI: np.ndarray, config: ScreensConfig) -> np.ndarray:
    unlikely_P = _log_patterns(survey.codebook.items, answers_PI) >= 2 * np.log(max(len(answers_PI), 1))
    judged_P = (answers_PI >= 0).sum(axis=1) >= config.least_items
    rows = _comparable(survey).filter(judged_P & unlikely_P)
    # Rows without a twin are left out by their hash; the few others are compared value by value.
    twins = rows.filter(rows.drop("row", "person").hash_rows(seed=0).is_duplicated())
    same = [name for name in twins.columns if name not in ("row", "person")]
    copies = twins.filter(pl.col("person") != pl.col("person").first().over(same)) if twins.height else twins
    flag_P = np.zeros(len(answers_PI), dtype=bool)
    flag_P[copies["row"].to_numpy()] = True
    return flag_P


def _log_patterns(items: tuple[Item, ...], answers_PI: np.ndarray) -> np.ndarray:
    """Logarithm [P] of how many patterns a person's answers are one of; uniform answers to a scale count as one."""
    block, patterns_P = _blocks(items), np.zeros(len(answers_PI))
    for scale in np.unique(block):
        part = np.flatnonzero(block == scale)
        low_P, high_P = np.full((2, len(answers_PI)), -1, dtype=np.int16)
        n_P = np.zeros(len(answers_PI))
        for i in part:
            known_P = answers_PI[:, i] >= 0
            n_P += known_P
            high_P = np.maximum(high_P, answers_PI[:, i])
            low_P = np.where(known_P & ((low_P < 0) | (answers_PI[:, i] < low_P)), answers_PI[:, i], low_P)
        patterns_P += np.where(high_P > low_P, n_P, np.minimum(n_P, 1)) * np.log(len(items[part[0]].options))
    return patterns_P


def _blocks(items: tuple[Item, ...]) -> np.ndarray:
    """Numbers [I] of the stretches of consecutive items with the same option texts."""
    texts = [tuple(option.text for option in item.options) for item in items]
    return np.cumsum([i > 0 and texts[i] != texts[i - 1] for i in range(len(items))])


def _comparable(survey: Survey) -> pl.DataFrame:
    """Row number, person, and all that a copy copies; several answers to a trait as one text in a fixed order."""
    book, people = survey.codebook, survey.people
    traits = [
        pl.col(trait.id).list.sort().list.join("\x1f") if people.schema[trait.id] == pl.List(pl.String) else trait.id
        for trait in book.traits
        if trait.id in people.columns
    ]
    return people.select("person", *traits, *(item.id for item in book.items)).with_row_index("row")


def _answers(survey: Survey) -> np.ndarray:
    """Option indices [P, I] (int16), negative where there is no answer."""
    book = survey.codebook
    if not book.items:
        return np.empty((survey.people.height, 0), dtype=np.int16)
    frame = survey.people.select(pl.col(item.id).cast(pl.Int16).fill_null(-1) for item in book.items)
    return frame.to_numpy(order="fortran")


def _kept(survey: Survey, kept_P: np.ndarray) -> pl.DataFrame:
    people = survey.people.filter(kept_P)
    if not (people["weight"] > 0).any():
        raise SurveyError(
            "the screens that drop leave nobody with a positive weight",
            where="screens",
            mend="say 'flag' in place of 'drop', and see who is flagged",
        )
    return people.with_columns(mean_one(people["weight"]))
