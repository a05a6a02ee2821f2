"""Feedback posted on served answers becomes cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from valuealign.store import Judged
from valuealign.types import Cell, Message

Key = tuple[tuple[Message, ...], tuple[str, ...]]


@dataclass
class _Heard:
    """What was said of one prompt and set of completions: masses by text, and the posts' own weights."""

    desirable: dict[str, float] = field(default_factory=dict)
    undesirable: dict[str, float] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)


def feedback_cells(
    rows: Sequence[Judged], *, weights: Mapping[str, float] | None = None, cap: float = float("inf")
) -> list[Cell]:
    """A cell for each judged answer, in order of first appearance.

    A desirable or undesirable answer is an open cell of K = 1. A correction is one of K = 2: the
    correction (first) desirable, the model's answer undesirable. Shares posted on a distribution are a closed
    cell of its K options, whose ``n_eff`` is the people behind them, ``cap`` at most; nor does one post count
    for more than ``cap`` of them. Rows that say the same
    of the same prompt collapse to one mass. Each row weighs ``weights`` of its feedback id (absent: 1); ``n_eff`` of
    an open cell is Kish's over its posts.
    """
    found: dict[Key, _Heard] = {}
    shared: dict[Key, dict[str, float]] = {}
    for row in rows:
        weight = 1.0 if weights is None else weights.get(row.feedback.id, 1.0)
        if row.feedback.shares is not None:
            _share(shared, row, weight, cap)
            continue
        answer, correction = row.response.answer, row.feedback.correction
        wanted = answer if row.feedback.verdict == "desirable" else correction
        unwanted = answer if wanted != answer else None
        completions = tuple(text for text in (wanted, unwanted) if text is not None)
        heard = found.setdefault((row.response.messages, completions), _Heard())
        if wanted is not None:
            heard.desirable[wanted] = heard.desirable.get(wanted, 0.0) + weight
        if unwanted is not None:
            heard.undesirable[unwanted] = heard.undesirable.get(unwanted, 0.0) + weight
        heard.weights.append(weight)
    return [_open(key, heard) for key, heard in found.items()] + [_closed(*one, cap) for one in shared.items()]


def _open(key: Key, heard: _Heard) -> Cell:
    prompt, completions = key
    weights = np.array(heard.weights)
    return Cell(
        prompt=prompt,
        completions=completions,
        desirable=tuple(heard.desirable.get(text, 0.0) for text in completions),
        undesirable=tuple(heard.undesirable.get(text, 0.0) for text in completions),
        n_eff=float(weights.sum() ** 2 / (weights**2).sum()),
        source="feedback:correction" if len(completions) > 1 else "feedback:verdict",
    )


def _share(shared: dict[Key, dict[str, float]], row: Judged, weight: float, cap: float) -> None:
    """Add the people behind posted shares to each option; an option that is not named has nobody."""
    posted = row.feedback.shares or {}
    options = tuple(row.response.detail.get("options") or posted)
    people = shared.setdefault((row.response.messages, options), dict.fromkeys(options, 0.0))
    total = sum(posted.get(option, 0.0) for option in options)
    n = weight * min(row.feedback.n or 1.0, cap)
    for option in options:
        people[option] += n * posted.get(option, 0.0) / total if total > 0 else 0.0


def _closed(key: Key, people: Mapping[str, float], cap: float) -> Cell:
    prompt, options = key
    total = sum(people.values())
    shares = tuple(people[option] / total if total > 0 else 1 / len(options) for option in options)
    nobody = (0.0,) * len(options)
    return Cell(prompt, options, shares, nobody, closed=True, n_eff=min(total, cap), source="feedback:shares")
