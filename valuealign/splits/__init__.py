"""Who and what is held out: by person, item, group, (item, group) cell and wave."""

from __future__ import annotations

from valuealign.splits.frames import pairs_frame, people_frame, read_splits
from valuealign.splits.leaks import (
    LEFT_OUT,
    Leak,
    Trained,
    check_leaks,
    item_leaks,
    leaks,
    named,
    prompt_leaks,
    refuse_leaks,
    refuse_same_prompts,
    refuse_shared_people,
    without,
)
from valuealign.splits.split import PARTS, SPLITS, SURVEY, WAVES, Pair, Splits, other_survey, split

__all__ = [
    "LEFT_OUT",
    "PARTS",
    "SPLITS",
    "SURVEY",
    "WAVES",
    "Leak",
    "Pair",
    "Splits",
    "Trained",
    "check_leaks",
    "item_leaks",
    "leaks",
    "named",
    "other_survey",
    "pairs_frame",
    "people_frame",
    "prompt_leaks",
    "read_splits",
    "refuse_leaks",
    "refuse_same_prompts",
    "refuse_shared_people",
    "split",
    "without",
]
