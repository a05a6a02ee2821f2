"""Answers marked desirable or undesirable become cells; equal rows collapse to one mass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from valuealign.signals.raters import Votes
from valuealign.types import Cell, Message


class Mark(NamedTuple):
    """One judgement: ``label`` is true where ``completion`` is a desirable answer to ``prompt``.

    ``rater`` names who judged; None is somebody of whom nothing else is known.
    """

    prompt: tuple[Message, ...]
    completion: str
    label: bool
    weight: float = 1.0
    rater: str | None = None


def collapse(marks: Iterable[Mark], *, source: str) -> list[Cell]:
    """One open cell a prompt, its distinct completions as branches, in order of first appearance.

    Equal (prompt, completion, label) rows become one mass, the sum of their weights; desirable and
    undesirable masses stay apart. Exact: a loss summed over rows equals it summed over masses.
    ``n_eff`` is Kish's (sum w)^2 / sum w^2 over the raters of the prompt, w the sum of a rater's rows.
    """
    masses: dict[tuple[Message, ...], dict[str, list[float]]] = {}
    votes: dict[tuple[Message, ...], Votes] = {}
    for mark in marks:
        mass = masses.setdefault(mark.prompt, {}).setdefault(mark.completion, [0.0, 0.0])
        mass[0 if mark.label else 1] += mark.weight
        votes.setdefault(mark.prompt, Votes()).add(mark.rater, mark.weight)
    return [
        Cell(
            prompt=prompt,
            completions=tuple(answers),
            desirable=tuple(mass[0] for mass in answers.values()),
            undesirable=tuple(mass[1] for mass in answers.values()),
            n_eff=votes[prompt].kish().n_eff,
            source=source,
        )
        for prompt, answers in masses.items()
    ]
