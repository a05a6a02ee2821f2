"""For how many people each rater speaks: raters who gave their traits are weighted to the population.

The same raking and trimming as the survey's. A rater is one unit, however much was posted. Who gave no traits weighs
the mean; nobody stands for a level that no rater has, and the note says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from valuealign.config import RunConfig, WeightingConfig
from valuealign.errors import WeightingError
from valuealign.loop.intake import Item
from valuealign.store import Judged
from valuealign.surveys.table import Survey
from valuealign.weighting import Margins, kish, weigh

# Raters with traits; of fewer no weights are made.
FEWEST = 5
RESERVED = ("person", "weight", "wave")


@dataclass(frozen=True)
class RaterWeights:
    """``by_id`` weighs each feedback item (mean 1 over raters); ``notes`` say how, and at what cost."""

    by_id: Mapping[str, float]
    notes: tuple[str, ...] = field(default_factory=tuple)
    design_effect: float = 1.0


class _People(NamedTuple):
    people: pl.DataFrame


def known_margins(config: RunConfig, survey: Survey) -> Margins | None:
    """What raters are weighted to: ``update.rater_margins``, else the margins of the survey, else nothing.

    Traits of which a person may have several levels are left out. Raises WeightingError.
    """
    if config.update.rater_margins is not None:
        return Margins.read(config.update.rater_margins)
    several = frozenset(trait.id for trait in survey.codebook.traits if trait.several)
    path = config.weighting.margins
    margins = Margins.read(path, several=several) if path else survey.margins
    if margins is None:
        return None
    return Margins({trait: levels for trait, levels in margins.shares.items() if trait not in several})


def rater_weights(rows: Sequence[Judged], margins: Margins | None, *, trim: float) -> RaterWeights:
    """Weights of ``rows`` by the traits of who posted them, raked to the ``margins`` of those traits.

    Levels that no rater has are left out and the others' shares raised. Raters whose traits do not fit the
    margins weigh the mean, and all do where fewer than ``FEWEST`` fit or the margins cannot be met.
    """
    voice = {row.feedback.id: Item(row, 0, 0).voice for row in rows}
    traits: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.feedback.traits:
            told = {trait: str(level) for trait, level in row.feedback.traits.items()}
            traits.setdefault(voice[row.feedback.id], {}).update(told)
    alike = dict.fromkeys(voice, 1.0)
    if margins is None or not traits:
        return RaterWeights(alike, ("raters are not weighted: " + ("no margins" if traits else "no traits"),))
    wanted, known, notes = _levels(margins, traits)
    if not wanted or len(known) < FEWEST:
        return RaterWeights(alike, (f"raters are not weighted: {len(known)} have traits that the margins know",))
    columns = {trait: pl.Series([traits[one][trait] for one in known], dtype=pl.String) for trait in wanted}
    people = pl.DataFrame({"person": known, "weight": [1.0] * len(known), **columns})
    config = WeightingConfig(trim=trim)
    try:
        found = weigh(_People(people), Margins(wanted), config, country=None, population_weights=False)
    except WeightingError as error:
        return RaterWeights(alike, (f"raters are not weighted: {error.what}", *notes))
    factor = dict(zip(known, found.weights_P.tolist(), strict=True))
    everybody = np.array([factor.get(one, 1.0) for one in dict.fromkeys(voice.values())])
    worth = kish(everybody)
    note = (
        f"{len(known)} of {worth.n} raters weighted to {', '.join(wanted)}; "
        f"design effect {worth.design_effect:.3f}, so worth {worth.n_eff:.1f}; largest weight {everybody.max():.2f}"
    )
    weights = {id: factor.get(one, 1.0) for id, one in voice.items()}
    return RaterWeights(weights, (note, *notes), worth.design_effect)


def _levels(
    margins: Margins, traits: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, dict[str, float]], list[str], tuple[str, ...]]:
    """The margins of traits that most raters have, over the levels that there are; who has all of them; notes."""
    common = [
        trait
        for trait in margins.shares
        if trait not in RESERVED and 2 * sum(trait in has for has in traits.values()) >= len(traits)
    ]
    known = [one for one, has in traits.items() if all(has.get(trait) in margins.shares[trait] for trait in common)]
    wanted, notes = {}, []
    for trait in common:
        there = {traits[one][trait] for one in known}
        if missing := [level for level in margins.shares[trait] if level not in there]:
            notes.append(f"no rater speaks for {trait} {', '.join(missing)}")
        if len(there) > 1:
            total = sum(margins.shares[trait][level] for level in there)
            wanted[trait] = {level: share / total for level, share in margins.shares[trait].items() if level in there}
    return wanted, known, tuple(notes)
