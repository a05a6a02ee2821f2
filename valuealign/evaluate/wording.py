"""The exam in the words of a run, and the same questions in other words: does an answer hang on how it is asked for?"""

from __future__ import annotations

from collections.abc import Sequence

from valuealign.config import PromptsConfig, RunConfig
from valuealign.evaluate.exam import Exam, build_exam
from valuealign.metrics import Floats
from valuealign.prompts import evaluate_templates
from valuealign.splits import Splits
from valuealign.surveys.table import Survey
from valuealign.types import Cell, Group


def exam_of(config: RunConfig, survey: Survey, weights_P: Floats, groups: Sequence[Group], splits: Splits) -> Exam:
    """The exam that a run's configuration asks for, put by the first of its templates of evaluation.

    Raises ConfigError for unknown templates, and what ``build_exam`` raises.
    """
    first, resamples = evaluate_templates(config.prompts)[0], config.evaluate.bootstrap
    return build_exam(survey, weights_P, groups, splits, bootstrap=resamples, seed=config.seed, template=first)


def rewordings(exam: Exam, config: PromptsConfig) -> dict[str, tuple[Cell, ...]]:
    """The exam's cells by each further template of ``prompts.evaluate``, keyed by what tables call it.

    A template that no training prompt was worded by says so. ConfigError for unknown templates.
    """
    return {_how(one.name, config): exam.worded(one).cells for one in evaluate_templates(config)[1:]}


def _how(name: str, config: PromptsConfig) -> str:
    return f"asked as {name}" if name in config.train else f"asked as {name}, never trained"
