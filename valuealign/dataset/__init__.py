"""A prepared data set: survey, screens, weights, groups, splits and targets; in memory, as a folder, and released."""

from __future__ import annotations

from valuealign.dataset.build import Dataset, build, weighted
from valuealign.dataset.facts import facts
from valuealign.dataset.folder import folder_of, read_sheet, write
from valuealign.dataset.release import LEAST_N, large_enough, release

__all__ = [
    "LEAST_N",
    "Dataset",
    "build",
    "facts",
    "folder_of",
    "large_enough",
    "read_sheet",
    "release",
    "weighted",
    "write",
]
