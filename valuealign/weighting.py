"""From the sample to the population: raking, trimming, Kish's design effect.

The fitting itself is done by the ``svy`` library. Shape letter: ``P`` people (rows of the survey).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from valuealign.errors import WeightingError, nearest

# Shares of a trait must sum to 1 this closely; raked margins agree with theirs this closely.
SHARE_TOLERANCE = 1e-6
RAKE_TOLERANCE = 1e-9
RAKE_ROUNDS = 2000
TRIM_ROUNDS = 500


class Weighted(Protocol):
    """What raking needs of a survey: a row per person, ``person``, ``weight`` and the traits."""

    @property
    def people(self) -> pl.DataFrame: ...


class Kish(NamedTuple):
    """What weighted answers are worth: ``n`` people, ``design_effect`` n sum(w^2) / sum(w)^2, ``n_eff`` n / deff."""

    n: int
    design_effect: float
    n_eff: float


class Gap(NamedTuple):
    """One margin level: the population's share, the sample's design-weighted share, the share after raking."""

    trait: str
    level: str
    target: float
    before: float
    after: float


@dataclass(frozen=True)
class Margins:
    """Known population shares: ``shares[trait][level]``, summing to 1 for each trait.

    ``where`` names the file they come from and ``lines[trait, level]`` the line, for messages.
    """

    shares: Mapping[str, Mapping[str, float]]
    where: str = "margins"
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict, compare=False)

    @classmethod
    def read(cls, path: Path | str) -> Margins:
        """Read a CSV with the columns ``trait,level,share``.

        Raises WeightingError, with the line, for a file that cannot be read, a wrong header, a
        share that is not in (0, 1], a level named twice, or shares that do not sum to 1 within 1e-6.
        """
        shares: dict[str, dict[str, float]] = {}
        lines: dict[tuple[str, str], int] = {}
        for line, row in _margin_rows(Path(path)):
            where = f"{path}, line {line}"
            trait, level, text = row
            if (trait, level) in lines:
                mend = f"keep one of line {lines[trait, level]} and line {line}"
                raise WeightingError(f"'{trait}' has the level '{level}' twice", where=where, mend=mend)
            shares.setdefault(trait, {})[level] = _share(text, where)
            lines[trait, level] = line
        if not shares:
            raise WeightingError("no margins", where=str(path), mend="add lines such as 'sex,female,0.51'")
        for trait, levels in shares.items():
            total = math.fsum(levels.values())
            if abs(total - 1) > SHARE_TOLERANCE:
                last = max(line for (name, _), line in lines.items() if name == trait)
                raise WeightingError(
                    f"the shares of '{trait}' sum to {total:.6f}, not to 1",
                    where=f"{path}, line {last}",
                    mend="shares are fractions of the population, such as 0.51; mend the lines of this trait",
                )
        return cls(shares, str(path), lines)

    def place(self, trait: str, level: str = "") -> str:
        """Where a margin stands, for messages."""
        line = self.lines.get((trait, level))
        return f"{self.where}, line {line}" if line else self.where


@dataclass(frozen=True)
class Weights:
    """Survey weights ``weights_P`` (mean 1, rows of ``survey.people``), what they cost and what they mended."""

    weights_P: np.ndarray
    design_effect: float
    n_eff: float
    gaps: tuple[Gap, ...] = ()


def kish(weights_P: np.ndarray) -> Kish:
    """Kish's design effect and effective sample size of the people with positive weight (Kish 1965, 11.7)."""
    positive = weights_P[weights_P > 0]
    if not len(positive):
        return Kish(0, math.nan, 0.0)
    n_eff = float(positive.sum() ** 2 / (positive**2).sum())
    return Kish(len(positive), len(positive) / n_eff, n_eff)


def rake(survey: Weighted, margins: Margins | None, *, trim: float | None = None) -> Weights:
    """Fit the design weights to the population's margins (raking: Deming & Stephan 1940).

    ``trim`` is the largest weight over the mean weight; trimmed weights are raked again until both
    hold. Without margins the survey's own weights are used exactly as they are, untrimmed.

    Raises WeightingError for a margin of a trait or level that nobody in the sample has, a person
    whose level is unknown or has no margin, and margins that cannot be met (within ``trim``).
    """
    start_P = survey.people["weight"].to_numpy().astype(np.float64)
    if margins is None:
        return Weights(start_P, kish(start_P).design_effect, kish(start_P).n_eff)
    _check_levels(survey.people, margins)
    fitted_P = _fit(survey.people, margins, trim)
    fitted_P = fitted_P / fitted_P.mean()
    worth = kish(fitted_P)
    return Weights(fitted_P, worth.design_effect, worth.n_eff, _gaps(survey.people, margins, start_P, fitted_P))


