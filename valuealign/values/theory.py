"""A theory of values as data, and the scoring of people, groups and models on it.

Shape letters: ``P`` people (or groups, or models), ``G`` groups, ``I`` items, ``K`` options, ``V`` values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from valuealign.errors import AnswerError, CodebookError, nearest
from valuealign.types import Item

# Shares of an item must sum to 1 this closely.
SHARE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Theory:
    """Named values. ``structure`` is ``circle`` (neighbours in the list are alike, opposites conflict) or ``list``.

    ``higher`` groups values; ``boundary[value]`` names the two higher-order values that a value lies
    between (it may stand in one of them, or in none). ``instruments[name][value]`` are the item
    numbers (from 1) of published questionnaires and ``lengths[name]`` how many items those have,
    unkeyed ones included. ``scores_people`` is false where a theory only tags items and texts.
    """

    name: str
    title: str
    source: str
    structure: Literal["circle", "list"]
    values: tuple[str, ...]
    higher: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    boundary: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    instruments: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    scores_people: bool = True


class Scores(NamedTuple):
    """``raw_PV`` in 0..1 of the scale, ``mean_P`` the person's mean over the items, ``centred_PV`` their difference.

    Centred scores serve correlations and comparisons between groups; raw ones serve as predictors
    (Schwartz's scoring instructions). NaN where too little was answered.
    """

    values: tuple[str, ...]
    raw_PV: np.ndarray
    mean_P: np.ndarray
    centred_PV: np.ndarray


def score(
    theory: Theory,
    items: Sequence[Item],
    answers_PI: np.ndarray,
    *,
    centre_on: Literal["keyed", "all"] = "keyed",
    least_of_value: float = 0.5,
    least_of_items: float = 0.7,
) -> Scores:
    """Score people on the values that ``items`` measure.

    ``answers_PI`` holds option indices (negative: missing). An answer counts by its place on the
    item's scale, from 0 (lowest position) to 1, turned round for a reversed item (key -1). A nominal
    item of two options and two values is a choice between them (``is_choice``): the value that was
    chosen gets 1, the other 0. A value is the mean of its answered items: over choices the share of
    pairs that it wins, (n - rank) / (n - 1) where n values were ranked completely.

    Centring subtracts the person's mean over the items that measure a value (``keyed``), or over all
    ordinal items given (``all``: the SVS is centred on all its 57 items, of which 46 are keyed), and
    never divides (the MRAT of Schwartz's instructions). What one value wins another loses, so a
    choice counts 1/2 in every person's mean, answered or not: centred on choices alone, 0 is a value
    that wins half of its pairs.

    Missing items: a value needs answers to at least ``least_of_value`` of its items, else it is NaN;
    the mean, and with it every centred score, to at least ``least_of_items`` of the items that it
    runs over.

    Raises CodebookError for a theory that does not score people, an item keyed to a value that the
    theory lacks, or a nominal item that is keyed to a value and no choice between two.
    """
    _check(theory, items)
    places = [_answer_place(item, answers_PI[:, i]) for i, item in enumerate(items) if _counts(item, centre_on)]
    counted = [item for item in items if _counts(item, centre_on)]
    return _scores(theory, counted, _stack(places, len(answers_PI)), least_of_value, least_of_items)


def score_shares(
    theory: Theory,
    items: Sequence[Item],
    shares_GIK: np.ndarray,
    *,
    centre_on: Literal["keyed", "all"] = "keyed",
    least_of_value: float = 0.5,
    least_of_items: float = 0.7,
) -> Scores:
    """Score groups, or models, from their option shares: as ``score``, with the expected place as the answer.

    ``shares_GIK`` holds a share for each of an item's own options, padded with anything beyond; NaN
    where a group has none. The means equal those of people who answered every item.

    Raises AnswerError for shares that are negative or do not sum to 1, and what ``score`` raises.
    """
    _check(theory, items)
    places = [_expected_place(item, shares_GIK[:, i]) for i, item in enumerate(items) if _counts(item, centre_on)]
    counted = [item for item in items if _counts(item, centre_on)]
    return _scores(theory, counted, _stack(places, len(shares_GIK)), least_of_value, least_of_items)


def higher_order(theory: Theory, scores: Scores) -> Scores:
    """Scores of the theory's higher-order values: the means of their values' scores (Schwartz's instructions).

    Only those of which every value was measured; NaN where one of a person's scores is.
    """
    found = {name: parts for name, parts in theory.higher.items() if set(parts) <= set(scores.values)}
    raw = [scores.raw_PV[:, [scores.values.index(part) for part in parts]].mean(axis=1) for parts in found.values()]
    raw_PV = _stack(raw, len(scores.mean_P))
    return Scores(tuple(found), raw_PV, scores.mean_P, raw_PV - scores.mean_P[:, None])


def is_choice(item: Item) -> bool:
    """Whether an item asks which of two values comes first: its two options stand for its two values, in order."""
    return not item.ordinal and len(item.options) == 2 and len(set(item.values)) == 2


def _check(theory: Theory, items: Sequence[Item]) -> None:
    if not theory.scores_people:
        raise CodebookError(
            f"'{theory.name}' tags texts; it does not score people", mend="score people on another theory"
        )
    for item in items:
        for value in item.values:
            if value not in theory.values:
                mend = nearest(value, theory.values)
                raise CodebookError(f"{theory.title} have no '{value}'", where=f"item '{item.id}'", mend=mend)


def _counts(item: Item, centre_on: str) -> bool:
    """Whether an item takes part: all that measure a value and, for ``all``, what else has places."""
    return bool(item.values) or (centre_on == "all" and item.ordinal and len(set(item.positions)) > 1)


def _scores(
    theory: Theory, items: Sequence[Item], place_PI: np.ndarray, least_of_value: float, least_of_items: float
) -> Scores:
    measured = tuple(value for value in theory.values if any(value in item.values for item in items))
    raw = [_mean(_speaking_for(value, items, place_PI), least_of_value) for value in measured]
    choice_I = np.array([is_choice(item) for item in items], dtype=bool)
    raw_PV, mean_P = _stack(raw, len(place_PI)), _mean(np.where(choice_I, 0.5, place_PI), least_of_items)
    return Scores(measured, raw_PV, mean_P, raw_PV - mean_P[:, None])


def _speaking_for(value: str, items: Sequence[Item], place_PI: np.ndarray) -> np.ndarray:
    """The places of a value's items; those of a choice are the first value's and turned for the second."""
    columns = [
        1 - place_PI[:, i] if is_choice(item) and item.values[1] == value else place_PI[:, i]
        for i, item in enumerate(items)
        if value in item.values
    ]
    return _stack(columns, len(place_PI))


def _stack(columns: Sequence[np.ndarray], rows: int) -> np.ndarray:
    return np.stack(columns, axis=1) if columns else np.empty((rows, 0))


def _answer_place(item: Item, answer_P: np.ndarray) -> np.ndarray:
    """Answers as places on the scale in 0..1, reversed items turned; NaN where missing."""
    return np.where(answer_P >= 0, _places(item)[np.maximum(answer_P, 0)], np.nan)


def _expected_place(item: Item, shares_GK: np.ndarray) -> np.ndarray:
    """Mean place [G] under the shares; NaN where they are."""
    own_GK = shares_GK[:, : len(item.options)]
    known_G = ~np.isnan(own_GK).any(axis=1)
    wrong_G = known_G & ((own_GK < 0).any(axis=1) | (np.abs(own_GK.sum(axis=1) - 1) > SHARE_TOLERANCE))
    if wrong_G.any():
        row = int(np.flatnonzero(wrong_G)[0])
        raise AnswerError(
            f"the shares {np.round(own_GK[row], 4).tolist()} are no distribution",
            where=f"item '{item.id}', row {row}",
            mend="shares are at least 0 and sum to 1 over the item's options",
        )
    return np.asarray(own_GK @ _places(item))


def _places(item: Item) -> np.ndarray:
    """Places [K] of the options, 0 (lowest position) to 1 (a choice: of its first value); turned where reversed."""
    if is_choice(item):
        return np.array([1.0, 0.0] if item.key > 0 else [0.0, 1.0])
    if not item.places:
        raise CodebookError(
            "a nominal item cannot measure a value",
            where=f"item '{item.id}'",
            mend="say 'ordinal: true' in the codebook; where outcomes became options, set survey.outcomes=apart",
        )
    place_K = np.array(item.places)
    return np.asarray(place_K if item.key > 0 else 1 - place_K)


def _mean(place_PI: np.ndarray, least: float) -> np.ndarray:
    """Mean over the answered items; NaN where there are none, or less than the share ``least`` of all."""
    known_PI = ~np.isnan(place_PI)
    n_P = known_PI.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_P = np.where(known_PI, place_PI, 0).sum(axis=1) / n_P
    return np.where(n_P >= least * place_PI.shape[1] - 1e-9, mean_P, np.nan)
