"""What everyone means: one country, all adults of several, or countries counted equally.

Shape letters: ``P`` people (rows of the survey), ``C`` countries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from valuealign.config import WeightingConfig
from valuealign.errors import WeightingError, nearest
from valuealign.weighting.margins import csv_rows

# More countries than this are not all named in the sentence.
NAMED = 12
CHOICES = (
    "keep one country with survey.only, or set weighting.everyone to adults (each country by its size)"
    " or equal (each country alike)"
)


class Spoken(NamedTuple):
    """Design weights [P] (mean 1), a sentence that says whom they speak for, and what else to know."""

    weights_P: np.ndarray
    sentence: str
    notes: tuple[str, ...] = ()


def everyone(people: pl.DataFrame, config: WeightingConfig, *, country: str | None, population_weights: bool) -> Spoken:
    """Design weights in which each country has its part, and whom they speak for.

    Of several countries each gets, in every wave (over all waves, where some country is not in
    each), its share of the adults or the same share as the others. With one country, or none
    named, the weights stay exactly as they are.

    Raises WeightingError where the country of some rows is unknown, where several countries leave
    the choice open, and where the countries' sizes are not known.
    """
    weight_P = people["weight"].to_numpy().astype(np.float64)
    if config.populations is not None and config.everyone != "adults":
        what = "the countries' numbers of adults have no use"
        mend = "set weighting.everyone=adults, or leave weighting.populations out"
        raise WeightingError(what, where="weighting.populations", mend=mend)
    if country is None and config.everyone in ("adults", "equal"):
        what = f"everyone={config.everyone}, but the survey names no country"
        mend = "say in the codebook which trait it is ('country: TRAIT'), or leave weighting.everyone out"
        raise WeightingError(what, where="weighting.everyone", mend=mend)
    if country is None:
        return Spoken(weight_P, "the people this survey speaks for (it names no country)")
    present = _present(people, country)
    notes = _silent(people, country, present)
    if len(present) < 2:
        return Spoken(weight_P, f"the people of one country: {present[0]}", notes)
    share = _shares(people, config, country, present, population_weights)
    names = ", ".join(present[:NAMED]) + (f" and {len(present) - NAMED} more" if len(present) > NAMED else "")
    how = "counted equally" if config.everyone == "equal" else "each counted by its size"
    sentence = f"adults of {len(present)} countries {how}: {names}"
    fitted_P = weight_P.copy()
    for rows_P in _fieldings(people, country, present):
        total = fitted_P[rows_P].sum()
        for name, part in share.items():
            mine_P = rows_P & (people[country] == name).to_numpy()
            fitted_P[mine_P] *= part * total / fitted_P[mine_P].sum()
    return Spoken(fitted_P / fitted_P.mean(), sentence, notes)


def _silent(people: pl.DataFrame, country: str, present: list[str]) -> tuple[str, ...]:
    """A note that names the countries whose people all weigh 0."""
    counts = people.filter(~pl.col(country).is_in(present)).group_by(country).len().sort(country)
    silent = [f"{name} ({rows:,} interviews)" for name, rows in counts.iter_rows()]
    return (f"Everybody of {', '.join(silent)} has the weight 0, so they speak for nobody.",) if silent else ()


def _present(people: pl.DataFrame, country: str) -> list[str]:
    """The countries of people with positive weight, sorted."""
    unknown = people[country].null_count()
    if unknown:
        raise WeightingError(
            f"{unknown} of {people.height} people have an unknown {country}, so they can stand for nobody",
            where=f"trait '{country}'",
            mend=f"complete the column or add its codes to the codebook, or name countries in survey.only: "
            f"{{{country}: [...]}}",
        )
    return sorted(people.filter(pl.col("weight") > 0)[country].unique().to_list())


def _shares(
    people: pl.DataFrame, config: WeightingConfig, country: str, present: list[str], population_weights: bool
) -> dict[str, float]:
    """Each country's share of everyone, summing to 1."""
    listed = ", ".join(present[:NAMED]) + (", ..." if len(present) > NAMED else "")
    if config.everyone is None:
        what = f"the survey has {len(present)} countries ({listed}): say what everyone means"
        raise WeightingError(what, where="weighting.everyone", mend=CHOICES)
    if config.everyone == "country":
        what = f"everyone is one country, but the survey has {len(present)} ({listed})"
        raise WeightingError(what, where="weighting.everyone", mend=CHOICES)
    if config.everyone == "equal":
        return dict.fromkeys(present, 1 / len(present))
    if config.populations is not None:
        sizes: Mapping[str, float] = _sizes(config.populations, present)
    elif population_weights:
        by_country = people.group_by(country).agg(pl.col("weight").sum())
        sizes = {name: size for name, size in by_country.iter_rows() if name in present}
    else:
        raise WeightingError(
            "the countries' numbers of adults are not known",
            where="weighting.populations",
            mend="name a CSV with the columns country,adults, or set weighting.everyone=equal",
        )
    total = math.fsum(sizes.values())
    return {name: sizes[name] / total for name in present}


def _sizes(path: Path, present: list[str]) -> dict[str, float]:
    """Adults of each country that is present; the file may list others too."""
    sizes: dict[str, float] = {}
    for line, (name, text) in csv_rows(path, "country,adults", "populations"):
        where = f"{path}, line {line}"
        if name in sizes:
            raise WeightingError(f"the country '{name}' twice", where=where, mend="keep one of the two lines")
        try:
            sizes[name] = float(text)
        except ValueError:
            sizes[name] = math.nan
        if not 0 < sizes[name] < math.inf:
            raise WeightingError(f"'{text}' adults in '{name}'", where=where, mend="write a number such as 3900000")
    for name in present:
        if name not in sizes:
            raise WeightingError(
                f"the country '{name}' of the survey is not listed",
                where=str(path),
                mend=f"add the line '{name},<adults>' ({nearest(name, sizes)})",
            )
    return {name: sizes[name] for name in present}


def _fieldings(people: pl.DataFrame, country: str, present: list[str]) -> list[np.ndarray]:
    """Row masks [P] within which countries get their shares: the waves, where every country is in each."""
    whole = [np.ones(people.height, dtype=bool)]
    if "wave" not in people.columns:
        return whole
    positive = people.filter(pl.col("weight") > 0)
    waves = positive["wave"].unique(maintain_order=True).to_list()
    if positive.select(pl.struct("wave", country).n_unique()).item() < len(waves) * len(present):
        return whole
    return [people["wave"].eq_missing(wave).to_numpy() for wave in waves]
