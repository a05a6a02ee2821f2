"""The offline loop: stages of terms, each an objective on cells, as a generator of step reports.

An optimizer step sees a fixed number of cells of each term. Every loss is divided by the global
mass of the whole step, known beforehand from the plan, so that neither ranks, nor packing, nor
accumulation changes the gradient. Shapes: ``N`` branches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from valuealign.config import DistributionConfig, KtoConfig, RunConfig, TrainConfig
from valuealign.engine import row_tokens
from valuealign.errors import ConfigError
from valuealign.objectives import OBJECTIVES
from valuealign.objectives.kto import LambdaRule, lambda_rule, mismatch
from valuealign.packing import Row, Weigh, collate, micro_batches, step_cells, wanted, weighed
from valuealign.pairing import Rotation, borrowed, groups, lend, lent, own, rotate, rotated, rows_of
from valuealign.prompts import ChatTokenizer, render
from valuealign.types import Cell, Engine, StepReport, Wanted


@dataclass(frozen=True)
class Term:
    """An objective on cells with a weight.

    ``mismatched`` asks for KTO's z0 of open answers; ``parity_rows`` for that of TRL, in blocks of so many cells.
    """

    name: str
    objective: str
    cells: tuple[Cell, ...]
    hyper: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    weigh: Weigh = "equal"
    shrink: float = 50.0
    mismatched: bool = False
    parity_rows: int = 0


@dataclass(frozen=True)
class Stage:
    """Terms trained together. The first term's cells set the number of steps."""

    name: str
    terms: tuple[Term, ...]
    epochs: float
    learning_rate: float
    cells_per_step: int
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage, at least one."""
        cells = len(self.terms[0].cells)
        return max(1, round(self.epochs * cells / min(self.cells_per_step, cells)))

    @property
    def referenced(self) -> tuple[Cell, ...]:
        """The cells whose reference log-probabilities the stage needs, in order."""
        cells = [c for term in self.terms if OBJECTIVES[term.objective].reference for c in _scored(term)]
        pairs = [c for term in self.terms if term.mismatched for c in mismatched_cells(term.cells)]
        return tuple(cells + pairs)


def distribution_term(cells: Sequence[Cell], config: DistributionConfig, *, weight: float = 1.0) -> Term:
    """Survey cells under the distribution loss: stage 1, and the anchor of every later stage."""
    hyper = {"distance": config.distance, "raw_mass": config.raw_mass}
    return Term("survey", "distribution", tuple(cells), hyper, weight, config.weigh, config.shrink)


def kto_term(cells: Sequence[Cell], config: KtoConfig) -> Term:
    """Cells under KTO. Raises ConfigError on combinations whose fixed point would not be the people's."""
    if not sum(c.mass for c in cells):
        raise ConfigError(
            "there is nothing to learn from", where="kto.feedback", mend="give answers that people marked"
        )
    closed = {cell.closed for cell in cells}
    if config.negatives == "policy":
        if closed != {True}:
            raise ConfigError(
                "negatives: policy needs closed answer sets", where="kto.negatives", mend="set kto.on: survey"
            )
        if config.lambda_d != config.lambda_u:
            raise ConfigError(
                "negatives: policy has the people's shares as its fixed point only if lambda_d = lambda_u",
                where=f"kto.lambda_d={config.lambda_d}, kto.lambda_u={config.lambda_u}",
                mend="make them equal, or set kto.negatives: human",
            )
    if config.z0 == "options" and closed != {True}:
        raise ConfigError("z0: options needs closed answer sets", where="kto.z0", mend="set kto.z0: auto or mismatched")
    if config.z0 == "mismatched" and closed != {False}:
        raise ConfigError("z0: mismatched is for open answers", where="kto.z0", mend="set kto.z0: auto or options")
    hyper = {
        "beta": config.beta,
        "lambda_d": config.lambda_d,
        "lambda_u": config.lambda_u,
        "negatives": config.negatives,
        "z0_closed": "none" if config.z0 == "none" else "options",
    }
    if config.z0 == "parity":
        rows = rows_of(cells)
        return Term("behaviour", "kto", rows, hyper, 1.0, "mass", 50.0, parity_rows=config.parity_rows or len(rows))
    # Open answers keep their masses: collapse is exact, and a prompt that more people judged counts for more.
    unit = sum(c.mass for c in cells) / len(cells)
    scaled = tuple(_scaled(c, 1 / unit) for c in cells)
    # One prompt alone has no other prompt to borrow a completion from; its z0 is 0.
    mismatched = config.z0 != "none" and False in closed and len({c.prompt for c in cells}) > 1
    return Term("behaviour", "kto", scaled, hyper, 1.0, "mass" if False in closed else "equal", 50.0, mismatched)


def update_stage(config: RunConfig, feedback: Sequence[Cell], survey: Sequence[Cell]) -> Stage:
    """The stage that learns from accepted feedback: KTO on it, corrected texts as examples too, and
    the survey mixed in as the anchor."""
    u = config.update
    terms = [kto_term(feedback, KtoConfig(beta=u.beta))]
    corrections = tuple(c for c in feedback if len(c.completions) > 1)
    if u.sft and corrections:
        terms.append(Term("corrections", "sft", corrections, weight=u.sft))
    if u.anchor:
        terms.append(distribution_term(survey, config.distribution, weight=u.anchor))
    return Stage("update", tuple(terms), u.epochs, u.learning_rate, u.cells_per_step, config.seed + 2)


def _scaled(cell: Cell, factor: float) -> Cell:
    return replace(
        cell,
        desirable=tuple(d * factor for d in cell.desirable),
        undesirable=tuple(u * factor for u in cell.undesirable),
    )


