"""Preference pairs become cells of two answers, the chosen one desirable."""

from __future__ import annotations

from pathlib import Path

from valuealign.signals._lines import read_lines
from valuealign.types import Cell, Message


def read_pairs(path: Path | str) -> list[Cell]:
    """Cells (K = 2: chosen, rejected) of a JSON lines file of ``prompt`` (text or chat), ``chosen``,
    ``rejected`` (text or one assistant turn) and, optionally, ``weight`` (>= 0).

    Equal pairs become one cell with their summed weight. Pairs of one prompt stay apart: in one
    cell, each chosen answer would be held against every rejected one, also of other pairs.
    Raises SignalError naming file and line.
    """
    weights: dict[tuple[tuple[Message, ...], str, str], list[float]] = {}
    for line in read_lines(path):
        chosen, rejected = line.text("chosen"), line.text("rejected")
        if chosen == rejected:
            raise line.error("'chosen' and 'rejected' are the same text", "leave the line out: it prefers nothing")
        weights.setdefault((line.prompt(), chosen, rejected), []).append(line.weight())
    return [
        Cell(
            prompt=prompt,
            completions=(chosen, rejected),
            desirable=(sum(masses), 0.0),
            undesirable=(0.0, sum(masses)),
            n_eff=sum(masses) ** 2 / sum(m * m for m in masses) if sum(masses) > 0 else 0.0,
            source=f"pairs:{Path(path).name}",
        )
        for (prompt, chosen, rejected), masses in weights.items()
    ]
