"""How long a run and a sweep take, and what they cost: operations over an assumed or measured rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from valuealign.config import RunConfig
from valuealign.planner.architecture import Architecture
from valuealign.planner.boxes import CPU, GPUS, Box
from valuealign.planner.measure import matmul_rate
from valuealign.planner.memory import Micro
from valuealign.planner.work import Load, Size, Step, forward_flops, lay_out, training_flops

UTILISATION = 0.4  # of a GPU's peak that training is assumed to reach
FEW = 2048  # tokens of an optimizer step for each GPU; with fewer the GPU waits for its launches


class Rate(NamedTuple):
    """Floating-point operations a second of one GPU at its peak, and the share of them that is reached."""

    peak: float
    utilisation: float

    @property
    def reached(self) -> float:
        """Operations a second."""
        return self.peak * self.utilisation


def rate_of(box: Box, dtype: str, utilisation: float = UTILISATION) -> Rate:
    """A GPU's peak from its data sheet; a CPU's as products of matrices reach it, measured now."""
    peak = matmul_rate(dtype) if box.kind == CPU else getattr(GPUS[box.kind], dtype) * 1e12
    return Rate(float(peak), utilisation)


@dataclass(frozen=True)
class Clock:
    """What turns micro-batches into seconds: a model, how it trains, and a GPU's rate."""

    sizes: Architecture
    run: RunConfig
    rate: Rate

    @property
    def r(self) -> int:
        """The rank of the adapter; 0 where all weights train."""
        return self.run.model.lora_r if self.run.model.train == "lora" else 0

    def on(self, rate: Rate) -> Clock:
        """The same at another rate."""
        return replace(self, rate=rate)

    def flops(self, step: Step) -> float:
        """Operations of an optimizer step on the rank that has most of them."""
        recompute = self.run.train.recompute
        return max(
            sum(training_flops(self.sizes, m, r=self.r, recompute=recompute) for m in trained)
            + sum(forward_flops(self.sizes, m, r=self.r) for m in scored)
            for trained, scored in zip(step.trained, step.scored, strict=True)
        )

    def scoring(self, sizes: Sequence[Size], *, ranks: int) -> float:
        """Seconds of one pass without gradient."""
        budget = self.run.train.token_budget
        ranked = lay_out(sizes, ranks=ranks, token_budget=budget, packed=self.sizes.packed) if sizes else []
        return max((self._forward(micros) for micros in ranked), default=0.0) / self.rate.reached

    def _forward(self, micros: Sequence[Micro]) -> float:
        return sum(forward_flops(self.sizes, micro, r=self.r) for micro in micros)


class StageTime(NamedTuple):
    """A stage: optimizer steps, tokens and seconds of one, and seconds of its reference table."""

    name: str
    steps: int
    tokens: float
    seconds: float
    reference: float

    @property
    def total(self) -> float:
        """Seconds of the whole stage."""
        return self.steps * self.seconds + self.reference

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained a second on the whole box, padding not counted."""
        return self.tokens / self.seconds


def stage_time(load: Load, clock: Clock, *, ranks: int) -> StageTime:
    """Of one stage on ``ranks`` GPUs."""
    budget, packed = clock.run.train.token_budget, clock.sizes.packed
    steps = load.steps(ranks=ranks, token_budget=budget, packed=packed)
    seconds = sum(clock.flops(step) for step in steps) / len(steps) / clock.rate.reached
    tokens = sum(step.tokens for step in steps) / len(steps)
    return StageTime(load.stage.name, load.stage.steps, tokens, seconds, clock.scoring(load.referenced, ranks=ranks))


class Scoring(NamedTuple):
    """What an evaluation asks: how many cells, how often all are scored, and seconds of one such pass."""

    cells: int
    passes: int
    seconds: float

    @property
    def total(self) -> float:
        """Seconds of all passes."""
        return self.passes * self.seconds


class SweepTime(NamedTuple):
    """A sweep: seconds of one trial, on how many GPUs, how many run beside each other, seconds of all."""

    trial: float
    workers: int
    beside: int
    total: float


def sweep_time(load: Load, clock: Clock, box: Box, *, workers: int = 1, probe: Sequence[Size] = ()) -> SweepTime:
    """Of all trials of so many ``workers``, none stopped early; they read one reference table.

    ``probe`` is what is scored at each report.
    """
    sweep = clock.run.sweep
    stage = stage_time(load, clock, ranks=workers)
    trial = stage.steps * stage.seconds + sweep.reports * clock.scoring(probe, ranks=workers)
    room = max(1, box.gpus // workers)
    beside = min(room, sweep.trials, room if sweep.concurrent == "auto" else sweep.concurrent)
    return SweepTime(trial, workers, beside, math.ceil(sweep.trials / beside) * trial + stage.reference)
