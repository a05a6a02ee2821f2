"""A survey as one table of small integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from valuealign.surveys.codebook import Codebook
from valuealign.weighting import Margins


@dataclass(frozen=True)
class Survey:
    """Answers, traits and design weights of the people asked, and what their codes mean.

    ``people`` has a row per person (or per interview, where a person has several) with the columns
    ``person`` (Utf8), ``weight`` (Float64, the design weight, mean 1), one Utf8 column per trait id
    (null: unknown) and one Int16 column per item id (the option's *index* 0..K-1, null: missing). ``margins`` and
    ``truth`` are known of the embedded population only; ``truth[item id]`` holds the K true
    shares of everyone.
    """

    codebook: Codebook
    people: pl.DataFrame
    margins: Margins | None = None
    truth: Mapping[str, tuple[float, ...]] | None = None
