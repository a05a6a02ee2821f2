"""Which completion of another prompt a row borrows, for the z0 of open answers.

A row carries what it borrows as further branches at its end. In a forward pass with gradient they come
last and cost their own tokens only, for the prompt is there already; where a step is more than one
micro-batch, its z0 must be known before the first loss, and they are scored beforehand, on their own.

``rotate`` makes the rows of z0 ``parity``: one completion with one label each, in the order of their
file, that borrow as in TRL's KTOTrainer (1.16): within a block of rows, which there is a micro-batch of
a rank, each takes the completion of the row before it, and the first that of the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from valuealign.packing import Borrows, Row
from valuealign.types import Borrowed, Cell, Message


def lend(row: Row, pair: Row) -> Row:
    """The row with the completion of ``pair`` (its prompt, mismatched) as a branch that only z0 reads."""
    cell, lent = row.rendered.cell, pair.rendered.cell
    k = len(cell.completions)
    whole = replace(
        cell,
        completions=cell.completions + lent.completions,
        desirable=(*cell.desirable, 0.0),
        undesirable=(*cell.undesirable, 0.0),
        positions=(),
    )
    rendered = replace(
        row.rendered, cell=whole, completion_ids=row.rendered.completion_ids + pair.rendered.completion_ids
    )
    borrows = Borrows(extra=1, reads=((k, 0, lent.mass),), groups=((0, 0),) * (k + 1))
    return Row(rendered, row.reference + pair.reference, row.weight, borrows)


def own(row: Row) -> Row:
    """The row without the branches that only z0 reads."""
    keep = range(len(row.rendered.completion_ids) - row.borrows.extra)
    return replace(
        _pick(row, keep), borrows=replace(row.borrows, extra=0, reads=(), groups=row.borrows.groups[: len(keep)])
    )


def lent(row: Row) -> Row:
    """The branches that z0 reads, alone."""
    keep = sorted({branch for branch, _, _ in row.borrows.reads})
    place = {branch: i for i, branch in enumerate(keep)}
    reads = tuple((place[branch], group, weight) for branch, group, weight in row.borrows.reads)
    groups = tuple(row.borrows.groups[branch] for branch in keep)
    return replace(_pick(row, keep), borrows=Borrows(reads=reads, groups=groups))


def _pick(row: Row, branches: Sequence[int]) -> Row:
    """The row with some of its branches, in the order given."""
    rendered, cell = row.rendered, row.rendered.cell
    some = replace(
        cell,
        completions=tuple(cell.completions[b] for b in branches),
        desirable=tuple(cell.desirable[b] for b in branches),
        undesirable=tuple(cell.undesirable[b] for b in branches),
        positions=(),
    )
    ids = tuple(rendered.completion_ids[b] for b in branches)
    reference = tuple(row.reference[b] for b in branches) if row.reference else ()
    return Row(replace(rendered, cell=some, completion_ids=ids), reference, row.weight)


def borrowed(rows: Sequence[Row], groups: int) -> Borrowed:
    """What the z0 of the rows' branches read, as tensors; ``groups`` is how many z0 the step has."""
    first = np.cumsum([0] + [len(row.rendered.completion_ids) for row in rows])
    reads = [
        (int(first[c]) + branch, group, weight * row.weight)
        for c, row in enumerate(rows)
        for branch, group, weight in row.borrows.reads
    ]
    return Borrowed(
        branch_M=torch.tensor([branch for branch, _, _ in reads], dtype=torch.long),
        group_M=torch.tensor([group for _, group, _ in reads], dtype=torch.long),
        weight_M=torch.tensor([weight for _, _, weight in reads]),
        group_2N=torch.tensor([both for row in rows for both in row.borrows.groups], dtype=torch.long).T,
        groups=groups,
    )


def groups(rows: Sequence[Row]) -> int:
    """How many z0 a step's rows have."""
    return 1 + max(group for row in rows for _, group, _ in row.borrows.reads)


class Mark(NamedTuple):
    """One of TRL's rows: a branch of a cell, the branch it borrows, and its mass of either kind."""

    cell: int
    branch: int
    borrows: int
    desirable: float
    undesirable: float


