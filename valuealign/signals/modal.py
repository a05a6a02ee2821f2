"""One answer for each group becomes a cell: CultureLLM's way, and the control that shows what is lost by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from valuealign.population import ShareTable
from valuealign.prompts import Template
from valuealign.signals.targets import survey_cells
from valuealign.types import Cell, Group


def modal_cells(
    table: ShareTable, pairs: Iterable[tuple[str, Group]], *, templates: Sequence[Template] = ()
) -> list[Cell]:
    """The cells of ``survey_cells`` with all mass on the most chosen option (of equals the first)."""
    return [_modal(cell) for cell in survey_cells(table, pairs, templates=templates)]


def _modal(cell: Cell) -> Cell:
    most = int(np.argmax(cell.desirable))
    desirable = tuple(float(k == most) for k in range(len(cell.desirable)))
    return replace(cell, desirable=desirable, source=cell.source.replace("survey:", "modal:", 1))
