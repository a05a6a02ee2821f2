"""The offline loop: stages of terms, each an objective on cells, as a generator of step reports.

An optimizer step sees a fixed number of cells of each term. Every loss is divided by the global
mass of the whole step, known beforehand from the plan, so that neither ranks, nor packing, nor
accumulation changes the gradient. Shapes: ``N`` branches, ``G`` reference points z0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from valuealign.config import TrainConfig
from valuealign.engine import row_tokens
from valuealign.errors import Diverged
from valuealign.learner.terms import Stage, Term, mismatched_cells
from valuealign.objectives import OBJECTIVES
from valuealign.objectives.kto import mismatch
from valuealign.packing import Row, collate, micro_batches, step_cells, wanted, weighed
from valuealign.pairing import Rotation, borrowed, groups, lend, lent, own, rotate, rotated
from valuealign.prompts import ChatTokenizer, render
from valuealign.types import Engine, StepReport, Wanted


def learning_rate(step: int, *, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then cosine to a tenth of the peak."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return peak * (step + 1) / warm
    along = (step - warm) / max(1, steps - warm)
    return peak * (0.1 + 0.9 * (1 + math.cos(math.pi * along)) / 2)


@dataclass(frozen=True)
class _Ready:
    """A term with its rows rendered; for z0 ``mismatched`` they borrow, for ``parity`` TRL's rotation says how."""

    term: Term
    rows: tuple[Row, ...]
    rotation: Rotation | None = None

    @property
    def borrows(self) -> bool:
        """Whether z0 is a mean over completions of other prompts."""
        return self.term.mismatched or self.rotation is not None

    def step(self, stage: Stage, number: int, step: int, ranks: int) -> list[Row]:
        """The rows that optimizer step ``step`` sees of this term, the ``number``-th of the stage."""
        per_step = min(stage.cells_per_step, len(self.term.cells))
        if self.rotation is not None:
            blocks = max(1, per_step // self.term.parity_rows)
            return rotated(self.rotation, self.rows, step=step, blocks=blocks, ranks=ranks)
        chosen = step_cells(len(self.rows), step=step, cells_per_step=per_step, seed=stage.seed + 1000 * number)
        return [self.rows[i] for i in chosen]


def learn(
    engine: Engine,
    stage: Stage,
    tokenizer: ChatTokenizer,
    *,
    train: TrainConfig,
    pad_id: int,
    packed: bool,
    reference: Sequence[np.ndarray] = (),
    start: int = 0,
) -> Iterator[StepReport]:
    """Train a stage from step ``start``, yielding a report after each optimizer step.

    ``reference`` holds log pi_ref [K] for ``stage.referenced``. All ranks call this alike. Raises Diverged on all
    of them where the loss is no longer a number.
    """
    terms = _prepare(stage, tokenizer, reference)
    for step in range(start, stage.steps):
        began = time.perf_counter()
        rate = learning_rate(step, steps=stage.steps, peak=stage.learning_rate, warmup=train.warmup)
        sums, tokens = _accumulate(engine, stage, terms, step, train=train, pad_id=pad_id, packed=packed)
        norm = engine.step(rate)
        names = sorted(sums)
        flat = engine.all_sum(
            torch.tensor([[sums[n][0], sums[n][1]] for n in names] + [[tokens, 0.0]], dtype=torch.float64)
        )
        means = {n: float(t / c) if c else 0.0 for n, (t, c) in zip(names, flat[:-1].tolist(), strict=True)}
        loss = means.pop("loss")
        if not math.isfinite(loss):
            raise Diverged(
                f"the training diverged: its loss is {loss}",
                where=f"stage {stage.name}, step {step + 1} of {stage.steps}",
                mend=f"lower {stage.name}.learning_rate (here {stage.learning_rate:g})",
            )
        seconds = time.perf_counter() - began
        yield StepReport(stage.name, step + 1, stage.steps, loss, means, int(flat[-1, 0]), seconds, rate, norm)


def _prepare(stage: Stage, tokenizer: ChatTokenizer, reference: Sequence[np.ndarray]) -> list[_Ready]:
    logps = iter(reference)
    ready = []
    for term in stage.terms:
        rows = []
        for cell in term.scored:
            scaled, weight = weighed(cell, term.weigh, shrink=term.shrink)
            rows.append(Row(render(scaled, tokenizer), () if term.reference_free else tuple(next(logps)), weight))
        ready.append(_Ready(term, tuple(rows), rotate(term.cells, term.parity_rows) if term.parity_rows else None))
    for i, term in enumerate(stage.terms):
        if term.mismatched:
            pairs = (
                Row(render(cell, tokenizer), () if term.reference_free else tuple(next(logps)))
                for cell in mismatched_cells(term.cells)
            )
            borrowing = tuple(lend(row, pair) for row, pair in zip(ready[i].rows, pairs, strict=True))
            ready[i] = replace(ready[i], rows=borrowing)
    assert next(logps, None) is None, "reference must match stage.referenced"
    return ready


def _accumulate(
    engine: Engine, stage: Stage, terms: Sequence[_Ready], step: int, *, train: TrainConfig, pad_id: int, packed: bool
) -> tuple[dict[str, tuple[float, float]], int]:
    """Forward and backward of one optimizer step on this rank; sums of loss and statistics."""
    form: dict[str, Any] = {"pad_id": pad_id, "packed": packed}
    jobs: list[tuple[_Ready, list[Row], float, _Z0 | None]] = []
    for number, ready in enumerate(terms):
        rows = ready.step(stage, number, step, engine.world)
        hyper = ready.term.hyper
        negatives = {"negatives": hyper["negatives"]} if "negatives" in hyper else {}
        # A step may meet only cells without mass; its loss is then 0, not 0 / 0.
        mass = float(OBJECTIVES[ready.term.objective].mass(wanted(rows), **negatives)) or 1.0
        z0 = None
        if ready.borrows:
            rows, z0 = _z0(engine, rows, signed=ready.term.reference_free, train=train, **form)
        for part in _parts(engine, rows, train.token_budget, packed):
            jobs.append((ready, part, mass, z0))
    sums: dict[str, tuple[float, float]] = {}
    tokens_seen = 0
    for n, (ready, rows, mass, z0) in enumerate(jobs):
        batch = collate(rows, **form)
        logp_N = engine.score(batch)
        moved = type(batch.wanted)(**{k: v.to(logp_N.device) for k, v in vars(batch.wanted).items()})
        open_ = {"z0_open": z0.of(engine, rows, logp_N, batch.wanted)} if z0 else {}
        terms_out = OBJECTIVES[ready.term.objective].loss(logp_N, moved, **ready.term.hyper, **open_)
        loss = ready.term.weight * terms_out.loss.total / mass
        engine.backward(loss)
        # The step's loss is a sum over terms of means, so its own count is one per step.
        _add(sums, "loss", float(loss.detach()), 1.0 if n == 0 and engine.rank == 0 else 0.0)
        for name, value in terms_out.stats.items():
            _add(sums, name, float(value.total), float(value.count))
        tokens_seen += batch.tokens if any(row.weight for row in rows) else 0  # padding is no work
    return sums, tokens_seen


def _parts(engine: Engine, rows: Sequence[Row], token_budget: int, packed: bool) -> list[list[Row]]:
    """This rank's micro-batches of a step's rows, as many as every rank has."""
    plan = micro_batches([row_tokens(r.rendered, packed) for r in rows], token_budget=token_budget, ranks=engine.world)
    return [[rows[i] for i in group] or [replace(rows[0], weight=0.0)] for group in plan[engine.rank]]


@dataclass
class _Z0:
    """The z0 of a step's open answers: ``level_G``, or None while the step's one micro-batch is yet to tell.

    Against a uniform reference (``signed``) the mean is a divergence less an unknown constant: no sign to keep.
    """

    groups: int
    signed: bool
    level_G: Tensor | None = None

    def of(self, engine: Engine, rows: Sequence[Row], logp_N: Tensor, wanted: Wanted) -> Tensor:
        """z0 [2, N] for the desirable and undesirable mass of each branch."""
        reads = borrowed(rows, self.groups)
        level_G = self.level_G
        if level_G is None:
            level_G = self.level(engine, mismatch(logp_N.cpu(), wanted, reads))
        return level_G[reads.group_2N].to(logp_N.device)

    def level(self, engine: Engine, parts_2G: Tensor) -> Tensor:
        """Weighted means over all ranks, then clamped."""
        total_2G = engine.all_sum(parts_2G)
        mean_G = (total_2G[0] / total_2G[1].clamp(min=1e-12)).float()
        return mean_G if self.signed else mean_G.clamp(min=0)


def _z0(
    engine: Engine, rows: list[Row], *, signed: bool, train: TrainConfig, pad_id: int, packed: bool
) -> tuple[list[Row], _Z0]:
    """A step's rows, and how their z0 is had: from the very pass that is trained on, where the step is one
    micro-batch of packed open cells, else beforehand, from what the rows borrow (which they then lose)."""
    z0 = _Z0(groups(rows), signed)
    if packed and not any(r.rendered.cell.closed for r in rows):
        if len(_parts(engine, rows, train.token_budget, packed)) == 1:
            return rows, z0
    parts_2G = torch.zeros(2, z0.groups, dtype=torch.float64)
    with torch.no_grad():
        for part in _parts(engine, [lent(r) for r in rows], train.token_budget, packed):
            batch = collate(part, pad_id=pad_id, packed=packed)
            parts_2G += mismatch(engine.score(batch).cpu(), batch.wanted, borrowed(part, z0.groups))
    z0.level_G = z0.level(engine, parts_2G)
    return [own(r) for r in rows], z0


def _add(sums: dict[str, tuple[float, float]], name: str, total: float, count: float) -> None:
    before = sums.get(name, (0.0, 0.0))
    sums[name] = (before[0] + total, before[1] + count)
