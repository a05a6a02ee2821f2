"""What is asked of models beside the survey, and what their answers are worth.

A ``Sheet`` is a set of questions with a judge: cells that a model scores, chats that it answers. Who is
judged is known by name, the base first; a judge returns rows of the same record as the survey's figures.

Shape letters: ``N`` things that a figure is a mean of, ``B`` bootstrap resamples, ``I`` clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from valuealign.evaluate.record import Evaluation, Kind, Row
from valuealign.metrics import Floats, Parts, interval, ratio_draws
from valuealign.types import Cell, Estimate, Message

RESAMPLES = 1000
Found = TypeVar("Found")


@dataclass(frozen=True)
class Heard:
    """What models answered: raw log-probabilities [K] of each cell (nats) and a text for each chat, by who."""

    logps: Mapping[str, Sequence[Floats]] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def who(self) -> tuple[str, ...]:
        """Who was asked, in order."""
        return tuple(dict.fromkeys((*self.logps, *self.texts)))


@dataclass(frozen=True)
class Sheet:
    """Questions beside the survey. ``name`` is the split of its rows; ``metrics`` says what each metric
    is, with its unit and which way is better; ``max_tokens`` is the longest answer to a chat."""

    name: str
    title: str
    metrics: Mapping[str, str]
    judge: Callable[[Heard], tuple[Row, ...]]
    cells: tuple[Cell, ...] = ()
    chats: tuple[tuple[Message, ...], ...] = ()
    max_tokens: int = 64
    notes: tuple[str, ...] = ()


def described(sheets: Iterable[Sheet]) -> dict[str, dict[str, Any]]:
    """What a record keeps of sheets besides their rows: title, metrics and notes, by name."""
    return {one.name: {"title": one.title, "metrics": dict(one.metrics), "notes": list(one.notes)} for one in sheets}


def alone(sheet: Sheet, heard: Heard) -> Evaluation:
    """The record of a sheet by itself."""
    return Evaluation("report", heard.who, sheet.judge(heard), {"sheets": described([sheet])})


def mean_rows(
    sheet: str,
    metric: str,
    values: Mapping[str, Sequence[float] | Floats],
    *,
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | Floats | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    kind: Kind = "stage",
    part: str = "report",
    note: str = "",
    seed: int = 0,
) -> list[Row]:
    """The weighted mean [N] of each who's values, and each later one minus each earlier one, paired.

    Intervals are 95 %: ``clusters`` (N labels; None: each by itself) are resampled, the same for all, among those that
    count; of a single one there is no interval. A value that is NaN does not count (in a difference, where either
    is); a figure that nothing counts for has no row.
    """
    n = len(next(iter(values.values()), ()))
    assert all(len(one) == n for one in values.values()), "everybody answers the same questions"
    cluster_N = np.arange(n)
    if clusters is not None:
        place = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
        cluster_N = np.array([place[label] for label in clusters], dtype=np.intp)
    weight_N = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)

    def mean(value_N: Floats, least_most: tuple[float, float]) -> Estimate | None:
        known_N = ~np.isnan(value_N) & (weight_N > 0)
        if not known_N.any():
            return None
        _, mine_N = np.unique(cluster_N[known_N], return_inverse=True)
        parts = Parts(value_N[known_N] * weight_N[known_N], weight_N[known_N])
        m = int(mine_N.max()) + 1
        rng = np.random.default_rng([seed, 0x7368656574])
        picks_BI = rng.multinomial(m, np.full(m, 1 / m), size=RESAMPLES).astype(np.float64)
        draws_B = ratio_draws(parts, mine_N, picks_BI)
        value = float(parts.top.sum() / parts.bottom.sum())
        if m < 2:  # one thing asked says nothing of how others would be answered
            return Estimate(value, math.nan, math.nan, int(known_N.sum()))
        return interval(value, draws_B, n=int(known_N.sum()), clusters=m, bounds=least_most)

    arrays = {who: np.asarray(given, dtype=np.float64) for who, given in values.items()}
    found = {who: one for who, value_N in arrays.items() if (one := mean(value_N, bounds)) is not None}
    rows = [Row(sheet, part, who, metric, kind, one, note) for who, one in found.items()]
    for b, later in enumerate(found):
        for earlier in list(found)[:b]:
            apart = mean(arrays[later] - arrays[earlier], (-math.inf, math.inf))
            if apart is not None:
                told = "paired" if apart.n == found[later].n == found[earlier].n else f"paired, the {apart.n} of both"
                rows.append(Row(sheet, part, f"{later} - {earlier}", metric, "difference", apart, told))
    return rows


def later_minus_earlier(
    sheet: str,
    metric: str,
    found: Mapping[str, Found],
    apart: Callable[[Found, Found], Estimate],
    *,
    part: str = "report",
    note: str = "paired",
) -> list[Row]:
    """A row for each who of ``found`` less each who before, in order: ``apart(later, earlier)`` is the difference."""
    names = list(found)
    return [
        Row(sheet, part, f"{later} - {earlier}", metric, "difference", apart(found[later], found[earlier]), note)
        for at, later in enumerate(names)
        for earlier in names[:at]
    ]
