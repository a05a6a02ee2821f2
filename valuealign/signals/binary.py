"""Answers marked desirable or undesirable become cells; equal rows collapse to one mass."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from valuealign.signals._lines import read_lines
from valuealign.types import Cell, Message


class Mark(NamedTuple):
    """One judgement: ``label`` is true where ``completion`` is a desirable answer to ``prompt``."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool
    weight: float = 1.0


def read_binary(path: Path | str) -> list[Cell]:
    """Cells of a JSON lines file of ``prompt`` (text or chat), ``completion`` (text or one assistant
    turn), ``label`` (true or false) and, optionally, ``weight`` (>= 0).

    Raises SignalError naming file and line.
    """
    marks = [Mark(line.prompt(), line.text("completion"), line.label(), line.weight()) for line in read_lines(path)]
    return collapse(marks, source=f"binary:{Path(path).name}")


def collapse(marks: Iterable[Mark], *, source: str) -> list[Cell]:
    """One open cell a prompt, its distinct completions as branches, in order of first appearance.

    Equal (prompt, completion, label) rows become one mass, the sum of their weights; desirable and
    undesirable masses stay apart. Exact: a loss summed over rows equals it summed over masses.
    ``n_eff`` is Kish's (sum w)^2 / sum w^2 over the rows of the prompt.
    """
    masses: dict[tuple[Message, ...], dict[str, list[float]]] = {}
    squares: dict[tuple[Message, ...], float] = {}
    for mark in marks:
        mass = masses.setdefault(mark.prompt, {}).setdefault(mark.completion, [0.0, 0.0])
        mass[0 if mark.label else 1] += mark.weight
        squares[mark.prompt] = squares.get(mark.prompt, 0.0) + mark.weight**2
    cells = []
    for prompt, answers in masses.items():
        total = sum(sum(mass) for mass in answers.values())
        cells.append(
            Cell(
                prompt=prompt,
                completions=tuple(answers),
                desirable=tuple(mass[0] for mass in answers.values()),
                undesirable=tuple(mass[1] for mass in answers.values()),
                n_eff=total**2 / squares[prompt] if squares[prompt] > 0 else 0.0,
                source=source,
            )
        )
    return cells
