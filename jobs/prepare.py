"""From a survey to weighted targets, splits and cells: what every other job starts from.

    python jobs/prepare.py
    python jobs/prepare.py survey.reader=generic survey.file=answers.csv survey.codebook=codebook.yaml

Reads and checks the survey, screens it, fits the weights, finds the groups, holds people, items,
groups and cells out, and prints what training and evaluation will see. Keeps it all as Parquet with
a datasheet, below $VALUEALIGN_HOME/data; jobs/export.py releases it. Nothing is trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from _job import run_job, say

from valuealign import config as configuration
from valuealign.config import RunConfig
from valuealign.dataset import Dataset, build, facts, folder_of, write
from valuealign.evaluate import Exam, exam_of
from valuealign.prompts import train_templates
from valuealign.signals import behaviour_parts, survey_cells
from valuealign.surveys.table import Survey
from valuealign.types import Cell
from valuealign.weighting import Weights


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation see. ``behaviour`` has the parts train, select and report."""

    dataset: Dataset
    exam: Exam
    survey_cells: tuple[Cell, ...]
    kto_cells: tuple[Cell, ...]
    behaviour: dict[str, tuple[Cell, ...]]
    data_hash: str
    facts: dict[str, str]

    @property
    def survey(self) -> Survey:
        """Those who count."""
        return self.dataset.survey

    @property
    def weights(self) -> Weights:
        """Their weights."""
        return self.dataset.weights


def prepare(config: RunConfig, progress: Callable[[str], None] = say) -> Prepared:
    """Steps 1 to 3 of the road: read, weight and aggregate, cells and splits."""
    dataset = build(config)
    survey, weights_P, splits = dataset.survey, dataset.weights.weights_P, dataset.splits
    found = facts(dataset)
    targets = dataset.shrunk or dataset.train
    wordings = train_templates(config.prompts)
    cells = tuple(survey_cells(targets, splits.train, templates=wordings))
    exam = exam_of(config, survey, weights_P, dataset.groups, splits)
    found["cells to train on"] = f"{len(cells):,}"
    behaviour = behaviour_parts(config, survey, weights_P, splits.person_P)
    if config.kto.on == "survey":
        kto_cells = tuple(survey_cells(targets, splits.train, undesirable="others", templates=wordings))
    else:
        kto_cells = behaviour["train"]
    if behaviour["train"]:
        found["behaviour prompts"] = ", ".join(f"{len(part)} to {name}" for name, part in behaviour.items())
    for name, fact in found.items():
        progress(f"{name}: {fact}")
    # How the exam is worded is no matter of the data.
    seen = (*cells, *kto_cells, *exam.worded(None).cells, *behaviour["select"], *behaviour["report"])
    digest = hashlib.sha256(json.dumps([[c.key, c.desirable, c.undesirable] for c in seen]).encode())
    return Prepared(dataset, exam, cells, kto_cells, behaviour, digest.hexdigest()[:32], found)


def keep(config: RunConfig) -> Path:
    """The data set's folder, written if these settings and files have not been prepared before."""
    folder = folder_of(config, configuration.home())
    if (folder / "datasheet.json").exists():
        for name, fact in json.loads((folder / "datasheet.json").read_text(encoding="utf-8"))["facts"].items():
            say(f"{name}: {fact}")
        say(f"data set, prepared before: {folder}")
        return folder
    if config.kto.feedback is None and config.survey.reader != "embedded":
        say("behaviour prompts: none; stage kto would need kto.feedback")
        config = config.model_copy(update={"stages": ("distribution",)})
    prepared = prepare(config)
    write(prepared.dataset, folder, say)
    say(f"data set: {folder}")
    return folder


if __name__ == "__main__":
    run_job(__doc__, lambda config: keep(config) and None)
