"""Which way to train fits a box: ZeRO stage, recomputation, offload; and what to change where none does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from valuealign.config import RunConfig
from valuealign.planner.architecture import Architecture
from valuealign.planner.boxes import BOXES, CPU, Box
from valuealign.planner.memory import Micro, Plan, plan, worst
from valuealign.planner.work import Load, largest

LEAST_BUDGET = 256  # tokens; a mend asks for no smaller micro-batch

ORDER = (
    "the fastest that fits is the one that communicates and recomputes least: ZeRO 0, 1, 2; then recomputation before "
    "ZeRO 3 over PCIe, and after it over NVLink; offload last"
)

Largest = Callable[[RunConfig, Box], Micro]  # the largest micro-batch of a run on a box


def any_rows(run: RunConfig, box: Box) -> Micro:
    """The largest micro-batch where the cells are not known: the worst."""
    return worst(run.train.token_budget)


def largest_of(loads: Sequence[Load], sizes: Architecture) -> Largest:
    """The largest micro-batch of these stages."""

    @cache
    def at(ranks: int, token_budget: int) -> Micro:
        return largest(loads, sizes, ranks=ranks, token_budget=token_budget)

    return lambda run, box: at(box.gpus, run.train.token_budget)


class Candidate(NamedTuple):
    """A way to train and what it takes. ``settings`` are configuration keys with their values."""

    settings: Mapping[str, Any]
    plan: Plan

    @property
    def overrides(self) -> str:
        """As a command line takes them."""
        return overrides(self.settings)


def overrides(settings: Mapping[str, Any]) -> str:
    """Settings as a command line takes them."""
    return " ".join(f"{key}={str(value).lower()}" for key, value in settings.items())


def candidates(
    config: Mapping[str, Any], run: RunConfig, box: Box, *, micro: Largest = any_rows, where: str = "config.json"
) -> list[Candidate]:
    """The ways to train what ``run`` trains, the fastest first (see ``ORDER``).

    The order is by what each sends and computes, not by measured times. In bfloat16 DeepSpeed has no
    ZeRO 0 that adds gradients up in single precision; a single GPU has nothing to shard.
    """
    local = box.kind == CPU
    least = 0 if local or run.model.dtype == "float32" else 1
    stages = (least,) if box.gpus == 1 else range(least, 4 if run.model.quantize == "none" else 3)
    ways = [(zero, recompute, "none") for zero in stages for recompute in (False, True)]
    if not local:
        ways += [(zero, recompute, "optimizer") for zero in {2, *stages} - {0, 1} for recompute in (False, True)]

    def slowness(way: tuple[int, bool, str]) -> tuple[int, ...]:
        zero, recompute, offload = way
        last = (zero == 3, recompute) if box.pcie else (recompute, zero == 3)
        return offload != "none", *last, zero

    found = []
    for zero, recompute, offload in sorted(ways, key=slowness):
        settings = {"train.zero": zero, "train.recompute": recompute, "train.offload": offload}
        other = changed(run, settings)
        memory = plan(config, other, box, micro=micro(other, box), where=where)
        found.append(Candidate(settings, memory))
    return found


def best(found: Sequence[Candidate]) -> Candidate | None:
    """The fastest that fits, if any does."""
    return next((candidate for candidate in found if candidate.plan.fits), None)


class TrialSize(NamedTuple):
    """How many workers (GPUs) a trial of a sweep takes, and the configuration keys that this asks for."""

    workers: int
    settings: Mapping[str, Any]


def trial_size(config: Mapping[str, Any], run: RunConfig, box: Box, *, micro: Largest = any_rows) -> TrialSize | None:
    """``sweep.workers``; for ``auto`` one GPU where a trial fits as ``run`` trains, else all of the box by the fastest
    way that fits (trials side by side send each other nothing). None where no way fits."""
    if run.sweep.workers != "auto":
        return TrialSize(run.sweep.workers, {})
    one = box._replace(gpus=1)
    if box.kind == CPU or plan(config, run, one, micro=micro(run, one)).fits:
        return TrialSize(1, {})
    found = best(candidates(config, run, box, micro=micro)) if box.gpus > 1 else None
    return TrialSize(box.gpus, found.settings) if found else None


def mend(config: Mapping[str, Any], run: RunConfig, box: Box, *, micro: Largest = any_rows) -> str:
    """A change under which the run fits: a smaller token budget, another way, bfloat16, 4 bits; a larger GPU."""
    larger = sorted((b.memory, name) for name, b in BOXES.items() if b.gpus == box.gpus and b.memory > box.memory)
    for name, on in (("", box), *((name, BOXES[name]) for _, name in larger if box.kind != CPU)):
        for wanted in _changes(run):
            found = best(candidates(config, changed(run, wanted), on, micro=micro))
            if found:
                new = {k: v for k, v in {**wanted, **found.settings}.items() if v != setting(run, k)}
                return " ".join(filter(None, ("try", overrides(new), f"--box {name}" if name else "")))
    return "take a smaller model" + (": no known GPU is large enough" if box.kind != CPU else "")


def _changes(run: RunConfig) -> Iterator[dict[str, Any]]:
    budgets = [run.train.token_budget // 2**i for i in range(8)]
    ways: list[dict[str, Any]] = [{"model.dtype": dtype} for dtype in dict.fromkeys((run.model.dtype, "bfloat16"))]
    if run.model.train == "lora" and run.model.quantize == "none":
        ways.append({"model.dtype": "bfloat16", "model.quantize": "nf4"})
    for way in ways:
        for tokens in (b for b in budgets if b == budgets[0] or b >= LEAST_BUDGET):
            yield {**way, "train.token_budget": tokens}


def setting(run: RunConfig, key: str) -> Any:
    """The value of ``section.name``."""
    section, name = key.split(".")
    return getattr(getattr(run, section), name)


def changed(run: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The run with other values of ``section.name`` keys."""
    for key, value in settings.items():
        section, name = key.split(".")
        run = run.model_copy(update={section: getattr(run, section).model_copy(update={name: value})})
    return run
