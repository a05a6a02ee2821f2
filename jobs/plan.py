"""Will it fit: the memory that a run needs on each GPU of a box, from the model's config.json alone.

    python jobs/plan.py --box 4xA40 model.path=/models/my-base model.dtype=bfloat16 train.zero=2

Nothing is loaded: the folder's config.json is enough, offline, without a GPU. The figures are
estimates from formulas; what they assume is printed with them. How long a run takes and what it
costs is not said: that needs rates measured on such a box.
"""

from __future__ import annotations

from pathlib import Path

import click
from _job import run_job, say

from valuealign.config import RunConfig
from valuealign.planner import ASSUMPTIONS, BOXES, GB, GPUS, find_box, mend, plan, read_config


def plan_run(config: RunConfig, box: str) -> None:
    """Print what one GPU holds, item by item, and the verdict."""
    machine = find_box(box)
    folder = _folder(config.model.path)
    model = read_config(folder)
    found = plan(model, config, machine, where=str(folder / "config.json"))
    say(f"model: {found.parameters:,} parameters; the adapter: {found.lora:,} (rank {config.model.lora_r})")
    say(f"box: {box}, {machine.gpus} GPUs of {machine.memory / GB:g} GB; {config.model.dtype}, ZeRO {found.zero}")
    say("on each GPU, in GB:")
    for name, size in found.items.items():
        say(f"  {name:28}{size / GB:9.2f}")
    say(f"  {'in training':28}{sum(found.items.values()) / GB:9.2f}")
    say(f"  {'before, the base whole':28}{found.loading / GB:9.2f}")
    say(f"  {'usable':28}{found.usable / GB:9.2f}")
    say("assumed: " + ";\n         ".join(ASSUMPTIONS))
    if found.fits:
        workers = f"train.workers={machine.gpus} train.gpus_per_worker=1"
        say(f"verdict: fits, with {(found.usable - found.total) / GB:.1f} GB to spare; run it with {workers}")
    else:
        over = (found.total - found.usable) / GB
        say(f"verdict: does not fit, {over:.1f} GB too much; the most is taken by {found.largest}")
        say(f"  mend: {mend(model, config, machine)}")


def _folder(path: str) -> Path:
    if path != "seed":
        return Path(path).absolute()
    from valuealign.models.load import resolve  # the seed model is made on first use

    return resolve(path, progress=say)


if __name__ == "__main__":
    run_job(
        __doc__,
        plan_run,
        click.option(
            "--box",
            default="4xA40",
            show_default=True,
            help=f"GPUS x KIND: {', '.join(sorted({str(box.gpus) for box in BOXES.values()}))} of {', '.join(GPUS)}",
        ),
    )
