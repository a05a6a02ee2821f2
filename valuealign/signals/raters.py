"""Who judged, and for how many people each of them speaks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from valuealign.config import WeightingConfig
from valuealign.signals._lines import Line
from valuealign.weighting import Kish, Margins, kish, weigh

# Columns that mean something else to the weighting.
RESERVED = ("person", "weight", "wave")


class Votes:
    """Weights by rater: several rows of one person are one voice. Rows without a rater are one each."""

    def __init__(self) -> None:
        self._named: dict[str, float] = {}
        self._nameless: list[float] = []

    def add(self, rater: str | None, weight: float) -> None:
        """Count a row."""
        if rater is None:
            self._nameless.append(weight)
        else:
            self._named[rater] = self._named.get(rater, 0.0) + weight

    @property
    def total(self) -> float:
        """All weight."""
        return sum(self._named.values()) + sum(self._nameless)

    def kish(self) -> Kish:
        """Raters of positive weight, their design effect and what they are worth."""
        weights = np.array([*self._named.values(), *self._nameless])
        # Only ratios count; scaled, no square vanishes.
        return kish(weights / weights.max(initial=0.0)) if weights.max(initial=0.0) > 0 else kish(weights)


class Panel(NamedTuple):
    """The raters of a file: ``factor`` weighs a rater against the others (mean 1), ``notes`` say how they were got."""

    factor: dict[str, float]
    notes: dict[str, str]


def rake_raters(lines: Sequence[Line], margins: Path, *, traits: Sequence[str] = (), trim: float | None) -> Panel:
    """Weights of the raters, one unit each, raked to the population's ``margins`` (CSV trait,level,share).

    Traits are taken from each row's ``traits`` and from the columns named by ``traits``. None
    weighs more than ``trim`` times the mean.

    Raises SignalError for a row without a rater or at odds with another row of that rater, and
    WeightingError as ``weigh`` does: an unknown trait or level, margins that cannot be met.
    """
    known = _traits_of_raters(lines, traits)
    if not known:
        return Panel({}, {})
    names = [name for name in dict.fromkeys(t for has in known.values() for t in has) if name not in RESERVED]
    columns = {name: pl.Series([has.get(name) for has in known.values()], dtype=pl.String) for name in names}
    people = pl.DataFrame({"person": list(known), "weight": [1.0] * len(known), **columns})
    wanted, config = Margins.read(margins), WeightingConfig(trim=trim)
    weights = weigh(_People(people), wanted, config, country=None, population_weights=False)
    before, after = (max(abs(getattr(gap, at) - gap.target) for gap in weights.gaps) for at in ("before", "after"))
    note = (
        f"{len(known):,} to {margins.name}; largest gap {100 * before:.2f} points before, {100 * after:.2f} after; "
        f"design effect {weights.design_effect:.3f}, so worth {weights.n_eff:,.1f}"
    )
    return Panel(dict(zip(known, weights.weights_P.tolist(), strict=True)), {"feedback raters weighted": note})


def _traits_of_raters(lines: Sequence[Line], columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Rater -> trait -> level, of those whose rows weigh anything, in order of first appearance."""
    known: dict[str, dict[str, str]] = {}
    first: dict[tuple[str, str], Line] = {}
    for line in (line for line in lines if line.weight() > 0):
        rater = line.rater()
        if rater is None:
            mend = "name who judged in each row, or leave feedback.rater_margins out"
            raise line.error("the field 'rater' is missing, and raters are to be weighted", mend)
        mine = known.setdefault(rater, {})
        for trait, level in line.traits(columns).items():
            before, where = mine.setdefault(trait, level), first.setdefault((rater, trait), line)
            if before != level:
                what = f"rater {rater} has {trait} '{level}', and '{before}' at {where.where}"
                raise line.error(what, "keep one of the two, or give two raters two names")
    return known


class _People(NamedTuple):
    people: pl.DataFrame
