"""Feedback posted on served answers becomes cells."""

from __future__ import annotations

from collections.abc import Sequence

from valuealign.store import Judged
from valuealign.types import Cell, Message

Masses = tuple[dict[str, float], dict[str, float]]


def feedback_cells(rows: Sequence[Judged]) -> list[Cell]:
    """One open cell for each judged answer, in order of first appearance.

    A desirable or undesirable answer is a cell of K = 1. A correction is one of K = 2: the
    correction (first) desirable, the model's answer undesirable. Rows that say the same of the
    same prompt collapse to one mass. ``n_eff`` counts the posts behind the cell.
    """
    found: dict[tuple[tuple[Message, ...], tuple[str, ...]], Masses] = {}
    posts: dict[tuple[tuple[Message, ...], tuple[str, ...]], int] = {}
    for row in rows:
        answer, correction = row.response.answer, row.feedback.correction
        wanted = answer if row.feedback.verdict == "desirable" else correction
        unwanted = answer if wanted != answer else None
        completions = tuple(text for text in (wanted, unwanted) if text is not None)
        key = (row.response.messages, completions)
        desirable, undesirable = found.setdefault(key, ({}, {}))
        if wanted is not None:
            desirable[wanted] = desirable.get(wanted, 0.0) + 1.0
        if unwanted is not None:
            undesirable[unwanted] = undesirable.get(unwanted, 0.0) + 1.0
        posts[key] = posts.get(key, 0) + 1
    return [
        Cell(
            prompt=prompt,
            completions=completions,
            desirable=tuple(desirable.get(text, 0.0) for text in completions),
            undesirable=tuple(undesirable.get(text, 0.0) for text in completions),
            n_eff=float(posts[prompt, completions]),
            source="feedback:correction" if len(completions) > 1 else "feedback:verdict",
        )
        for (prompt, completions), (desirable, undesirable) in found.items()
    ]
