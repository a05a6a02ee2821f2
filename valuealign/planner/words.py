"""What the planner found, in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from valuealign.config import RunConfig
from valuealign.planner.architecture import Architecture
from valuealign.planner.boxes import CPU, GB, Box
from valuealign.planner.choice import ORDER, Candidate, best
from valuealign.planner.hours import FEW, UTILISATION, Rate, Scoring, StageTime, SweepTime
from valuealign.planner.memory import ASSUMPTIONS, WIDTHS, Plan
from valuealign.planner.probe import TIMED, WARM, Measured
from valuealign.planner.work import CHARACTERS, SAMPLE_CELLS, SAMPLE_STEPS, TURN, Volume


def model_lines(sizes: Architecture, run: RunConfig, plan: Plan) -> Iterator[str]:
    """What the model is and what of it trains."""
    active = f" ({sizes.active + sizes.embedding:,} active a token)" if sizes.experts else ""
    what = f"a LoRA adapter of rank {run.model.lora_r}" if run.model.train == "lora" else "all weights"
    yield f"model: {plan.parameters:,} parameters{active}; {what}: {plan.trained:,} train"
    if sizes.experts and run.model.train == "lora":
        yield "  fused experts: LoRA adds its product to their weights, made anew and kept in every layer"
    yield "  packed: a prompt once for all its answers" if sizes.packed else f"  one row for each answer: {sizes.why}"


def memory_lines(plan: Plan, run: RunConfig, name: str) -> Iterator[str]:
    """What one GPU holds, item by item."""
    box, m = plan.box, plan.micro
    where = "this machine, one process" if box.kind == CPU else f"{name}, {box.gpus} GPU{'s' * (box.gpus > 1)}"
    way = "" if box.kind == CPU else f", ZeRO {plan.zero}, offload {run.train.offload}"
    way = f", base in {run.model.quantize}{way}" if run.model.quantize != "none" else way
    again = str(run.train.recompute).lower()
    yield f"box: {where} of {box.memory / GB:.3g} GB; {run.model.dtype}{way}, recompute {again}"
    yield f"  largest micro-batch: {m.rows:,} rows of {m.length:,} tokens, {m.scored:,} of them predicted"
    yield "in memory, in GB:" if box.kind == CPU else "on each GPU, in GB:"
    for item, size in plan.items.items():
        if size:
            yield f"  {item:32}{size / GB:9.2f}"
    second = WIDTHS[run.model.dtype] * plan.parameters / GB
    yield f"  {'the reference: a table on disk':32}{0:9.2f}  (a second model would take {second:.2f})"
    yield f"  {'while a gradient is computed':32}{plan.training / GB:9.2f}"
    yield f"  {'while the optimizer steps':32}{plan.step / GB:9.2f}"
    yield f"  {'before, loading the base':32}{plan.loading / GB:9.2f}"
    yield f"  {'usable':32}{plan.usable / GB:9.2f}"
    if plan.host:
        yield f"  {'on the host, for all GPUs':32}{plan.host * box.gpus / GB:9.2f}"


def verdict_lines(plan: Plan, found: Sequence[Candidate], mend: str) -> Iterator[str]:
    """Whether the run fits as it is configured, and the fastest way that does."""
    if plan.fits:
        yield f"verdict: fits as configured, with {(plan.usable - plan.total) / GB:.1f} GB to spare"
    else:
        over = (plan.total - plan.usable) / GB
        yield f"verdict: does not fit as configured, {over:.1f} GB too much; the most is taken by {plan.largest}"
    yield "ways to train it, the fastest first:"
    chosen = best(found)
    for one in found:
        mark = "*" if one is chosen else " "
        yield f" {mark} {one.overrides:68}{one.plan.total / GB:9.2f} GB  {'fits' if one.plan.fits else ''}".rstrip()
    if chosen is None:
        yield f"  none fits; mend: {mend}"
    elif plan.box.kind != CPU:
        workers = f"train.workers={plan.box.gpus} train.gpus_per_worker=1"
        yield f"run it with: {workers} {chosen.overrides}{_host(chosen.plan)}"


def other_lines(run: RunConfig, found: Sequence[Candidate]) -> Iterator[str]:
    """Whether the other kind of training (all weights beside LoRA, or LoRA) would fit too."""
    chosen, kind = best(found), run.model.train
    if chosen is None:
        least = min(one.plan.total for one in found) / GB
        yield f"model.train={kind}: fits in no way (at least {least:.1f} GB)"
    else:
        size = f"{chosen.plan.total / GB:.1f} GB"
        yield f"model.train={kind}: would fit with {chosen.overrides} ({size}){_host(chosen.plan)}"


def _host(plan: Plan) -> str:
    return f"; {plan.host * plan.box.gpus / GB:.0f} GB of optimizer states in the host's memory" if plan.host else ""


def cautions(run: RunConfig, box: Box, times: Sequence[StageTime], sweeps: bool) -> Iterator[str]:
    """What the figures do not show. ``sweeps``: whether a trial of the sweep fits."""
    if not sweeps:
        yield "caution: a trial of the sweep fits neither on one GPU nor on all of the box"
    if run.train.zero == 3 and box.pcie:
        yield "caution: ZeRO 3 sends all weights over PCIe for every micro-batch, twice; this is not in the time"
    if run.train.offload == "optimizer":
        yield "caution: offloaded optimizers step on the host's CPUs; this is not in the time"
    if run.model.quantize != "none":
        yield "caution: weights in 4 bits are unpacked for every product; this is not in the time"
    for time in times:
        if box.kind != CPU and time.tokens / box.gpus < FEW:
            yield (
                f"caution: a step of {time.name} has {time.tokens / box.gpus:,.0f} tokens for each GPU; below about "
                f"{FEW:,} a GPU waits more than it computes: raise {time.name}.cells_per_step, or take fewer GPUs"
            )


def volume_lines(volume: Volume, exact: bool) -> Iterator[str]:
    """Tokens of an epoch as they are, and what they would be."""
    about = "" if exact else "about "
    yield f"one pass over the cells of every stage: {about}{volume.shared:,} tokens, {volume.cells:,} cells"
    ratio = volume.unshared / volume.shared
    yield f"  without prefix sharing:               {volume.unshared:,} ({ratio:.1f} times)"
    ratio = volume.rows / volume.shared
    yield f"  and with a row for each answer given: {volume.rows:,.0f} ({ratio:,.0f} times)"
    if not volume.collapses:
        yield "  collapses nothing: hardly two people share a prompt, so every respondent is a cell of their own"
    if not exact:
        yield f"  no tokenizer in the model's folder: {CHARACTERS} characters a token, {TURN} tokens a turn are assumed"


def time_lines(
    times: Sequence[StageTime],
    scoring: Scoring,
    sweep: SweepTime | None,
    run: RunConfig,
    box: Box,
    price: float | None,
) -> Iterator[str]:
    """Tokens a second and hours of each stage, of the run and of the sweep, with their cost."""
    for time in times:
        yield (
            f"stage {time.name}: {time.steps:,} steps of {time.tokens:,.0f} tokens at {time.tokens_per_second:,.0f} "
            f"tokens/s: {duration(time.steps * time.seconds)}"
            + (f", and {duration(time.reference)} for its reference table" if time.reference else "")
        )
    whole = sum(time.total for time in times) + scoring.total
    yield (
        f"the run: {duration(whole)}, {duration(scoring.total)} of it scoring what the evaluation asks "
        f"({scoring.cells:,} cells, {scoring.passes} times){cost(whole, box, price)}"
    )
    if sweep:
        yield (
            f"the sweep: {run.sweep.trials} trials of {duration(sweep.trial)}, {sweep.beside} at a time, "
            f"{'one GPU' if sweep.workers == 1 else f'{sweep.workers} GPUs'} each: "
            f"at most {duration(sweep.total)}{cost(sweep.total, box, price)}; weak trials are stopped early"
        )


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def cost(seconds: float, box: Box, price: float | None) -> str:
    """Of the whole box for that long, at a price for a GPU and hour; empty without one."""
    return f", cost {seconds / 3600 * box.gpus * price:,.2f}" if price is not None else ""


def probe_lines(measured: Sequence[Measured], device: str, same: bool, rate: Rate) -> Iterator[str]:
    """Predicted and measured, side by side."""
    yield f"measured on {device}: {TIMED} steps after {WARM} to warm up, in one process"
    yield f"  {'':32}{'predicted':>12}{'measured':>12}{'ratio':>8}"
    for one in measured:
        speed = one.tokens_per_second
        rows = (("tokens/s", *speed), ("peak memory, GB", one.predicted_bytes / GB, one.bytes / GB))
        for what, expected, found in rows:
            yield f"  {f'{one.stage}: {what}':32}{expected:12.4g}{found:12.4g}{found / expected:8.2f}"
    if same:
        yield f"  so the times below take {rate.utilisation:.0%} of the peak (what several GPUs send is not in it)"
    else:
        yield "  this is another machine than the box, so its times stay as they are estimated"


def assumed_lines(rate: Rate, box: Box, given: bool, measured: bool) -> Iterator[str]:
    """Everything that was taken for granted."""
    whose = "square products on this machine, measured" if box.kind == CPU else "NVIDIA's data sheets, dense"
    share = "as the probe measured" if measured else "as given" if given else f"{UTILISATION:g} if nothing is given"
    more = (
        f"of a peak of {rate.peak / 1e12:.4g} TFLOP/s ({whose}) {rate.utilisation:.0%} is reached ({share})",
        "the GPUs of a box divide a step as its micro-batches fall, and what they send each other takes no time",
        "what jobs/evaluate.py has models write (free answers, sampled ones) is in no time here",
        f"a sample of {SAMPLE_STEPS} steps of a stage, and of {SAMPLE_CELLS:,} cells of a term, stands for the rest",
        ORDER,
    )
    yield "assumed: " + ";\n         ".join((*ASSUMPTIONS, *more))
