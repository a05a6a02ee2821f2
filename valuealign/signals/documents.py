"""What a group answered, said in a sentence: documents for continued pretraining."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from valuealign.population import ShareTable
from valuealign.prompts import Statement, wordings
from valuealign.signals.targets import answered
from valuealign.types import Cell, Group

PEOPLE = 100


def document_cells(
    table: ShareTable, pairs: Iterable[tuple[str, Group]], *, statements: Sequence[Statement] = ()
) -> list[Cell]:
    """An open cell for each (item id, group) of ``pairs`` and each statement (none given: all built-in ones).

    Its prompt is empty (the start of a plain text, no chat) and its one completion says how many of
    100 people of the group chose each option. KeyError as ``survey_cells``.
    """
    cells = []
    for item, group, shares, n_eff in answered(table, pairs):
        counts = [(option.text, n) for option, n in zip(item.options, of_hundred(shares), strict=True)]
        for one in statements or wordings().statements.values():
            cells.append(
                Cell(
                    prompt=(),
                    completions=(one.document(item.text, counts, group.text),),
                    desirable=(1.0,),
                    undesirable=(0.0,),
                    n_eff=n_eff,
                    group=group.name,
                    source=f"documents:{item.id}",
                )
            )
    return cells


def of_hundred(shares: Sequence[float]) -> list[int]:
    """Shares as whole people of 100, the largest remainders rounded up so that they sum to 100."""
    exact_K = PEOPLE * np.asarray(shares, dtype=np.float64) / np.sum(shares)
    whole_K = np.floor(exact_K).astype(int)
    missing = PEOPLE - int(whole_K.sum())
    whole_K[np.argsort(whole_K - exact_K, kind="stable")[:missing]] += 1
    return [int(n) for n in whole_K]