@dataclass(frozen=True)
class Rotation:
    """TRL's rows in blocks. ``cells``, one a prompt, hold all completions that rows with that prompt have or borrow."""

    cells: tuple[Cell, ...]
    blocks: tuple[tuple[Mark, ...], ...]


def rows_of(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells as open cells of one completion with one label each, in their order."""
    return tuple(
        replace(cell, completions=(text,), desirable=(d,), undesirable=(u,), closed=False, positions=())
        for cell in cells
        for text, desired, not_desired in zip(cell.completions, cell.desirable, cell.undesirable, strict=True)
        for d, u in ((desired, 0.0), (0.0, not_desired))
        if d or u
    )


def rotate(rows: Sequence[Cell], size: int) -> Rotation:
    """Blocks of ``size`` of the rows (``rows_of``), each row with the completion of the one before it."""
    place: dict[tuple[Message, ...], int] = {}
    texts: list[dict[str, int]] = []
    blocks = []
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        marks = []
        for i, row in enumerate(block):
            cell = place.setdefault(row.prompt, len(place))
            if cell == len(texts):
                texts.append({})
            branch, other = (
                texts[cell].setdefault(text, len(texts[cell]))
                for text in (row.completions[0], block[i - 1].completions[0])
            )
            marks.append(Mark(cell, branch, other, row.desirable[0], row.undesirable[0]))
        blocks.append(tuple(marks))
    cells = [
        Cell(prompt, tuple(some), (0.0,) * len(some), (0.0,) * len(some))
        for prompt, some in zip(place, texts, strict=True)
    ]
    return Rotation(tuple(cells), tuple(blocks))


@dataclass
class _Gathered:
    """The rows of a step that share a prompt, on their way to one packed row."""

    branches: list[int] = field(default_factory=list)
    masses: list[list[float]] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)
    reads: list[tuple[int, int, float]] = field(default_factory=list)

    def add(self, mark: Mark, group: int, total: float) -> None:
        label = 0 if mark.desirable else 1
        places = [i for i, branch in enumerate(self.branches) if branch == mark.branch]
        # Equal rows of two blocks have two z0: each then has a branch of its own.
        at = next((i for i in places if not self.masses[i][label]), len(self.branches))
        if at == len(self.branches):
            self.branches.append(mark.branch)
            self.masses.append([0.0, 0.0])
            self.groups.append([0, 0])
        self.masses[at][label] = (mark.desirable + mark.undesirable) / total
        self.groups[at][label] = group
        self.reads.append((mark.borrows, group, (mark.desirable + mark.undesirable) / total))

    def row(self, whole: Row) -> Row:
        """The gathered rows as one, its completions and reference taken from the row with all of its prompt's."""
        only_read = sorted({branch for branch, _, _ in self.reads} - set(self.branches))
        order = self.branches + only_read
        picked = _pick(whole, order)
        masses = self.masses + [[0.0, 0.0]] * len(only_read)
        cell = replace(
            picked.rendered.cell, desirable=tuple(d for d, _ in masses), undesirable=tuple(u for _, u in masses)
        )
        borrows = Borrows(
            extra=len(only_read),
            reads=tuple((order.index(branch), group, weight) for branch, group, weight in self.reads),
            groups=tuple((d, u) for d, u in self.groups) + ((0, 0),) * len(only_read),
        )
        return replace(picked, rendered=replace(picked.rendered, cell=cell), borrows=borrows)


def rotated(rotation: Rotation, wholes: Sequence[Row], *, step: int, blocks: int, ranks: int) -> list[Row]:
    """The rows of an optimizer step of TRL on ``ranks`` ranks: ``blocks`` blocks, in order, gathered by prompt.

    ``wholes`` are ``rotation.cells`` rendered. Each block weighs 1, as the mean over a micro-batch does
    there, and the ranks' blocks of one micro-batch share a z0. An epoch's last step may be short.
    """
    size = -(-len(rotation.blocks) // blocks)
    at = step % size * blocks
    gathered: dict[int, _Gathered] = {}
    for number, block in enumerate(rotation.blocks[at : at + blocks]):
        total = sum(mark.desirable + mark.undesirable for mark in block)
        for mark in block:
            gathered.setdefault(mark.cell, _Gathered()).add(mark, number // ranks, total)
    return [some.row(wholes[cell]) for cell, some in gathered.items()]
