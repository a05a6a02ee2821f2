"""Rendered cells -> prefix-shared batches under a token budget, the same for every rank and run.

A row holds one cell: its prompt once, then its K completions as branches whose positions restart
at the prompt's length. Rows of similar length share a micro-batch (a dense attention mask pays
for padding and for every masked pair, so long shared rows cost more than they save). The plan of
a run is a pure function of (cells, seed): a resumed run sees the same next batches.

Shapes: ``B`` rows, ``T`` tokens, ``S`` scored tokens, ``N`` branches, ``C`` cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from valuealign.types import Batch, Cell, Rendered, Still, Wanted

Weigh = Literal["mass", "n_eff", "equal"]


@dataclass(frozen=True)
class Borrows:
    """What the z0 of open answers read in a row (see ``pairing``).

    Only z0 reads the last ``extra`` branches. ``reads`` are (branch, which z0, how much it counts).
    ``groups`` [K] says which z0 applies to a branch's desirable and undesirable mass.
    """

    extra: int = 0
    reads: tuple[tuple[int, int, float], ...] = ()
    groups: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Row:
    """A rendered cell with its reference's log-probabilities [K] and its place in a term.

    ``weight`` multiplies the cell; 0 makes it padding that only keeps ranks in step.
    """

    rendered: Rendered
    reference: tuple[float, ...] = ()
    weight: float = 1.0
    borrows: Borrows = Borrows()


def weighed(cell: Cell, how: Weigh, *, shrink: float = 50.0) -> tuple[Cell, float]:
    """The cell with the masses that training sees, and its weight.

    ``mass`` keeps masses as they are (exact collapse). ``equal`` normalises each cell to one unit;
    ``n_eff`` does so and weighs the cell n_eff / (n_eff + shrink): precise cells count for more,
    up to a bound.
    """
    if how == "mass":
        return cell, 1.0
    total = cell.mass
    scaled = replace(
        cell,
        desirable=tuple(d / total for d in cell.desirable),
        undesirable=tuple(u / total for u in cell.undesirable),
    )
    return scaled, cell.n_eff / (cell.n_eff + shrink) if how == "n_eff" else 1.0


def step_cells(cells: int, *, step: int, cells_per_step: int, seed: int) -> list[int]:
    """Which cells the given optimizer step sees: a walk through fresh permutations, epoch by epoch."""
    size = min(cells_per_step, cells)
    chosen = [divmod(place, cells) for place in range(step * size, (step + 1) * size)]
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(cells) for epoch in {e for e, _ in chosen}}
    # A step that straddles two epochs may meet a cell twice; its mass then counts twice.
    return [int(orders[epoch][offset]) for epoch, offset in chosen]


def micro_batches(tokens: Sequence[int], *, token_budget: int, ranks: int) -> list[list[list[int]]]:
    """Split cells into micro-batches: ``[rank][micro-batch] -> indices``, equally many for each rank.

    Cells are sorted by length; a micro-batch's padded size (rows x longest) stays within the
    budget unless a single cell exceeds it. Some micro-batches may be empty.
    """
    order = sorted(range(len(tokens)), key=lambda i: (tokens[i], i))
    most = ranks * -(-len(tokens) // ranks)  # one cell each: no finer split helps
    count = min(most, ranks * max(1, -(-sum(tokens) // (token_budget * ranks))))
    chunks = _even_chunks(order, tokens, count)
    while count < most and any(len(c) > 1 and len(c) * tokens[c[-1]] > token_budget for c in chunks):
        count += ranks
        chunks = _even_chunks(order, tokens, count)
    return [[chunks[m * ranks + rank] for m in range(count // ranks)] for rank in range(ranks)]


def _even_chunks(order: Sequence[int], tokens: Sequence[int], count: int) -> list[list[int]]:
    """``count`` contiguous runs of about equally many tokens."""
    if count >= len(order):
        return [[index] for index in order] + [[] for _ in range(count - len(order))]
    total, seen = sum(tokens[i] for i in order), 0
    chunks: list[list[int]] = [[] for _ in range(count)]
    for index in order:
        chunks[min(count - 1, seen * count // total)].append(index)
        seen += tokens[index]
    return chunks


def wanted(rows: Sequence[Row]) -> Wanted:
    """What is wanted of the rows' branches, as tensors on the CPU."""
    cells = [row.rendered.cell for row in rows]
    counts = [len(cell.completions) for cell in cells]
    nan = float("nan")
    positions = [p for cell, k in zip(cells, counts, strict=True) for p in (cell.positions or (nan,) * k)]
    reference = [r for row, k in zip(rows, counts, strict=True) for r in (row.reference or (0.0,) * k)]
    return Wanted(
        cell_N=torch.repeat_interleave(torch.arange(len(cells)), torch.tensor(counts)),
        desirable_N=torch.tensor([d for cell in cells for d in cell.desirable]),
        undesirable_N=torch.tensor([u for cell in cells for u in cell.undesirable]),
        position_N=torch.tensor(positions),
        reference_N=torch.tensor(reference),
        closed_C=torch.tensor([cell.closed for cell in cells]),
        weight_C=torch.tensor([row.weight for row in rows]),
    )