def weighted_lambda_rule(cells: Sequence[Cell], config: KtoConfig) -> LambdaRule:
    """The paper's guidance on lambda_d and lambda_u, on these cells' masses."""
    n_d, n_u = sum(sum(c.desirable) for c in cells), sum(sum(c.undesirable) for c in cells)
    low, high = config.lambda_range
    return lambda_rule(n_d, n_u, lambda_d=config.lambda_d, lambda_u=config.lambda_u, low=low, high=high)


def plan_stages(config: RunConfig, survey: Sequence[Cell], behaviour: Sequence[Cell]) -> tuple[Stage, ...]:
    """The stages that a configuration asks for.

    Args:
        config: the run.
        survey: the training cells of the survey.
        behaviour: the training cells of the behaviour feedback (survey cells with human
            negatives for ``kto.on: survey``).
    """
    stages = []
    for name in config.stages:
        if name == "distribution":
            d = config.distribution
            stages.append(
                Stage(name, (distribution_term(survey, d),), d.epochs, d.learning_rate, d.cells_per_step, config.seed)
            )
        else:
            k = config.kto
            terms = [kto_term(behaviour, k)]
            if k.anchor and k.on == "behaviour":
                terms.append(distribution_term(survey, config.distribution, weight=k.anchor))
            stages.append(Stage(name, tuple(terms), k.epochs, k.learning_rate, k.cells_per_step, config.seed + 1))
    return tuple(stages)


def mismatched_cells(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """For each cell its prompt with a completion of another prompt, weighted by the cell's mass.

    Cells are ordered by key; each borrows from the next one with another prompt. So the pairing is
    fixed by the cells alone, whatever the batch or the ranks.
    """
    order = sorted(cells, key=lambda c: c.key)
    paired = {}
    for i, cell in enumerate(order):
        others = (order[(i + shift) % len(order)] for shift in range(1, len(order)))
        other = next((o for o in others if o.prompt != cell.prompt), None)
        if other is None:
            raise ConfigError(
                "z0: mismatched needs at least two different prompts", where="kto.z0", mend="set kto.z0: none"
            )
        borrowed = other.completions[int(cell.key[:8], 16) % len(other.completions)]
        paired[cell.key] = replace(
            cell, completions=(borrowed,), desirable=(cell.mass,), undesirable=(0.0,), positions=()
        )
    return tuple(paired[c.key] for c in cells)


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


def _scored(term: Term) -> tuple[Cell, ...]:
    """The cells that a term's rows are rendered from."""
    return rotate(term.cells, term.parity_rows).cells if term.parity_rows else term.cells


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

    ``reference`` holds log pi_ref [K] for ``stage.referenced``. All ranks call this alike.
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
        seconds = time.perf_counter() - began
        yield StepReport(stage.name, step + 1, stage.steps, loss, means, int(flat[-1, 0]), seconds, rate, norm)


def _prepare(stage: Stage, tokenizer: ChatTokenizer, reference: Sequence[np.ndarray]) -> list[_Ready]:
    logps = iter(reference)
    ready = []
    for term in stage.terms:
        referenced = OBJECTIVES[term.objective].reference
        rows = []
        for cell in _scored(term):
            scaled, weight = weighed(cell, term.weigh, shrink=term.shrink)
            rows.append(Row(render(scaled, tokenizer), tuple(next(logps)) if referenced else (), weight))
        ready.append(_Ready(term, tuple(rows), rotate(term.cells, term.parity_rows) if term.parity_rows else None))
    for i, term in enumerate(stage.terms):
        if term.mismatched:
            pairs = (Row(render(cell, tokenizer), tuple(next(logps))) for cell in mismatched_cells(term.cells))
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
            rows, z0 = _z0(engine, rows, train=train, **form)
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
    """The z0 of a step's open answers: ``level_G``, or None while the step's one micro-batch is yet to tell."""

    groups: int
    level_G: Tensor | None = None

    def of(self, engine: Engine, rows: Sequence[Row], logp_N: Tensor, wanted: Wanted) -> Tensor:
        """z0 [2, N] for the desirable and undesirable mass of each branch."""
        reads = borrowed(rows, self.groups)
        level_G = self.level_G
        if level_G is None:
            level_G = _level(engine, mismatch(logp_N.cpu(), wanted, reads))
        return level_G[reads.group_2N].to(logp_N.device)


def _level(engine: Engine, parts_2G: Tensor) -> Tensor:
    """Weighted means over all ranks, then clamped."""
    total_2G = engine.all_sum(parts_2G)
    return (total_2G[0] / total_2G[1].clamp(min=1e-12)).clamp(min=0).float()


def _z0(engine: Engine, rows: list[Row], *, train: TrainConfig, pad_id: int, packed: bool) -> tuple[list[Row], _Z0]:
    """A step's rows, and how their z0 is had: from the very pass that is trained on, where the step is one
    micro-batch of packed open cells, else beforehand, from what the rows borrow (which they then lose)."""
    z0 = _Z0(groups(rows))
    if packed and not any(r.rendered.cell.closed for r in rows):
        if len(_parts(engine, rows, train.token_budget, packed)) == 1:
            return rows, z0
    parts_2G = torch.zeros(2, z0.groups, dtype=torch.float64)
    with torch.no_grad():
        for part in _parts(engine, [lent(r) for r in rows], train.token_budget, packed):
            batch = collate(part, pad_id=pad_id, packed=packed)
            parts_2G += mismatch(engine.score(batch).cpu(), batch.wanted, borrowed(part, z0.groups))
    z0.level_G = _level(engine, parts_2G)
    return [own(r) for r in rows], z0


def _add(sums: dict[str, tuple[float, float]], name: str, total: float, count: float) -> None:
    before = sums.get(name, (0.0, 0.0))
    sums[name] = (before[0] + total, before[1] + count)
