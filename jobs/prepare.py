"""From a survey to weighted targets, splits and cells: what every other job starts from.

    python jobs/prepare.py
    python jobs/prepare.py survey.reader=generic survey.file=answers.csv survey.codebook=codebook.yaml

Reads and checks the survey, fits the weights, finds the groups, holds people, items, groups and
cells out, and prints what training and evaluation will see. Nothing is trained or kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from _job import run_job, say

from valuealign.config import RunConfig
from valuealign.errors import ConfigError, SplitError
from valuealign.evaluate import Exam, build_exam
from valuealign.population import find_groups, repair, tabulate
from valuealign.signals.binary import read_binary
from valuealign.signals.targets import survey_cells
from valuealign.splits import split
from valuealign.surveys import read_survey
from valuealign.surveys.embedded import feedback
from valuealign.surveys.table import Survey
from valuealign.types import Cell
from valuealign.weighting import Margins, Weights, rake

PARTS = ("train", "select", "report")


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation see. ``behaviour`` has the parts train, select and report."""

    survey: Survey
    weights: Weights
    exam: Exam
    survey_cells: tuple[Cell, ...]
    kto_cells: tuple[Cell, ...]
    behaviour: dict[str, tuple[Cell, ...]]
    data_hash: str
    facts: dict[str, str]


def prepare(config: RunConfig, progress: Callable[[str], None] = say) -> Prepared:
    """Steps 1 to 3 of the road: read, weight and aggregate, cells and splits."""
    survey = read_survey(config.survey, config.seed)
    margins = Margins.read(config.weighting.margins) if config.weighting.margins else survey.margins
    weights = rake(survey, margins, trim=config.weighting.trim)
    facts = {
        "survey": survey.codebook.title,
        "asked": f"{survey.people.height:,} people, {len(survey.codebook.items)} items",
        "weights": "raked to known margins" if margins else "the survey's own; no margins given",
        "design effect": f"{weights.design_effect:.3f}, so worth {weights.n_eff:,.0f} people",
    }
    if survey.truth is not None:
        error = repair(survey, weights.weights_P)
        facts["error of the targets against the known truth"] = (
            f"{error.before:.4f} before raking, {error.after:.4f} after (mean total variation)"
        )
    groups = find_groups(survey, weights.weights_P, config.groups)
    splits = split(survey, weights.weights_P, groups, config.splits, seed=config.seed)
    table = tabulate(survey, weights.weights_P, groups, multiplicity_P=(splits.person_P == 0).astype(np.float64))
    cells = tuple(survey_cells(table, splits.train))
    exam = build_exam(survey, weights.weights_P, groups, splits, bootstrap=config.evaluate.bootstrap, seed=config.seed)
    held = ", ".join(f"{name}/{part} {len(pairs)}" for (name, part), pairs in sorted(splits.pairs.items()))
    facts |= {"groups": str(len(groups)), "cells to train on": f"{len(cells):,}", "held out": held}
    behaviour = _behaviour(config, survey, weights, splits.person_P)
    if config.kto.on == "survey":
        kto_cells = tuple(survey_cells(table, splits.train, undesirable="others"))
    else:
        kto_cells = behaviour["train"]
    if behaviour["train"]:
        facts["behaviour prompts"] = ", ".join(f"{len(part)} to {name}" for name, part in behaviour.items())
    for name, fact in facts.items():
        progress(f"{name}: {fact}")
    seen = (*cells, *kto_cells, *exam.cells, *behaviour["select"], *behaviour["report"])
    digest = hashlib.sha256(json.dumps([[c.key, c.desirable, c.undesirable] for c in seen]).encode())
    return Prepared(survey, weights, exam, cells, kto_cells, behaviour, digest.hexdigest()[:32], facts)


def _behaviour(
    config: RunConfig, survey: Survey, weights: Weights, person_P: np.ndarray
) -> dict[str, tuple[Cell, ...]]:
    """Behaviour cells by part: the embedded public's own (held out by prompt and by person), or a
    file of marked answers (held out by prompt: it says nothing of persons)."""
    if config.kto.feedback is not None:
        cells = read_binary(config.kto.feedback)
        by_part = dict.fromkeys(PARTS, cells)
    elif config.survey.reader == "embedded":
        by_part = {}
        for number, part in enumerate(PARTS):
            weights_P = np.zeros(config.survey.people)  # survey.rows may have cut the survey short
            weights_P[: len(person_P)] = weights.weights_P * (person_P == number)
            by_part[part] = feedback(config.survey.people, config.seed, weights_P=weights_P)
    else:
        by_part = {part: [] for part in PARTS}
    prompts = sorted(
        (c.prompt for c in by_part["train"]), key=lambda p: hashlib.sha256(f"{config.seed}{p}".encode()).digest()
    )
    if not prompts and "kto" in config.stages and config.kto.on == "behaviour":
        raise ConfigError(
            "stage kto needs behaviour feedback, and this survey brings none",
            where="kto.feedback",
            mend="give kto.feedback=FILE (JSON lines of prompt, completion, label), or run stages='[distribution]'",
        )
    held = round(config.kto.holdout * len(prompts) / 2)
    if prompts and (held < 1 or len(prompts) <= 2 * held):
        raise SplitError(f"{len(prompts)} prompts are too few", where="kto.holdout", mend="bring more prompts")
    mine = {"train": prompts[2 * held :], "select": prompts[:held], "report": prompts[held : 2 * held]}
    return {part: tuple(c for c in by_part[part] if c.prompt in set(mine[part]) and c.mass > 0) for part in PARTS}


if __name__ == "__main__":
    run_job(__doc__, lambda config: prepare(config) and None)
