"""From a run's configuration to all that training and evaluation see: weighted targets, cells, splits, the exam."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from valuealign.config import RunConfig
from valuealign.dataset import Dataset, build, facts, weighted
from valuealign.evaluate import HELD_OUT, Exam, Examination, Sharing, exam_of, examination, sharing
from valuealign.evaluate.profiles import value_exam
from valuealign.prompts import ChatTokenizer, evaluate_templates, train_templates
from valuealign.signals import behaviour_parts, survey_cells
from valuealign.splits import LEFT_OUT, Trained, named, other_survey, prompt_leaks, refuse_same_prompts, without
from valuealign.surveys.table import Survey
from valuealign.types import Cell
from valuealign.weighting import Gap


def tell(text: str) -> None:
    """A line of progress, at once."""
    print(text, flush=True)


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

    @cached_property
    def sharing(self) -> Sharing:
        """What may be shown of a record that is judged on this survey's people."""
        made = self.dataset
        return sharing(made.survey, made.weights.weights_P, made.groups, made.splits, self.exam)

    def trained(self, config: RunConfig) -> Trained:
        """What training asks: whatever else is judged as unseen is held against it."""
        asked = {item for item, _ in self.dataset.splits.train}
        items = tuple(item for item in self.survey.codebook.items if item.id in asked)
        return Trained(items, self.behaviour["train"], config.splits.near_duplicates)

    def examination(self, config: RunConfig, tokenizer: ChatTokenizer | None = None) -> Examination:
        """All that an evaluation of this run asks; the value questions' people are the report's.

        ``tokenizer`` is the models' own, where it is at hand (``evaluate.examination``).
        """
        made = self.dataset
        rows_P, template = made.splits.people("report"), evaluate_templates(config.prompts)[0]
        values = value_exam(made.survey, made.weights.weights_P, made.groups, rows_P, template)
        marks = self.behaviour["report"]
        return examination(config, self.exam, marks, self.sharing, values, tokenizer=tokenizer)


def prepare(config: RunConfig, progress: Callable[[str], None] = tell) -> Prepared:
    """Steps 1 to 3 of the road: read, weight and aggregate, cells and splits."""
    dataset = build(config)
    survey, weights_P, splits = dataset.survey, dataset.weights.weights_P, dataset.splits
    found = facts(dataset)
    targets = dataset.shrunk or dataset.train
    wordings = train_templates(config.prompts)
    cells = tuple(survey_cells(targets, splits.train, templates=wordings))
    exam = exam_of(config, survey, weights_P, dataset.groups, splits, ridge=dataset.ridge)
    held = [exam.cells[c] for panel in exam.panels if panel.split in HELD_OUT for c in panel.cell_C]
    refuse_same_prompts(cells, held)
    found["cells to train on"] = f"{len(cells):,}"
    behaviour, marked = behaviour_parts(config, survey, weights_P, splits.person_P)
    found |= marked
    found |= _repeated(behaviour, config.splits.near_duplicates)
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


def _repeated(behaviour: Mapping[str, Sequence[Cell]], threshold: float) -> dict[str, str]:
    """A warning for each held-out part whose prompts nearly repeat trained ones.

    They are no mistake that ends a run, as the same prompt would be: people do ask alike, and only the reader of
    the figures can say how much that flatters them.
    """
    found = {}
    for part in ("select", "report"):
        if near := prompt_leaks(behaviour["train"], behaviour[part], threshold=threshold):
            count = len({cell.prompt for cell in behaviour[part]})
            found[f"warning: held-out prompts ({part}) that nearly repeat a trained one"] = (
                f"{len(near)} of {count}: {named(near)}. Behaviour looks better by them than it is: "
                "keep one of such prompts in the file of feedback"
            )
    return found


@dataclass(frozen=True)
class Elsewhere:
    """What another survey asks of models that it trained nothing of, whom it asked, and its margins."""

    examination: Examination
    facts: dict[str, str]
    gaps: tuple[Gap, ...]


def elsewhere(
    config: RunConfig,
    other: RunConfig,
    trained: Prepared,
    progress: Callable[[str], None] = tell,
    tokenizer: ChatTokenizer | None = None,
) -> Elsewhere:
    """The exam of the survey of ``other``, by the splits and settings of ``config``.

    People who are in both stay in their part; questions that training asked, or nearly, are left out.
    Raises what reading the survey raises, and SplitError where nothing is left to ask.
    """
    survey, weights, groups = weighted(other)
    asked = {"survey": survey.codebook.title, "everyone": weights.everyone}
    asked |= {f"note {number}": note for number, note in enumerate((*survey.notes, *weights.notes), start=1)}
    if survey.codebook.label_only:
        asked["items with a label only (no question wording)"] = ", ".join(survey.codebook.label_only)
    splits = other_survey(survey, weights.weights_P, groups, config.splits, seed=config.seed)
    if leaked := trained.trained(config).leaks(survey.codebook.items):
        splits = without(splits, leaked)
        asked[LEFT_OUT] = "; ".join(map(str, leaked))
    for name, fact in asked.items():
        progress(f"judged on {name}: {fact}")
    exam = exam_of(config, survey, weights.weights_P, groups, splits)
    shown = sharing(survey, weights.weights_P, groups, splits, exam)
    return Elsewhere(examination(config, exam, (), shown, tokenizer=tokenizer), asked, weights.gaps)
