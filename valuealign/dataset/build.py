"""From a run's configuration to people, weights, groups and splits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from valuealign.config import RunConfig
from valuealign.population import ShareTable, Shrunk, find_groups, outcome_shares, repair, shrink, tabulate
from valuealign.splits import Splits, split
from valuealign.surveys import read_survey
from valuealign.surveys.screening import Screened, screen
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group
from valuealign.weighting import Margins, Weights, weigh


@dataclass(frozen=True)
class Dataset:
    """What a survey becomes before any model is near it.

    ``asked`` is everybody who was read and ``asked_weights_P`` their weights; ``survey`` and
    ``weights`` are those who count, after the screens. ``flags`` belong to ``asked``.
    """

    config: RunConfig
    asked: Survey
    asked_weights_P: np.ndarray
    screened: Screened
    weights: Weights
    groups: tuple[Group, ...]
    splits: Splits

    @property
    def survey(self) -> Survey:
        """Those who count: without what the screens dropped."""
        return self.screened.survey

    def table(self, part: str | None = None) -> ShareTable:
        """Raw shares of one part of the people (None: of all)."""
        rows_P = None if part is None else self.splits.people(part).astype(np.float64)
        return tabulate(self.survey, self.weights.weights_P, self.groups, multiplicity_P=rows_P)

    @cached_property
    def train(self) -> ShareTable:
        """The train people's raw shares."""
        return self.table("train")

    @cached_property
    def shrunk(self) -> Shrunk | None:
        """What training aims at: small groups drawn towards everyone; None with ``groups.shrink: false``."""
        return shrink(self.train) if self.config.groups.shrink else None


def build(config: RunConfig) -> Dataset:
    """Read, screen, weigh, find the groups, and hold out. Raises what these steps raise."""
    asked, screened, weights, groups = _weighted(config)
    splits = split(screened.survey, weights.weights_P, groups, config.splits, seed=config.seed)
    dropped = screened.survey.people.height < asked.people.height
    asked_weights_P = _weights(asked, config).weights_P if dropped else weights.weights_P
    return Dataset(config, asked, asked_weights_P, screened, weights, groups, splits)


def weighted(config: RunConfig) -> tuple[Survey, Weights, tuple[Group, ...]]:
    """As ``build``, without holding anything out: those who count, their weights, and the groups."""
    _, screened, weights, groups = _weighted(config)
    return screened.survey, weights, groups


def _weighted(config: RunConfig) -> tuple[Survey, Screened, Weights, tuple[Group, ...]]:
    asked = read_survey(config.survey, config.seed)
    screened = screen(asked, config.screens)
    weights = _weights(screened.survey, config)
    return asked, screened, weights, find_groups(screened.survey, weights.weights_P, config.groups)


def _weights(survey: Survey, config: RunConfig) -> Weights:
    book = survey.codebook
    path = config.weighting.margins
    several = frozenset(trait.id for trait in book.traits if trait.several)
    return weigh(
        survey,
        Margins.read(path, several=several) if path else survey.margins,
        config.weighting,
        country=book.country,
        population_weights=book.weight_scale == "population",
    )


def facts(dataset: Dataset) -> dict[str, str]:
    """What one should know of the data, a line each: printed, and kept in every report."""
    survey, weights, asked = dataset.survey, dataset.weights, dataset.asked.people
    book = survey.codebook
    persons = asked["person"].n_unique()
    rows = "" if persons == asked.height else f" in {asked.height:,} interviews"
    gone = asked.height - survey.people.height
    dropped = f", {gone:,} of them dropped by screens" if gone else ""
    found = {
        "survey": book.title,
        "asked": f"{persons:,} people{rows}{dropped}; {len(book.items)} items",
        "everyone": weights.everyone,
        "weights": _how_weighted(dataset),
        "design effect": f"{weights.design_effect:.3f}, so worth {weights.n_eff:,.0f} people",
    }
    if weights.gaps:
        before, after = (max(abs(getattr(gap, at) - gap.target) for gap in weights.gaps) for at in ("before", "after"))
        found["largest gap to a margin"] = f"{100 * before:.2f} points before, {100 * after:.2f} after"
    if survey.truth is not None:
        error = repair(survey, weights.weights_P)
        found["error of the targets against the known truth"] = (
            f"{error.before:.4f} before raking, {error.after:.4f} after (mean total variation)"
        )
    if outcomes := _outcomes(dataset):
        found["answered with no option"] = outcomes
    if book.label_only:
        found["items with a label only (no question wording)"] = ", ".join(book.label_only)
    found |= {f"note {number}": note for number, note in enumerate((*survey.notes, *dataset.screened.notes), start=1)}
    held = ", ".join(f"{name}/{part} {len(pairs)}" for (name, part), pairs in sorted(dataset.splits.pairs.items()))
    found |= {"groups": f"{len(dataset.groups):,}", "held out": held}
    if dataset.shrunk is not None and len(dataset.groups) > 1:
        pull_GI = dataset.shrunk.pull_GI[[group != EVERYONE for group in dataset.groups]]
        found["training targets drawn towards everyone"] = (
            f"by {np.nanmedian(pull_GI):.0%} in the median cell, {np.nanmax(pull_GI):.0%} at most (empirical Bayes)"
        )
    return found


def _how_weighted(dataset: Dataset) -> str:
    weights = dataset.weights
    trimmed = f"; {weights.trimmed:,} trimmed" if weights.trimmed else ""
    if weights.gaps:
        return f"fitted to known margins{trimmed}"
    given = dataset.config.survey.weight or dataset.survey.codebook.weight
    return ("the survey's own; no margins given" if given else "none: all count alike; no margins given") + trimmed


def _outcomes(dataset: Dataset) -> str:
    """How often each outcome occurs; empty where none does."""
    book = dataset.survey.codebook
    if not book.outcomes:
        return ""
    shares_IO = outcome_shares(dataset.survey, dataset.weights.weights_P, (EVERYONE,))[0]
    parts = []
    for o, name in enumerate(book.outcomes):
        if np.nansum(shares_IO[:, o]):
            worst = int(np.nanargmax(shares_IO[:, o]))
            most = f"{shares_IO[worst, o]:.1%}, {book.items[worst].id}"
            parts.append(f"{name} {np.nanmean(shares_IO[:, o]):.1%} of those asked (most: {most})")
    return "; ".join(parts)
