"""Will a run fit, how long will it take, what will it cost: from a model's ``config.json`` and a survey's cells."""

from __future__ import annotations

from valuealign.planner.architecture import read_architecture, read_config
from valuealign.planner.boxes import BOXES, CPU, GB, GPUS, Box, find_box
from valuealign.planner.choice import TrialSize, best, candidates, changed, largest_of, mend, trial_size
from valuealign.planner.hours import UTILISATION, Clock, Rate, Scoring, rate_of, stage_time, sweep_time
from valuealign.planner.memory import ASSUMPTIONS, Micro, Plan, activations, logits, plan
from valuealign.planner.work import Load, exact_size, load, people_behind, rough_size, sizes_of

__all__ = [
    "ASSUMPTIONS",
    "BOXES",
    "CPU",
    "GB",
    "GPUS",
    "UTILISATION",
    "Box",
    "Clock",
    "Load",
    "Micro",
    "Plan",
    "Rate",
    "Scoring",
    "TrialSize",
    "activations",
    "best",
    "candidates",
    "changed",
    "exact_size",
    "find_box",
    "largest_of",
    "load",
    "logits",
    "mend",
    "people_behind",
    "plan",
    "rate_of",
    "read_architecture",
    "read_config",
    "rough_size",
    "sizes_of",
    "stage_time",
    "sweep_time",
    "trial_size",
]
