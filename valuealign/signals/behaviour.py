"""Behaviour cells of a run, divided by prompt into train, select and report."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from valuealign.config import FeedbackConfig, RunConfig
from valuealign.errors import ConfigError, SplitError
from valuealign.signals.files import read_feedback
from valuealign.surveys import embedded
from valuealign.surveys.table import Survey
from valuealign.types import Cell

PARTS = ("train", "select", "report")


class Behaviour(NamedTuple):
    """Cells by part (train, select, report), and what one should know of them, a line each."""

    parts: dict[str, tuple[Cell, ...]]
    facts: dict[str, str]


def behaviour_parts(config: RunConfig, survey: Survey, weights_P: np.ndarray, person_P: np.ndarray) -> Behaviour:
    """Cells by part, disjoint by prompt: a file of marked answers or pairs, or what the embedded public itself marked.

    The embedded public's marks are disjoint by person too (``person_P``: 0 train, 1 select, 2
    report); a file says nothing of persons. Another survey without ``feedback.file`` brings none.
    Raises ConfigError where stage kto would have nothing to train on or a key nothing to say, SignalError for the file,
    WeightingError for its raters, SplitError for too few prompts to hold any out.
    """
    by_part: dict[str, list[Cell]]
    facts: dict[str, str] = {}
    given = config.feedback
    _check_raters(given)
    if given.file is not None:
        cells, facts = read_feedback(
            given.file, traits=given.rater_traits, margins=given.rater_margins, trim=config.weighting.trim
        )
        by_part = dict.fromkeys(PARTS, cells)
    elif config.survey.reader == "embedded":
        by_part = {part: _embedded(config, survey, weights_P * (person_P == n)) for n, part in enumerate(PARTS)}
    else:
        by_part = {part: [] for part in PARTS}
    # A prompt has several cells where pairs of it stay apart: all of them go to one part.
    prompts = sorted(
        {c.prompt for c in by_part["train"]}, key=lambda p: hashlib.sha256(f"{config.seed}{p}".encode()).digest()
    )
    learns = [name for name, stage in config.preferences.items() if stage.on == "behaviour"]
    if not prompts and learns:
        raise ConfigError(
            f"stage {learns[0]} needs behaviour feedback, and this survey brings none",
            where="feedback.file",
            mend="give feedback.file=FILE (marked answers or pairs), or run stages='[distribution]'",
        )
    held = round(given.holdout * len(prompts) / 2)
    if prompts and (held < 1 or len(prompts) <= 2 * held):
        raise SplitError(f"{len(prompts)} prompts are too few", where="feedback.holdout", mend="bring more prompts")
    parts = {"train": prompts[2 * held :], "select": prompts[:held], "report": prompts[held : 2 * held]}
    mine = {part: set(some) for part, some in parts.items()}
    kept = {part: tuple(c for c in by_part[part] if c.prompt in mine[part] and c.mass > 0) for part in PARTS}
    if prompts:
        counts = {part: len({cell.prompt for cell in cells}) for part, cells in kept.items()}
        facts |= {"behaviour prompts": ", ".join(f"{count} to {part}" for part, count in counts.items())}
    return Behaviour(kept, facts)


def _check_raters(given: FeedbackConfig) -> None:
    """A key that would do nothing is a mistake."""
    if given.rater_margins is not None and given.file is None:
        what, mend = "there are no raters to weight", "name the file of their feedback in feedback.file"
        raise ConfigError(what, where="feedback.rater_margins", mend=mend)
    if given.rater_traits and given.rater_margins is None:
        what, mend = "traits of raters are for margins, and there are none", "name them in feedback.rater_margins"
        raise ConfigError(what, where="feedback.rater_traits", mend=mend)


def _embedded(config: RunConfig, survey: Survey, weights_P: np.ndarray) -> list[Cell]:
    """Rows, levels and screens may have cut the survey short: who is missing weighs nothing."""
    weight_of_all = np.zeros(config.survey.people)
    weight_of_all[embedded.numbers(survey)] = weights_P
    return embedded.feedback(config.survey.people, config.seed, weights_P=weight_of_all)
