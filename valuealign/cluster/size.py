"""How large a sweep's trial is on the connected cluster: one worker, or all of its GPUs under ZeRO 3."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch

from valuealign import planner
from valuealign.cluster.trials import TrialPlan
from valuealign.errors import ModelError
from valuealign.learner import plan_stages
from valuealign.models.load import load_tokenizer

# What a trial's driver reserves: Tune wants something. It is no CPU, so that however many drivers wait (after a resume
# they may be more than there is room for), they keep none from a worker.
DRIVER = {"memory": 2**20}
BESIDE = 2  # trials side by side where there is no GPU to count by
ACCELERATOR = "accelerator_type:"  # Ray's resource that names a GPU's kind
CAUTIOUS = "A40"  # how unknown GPUs are taken to be joined: over PCIe


def sized(plan: TrialPlan) -> TrialPlan:
    """The plan with the workers of a trial that the cluster holds, as ``sweep.workers`` says.

    Raises ModelError with a mend where ``auto`` finds no way that fits.
    """
    wanted, held = plan.config.sweep.workers, plan.config.train.gpus_per_worker
    gpus = int(ray.cluster_resources().get("GPU", 0) / held + 1e-9) if held else 0
    if wanted != "auto" or not gpus:
        return replace(plan, size=planner.TrialSize(1 if wanted == "auto" else wanted, {}))
    memory = float(ray.get(ray.remote(num_cpus=0, num_gpus=held)(_memory).remote()))
    kinds = (name.removeprefix(ACCELERATOR) for name in ray.cluster_resources() if name.startswith(ACCELERATOR))
    kind = next((kind for kind in kinds if kind in planner.GPUS), CAUTIOUS)
    return replace(plan, size=fitting(plan, planner.Box(gpus, memory * min(held, 1.0), kind)))


def fitting(plan: TrialPlan, box: planner.Box) -> planner.TrialSize:
    """The size that ``auto`` takes on a box of GPUs. Raises ModelError where none fits."""
    folder = Path(plan.run.model.path)
    model = planner.read_config(folder)
    sizes = planner.read_architecture(model, where=str(folder / "config.json"))
    tokenizer: Any = load_tokenizer(folder, plan.config.model.chat_template_kwargs)
    size = planner.exact_size(tokenizer) if tokenizer else planner.rough_size
    run = plan.config.model_copy(update={"stages": ("kto",)})
    stages = plan_stages(run, plan.survey, {"kto": plan.judged})
    micro = planner.largest_of([planner.load(stage, size) for stage in stages], sizes)
    found = planner.trial_size(model, run, box, micro=micro)
    if found is None:
        raise ModelError(
            f"a trial fits neither on one GPU of {box.memory / planner.GB:.0f} GB nor on all {box.gpus}",
            where="sweep.workers",
            mend=planner.mend(model, run, box, micro=micro),
        )
    return found


def concurrent(plan: TrialPlan) -> int:
    """How many trials' workers fit beside each other. Raises ModelError if no trial fits."""
    settings, wanted, workers = plan.config.train, plan.config.sweep.concurrent, plan.size.workers
    need = {"CPU": settings.cpus_per_worker}
    if settings.gpus_per_worker:
        need["GPU"] = settings.gpus_per_worker
    # Node by node: a worker is not spread over several.
    boxes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    held = sum(min(int(box.get(kind, 0) / amount + 1e-9) for kind, amount in need.items()) for box in boxes)
    room = held // workers
    if room < 1:
        wants = ", ".join(f"{workers * amount:g} {kind}" for kind, amount in need.items())
        have = ray.cluster_resources()
        raise ModelError(
            f"a trial needs {wants}; the cluster has {have.get('CPU', 0):g} CPU, {have.get('GPU', 0):g} GPU",
            where="sweep.workers",
            mend="lower sweep.workers, train.cpus_per_worker or train.gpus_per_worker",
        )
    if wanted == "auto":
        return room if settings.gpus_per_worker else min(BESIDE, room)
    return min(wanted, room)


def _memory() -> int:
    return int(torch.cuda.get_device_properties(0).total_memory)
