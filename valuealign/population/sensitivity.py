"""How far targets hang on who is believed: with and without screened people, with and without answering styles.

What stands here are bounds, not corrections: nobody knows which flagged person was careless, or how
much of a style is style. A target that stays put under all of it can be relied on.

Shape letters: ``G`` groups, ``I`` items, ``K`` options (padded to the most that an item has), ``P``
people (rows of ``survey.people``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from valuealign.population.cells import Cells
from valuealign.population.table import ShareTable, tabulate
from valuealign.surveys.codebook import Codebook
from valuealign.surveys.table import Survey
from valuealign.types import Group, Item

# Balanced keys: at least so many items keyed each way to one value.
BALANCED = 2
# The low end of desirable answering: this weighted quantile of the score.
LOW_END = 0.05
SUMMARY = {
    "screen": pl.String,
    "group": pl.String,
    "n": pl.Int64,
    "flagged": pl.Int64,
    "flagged_share": pl.Float64,
    "items": pl.Int64,
    "mean_distance": pl.Float64,
    "largest_distance": pl.Float64,
    "largest_item": pl.String,
}


@dataclass(frozen=True)
class Style:
    """A habit of answering that is not the answer's content.

    ``excess_P`` is how far a person's habit exceeds what is taken as free of it, in places 0..1
    (NaN: unknown); an answer to an item is moved back by ``slope[item id]`` times that. Items
    without a slope are not touched. Without any slope, ``notes`` says why there is none.
    """

    name: str
    excess_P: np.ndarray
    slope: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Bounds(NamedTuple):
    """Targets with and without the answering styles, as ``adjusted`` gives them, and what could not be done."""

    frame: pl.DataFrame
    notes: tuple[str, ...]


def with_and_without(
    survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], flags: Mapping[str, np.ndarray], *, least: int = 30
) -> pl.DataFrame:
    """What each screen's flagged people do to each group's targets; a row per (screen, group).

    ``flags[screen]`` are booleans [P] (``surveys.screen`` on this very survey). Columns: ``screen``,
    ``group``, ``n`` interviews and ``flagged`` of them, ``flagged_share`` (weighted), ``items`` with at
    least ``least`` answers on both sides, and over those the ``mean_distance`` and
    ``largest_distance`` (total variation) between shares with and without the flagged people, and
    the ``largest_item``; null where no item has enough answers, or none moves. Weights stay as they
    are: they are not fitted anew without the flagged people.
    """
    cells = Cells(survey, groups)
    everyone = tabulate(survey, weights_P, groups)
    n_G, weight_G = (_sums(cells, of_P) for of_P in (np.ones(len(weights_P)), weights_P))
    rows = []
    for screen, flag_P in flags.items():
        distance_GI = _distance(everyone, tabulate(survey, weights_P, groups, multiplicity_P=~flag_P), least)
        flagged_G, weight_flagged_G = (_sums(cells, of_P) for of_P in (flag_P, weights_P * flag_P))
        for g, group in enumerate(groups):
            known = np.flatnonzero(~np.isnan(distance_GI[g]))
            worst = known[distance_GI[g, known].argmax()] if len(known) else None
            rows.append(
                {
                    "screen": screen,
                    "group": group.name,
                    "n": int(n_G[g]),
                    "flagged": int(flagged_G[g]),
                    "flagged_share": float(weight_flagged_G[g] / weight_G[g]) if weight_G[g] else None,
                    "items": len(known),
                    "mean_distance": float(distance_GI[g, known].mean()) if len(known) else None,
                    "largest_distance": None if worst is None else float(distance_GI[g, worst]),
                    "largest_item": everyone.items[worst].id if worst is not None and distance_GI[g, worst] else None,
                }
            )
    return pl.DataFrame(rows, schema=SUMMARY)


def targets_with_and_without(
    survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], flags: Mapping[str, np.ndarray]
) -> pl.DataFrame:
    """Every target with and without each screen; a row per (screen, group, item, option).

    Columns: ``screen``, ``group``, ``item``, ``option`` (index), ``share`` of everyone and
    ``without`` the flagged people, ``n`` and ``n_without``. Shares are null where nobody answered.
    """
    everyone = tabulate(survey, weights_P, groups)
    frames = []
    for screen, flag_P in flags.items():
        without = tabulate(survey, weights_P, groups, multiplicity_P=~flag_P)
        frame = _long(everyone.items, groups, share=everyone.shares_GIK, without=without.shares_GIK)
        counts = _wide(everyone.items, everyone.n_GI), _wide(everyone.items, without.n_GI)
        frames.append(
            frame.select(
                pl.lit(screen).alias("screen"), pl.all(), pl.Series("n", counts[0]), pl.Series("n_without", counts[1])
            )
        )
    return pl.concat(frames) if frames else pl.DataFrame()


def acquiescence(survey: Survey) -> Style:
    """The habit of agreeing whatever is said, from items keyed both ways to one value.

    The index of a person is the mean place (0..1, reversed items *not* turned) over balanced sets:
    for each value with at least two answered items keyed + and two keyed -, the mean of the two
    keys' means; then the mean over values (Billiet & McClendon 2000; Soto, John, Gosling & Potter
    2008). Content cancels, so that the middle of the scale is taken as free of the habit and
    ``excess_P`` is the index less 1/2. Items keyed + that are worded more mildly than those keyed -
    move the index too: the reason why what follows is a bound.

    Items on a scale that the balanced sets use (same texts, same positions) have slope 1: on other
    scales nothing says which end is agreement.
    """
    ordinal = [item for item in survey.codebook.items if _can_move(item)]
    sets: dict[str, tuple[list[Item], list[Item]]] = {}
    for item in ordinal:
        for value in item.values:
            sets.setdefault(value, ([], []))[item.key < 0].append(item)
    balanced = {value: keys for value, keys in sets.items() if min(map(len, keys)) >= BALANCED}
    if not balanced:
        note = f"no acquiescence: no value has {BALANCED} items keyed each way"
        return Style("acquiescence", np.full(survey.people.height, np.nan), notes=(note,))
    index_PS = np.stack([np.mean([_mean_place(survey, key) for key in keys], axis=0) for keys in balanced.values()], 1)
    excess_P = _known_mean(index_PS) - 0.5
    scales = {_scale(item) for keys in balanced.values() for key in keys for item in key}
    slope = {item.id: 1.0 for item in ordinal if _scale(item) in scales}
    notes = [f"acquiescence from items keyed both ways to {', '.join(balanced)}"]
    return Style("acquiescence", excess_P, slope, (*notes, *_unmoved(excess_P, slope, survey.codebook)))


def desirability(survey: Survey, weights_P: np.ndarray) -> Style:
    """The habit of answering as is thought proper, where the codebook names items that measure it.

    A person's score is the mean place of those items (0..1, reversed items turned; at least half of
    them answered). Each other ordinal item's place is regressed on the score (weighted least
    squares over those who have both); answers of people above the score's low end, the weighted
    5 % quantile, are moved along the line to what it says at that end. People at or below it stay.
    """
    book = survey.codebook
    named = [book.item(name) for name in book.desirability]
    measures = [item for item in named if _can_move(item)]
    unfit = [item.id for item in named if not _can_move(item)]
    unused = [f"{', '.join(unfit)}: named for social desirability, but without an order of options"] if unfit else []
    if not measures:
        note = "no social desirability: the codebook names no item that can measure it"
        return Style("desirability", np.full(survey.people.height, np.nan), notes=(*unused, note))
    places_PI = np.stack([_place(survey, item) for item in measures], axis=1)
    places_PI = np.where([item.key > 0 for item in measures], places_PI, 1 - places_PI)
    half_P = (~np.isnan(places_PI)).mean(axis=1) >= 0.5
    score_P = np.where(half_P, _known_mean(places_PI), np.nan)
    known_P = ~np.isnan(score_P) & (weights_P > 0)
    if not known_P.any():
        return Style("desirability", score_P, notes=(*unused, "no social desirability: nobody has a score"))
    excess_P = np.maximum(score_P - _quantile(score_P[known_P], weights_P[known_P], LOW_END), 0)
    slope = {}
    for item in book.items:
        if _can_move(item) and item.id not in book.desirability:
            slope[item.id] = _slope(score_P, _place(survey, item), weights_P)
    notes = [*unused, f"social desirability from {', '.join(item.id for item in measures)}"]
    return Style("desirability", excess_P, slope, (*notes, *_unmoved(excess_P, slope, book)))


def adjusted(survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], *, by: Style) -> pl.DataFrame:
    """Targets without an answering style; a row per (group, item, option), for the items that the style touches.

    An answer is taken to its place 0..1 less slope times the person's excess, kept within 0..1, and
    shared linearly between the two options next to it. People whose excess is unknown stay where
    they are. Columns: ``style``, ``group``, ``item``, ``option`` (index), ``share``, ``adjusted``,
    and the bound ``low``, ``high`` that the two span; null where nobody answered.
    """
    items = [item for item in survey.codebook.items if item.id in by.slope]
    excess_P, cells = np.nan_to_num(by.excess_P, nan=0.0), Cells(survey, groups)
    width = max((len(item.options) for item in items), default=1)
    plain_GIK, moved_GIK = np.full((2, len(groups), len(items), width), np.nan)
    for i, item in enumerate(items):
        place_P = _place(survey, item)
        for into_GIK, move_P in ((plain_GIK, 0.0), (moved_GIK, by.slope[item.id] * excess_P)):
            mass_GK = _spread(item, place_P - move_P, weights_P, cells)
            with np.errstate(invalid="ignore", divide="ignore"):
                into_GIK[:, i, : mass_GK.shape[1]] = mass_GK / mass_GK.sum(axis=1, keepdims=True)
    return _long(items, groups, share=plain_GIK, adjusted=moved_GIK).select(
        pl.lit(by.name).alias("style"),
        pl.all(),
        pl.min_horizontal("share", "adjusted").alias("low"),
        pl.max_horizontal("share", "adjusted").alias("high"),
    )


def styles(survey: Survey, weights_P: np.ndarray) -> tuple[Style, ...]:
    """Acquiescence and social desirability, each with notes on how it was measured or why it was not."""
    return acquiescence(survey), desirability(survey, weights_P)


def self_report(survey: Survey, weights_P: np.ndarray, groups: Sequence[Group]) -> Bounds:
    """``adjusted`` by each of the ``styles``, where the survey lets it be measured."""
    found = styles(survey, weights_P)
    frames = [adjusted(survey, weights_P, groups, by=style) for style in found]
    return Bounds(pl.concat(frames), tuple(note for style in found for note in style.notes))


def _distance(first: ShareTable, second: ShareTable, least: int) -> np.ndarray:
    """Total variation [G, I]; NaN with fewer than ``least`` answers on either side."""
    distance_GI = np.nansum(np.abs(first.shares_GIK - second.shares_GIK), axis=2) / 2
    enough_GI = np.minimum(first.n_GI, second.n_GI) >= max(least, 1)
    return np.where(enough_GI, distance_GI, np.nan)


def _long(items: Sequence[Item], groups: Sequence[Group], **shares_GIK: np.ndarray) -> pl.DataFrame:
    """A row per (group, item, own option) with a column for each array, null for NaN."""
    counts = [len(item.options) for item in items]
    names = np.repeat(np.array([item.id for item in items], dtype=object), counts).tolist()
    options = np.concatenate([np.arange(k) for k in counts]) if counts else np.zeros(0, dtype=np.int64)
    columns = {
        "group": pl.Series([group.name for group in groups for _ in names], dtype=pl.String),
        "item": pl.Series(names * len(groups), dtype=pl.String),
        "option": pl.Series(np.tile(options, len(groups)), dtype=pl.Int64),
    }
    for name, values_GIK in shares_GIK.items():
        own_IK = np.arange(values_GIK.shape[2]) < np.array(counts, dtype=np.int64).reshape(-1, 1)
        columns[name] = pl.Series(values_GIK[:, own_IK].ravel(), dtype=pl.Float64, nan_to_null=True)
    return pl.DataFrame(columns)


def _wide(items: Sequence[Item], n_GI: np.ndarray) -> np.ndarray:
    """A number for each (group, item, own option), as ``_long`` orders them."""
    return np.repeat(n_GI, [len(item.options) for item in items], axis=1).ravel()


def _can_move(item: Item) -> bool:
    """Whether the item has places to move between: ordinal, no two options at the same one."""
    return item.ordinal and len(set(item.positions)) == len(item.positions) > 1


def _scale(item: Item) -> tuple[tuple[str, float], ...]:
    return tuple((option.text, place) for option, place in zip(item.options, item.positions, strict=True))


def _place(survey: Survey, item: Item) -> np.ndarray:
    """Each person's place [P] on the item's scale, not turned round; NaN without an answer."""
    answer_P = survey.people[item.id].fill_null(-1).to_numpy()
    return np.where(answer_P >= 0, np.array(item.places)[np.maximum(answer_P, 0)], np.nan)


def _mean_place(survey: Survey, items: Sequence[Item]) -> np.ndarray:
    """Mean place [P] over the answered items; NaN with fewer than ``BALANCED`` answers."""
    places_PI = np.stack([_place(survey, item) for item in items], axis=1)
    enough_P = (~np.isnan(places_PI)).sum(axis=1) >= BALANCED
    return np.where(enough_P, _known_mean(places_PI), np.nan)


def _known_mean(values_PN: np.ndarray) -> np.ndarray:
    known_PN = ~np.isnan(values_PN)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known_PN, values_PN, 0).sum(axis=1) / known_PN.sum(axis=1))


def _spread(item: Item, place_P: np.ndarray, weights_P: np.ndarray, cells: Cells) -> np.ndarray:
    """Masses [G, K]: each place (NaN: none), kept within 0..1, is shared between its two neighbouring options."""
    place_K, options = np.array(item.places), len(item.options)
    order_K = np.argsort(place_K)
    sorted_K = place_K[order_K]
    at_P = np.nan_to_num(np.clip(place_P, 0, 1))
    above_P = np.maximum(np.searchsorted(sorted_K, at_P), 1)
    part_P = (at_P - sorted_K[above_P - 1]) / (sorted_K[above_P] - sorted_K[above_P - 1])
    known_P = ~np.isnan(place_P)
    return sum(
        (
            cells.masses(np.where(known_P, order_K[near_P], options), options, weights_P * share_P)
            for near_P, share_P in ((above_P, part_P), (above_P - 1, 1 - part_P))
        ),
        start=np.zeros((len(cells.groups), options)),
    )


def _sums(cells: Cells, number_P: np.ndarray) -> np.ndarray:
    """Sums [G] of a number per person."""
    return cells.masses(np.zeros(len(number_P), dtype=np.int64), 1, number_P.astype(np.float64))[:, 0]


def _slope(score_P: np.ndarray, place_P: np.ndarray, weights_P: np.ndarray) -> float:
    """Weighted least-squares slope of places on scores; 0 where the score does not vary."""
    known_P = ~np.isnan(score_P) & ~np.isnan(place_P)
    score, place, weight = score_P[known_P], place_P[known_P], weights_P[known_P]
    if not weight.sum() > 0:
        return 0.0
    off = score - np.average(score, weights=weight)
    spread = float((weight * off**2).sum())
    return float((weight * off * place).sum() / spread) if spread > 1e-12 else 0.0


def _quantile(values: np.ndarray, weights: np.ndarray, level: float) -> float:
    """The smallest value with at least ``level`` of the weight at or below it."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(below, level)])


def _unmoved(excess_P: np.ndarray, slope: Mapping[str, float], book: Codebook) -> list[str]:
    unknown = int(np.isnan(excess_P).sum())
    left = len(book.items) - len(slope)
    notes = [f"{unknown} of {len(excess_P)} interviews have no index and stay as they are"] if unknown else []
    return [*notes, *([f"{left} of {len(book.items)} items are not adjusted"] if left else [])]
