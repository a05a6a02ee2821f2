"""A model's answers against weighted people, beside null models and the noise floor.

An ``Exam`` is made once from a survey and its splits; it holds all that judging needs, so that a
worker or a gate can judge without the survey. The truth of a part (``select`` or ``report``) comes
from that part's people only, who share no person with the training targets; the null models come
from the training people. Truth is never shrunk. docs/evaluation.md says what each figure means.

Shape letters: ``C`` cells of a panel, ``K`` options (padded with NaN), ``B`` bootstrap resamples,
``I`` items of a panel, ``P`` people, ``G`` groups.
"""

from __future__ import annotations

from valuealign.evaluate.asking import Questions, drawn, hear
from valuealign.evaluate.behaviour import behaviour_by_stage
from valuealign.evaluate.exam import Exam, Key, build_exam
from valuealign.evaluate.examination import SHEETS, Examination, examination
from valuealign.evaluate.judge import Panel
from valuealign.evaluate.readouts import READOUTS, Readout, cell_sets, exam_of, judge_as_read, readouts
from valuealign.evaluate.record import (
    BASELINE,
    BEHAVIOUR,
    FLOOR,
    HALF,
    HELD_OUT,
    REGRESSION,
    SPLITS,
    Evaluation,
    Portrait,
    Row,
    Standing,
    Tested,
)
from valuealign.evaluate.sharing import UNNAMED, Sharing, sharing
from valuealign.evaluate.sheet import Heard, Sheet, alone, described, mean_rows
from valuealign.metrics import behaviour_auc

__all__ = [
    "BASELINE",
    "BEHAVIOUR",
    "FLOOR",
    "HALF",
    "HELD_OUT",
    "READOUTS",
    "REGRESSION",
    "SHEETS",
    "SPLITS",
    "UNNAMED",
    "Evaluation",
    "Exam",
    "Examination",
    "Heard",
    "Key",
    "Panel",
    "Portrait",
    "Questions",
    "Readout",
    "Row",
    "Sharing",
    "Sheet",
    "Standing",
    "Tested",
    "alone",
    "behaviour_auc",
    "behaviour_by_stage",
    "build_exam",
    "cell_sets",
    "described",
    "drawn",
    "exam_of",
    "examination",
    "hear",
    "judge_as_read",
    "mean_rows",
    "readouts",
    "sharing",
]