def _margin_rows(path: Path) -> list[tuple[int, tuple[str, str, str]]]:
    rows: list[tuple[int, tuple[str, str, str]]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if header != ["trait", "level", "share"]:
                raise WeightingError(
                    f"the header is '{','.join(header)}'",
                    where=f"{path}, line 1",
                    mend="begin with the line trait,level,share",
                )
            for row in reader:
                if not any(part.strip() for part in row):
                    continue
                if len(row) != 3:
                    mend = "write trait,level,share; put a level that has a comma in quotes"
                    raise WeightingError(
                        f"{len(row)} values instead of 3", where=f"{path}, line {reader.line_num}", mend=mend
                    )
                rows.append((reader.line_num, (row[0].strip(), row[1].strip(), row[2].strip())))
    except OSError as error:
        raise WeightingError(
            f"cannot read the margins ({error.strerror})", where=str(path), mend="name an existing CSV file"
        ) from None
    except (UnicodeDecodeError, csv.Error):
        raise WeightingError(
            "the margins are not UTF-8 CSV text", where=str(path), mend="save them as UTF-8 CSV"
        ) from None
    return rows


def _share(text: str, where: str) -> float:
    try:
        share = float(text)
    except ValueError:
        raise WeightingError(f"'{text}' is no share", where=where, mend="write a fraction such as 0.51") from None
    if not 0 < share <= 1:
        mend = "write a fraction above 0 and at most 1; leave out levels that nobody has"
        raise WeightingError(f"a share of {text}", where=where, mend=mend)
    return share


def _check_levels(people: pl.DataFrame, margins: Margins) -> None:
    """Every margin level has people of positive weight, and every person has a margin."""
    known = [name for name in people.columns if people.schema[name] == pl.String and name != "person"]
    for trait, levels in margins.shares.items():
        if trait not in known:
            place = margins.place(trait, next(iter(levels)))
            raise WeightingError(f"the survey has no trait '{trait}'", where=place, mend=nearest(trait, known))
        present = set(people.filter(pl.col("weight") > 0)[trait].drop_nulls().unique())
        for level in levels:
            if level not in present:
                raise WeightingError(
                    f"no respondent has {trait} '{level}', so no weight can reach its share",
                    where=margins.place(trait, level),
                    mend=f"merge the level with a neighbour, or mend its name: {nearest(level, present)}",
                )
        astray = people.filter(pl.col(trait).is_null() | ~pl.col(trait).is_in(list(levels)))
        if astray.height:
            who, level = astray["person"][0], astray[trait][0]
            state = f"an unknown {trait}" if level is None else f"{trait} '{level}', which has no margin"
            raise WeightingError(
                f"respondent {who} has {state} ({astray.height} such in all)",
                where=margins.place(trait),
                mend=f"add the level to the margins, leave '{trait}' out of them, or take these people out",
            )


def _fit(people: pl.DataFrame, margins: Margins, trim: float | None) -> np.ndarray:
    import svy  # a second's import that most runs of the tests never need

    traits = list(margins.shares)
    sample = svy.Sample(people.select("weight", *traits), svy.Design(wgt="weight"))
    cap = None if trim is None else float(trim * people["weight"].mean())  # type: ignore[operator, arg-type]
    options: dict[str, Any] = {"tol": RAKE_TOLERANCE, "max_iter": RAKE_ROUNDS}
    if cap is not None:
        options["trimming"] = svy.TrimConfig(upper=cap, redistribute=True, max_iter=TRIM_ROUNDS, tol=RAKE_TOLERANCE)
    shares: dict[str, dict[Any, Any]] = {trait: dict(levels) for trait, levels in margins.shares.items()}
    try:
        raked = sample.weighting.rake(shares=shares, wgt_name="raked", **options)
    except svy.SvyError as error:
        bound = "" if trim is None else f" with no weight above {trim:g} times the mean"
        raise WeightingError(
            f"raking does not meet the margins of {', '.join(traits)}{bound}",
            where=margins.where,
            mend="merge small levels, leave out a trait, or raise weighting.trim"
            if trim is not None
            else "merge small levels or leave out a trait whose levels exclude another's",
        ) from error
    return np.asarray(raked.data.lazy().collect()["raked"].to_numpy(), dtype=np.float64)


def _gaps(people: pl.DataFrame, margins: Margins, before_P: np.ndarray, after_P: np.ndarray) -> tuple[Gap, ...]:
    gaps = []
    for trait, levels in margins.shares.items():
        column = people[trait]
        for level, target in levels.items():
            has_P = (column == level).to_numpy()
            gaps.append(Gap(trait, level, target, *(float(w[has_P].sum() / w.sum()) for w in (before_P, after_P))))
    return tuple(gaps)
