"""From a survey to weighted targets, splits and cells: what every other job starts from.

    python jobs/prepare.py
    python jobs/prepare.py survey.reader=generic survey.file=answers.csv survey.codebook=codebook.yaml

Reads and checks the survey, screens it, fits the weights, finds the groups, holds people, items,
groups and cells out, and prints what training and evaluation will see. Keeps it all as Parquet with
a datasheet and a picture of the margins, below $VALUEALIGN_HOME/data; jobs/export.py releases it. Nothing is trained.
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
from valuealign.dataset import Dataset, build, facts, folder_of, read_sheet, write
from valuealign.errors import SurveyError
from valuealign.evaluate import HELD_OUT, Exam, Examination, exam_of, examination
from valuealign.evaluate.profiles import value_exam
from valuealign.prompts import evaluate_templates, train_templates
from valuealign.report import write_love_plot
from valuealign.signals import behaviour_parts, survey_cells
from valuealign.splits import prompt_leaks, refuse_same_prompts
from valuealign.surveys.table import Survey
from valuealign.types import Cell
from valuealign.weighting import Gap


@dataclass(frozen=True)
class Prepared:
    """What training and evaluation see. ``judged`` has the training cells of each stage on judgements,
    ``behaviour`` the parts train, select and report."""

    dataset: Dataset
    exam: Exam
    survey_cells: tuple[Cell, ...]
    judged: dict[str, tuple[Cell, ...]]
    behaviour: dict[str, tuple[Cell, ...]]
    data_hash: str
    facts: dict[str, str]

    @property
    def survey(self) -> Survey:
        """Those who count."""
        return self.dataset.survey

    def examination(self, config: RunConfig) -> Examination:
        """All that an evaluation of this run asks; the value questions' people are the report's."""
        made = self.dataset
        rows_P, template = made.splits.people("report"), evaluate_templates(config.prompts)[0]
        values = value_exam(made.survey, made.weights.weights_P, made.groups, rows_P, template)
        return examination(config, self.exam, self.behaviour["report"], values)


def prepare(config: RunConfig, progress: Callable[[str], None] = say) -> Prepared:
    """Steps 1 to 3 of the road: read, weight and aggregate, cells and splits."""
    dataset = build(config)
    survey, weights_P, splits = dataset.survey, dataset.weights.weights_P, dataset.splits
    found = facts(dataset)
    targets = dataset.shrunk or dataset.train
    wordings = train_templates(config.prompts)
    cells = tuple(survey_cells(targets, splits.train, templates=wordings))
    exam = exam_of(config, survey, weights_P, dataset.groups, splits)
    held = [exam.cells[c] for panel in exam.panels if panel.split in HELD_OUT for c in panel.cell_C]
    refuse_same_prompts(cells, held)
    found["cells to train on"] = f"{len(cells):,}"
    behaviour, marked = behaviour_parts(config, survey, weights_P, splits.person_P)
    found |= marked
    near = prompt_leaks(behaviour["train"], behaviour["report"], threshold=config.splits.near_duplicates)
    if near:
        found["held-out prompts that nearly repeat a trained one"] = f"{len(near)}, such as {near[0]}"
    judged = {
        name: tuple(survey_cells(targets, splits.train, undesirable="others", templates=wordings))
        if stage.on == "survey"
        else behaviour["train"]
        for name, stage in config.preferences.items()
    }
    for name, fact in found.items():
        progress(f"{name}: {fact}")
    # How the exam is worded is no matter of the data.
    seen = (*cells, *behaviour["train"], *exam.worded(None).cells, *behaviour["select"], *behaviour["report"])
    digest = hashlib.sha256(json.dumps([[c.key, c.desirable, c.undesirable] for c in seen]).encode())
    return Prepared(dataset, exam, cells, judged, behaviour, digest.hexdigest()[:32], found)


def keep(config: RunConfig) -> Path:
    """The data set's folder, written if these settings and files have not been prepared before.

    A file of feedback is no part of it, and is read and counted every time.
    """
    folder = folder_of(config, configuration.home())
    known = folder.exists()
    if known:
        try:
            sheet = read_sheet(folder)
        except SurveyError as error:
            say(f"prepared before, but damaged, so it is made anew: {error.what} ({error.where})")
            known = False
    if known and config.feedback.file is None:
        for name, fact in sheet["facts"].items():
            say(f"{name}: {fact}")
        draw(folder)
        say(f"data set, prepared before: {folder}")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)  # a home that cannot be written says so before the work
    if config.feedback.file is None and config.survey.reader != "embedded":
        say("behaviour prompts: none; stage kto would need feedback.file")
        config = config.model_copy(update={"stages": ("distribution",)})
    prepared = prepare(config)
    if not known:
        write(prepared.dataset, folder, say)
    draw(folder)
    say(f"data set: {folder}")
    return folder


def draw(folder: Path) -> None:
    """The love plot beside a datasheet that has margins: what weighting mended of each."""
    gaps = [Gap(**margin) for margin in read_sheet(folder)["weights"]["margins"]]
    if gaps:
        say(f"margins before and after weighting: {write_love_plot(folder / 'margins.svg', gaps)}")


if __name__ == "__main__":
    run_job(__doc__, lambda config: keep(config) and None)
