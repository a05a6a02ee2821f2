"""What the weights of a fielding are fitted to: a column of labels and their shares for each margin.

Shape letter: ``P`` people (rows of the survey), ``F`` rows of one fielding (a wave, or all).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from valuealign.errors import WeightingError, nearest
from valuealign.weighting.margins import JOINT, Margins, check_sum, traits_of

# A margin that names countries agrees this closely (relative) with the sizes that `everyone` gives them.
COUNTRY_TOLERANCE = 0.01
MANY = pl.List(pl.String)
# More levels than this are not all named in a message.
NAMED = 12


@dataclass(frozen=True)
class Fielding:
    """Rows that are fitted together: those of positive weight, as the others stay at 0.

    ``rows_F`` are their places in the survey and ``weight_F`` their weights. ``shares`` holds the
    wanted share of each label of each margin, ``labels`` a column of labels for each margin, in
    the same order, and ``country_F`` the domains within which weights are trimmed. ``where`` and
    ``wave`` are for messages.
    """

    rows_F: np.ndarray
    weight_F: np.ndarray
    country_F: pl.Series
    labels: tuple[pl.Series, ...]
    shares: Mapping[str, Mapping[str, float]]
    where: str
    wave: str


def targets(people: pl.DataFrame, margins: Margins | None, country: str | None) -> list[Fielding]:
    """One fielding for each wave of a panel, else one. ``people['weight']`` gives countries their sizes.

    Raises WeightingError for margins and people that do not meet.
    """
    given = margins or Margins({})
    if "wave" not in people.columns:
        return [_fielding(people, np.arange(people.height), given, country, "")]
    waves = people["wave"].unique(maintain_order=True).to_list()
    rows = [np.flatnonzero(people["wave"].eq_missing(wave).to_numpy()) for wave in waves]
    return [
        _fielding(people[rows_F], rows_F, given, country, f" in wave {wave}")
        for wave, rows_F in zip(waves, rows, strict=True)
        if (people["weight"].to_numpy()[rows_F] > 0).any()  # a wave without weight speaks for nobody
    ]


def inside(people: pl.DataFrame, margin: str, level: str) -> np.ndarray:
    """Booleans [P]: who is in the level of a margin, a joint one and a trait with several answers too."""
    column = labels(people, margin)
    has = column.list.contains(level) if column.dtype == MANY else column == level
    return np.asarray(has.fill_null(False).to_numpy())


def labels(people: pl.DataFrame, margin: str) -> pl.Series:
    """The level [P] of everybody in a margin; null where a trait of it is unknown."""
    traits = traits_of(margin)
    if len(traits) == 1:
        return people[margin]
    # As in the margins, an ampersand within a level has one blank on either side.
    columns = [people[trait].str.replace_all(r"\s*&\s*", JOINT).alias(trait) for trait in traits]
    return people.select(pl.concat_str(columns, separator=JOINT)).to_series()


def _fielding(people: pl.DataFrame, rows_F: np.ndarray, margins: Margins, country: str | None, wave: str) -> Fielding:
    nobody = pl.repeat("", people.height, eager=True)
    country_F = nobody if country is None else people[country]
    size = _sizes(people, country)
    fitted: dict[str, tuple[pl.Series, Mapping[str, float]]] = {}
    for margin, levels in margins.shares.items():
        _check(people, margins, margin, wave)
        column = labels(people, margin)
        if column.dtype == MANY:
            fitted |= {f"{margin} '{level}'": _in_or_out(column, level, share) for level, share in levels.items()}
            continue
        fitted[margin] = column, levels
        if len(size) > 1 and country in traits_of(margin):
            _check_countries(column, country_F, size, margins, margin)
    named = {trait for margin in margins.shares for trait in traits_of(margin)}
    if country is not None and len(size) > 1 and country not in named:
        fitted[country] = country_F, size
    if not fitted:
        fitted["everyone"] = nobody, {"": 1.0}
    weight_F = people["weight"].to_numpy().astype(np.float64)
    counts_F = pl.Series(weight_F > 0)
    columns = tuple(column.filter(counts_F) for column, _ in fitted.values())
    shares = {name: share for name, (_, share) in fitted.items()}
    counted = counts_F.to_numpy()
    country_F = country_F.filter(counts_F)
    return Fielding(rows_F[counted], weight_F[counted], country_F, columns, shares, margins.where, wave)


def _in_or_out(column: pl.Series, level: str, share: float) -> tuple[pl.Series, dict[str, float]]:
    """A level of a trait with several answers is a margin of its own."""
    has = pl.when(column.list.contains(level)).then(pl.lit("in")).otherwise(pl.lit("out"))
    return pl.select(has).to_series(), {"in": share, "out": 1 - share} if share < 1 else {"in": 1.0}


def _sizes(people: pl.DataFrame, country: str | None) -> dict[str, float]:
    """Country -> its share of the weights (countries without weight are left out)."""
    if country is None:
        return {}
    total = float(people["weight"].sum())
    sums = people.group_by(country).agg(pl.col("weight").sum()).sort(country)
    return {name: weight / total for name, weight in sums.iter_rows() if weight > 0}


def _check(people: pl.DataFrame, margins: Margins, margin: str, wave: str) -> None:
    """Every level of the margin has people of positive weight, and every person has a level of it."""
    levels = margins.shares[margin]
    place = margins.place(margin, next(iter(levels)))
    known = [
        name for name, kind in people.schema.items() if kind in (pl.String, MANY) and name not in ("person", "wave")
    ]
    for trait in traits_of(margin):
        if trait not in known:
            raise WeightingError(f"the survey has no trait '{trait}'", where=place, mend=nearest(trait, known))
        if margin != trait and people.schema[trait] == MANY:
            what = f"'{trait}' has several answers a person, so it takes no part in a joint margin"
            raise WeightingError(what, where=place, mend=f"write the margins of '{trait}' by themselves")
    column = labels(people, margin)
    carried = column.filter(people["weight"] > 0).drop_nulls()
    present = set((carried.explode() if column.dtype == MANY else carried).drop_nulls().unique())
    for level in levels:
        if level not in present:
            raise WeightingError(
                f"no respondent{wave} has {margin} '{level}', so no weight can reach its share",
                where=margins.place(margin, level),
                mend=f"merge the level with a neighbour, or mend its name: {nearest(level, present)}",
            )
    if column.dtype == MANY:
        _check_total_response(column, people, margins, margin, wave)
        return
    check_sum(margin, levels, place)
    # Who has no weight is fitted to nothing.
    astray_P = ((people["weight"] > 0) & (column.is_null() | ~column.is_in(list(levels)))).to_numpy()
    if astray_P.any():
        _refuse(column, astray_P, people, margins, margin, wave)


def _check_total_response(column: pl.Series, people: pl.DataFrame, margins: Margins, margin: str, wave: str) -> None:
    counts = people["weight"] > 0
    unknown_P = (counts & column.is_null()).to_numpy()
    if unknown_P.any():
        _refuse(column, unknown_P, people, margins, margin, wave)
    for level, share in margins.shares[margin].items():
        weighty_P = (counts & ~column.list.contains(level)).fill_null(False).to_numpy()
        if share == 1 and weighty_P.any():
            raise WeightingError(
                f"{weighty_P.sum():,} respondents{wave} have no {margin} '{level}', whose share is 1",
                where=margins.place(margin, level),
                mend="mend the share, or leave the level out of the margins",
            )
        if share < 1 and not weighty_P.any():
            raise WeightingError(
                f"every respondent{wave} has {margin} '{level}', so no weight can reach its share",
                where=margins.place(margin, level),
                mend="leave the level out of the margins",
            )


def _refuse(
    column: pl.Series, astray_P: np.ndarray, people: pl.DataFrame, margins: Margins, margin: str, wave: str
) -> None:
    """Each level without a margin is named with how many have it."""
    astray = column.filter(pl.Series(astray_P))
    counts = sorted(Counter(astray.to_list() if astray.dtype != MANY else [None] * len(astray)).items(), key=_common)
    named = [f"unknown {n:,}" if level is None else f"'{level}' {n:,}" for level, n in counts]
    listed = ", ".join(named[:NAMED]) + (f", and {len(named) - NAMED} more levels" if len(named) > NAMED else "")
    such = f"{len(astray):,} such in all" + (f": {listed}" if len(named) > 1 else "")
    state = f"an unknown {margin}" if astray[0] is None else f"{margin} '{astray[0]}', which has no margin"
    raise WeightingError(
        f"respondent {people['person'].filter(pl.Series(astray_P))[0]}{wave} has {state} ({such})",
        where=margins.place(margin),
        mend=f"add the levels to the margins, leave '{margin}' out of them, or take these people out",
    )


def _common(counted: tuple[str | None, int]) -> tuple[int, str]:
    level, n = counted
    return -n, level or ""


def _check_countries(
    column: pl.Series, countries: pl.Series, size: Mapping[str, float], margins: Margins, margin: str
) -> None:
    """A margin that names countries must not contradict what ``everyone`` says of their sizes."""
    pairs = dict(pl.DataFrame([column.alias("level"), countries.alias("country")]).unique().iter_rows())
    said = dict.fromkeys(size, 0.0)
    for level, share in margins.shares[margin].items():
        said[pairs[level]] = said.get(pairs[level], 0.0) + share
    for name, wanted in size.items():
        if abs(said[name] - wanted) > COUNTRY_TOLERANCE * wanted:
            raise WeightingError(
                f"the margins of '{margin}' give {name} {said[name]:.4f} of everyone, weighting.everyone {wanted:.4f}",
                where=margins.where,
                mend="let the shares of each country sum to its part of everyone",
            )
