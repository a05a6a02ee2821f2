"""Splits as tables to keep beside the data, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from valuealign.config import SplitsConfig
from valuealign.errors import SplitError
from valuealign.splits.leaks import check_leaks
from valuealign.splits.split import PARTS, PEOPLE, SPLITS, Pair, Splits, held_waves
from valuealign.splits.units import tie
from valuealign.surveys.table import Survey
from valuealign.types import Group

PAIRS = {"split": pl.String, "part": pl.String, "item": pl.String, "group": pl.String}


def people_frame(survey: Survey, splits: Splits) -> pl.DataFrame:
    """A row per person: ``person`` and ``part`` (train, select or report)."""
    part = [PEOPLE[number] for number in splits.person_P]
    return survey.people.select("person", pl.Series("part", part, dtype=pl.String)).unique(maintain_order=True)


def pairs_frame(splits: Splits) -> pl.DataFrame:
    """A row per (item, group) pair: ``split`` (``train``: the trained), ``part``, ``item``, ``group`` (its name)."""
    named = {("train", "train"): splits.train, **splits.pairs}
    rows = [(split, part, item, group.name) for (split, part), pairs in named.items() for item, group in pairs]
    return pl.DataFrame(rows, schema=PAIRS, orient="row")


def read_splits(
    people: pl.DataFrame, pairs: pl.DataFrame, survey: Survey, groups: Sequence[Group], config: SplitsConfig
) -> Splits:
    """The splits that ``people_frame`` and ``pairs_frame`` were made of.

    Raises SplitError for a person of the survey or a group that the tables and the survey do not
    have in common: they are then of another survey, or made with other settings. Raises it also where what
    they hold out leaks (``check_leaks``).
    """
    part = dict(people.select("person", "part").iter_rows())
    known = {group.name: group for group in groups}
    strange = [*(who for who in survey.people["person"] if who not in part)]
    strange += [name for name in pairs["group"].unique() if name not in known]
    if strange:
        raise SplitError(
            f"'{strange[0]}' is not in the splits and the survey both ({len(strange)} such in all)",
            where="splits",
            mend="read the splits of this very data set, or make them anew with jobs/prepare.py",
        )
    person_P = np.array([PEOPLE.index(part[who]) for who in survey.people["person"]], dtype=np.int8)
    found: dict[tuple[str, str], list[Pair]] = {(name, of): [] for name in SPLITS for of in PARTS}
    for split, of, item, group in pairs.select(list(PAIRS)).iter_rows():
        found.setdefault((split, of), []).append((item, known[group]))
    train = tuple(found.pop(("train", "train"), []))
    units = tie(survey.codebook.items, config.near_duplicates)
    held = {key: tuple(value) for key, value in found.items()}
    splits = Splits(person_P, held, train, units, held_waves(survey, config))
    check_leaks(survey, splits, threshold=config.near_duplicates)
    return splits
