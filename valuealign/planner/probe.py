"""A short real run on the machine at hand, to set beside what is estimated for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from valuealign.config import RunConfig
from valuealign.engine import LocalEngine, adamw
from valuealign.learner import learn
from valuealign.models.score import CellModel
from valuealign.planner.boxes import CPU, Box
from valuealign.planner.hours import Clock, Rate
from valuealign.planner.measure import Live, matmul_rate
from valuealign.planner.memory import plan
from valuealign.planner.work import Load, Step, heaviest
from valuealign.prompts import ChatTokenizer
from valuealign.types import StepReport

WARM, TIMED = 1, 3  # optimizer steps


class Measured(NamedTuple):
    """A stage's probe: tokens of the timed steps, their seconds as predicted and measured, the most bytes of a step."""

    stage: str
    tokens: int
    predicted_seconds: float
    seconds: float
    predicted_bytes: float
    bytes: float

    @property
    def tokens_per_second(self) -> tuple[float, float]:
        """Predicted and measured."""
        return self.tokens / self.predicted_seconds, self.tokens / self.seconds


def probe(
    model: CellModel, tokenizer: ChatTokenizer, load: Load, clock: Clock, config: Mapping[str, Any], *, pad_id: int
) -> Measured:
    """Train a few steps of a stage for real in this process (LocalEngine, one device), and measure.

    The model's weights move. Its reference is set to 0, which costs what any other would. In bfloat16 an
    adapter is kept in bfloat16 too, as DeepSpeed does.
    """
    run, device = clock.run, next(model.parameters()).device.type
    model.to(getattr(torch, run.model.dtype))
    made: list[torch.optim.Optimizer] = []

    def optimizer(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        made.append(adamw(parameters, weight_decay=run.train.weight_decay))
        return made[-1]

    engine = LocalEngine(model, pad_id=pad_id, clip=run.train.clip, optimizer=optimizer)
    reports = _steps(engine, load, run, tokenizer, pad_id=pad_id, packed=model.packed)

    def planned(report: StepReport) -> Step:
        return load.step(report.step - 1, ranks=1, token_budget=run.train.token_budget, packed=model.packed)

    list(itertools.islice(reports, WARM))
    timed = list(itertools.islice(reports, TIMED))
    last, peak = _peak(reports, [*model.parameters(), *model.buffers(), *_moments(made[-1])], device)
    here = Box(1, 0.0, CPU if device == "cpu" else device)
    memory = plan(config, run, here, micro=heaviest(planned(last).trained[0]), local=True)
    return Measured(
        load.stage.name,
        sum(report.tokens for report in timed),
        sum(clock.flops(planned(report)) for report in timed) / clock.rate.reached,
        sum(report.seconds for report in timed),
        max(memory.training, memory.step),
        peak,
    )


def is_here(box: Box) -> bool:
    """Whether this machine's device is of the box's kind."""
    if not torch.cuda.is_available():
        return box.kind == CPU
    kind, _, gigabytes = box.kind.partition("-")
    name = torch.cuda.get_device_name()
    return kind in name.replace("-", " ").split() and gigabytes in name


def probe_all(
    model: CellModel, tokenizer: ChatTokenizer, loads: Sequence[Load], clock: Clock, box: Box,
    config: Mapping[str, Any], *, pad_id: int,
) -> tuple[list[Measured], Rate]:  # fmt: skip
    """Probe every stage; the rate that was reached here. ``clock`` is the box's; another device has its own peak."""
    if not is_here(box):
        device = next(model.parameters()).device.type
        clock = clock.on(Rate(matmul_rate(clock.run.model.dtype, device), clock.rate.utilisation))
    found = [probe(model, tokenizer, load, clock, config, pad_id=pad_id) for load in loads]
    return found, calibrated(clock.rate, found)


def calibrated(rate: Rate, found: Sequence[Measured]) -> Rate:
    """The rate at which these steps would have taken as long as they did."""
    ratio = sum(one.predicted_seconds for one in found) / sum(one.seconds for one in found)
    return rate._replace(utilisation=rate.utilisation * ratio)


def _steps(
    engine: LocalEngine, load: Load, run: RunConfig, tokenizer: ChatTokenizer, *, pad_id: int, packed: bool
) -> Iterator[StepReport]:
    """Optimizer steps of the stage without end: a stage shorter than the probe begins anew."""
    reference = [np.zeros(len(cell.completions)) for cell in load.stage.referenced]
    form: dict[str, Any] = {"train": run.train, "reference": reference, "pad_id": pad_id, "packed": packed}
    while True:
        yield from learn(engine, load.stage, tokenizer, **form)


def _moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def _peak(reports: Iterator[StepReport], known: Sequence[Tensor], device: str) -> tuple[StepReport, float]:
    """The next step, and the most bytes that exist at a time while it runs."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return next(reports), float(torch.cuda.max_memory_allocated())
    with Live(known) as live:
        return next(reports), float(live.peak)
