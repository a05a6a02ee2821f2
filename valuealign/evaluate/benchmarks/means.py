"""Means over very many answers, with intervals that resample what they share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valuealign.evaluate.record import Row
from valuealign.evaluate.sheet import mean_rows
from valuealign.metrics import Floats

# Of more clusters than this, several are resampled together: that keeps them independent, and the memory small.
MOST_CLUSTERS = 2000


def numbered(labels: Sequence[Hashable]) -> NDArray[np.intp]:
    """Each label's place [N] among the distinct ones, in the order in which they first stand."""
    place = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return np.array([place[label] for label in labels], dtype=np.intp)


def grouped_rows(
    sheet: str,
    metric: str,
    values: Mapping[str, Floats],
    cluster_N: NDArray[np.intp],
    weight_N: Floats | None = None,
    **rest: Any,
) -> list[Row]:
    """``mean_rows`` of values [N] that are first summed within their cluster: the same figures and draws, in little
    memory for any N. ``n`` stays the number of values that count (not NaN, of some weight)."""
    if not values or not len(cluster_N):
        return []
    block_N = cluster_N % MOST_CLUSTERS
    weight_N = np.ones(len(block_N)) if weight_N is None else np.asarray(weight_N, dtype=np.float64)
    known_N = ~np.isnan(next(iter(values.values())))
    assert all(np.array_equal(known_N, ~np.isnan(one)) for one in values.values()), "the same answers count for all"
    bottom_Q = np.bincount(block_N, known_N * weight_N).astype(np.float64)
    means = {
        who: np.divide(
            np.bincount(block_N, np.where(known_N, one, 0.0) * weight_N),
            bottom_Q,
            out=np.full(len(bottom_Q), np.nan),
            where=bottom_Q > 0,
        )
        for who, one in values.items()
    }
    there = bottom_Q > 0
    rows = mean_rows(sheet, metric, {who: one[there] for who, one in means.items()}, weights=bottom_Q[there], **rest)
    n = int((known_N & (weight_N > 0)).sum())
    return [replace(row, estimate=replace(row.estimate, n=n)) for row in rows]
