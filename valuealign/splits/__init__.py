"""Who and what is held out: by person, item, group, (item, group) cell and wave."""

from __future__ import annotations

from valuealign.splits.frames import pairs_frame, people_frame, read_splits
from valuealign.splits.split import PARTS, SPLITS, SURVEY, WAVES, Pair, Splits, other_survey, split

__all__ = [
    "PARTS",
    "SPLITS",
    "SURVEY",
    "WAVES",
    "Pair",
    "Splits",
    "other_survey",
    "pairs_frame",
    "people_frame",
    "read_splits",
    "split",
]
