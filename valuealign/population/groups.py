"""Which groups get targets: single traits, pairs of traits, or exactly the crossings that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl

from valuealign.config import GroupsConfig
from valuealign.errors import ConfigError, nearest
from valuealign.population.cells import Cells, load
from valuealign.surveys.codebook import Codebook
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group


class Found(NamedTuple):
    """The groups, and how many were left out: as too ``small``, and ``beyond`` the largest that are kept."""

    groups: tuple[Group, ...]
    small: int
    beyond: int


def find_groups(survey: Survey, weights_P: np.ndarray, config: GroupsConfig) -> tuple[Group, ...]:
    """``list_groups`` without saying how many were left out."""
    return list_groups(survey, weights_P, config).groups


def list_groups(survey: Survey, weights_P: np.ndarray, config: GroupsConfig) -> Found:
    """EVERYONE, then the groups of each crossing of traits, levels in the codebook's order.

    The crossings are ``config.crossed`` as listed, else single traits and pairs of traits
    (``crossings``) in the codebook's order. Somebody with several levels of a trait is in the
    group of each. Left out: groups worth fewer than ``min_n_eff`` respondents (Kish, over
    persons); beyond ``max_groups`` (EVERYONE counted) the smallest.

    Raises ConfigError for a trait that the codebook does not have, or that a crossing has twice.
    """
    book = survey.codebook
    groups = list(
        dict.fromkeys(
            [EVERYONE, *(group for names in _crossings(book, config) for group in _crossed(survey, names) if names)]
        )
    )
    worth_G = _worth(survey, weights_P, groups)
    large = [g for g in range(len(groups)) if g == 0 or worth_G[g] >= config.min_n_eff]
    kept = sorted(sorted(large, key=lambda g: (g > 0, -worth_G[g], g))[: config.max_groups])
    return Found(tuple(groups[g] for g in kept), len(groups) - len(large), len(large) - len(kept))


def population_shares(survey: Survey, weights_P: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    """Weighted share [G] of all rows that is in each group."""
    everybody = np.zeros(survey.people.height, dtype=np.int64)
    mass_G = Cells(survey, groups).masses(everybody, 1, load(weights_P).mass_P)[:, 0]
    return np.asarray(np.minimum(mass_G / np.sum(weights_P), 1.0))  # rounding may pass 1


def _worth(survey: Survey, weights_P: np.ndarray, groups: Sequence[Group]) -> np.ndarray:
    """n_eff [G] of everybody in each group, whatever they answered."""
    everybody = np.zeros(survey.people.height, dtype=np.int64)
    found = Cells(survey, groups).sums(everybody, 1, load(weights_P))
    total_G = found.mass_GK[:, 0]
    worth_G = np.zeros(len(groups))
    np.divide(total_G**2, found.square_G, out=worth_G, where=found.square_G > 0)
    return worth_G


def _crossings(book: Codebook, config: GroupsConfig) -> list[tuple[str, ...]]:
    known = [trait.id for trait in book.traits]
    if config.crossed is None:
        _check(config.traits or (), known, "groups.traits")
        names = [name for name in known if config.traits is None or name in config.traits]
        return [names_of for depth in range(1, config.crossings + 1) for names_of in combinations(names, depth)]
    for crossing in config.crossed:
        _check(crossing, known, "groups.crossed")
        twice = [name for name in crossing if crossing.count(name) > 1]
        if twice:
            raise ConfigError(
                f"a crossing has '{twice[0]}' twice", where="groups.crossed", mend=f"write '{twice[0]}' once"
            )
    return list(config.crossed)


def _check(names: Sequence[str], known: Sequence[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"the survey has no trait '{name}'", where=where, mend=nearest(name, known))


def _crossed(survey: Survey, names: tuple[str, ...]) -> list[Group]:
    """The groups of one crossing that anybody is in, ordered by the levels of its first trait, its second, ..."""
    traits = {trait.id: trait for trait in survey.codebook.traits}
    order = [{level: place for place, level in enumerate(traits[name].levels)} for name in names]
    present = survey.people.select(names).unique()
    for name in names:
        if isinstance(present.schema[name], pl.List):
            present = present.explode(name)
    known = [
        row
        for row in present.drop_nulls().unique().rows()
        if all(level in places for level, places in zip(row, order, strict=True))
    ]
    known.sort(key=lambda row: [places[level] for level, places in zip(row, order, strict=True)])
    return [Group(pairs := tuple(sorted(zip(names, row, strict=True))), survey.codebook.phrase(pairs)) for row in known]
