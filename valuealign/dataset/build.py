"""From a run's configuration to people, weights, groups and splits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from valuealign.config import RunConfig
from valuealign.population import (
    ShareTable,
    Shrunk,
    by_traits,
    choose_ridge,
    everyone,
    find_groups,
    relations,
    shrink,
    tabulate,
    with_and_without,
)
from valuealign.population.centre import Pairs
from valuealign.splits import Splits, check_leaks, split
from valuealign.surveys import read_survey
from valuealign.surveys.screening import Screened, screen
from valuealign.surveys.table import Survey
from valuealign.types import Group
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
        """What training aims at: small groups drawn towards ``groups.shrink``; None where that is off.

        What the traits say is learnt from the cells that are trained, and from no other.
        """
        return self.drawn("train", self.splits.train)

    @cached_property
    def ridge(self) -> float:
        """What draws a regression's effects to 0, chosen on the train people and the cells that are trained."""
        return choose_ridge(
            self.survey, self.weights.weights_P, self.groups, self.splits.people("train"), self.splits.train
        )

    def drawn(self, part: str | None = None, used: Pairs | None = None) -> Shrunk | None:
        """``table(part)`` under ``groups.shrink``; all that is estimated is, of the cells ``used`` (None: of all)."""
        table, towards = self.train if part == "train" else self.table(part), self.config.groups.shrink
        if towards == "off":
            return None
        if towards == "everyone":
            return shrink(table, everyone(table), used)
        people_P = None if part is None else self.splits.people(part)
        related_GG = relations(self.survey, self.weights.weights_P, self.groups, people_P)
        return shrink(table, by_traits(table, self.ridge, related_GG, used), used)

    @cached_property
    def screens(self) -> pl.DataFrame:
        """What each screen's marked people do to each group's targets, over everybody who was asked."""
        return with_and_without(self.asked, self.asked_weights_P, self.groups, self.screened.flags)


def build(config: RunConfig) -> Dataset:
    """Read, screen, weigh, find the groups, and hold out. Raises what these steps raise."""
    asked, screened, weights, groups = _weighted(config)
    splits = split(screened.survey, weights.weights_P, groups, config.splits, seed=config.seed)
    check_leaks(screened.survey, splits, threshold=config.splits.near_duplicates)
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
