"""Behaviour cells of a run, divided by prompt into train, select and report."""

from __future__ import annotations

import hashlib

import numpy as np

from valuealign.config import RunConfig
from valuealign.errors import ConfigError, SplitError
from valuealign.signals.binary import read_binary
from valuealign.surveys import embedded
from valuealign.surveys.table import Survey
from valuealign.types import Cell

PARTS = ("train", "select", "report")


def behaviour_parts(
    config: RunConfig, survey: Survey, weights_P: np.ndarray, person_P: np.ndarray
) -> dict[str, tuple[Cell, ...]]:
    """Cells by part, disjoint by prompt: a file of marked answers, or what the embedded public itself marked.

    The embedded public's marks are disjoint by person too (``person_P``: 0 train, 1 select, 2
    report); a file says nothing of persons. Another survey without ``kto.feedback`` brings none.
    Raises ConfigError where stage kto would have nothing to train on, SignalError for the file,
    SplitError for too few prompts to hold any out.
    """
    by_part: dict[str, list[Cell]]
    if config.kto.feedback is not None:
        by_part = dict.fromkeys(PARTS, read_binary(config.kto.feedback))
    elif config.survey.reader == "embedded":
        by_part = {part: _embedded(config, survey, weights_P * (person_P == n)) for n, part in enumerate(PARTS)}
    else:
        by_part = {part: [] for part in PARTS}
    prompts = sorted(
        (c.prompt for c in by_part["train"]), key=lambda p: hashlib.sha256(f"{config.seed}{p}".encode()).digest()
    )
    learns = [name for name, stage in config.preferences.items() if stage.on == "behaviour"]
    if not prompts and learns:
        raise ConfigError(
            f"stage {learns[0]} needs behaviour feedback, and this survey brings none",
            where="kto.feedback",
            mend="give kto.feedback=FILE (JSON lines of prompt, completion, label), or run stages='[distribution]'",
        )
    held = round(config.kto.holdout * len(prompts) / 2)
    if prompts and (held < 1 or len(prompts) <= 2 * held):
        raise SplitError(f"{len(prompts)} prompts are too few", where="kto.holdout", mend="bring more prompts")
    parts = {"train": prompts[2 * held :], "select": prompts[:held], "report": prompts[held : 2 * held]}
    mine = {part: set(some) for part, some in parts.items()}
    return {part: tuple(c for c in by_part[part] if c.prompt in mine[part] and c.mass > 0) for part in PARTS}


def _embedded(config: RunConfig, survey: Survey, weights_P: np.ndarray) -> list[Cell]:
    """Rows, levels and screens may have cut the survey short: who is missing weighs nothing."""
    weight_of_all = np.zeros(config.survey.people)
    weight_of_all[embedded.numbers(survey)] = weights_P
    return embedded.feedback(config.survey.people, config.seed, weights_P=weight_of_all)
