"""What builds cells. A new signal is a file and a line in ``SIGNALS``; every entry returns a list of cells."""

from __future__ import annotations

from collections.abc import Callable

from valuealign.signals.behaviour import Behaviour, behaviour_parts
from valuealign.signals.binary import Mark, collapse
from valuealign.signals.documents import document_cells
from valuealign.signals.feedback import feedback_cells
from valuealign.signals.files import Feedback, read_binary, read_feedback, read_flagged, read_pairs
from valuealign.signals.individuals import individual_cells
from valuealign.signals.modal import modal_cells
from valuealign.signals.pairs import Pair, pair_cells
from valuealign.signals.profile import profiled_cells
from valuealign.signals.targets import question, survey_cells
from valuealign.types import Cell

SIGNALS: dict[str, Callable[..., list[Cell]]] = {
    "targets": survey_cells,
    "individuals": individual_cells,
    "profile": profiled_cells,
    "modal": modal_cells,
    "documents": document_cells,
    "binary": read_binary,
    "pairs": read_pairs,
    "feedback": feedback_cells,
}

__all__ = [
    "SIGNALS",
    "Behaviour",
    "Feedback",
    "Mark",
    "Pair",
    "behaviour_parts",
    "collapse",
    "document_cells",
    "feedback_cells",
    "individual_cells",
    "modal_cells",
    "pair_cells",
    "profiled_cells",
    "question",
    "read_binary",
    "read_feedback",
    "read_flagged",
    "read_pairs",
    "survey_cells",
]
