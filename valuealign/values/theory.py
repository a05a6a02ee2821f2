"""A theory of values as data, and the scoring of people on it.

Shape letters: ``P`` people, ``I`` items, ``V`` values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from valuealign.errors import CodebookError, nearest
from valuealign.types import Item


@dataclass(frozen=True)
class Theory:
    """Named values. ``structure`` is ``circle`` (neighbours in the list are alike, opposites conflict) or ``list``.

    ``higher`` groups values; ``instruments[name][value]`` are the item numbers (from 1) of published
    questionnaires. ``scores_people`` is false where a theory only tags items and texts.
    """

    name: str
    title: str
    source: str
    structure: Literal["circle", "list"]
    values: tuple[str, ...]
    higher: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    instruments: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    scores_people: bool = True


class Scores(NamedTuple):
    """``raw_PV`` in 0..1 of the scale, ``mean_P`` the person's mean over all items, ``centred_PV`` their difference.

    Centred scores serve correlations and comparisons between groups; raw ones serve as predictors
    (Schwartz's scoring instructions). NaN where a person answered nothing that counts.
    """

    values: tuple[str, ...]
    raw_PV: np.ndarray
    mean_P: np.ndarray
    centred_PV: np.ndarray


def score(theory: Theory, items: Sequence[Item], answers_PI: np.ndarray) -> Scores:
    """Score people on the values that ``items`` measure.

    ``answers_PI`` holds option indices (negative: missing). An answer counts by its place on the
    item's scale, from 0 (lowest position) to 1, turned round for a reversed item (key -1). A value
    is the mean of its answered items; the person's mean runs over all items that measure a value,
    and centring subtracts it without dividing (Schwartz 2003, the use of the MRAT).

    Raises CodebookError for a theory that does not score people, an item keyed to a value that the
    theory lacks, or a nominal item that is keyed to a value.
    """
    if not theory.scores_people:
        raise CodebookError(
            f"'{theory.name}' tags texts; it does not score people", mend="score people on another theory"
        )
    keyed = [(i, item) for i, item in enumerate(items) if item.values]
    for _, item in keyed:
        for value in item.values:
            if value not in theory.values:
                mend = nearest(value, theory.values)
                raise CodebookError(f"{theory.title} have no '{value}'", where=f"item '{item.id}'", mend=mend)
    measured = tuple(value for value in theory.values if any(value in item.values for _, item in keyed))
    places = [_place(item, answers_PI[:, i]) for i, item in keyed]
    place_PI = np.stack(places, axis=1) if places else np.empty((len(answers_PI), 0))
    raw = [_mean(place_PI[:, [value in item.values for _, item in keyed]]) for value in measured]
    raw_PV = np.stack(raw, axis=1) if raw else np.empty((len(answers_PI), 0))
    mean_P = _mean(place_PI)
    return Scores(measured, raw_PV, mean_P, raw_PV - mean_P[:, None])


def _place(item: Item, answer_P: np.ndarray) -> np.ndarray:
    """Answers as places on the scale in 0..1, reversed items turned; NaN where missing."""
    if not item.ordinal:
        raise CodebookError(
            "a nominal item cannot measure a value", where=f"item '{item.id}'", mend="say 'ordinal: true'"
        )
    position_K = np.array(item.positions)
    place_K = (position_K - position_K.min()) / (position_K.max() - position_K.min())
    place_K = place_K if item.key > 0 else 1 - place_K
    return np.where(answer_P >= 0, place_K[np.maximum(answer_P, 0)], np.nan)


def _mean(place_PI: np.ndarray) -> np.ndarray:
    """Mean over the answered items; NaN where there are none."""
    known_PI = ~np.isnan(place_PI)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known_PI, place_PI, 0).sum(axis=1) / known_PI.sum(axis=1))
