"""Will it fit, how long will it take, what will it cost: from the model's config.json and the survey's cells alone.

    python jobs/plan.py --box 4xA40 -c run.yaml model.path=/models/my-base model.dtype=bfloat16
    python jobs/plan.py --box 1xH200 --price-per-gpu-hour 3 model.path=/models/my-base model.train=full
    python jobs/plan.py --box cpu --probe

No weights are loaded, offline, without a GPU: config.json is enough (the tokenizer's files make the count of tokens
exact). It compares ZeRO stages, recomputation and offload, and prints the overrides of the fastest way that fits.
Figures are estimates from formulas (docs/planner.md); what they assume is printed with them. --probe loads the model
and trains a few steps here, beside what is estimated; on a machine like the box, the times are then as measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import click
import torch
from _job import run_job, say

from valuealign import planner
from valuealign.cluster.build import build
from valuealign.config import RunConfig
from valuealign.learner import plan_stages
from valuealign.models.load import load_tokenizer, resolve
from valuealign.planner import words
from valuealign.planner.probe import is_here, probe_all
from valuealign.prepared import prepare


def plan_run(config: RunConfig, box: str, probed: bool, utilisation: float | None, price: float | None) -> None:
    """Print memory, the ways that fit, tokens, time and cost."""
    machine, folder = planner.find_box(box), folder_of(config.model.path)
    model = planner.read_config(folder)
    sizes = planner.read_architecture(model, where=str(folder / "config.json"))
    tokenizer: Any = load_tokenizer(folder, config.model.chat_template_kwargs)
    size = planner.exact_size(tokenizer) if tokenizer else planner.rough_size
    prepared = prepare(config, progress=lambda _: None)
    loads = [planner.load(stage, size) for stage in plan_stages(config, prepared.survey_cells, prepared.judged)]
    run = memory(config, machine, box, loads, sizes, model)
    people = planner.people_behind(prepared.dataset.train, prepared.survey_cells, chain(*prepared.judged.values()))
    volumes = [one.volume(people) for one in loads]
    lines(words.volume_lines(sum(volumes[1:], start=volumes[0]), exact=tokenizer is not None))
    rate = planner.rate_of(machine, run.model.dtype, utilisation or planner.UTILISATION)
    if probed:
        rate = measured_rate(run, machine, loads, planner.Clock(sizes, run, rate), model)
    clock = planner.Clock(sizes, run, rate)
    times = [planner.stage_time(one, clock, ranks=machine.gpus) for one in loads]
    asked = planner.sizes_of(list(chain(*prepared.examination(config).cells.values())), size)
    scoring = planner.Scoring(len(asked), 1 + len(loads), clock.scoring(asked, ranks=machine.gpus))
    selected = [size(cell) for cell in (*prepared.exam.only("select").cells, *prepared.behaviour["select"])]
    trial = planner.trial_size(model, config, machine, micro=planner.largest_of(loads, sizes))
    how: dict[str, Any] = {"workers": trial.workers if trial else 1, "probe": selected}
    swept = next((planner.sweep_time(one, clock, machine, **how) for one in loads if one.stage.name == "kto"), None)
    lines(words.time_lines(times, scoring, swept, run, machine, price))
    lines(words.cautions(run, machine, times, not swept or bool(trial)))
    lines(words.assumed_lines(rate, machine, bool(utilisation), probed))


def memory(
    config: RunConfig, machine: planner.Box, box: str, loads: Sequence[planner.Load], sizes: Any, model: dict[str, Any]
) -> RunConfig:
    """Print what one GPU holds and which ways fit; the run as the fastest of them, or as it is where none does."""
    micro = planner.largest_of(loads, sizes)
    held = planner.plan(model, config, machine, micro=micro(config, machine))
    found = planner.candidates(model, config, machine, micro=micro)
    chosen = planner.best(found)
    mend = "" if chosen else planner.mend(model, config, machine, micro=micro)
    kind = "full" if config.model.train == "lora" else "lora"
    other = planner.changed(config, {"model.train": kind, **({"model.quantize": "none"} if kind == "full" else {})})
    lines(words.model_lines(sizes, config, held), words.memory_lines(held, config, box))
    lines(words.verdict_lines(held, found, mend))
    lines(words.other_lines(other, planner.candidates(model, other, machine, micro=micro)))
    return planner.changed(config, chosen.settings) if chosen else config


def measured_rate(
    run: RunConfig, machine: planner.Box, loads: Sequence[planner.Load], clock: planner.Clock, model: dict[str, Any]
) -> planner.Rate:
    """Train a few steps here, print them beside what was predicted; the rate that this box is now taken to reach."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base, cells = build(run.model, seed=run.seed, start=None, device=device, recompute=run.train.recompute)
    tokenizer: Any = base.tokenizer
    found, rate = probe_all(cells, tokenizer, loads, clock, machine, model, pad_id=int(tokenizer.pad_token_id))
    lines(words.probe_lines(found, device, is_here(machine), rate))
    return rate if is_here(machine) else clock.rate


def lines(*parts: Iterable[str]) -> None:
    """Print them."""
    for line in chain(*parts):
        say(line)


def folder_of(path: str) -> Path:
    """The model's folder; it need hold no weights."""
    return Path(path).absolute() if path != "seed" else resolve(path, progress=say)


if __name__ == "__main__":
    run_job(
        __doc__,
        plan_run,
        click.option(
            "--box",
            default="4xA40",
            show_default=True,
            help=f"1x, 2x, 4x or 8x of {', '.join(planner.GPUS)}; or {planner.CPU}, this machine without any",
        ),
        click.option("--probe", "probed", is_flag=True, help="train a few steps here and compare"),
        click.option(
            "--utilisation",
            type=click.FloatRange(0, 1, min_open=True),
            help=f"share of a GPU's peak that is reached; {planner.UTILISATION:g} if nothing is given or measured",
        ),
        click.option("--price-per-gpu-hour", "price", type=click.FloatRange(min=0), help="print what it costs"),
    )