def collate(rows: Sequence[Row], *, pad_id: int, packed: bool = True) -> Batch:
    """Rows as one batch on the CPU: prefix-shared, or (``packed=False``) one row per completion.

    The dense form is for models whose attention is not plain causal, and for checking. Packed, the
    branches that only z0 reads stand in columns of their own at the end: they need no gradient.
    """
    strips = [strip for row in rows for strip in _strips(row, packed)]
    longest = max(len(strip.ids) for strip in strips)
    last = [_last(row, longest) for row in rows] if packed and any(row.borrows.extra for row in rows) else []
    columns = max((len(strip.ids) for strip in last), default=0)
    first_branch = np.cumsum([0] + [strip.branches for strip in strips])

    def padded(name: str, fill: int) -> Tensor:
        first_BT = torch.tensor([[*getattr(s, name), *[fill] * (longest - len(s.ids))] for s in strips])
        if not columns:
            return first_BT
        return torch.cat(
            [first_BT, torch.tensor([[*getattr(s, name), *[fill] * (columns - len(s.ids))] for s in last])], dim=1
        )

    scored = [*enumerate(strips), *enumerate(last)]
    return Batch(
        input_ids_BT=padded("ids", pad_id),
        position_ids_BT=padded("positions", 0),
        branch_BT=padded("branch", -1),
        row_S=torch.tensor([b for b, s in scored for _ in s.cols]),
        col_S=torch.tensor([c for _, s in scored for c in s.cols]),
        target_S=torch.tensor([t for _, s in scored for t in s.targets]),
        branch_S=torch.tensor([int(first_branch[b]) + k for b, s in scored for k in s.owners]),
        wanted=wanted(rows),
        still=Still(columns, sum(len(strip.targets) for strip in last)),
    )


@dataclass(frozen=True)
class _Strip:
    """One row of token ids: where each token sits, and which places predict which targets."""

    ids: list[int]
    positions: list[int]
    branch: list[int]
    cols: list[int]
    targets: list[int]
    owners: list[int]
    branches: int


def _strips(row: Row, packed: bool) -> list[_Strip]:
    prompt, completions = row.rendered.prompt_ids, row.rendered.completion_ids
    if packed:
        return [_strip(prompt, completions[: len(completions) - row.borrows.extra], branches=len(completions))]
    return [_strip(prompt, (completion,), branches=1) for completion in completions]


def _strip(prompt: Sequence[int], completions: Sequence[Sequence[int]], *, branches: int) -> _Strip:
    strip = _Strip(list(prompt), list(range(len(prompt))), [0] * len(prompt), [], [], [], branches)
    _branch_off(strip, len(prompt), completions, column=0, first=0)
    return strip


def _last(row: Row, column: int) -> _Strip:
    """The branches that only z0 reads; their first token stands in ``column``."""
    strip = _Strip([], [], [], [], [], [], 0)
    first = len(row.rendered.completion_ids) - row.borrows.extra
    _branch_off(strip, len(row.rendered.prompt_ids), row.rendered.completion_ids[first:], column=column, first=first)
    return strip


def _branch_off(strip: _Strip, prompt: int, completions: Sequence[Sequence[int]], *, column: int, first: int) -> None:
    """Add the completions of a prompt of so many tokens as branches ``first``, ``first`` + 1, ..."""
    for k, completion in enumerate(completions, start=first):
        start = column + len(strip.ids)
        # The last token of a completion (EOS) is predicted but never read.
        strip.ids.extend(completion[:-1])
        strip.positions.extend(range(prompt, prompt + len(completion) - 1))
        strip.branch.extend([k + 1] * (len(completion) - 1))
        strip.cols.extend([prompt - 1, *range(start, start + len(completion) - 1)])
        strip.targets.extend(completion)
        strip.owners.extend([k] * len(completion))


def visible(branch_BT: Tensor) -> Tensor:
    """The attention mask [B, 1, T, T]: a token sees the prompt and its own branch, causally.

    Padding sees itself, so that no softmax runs over nothing.
    """
    t = branch_BT.shape[1]
    causal_TT = torch.ones(t, t, dtype=torch.bool, device=branch_BT.device).tril()
    query_BT1, key_B1T = branch_BT[:, :, None], branch_BT[:, None, :]
    seen_BTT = (key_B1T == 0) | (key_B1T == query_BT1)
    real_BTT = (key_B1T >= 0) & (query_BT1 >= 0)
    itself_TT = torch.eye(t, dtype=torch.bool, device=branch_BT.device)
    return ((causal_TT & seen_BTT & real_BTT) | itself_TT)[:, None]
