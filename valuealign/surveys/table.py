"""A survey as one table of small integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from valuealign.surveys.codebook import Codebook
from valuealign.weighting import Margins


@dataclass(frozen=True)
class Survey:
    """Answers, traits and design weights of the people asked, and what their codes mean.

    ``people`` has a row per interview: one a person, or one a person and wave. Its columns:

    - ``person`` (Utf8) and ``weight`` (Float64, the design weight, mean 1);
    - ``wave`` (Utf8) of a panel, ``duration`` (Float64) where the survey timed its interviews;
    - one for each trait id: Utf8, or List(Utf8) for a trait with several answers; null: unknown;
    - one Int16 for each item id: the option's *index* 0..K-1, ``-1 - j`` for outcome j of the
      codebook, null where nothing is known (not asked, missing).

    ``margins`` and ``truth`` are known of the embedded population only; ``truth[item id]`` holds
    the K true shares of everyone. ``notes`` is what the reader assumed or left out, a sentence
    each: every report prints them.
    """

    codebook: Codebook
    people: pl.DataFrame
    margins: Margins | None = None
    truth: Mapping[str, tuple[float, ...]] | None = None
    notes: tuple[str, ...] = ()


def mean_one(weight: pl.Series) -> pl.Series:
    """Weights divided by their mean; by their largest first, as a sum of huge ones is no number."""
    weight_P = weight.to_numpy()
    scaled_P = weight_P / weight_P.max()  # Polars multiplies by the inverse, which may be infinite
    return pl.Series(weight.name, scaled_P / scaled_P.mean())


def in_level(people: pl.DataFrame, trait: str, level: str) -> np.ndarray:
    """Booleans [P]: who is in a level of a trait; nobody whose trait is unknown."""
    column = people[trait]
    inside = column.list.contains(level) if column.dtype == pl.List(pl.String) else column == level
    return np.asarray(inside.fill_null(False).to_numpy())
