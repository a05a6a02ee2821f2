"""Cells a second with one and with two workers, and the bytes that each of them sends in a step.

    python benchmarks/scaling.py                                                     # on the CPU: a thread a worker
    python benchmarks/scaling.py --device cuda --workers 1 --workers 4               # on the box's GPUs, in bfloat16

A Llama with random weights learns the answer distribution of survey-like cells under Ray Train with DeepSpeed, as a
run does: one worker does all cells of an optimizer step, two do half of them each. Each number of workers is a Ray
Train run of its own, and they take turns (--rounds); what is timed are windows of a few steps after some to warm up,
so Ray's start is not in it, and the fastest window counts: on a machine with other work it is the one least disturbed.
Bytes are counted twice, by what the collectives were given and by the kernel's counters of the TCP connections
between the workers (gloo; NCCL within a box uses none), and stand beside the planner's arithmetic
(valuealign/planner/wire.py). On a GPU that the planner knows, the last line, JSON, has the share of its peak that was
reached: committed to benchmarks/results/, docs/scaling.md plans with it (benchmarks/scaling_plan.py).
"""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
import torch.distributed as dist
from evaluate_scale import make_cells, make_groups, make_items
from machine import hardware
from scaling_plan import by_arithmetic
from transformers import LlamaConfig, LlamaForCausalLM

from valuealign import planner
from valuealign.cluster.env import prepare_environment
from valuealign.config import DistributionConfig, RunConfig, load
from valuealign.learner import Stage, distribution_term
from valuealign.models.seed import SEED_RECIPE, make_tokenizer
from valuealign.planner import wire
from valuealign.planner.probe import is_here
from valuealign.types import Cell

# What torch.distributed does for DeepSpeed and for us, and the kind of collective that it is.
CALLS = {
    "all_reduce": "all-reduce",
    "all_gather_into_tensor": "all-gather",
    "all_gather": "all-gather",
    "reduce_scatter_tensor": "reduce-scatter",
    "reduce": "reduce",
    "broadcast": "broadcast",
}
TCP_INFO, BYTES_SENT, BYTES_AGAIN = 11, 200, 208  # of struct tcp_info (linux/tcp.h)
# A small model's weights would all stay gathered at ZeRO 3. These are to it about what DeepSpeed's defaults are to
# one of 30e9 parameters: adapters and norms whole everywhere, hardly a weight kept from forward to backward.
SMALL = {"persistent": 20_000, "reuse": 50_000}
AHEAD = 5_000  # elements that DeepSpeed fetches ahead at a time
DEFAULTS = {"cpu": (256, 4, 32, 512, "float32"), "cuda": (2048, 16, 256, 4096, "bfloat16")}
WARM = 2  # steps; at the first ZeRO 3 records its order of weights


class Way(NamedTuple):
    """What trains, at which ZeRO stage; ``timed`` with every number of workers, else bytes alone."""

    train: str
    zero: int
    timed: bool

    @property
    def name(self) -> str:
        return f"{self.train}, ZeRO {self.zero}"


@dataclass(frozen=True)
class Job:
    """What every worker is given. ``shrunk`` has DeepSpeed's thresholds of ZeRO 3 as in ``SMALL``."""

    ways: tuple[Way, ...]
    folder: str
    dtype: str
    stage: Stage
    token_budget: int
    steps: int
    windows: int
    shrunk: bool

    def timed(self, way: Way) -> tuple[int, int]:
        """Windows of a way, and steps of each."""
        return (self.windows, self.steps) if way.timed else (1, 2)

    def run(self, way: Way) -> RunConfig:
        """The run's configuration for a way to train."""
        model = (f"model.path={self.folder}", f"model.dtype={self.dtype}", f"model.train={way.train}")
        return load(None, (*model, f"train.zero={way.zero}", f"train.token_budget={self.token_budget}"))


class Traffic:
    """Counts what this process gives to collectives and, over TCP, sends to the other ranks.

    Made before DeepSpeed looks torch's functions up.
    """

    def __init__(self) -> None:
        self.given = dict.fromkeys(CALLS.values(), 0)
        for name, kind in CALLS.items():
            setattr(dist, name, self._counted(getattr(dist, name), kind))

    def _counted(self, call: Any, kind: str) -> Any:
        def counted(*args: Any, **named: Any) -> Any:
            # The whole tensor is the larger one: what comes of a gather, what goes into a reduce-scatter.
            whole = [_size(x) for x in (*args, *named.values())]
            self.given[kind] += max(whole, default=0)
            return call(*args, **named)

        return counted

    def connections(self) -> None:
        """Find the TCP connections to the other ranks: those whose other end is one of theirs. All ranks call."""
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, list(_connections()))
        theirs = {(there, here) for rank, ends in enumerate(every) if rank != dist.get_rank() for here, there in ends}
        self._mine = theirs & {*_connections()}

    def sent(self) -> int | None:
        """Bytes sent over them so far; None where there are none (NCCL within a box)."""
        now = _connections()
        return sum(now[ends] for ends in self._mine) if self._mine else None


def _size(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_size, value))
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _connections() -> dict[tuple[Any, Any], int]:
    """This process's TCP connections by their (own, other) end -> bytes sent, what was sent again not counted."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                ends = (_end(one.getsockname()), _end(one.getpeername()))
                told = one.getsockopt(socket.IPPROTO_TCP, TCP_INFO, BYTES_AGAIN + 8)
        except OSError:
            continue  # not connected, or closed meanwhile
        if len(told) == BYTES_AGAIN + 8:
            sent, again = (struct.unpack_from("=Q", told, at)[0] for at in (BYTES_SENT, BYTES_AGAIN))
            found[ends] = sent - again
    return found


def _end(address: Any) -> Any:
    """Host and port; of IPv4 alike, whichever family the socket has."""
    return (address[0].removeprefix("::ffff:"), address[1]) if isinstance(address, tuple) else address


def work(config: dict[str, Any]) -> list[dict[str, Any]]:
    """What one worker does; rank 0's answer is the run's."""
    import ray

    traffic = Traffic()
    job: Job = ray.get(config["job"])
    return [_way(job, way, traffic) for way in job.ways]


def _way(job: Job, way: Way, traffic: Traffic) -> dict[str, Any]:
    """Train one way: seconds and processor seconds of each window, and what each rank moved in them."""
    from valuealign.cluster import deepspeed_engine
    from valuealign.cluster.build import build
    from valuealign.learner import learn

    run, plain = job.run(way), deepspeed_engine.zero_config
    device = deepspeed_engine.device()

    def shrunk(**how: Any) -> dict[str, Any]:
        settings = plain(**how)
        if job.shrunk:
            settings["zero_optimization"] |= {
                "stage3_param_persistence_threshold": SMALL["persistent"],
                "stage3_max_reuse_distance": SMALL["reuse"],
                "stage3_max_live_parameters": SMALL["reuse"],
                "stage3_prefetch_bucket_size": AHEAD,
            }
        return settings

    deepspeed_engine.zero_config = shrunk
    try:
        how: dict[str, Any] = {"clip": run.train.clip, "dtype": job.dtype}
        shard = shrunk(stage=3, **how) if way.zero == 3 else None
        base, model = build(run.model, seed=0, start=None, device=str(device), shard=shard)
        pad_id = int(base.tokenizer.pad_token_id)
        engine = deepspeed_engine.DeepSpeedEngine(model, pad_id=pad_id, zero=way.zero, **how)
    finally:
        deepspeed_engine.zero_config = plain
    reports = learn(engine, job.stage, base.tokenizer, train=run.train, pad_id=pad_id, packed=model.packed)
    warmed = list(islice(reports, WARM))
    traffic.connections()
    found: dict[str, Any] = {"way": way.name, "threads": torch.get_num_threads(), "seconds": [], "cpu_seconds": []}
    tokens, before = 0, (traffic.sent(), dict(traffic.given))
    windows, each = job.timed(way)
    for _ in range(windows):
        _together(device)
        began, cpu_began = time.perf_counter(), time.process_time()
        tokens += sum(report.tokens for report in islice(reports, each))
        _together(device)
        found["seconds"].append(time.perf_counter() - began)
        found["cpu_seconds"].append(time.process_time() - cpu_began)
    steps = windows * each
    sent = traffic.sent()
    mine = {
        "tcp": None if sent is None or before[0] is None else (sent - before[0]) / steps,
        "given": {kind: (size - before[1][kind]) / steps for kind, size in traffic.given.items()},
        "cpu_seconds": sum(found["cpu_seconds"]) / steps,
    }
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    del engine, model, base
    gc.collect()
    return found | {"tokens": tokens / steps, "ranks": every, "loss": warmed[-1].loss}


def _together(device: torch.device) -> None:
    """Until all ranks have done what they were given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    dist.barrier()


def train(job: Job, workers: int, *, gpu: bool, folder: Path) -> list[dict[str, Any]]:
    """A Ray Train run of so many workers."""
    import ray
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer

    resources = {"CPU": 1.0} | ({"GPU": 1.0} if gpu else {})
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": ray.put(job)},
        scaling_config=ray_train.ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=ray_train.RunConfig(
            name=f"scaling-{workers}-{time.time_ns()}",
            storage_path=str(folder / "train"),
            failure_config=ray_train.FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    found: list[dict[str, Any]] = trainer.fit().return_value
    return found


def make_model(folder: Path, width: int, layers: int) -> dict[str, Any]:
    """A Llama of random weights with the seed model's tokenizer; its configuration."""
    tokenizer = make_tokenizer(SEED_RECIPE)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    heads = max(4, width // 64)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return dict(json.loads(config.to_json_string()))


def make_stage(cells_per_step: int) -> Stage:
    """Answers to survey-like questions, in more steps than are taken."""
    cells = [_answered(cell, n) for n, cell in enumerate(make_cells(make_items(64), make_groups(16)))]
    term = distribution_term(cells, DistributionConfig())
    return Stage("distribution", (term,), epochs=1000, learning_rate=1e-4, cells_per_step=cells_per_step)


def _answered(cell: Cell, number: int) -> Cell:
    """With shares of some kind: the speed does not hang on which."""
    k = len(cell.completions)
    masses = [1.0 + (number + i) % k for i in range(k)]
    return Cell(**{**vars(cell), "desirable": tuple(m / sum(masses) for m in masses), "n_eff": 100.0})


def micro_batches(job: Job, way: Way, config: dict[str, Any], workers: int) -> float:
    """Micro-batches of a rank in a step, those that keep it in step with others too: the mean of the timed steps."""
    from transformers import AutoTokenizer

    sizes, run = planner.read_architecture(config), job.run(way)
    ahead = planner.load(job.stage, planner.exact_size(AutoTokenizer.from_pretrained(job.folder)))
    windows, each = job.timed(way)
    steps = range(WARM, WARM + windows * each)
    laid = [
        ahead.step(n, ranks=workers, token_budget=run.train.token_budget, packed=sizes.packed).trained for n in steps
    ]
    return sum(max(map(len, ranks)) for ranks in laid) / len(laid)


def bytes_sent(job: Job, way: Way, config: dict[str, Any], found: dict[str, Any], workers: int) -> dict[str, Any]:
    """What a rank sent in a step, in bytes: as collectives of what they were given send it, and over TCP."""
    given = [wire.Moved("", kind, size) for kind, size in found["ranks"][0]["given"].items() if size]
    tcp = [one["tcp"] for one in found["ranks"] if one["tcp"] is not None]
    return {
        "train": way.train,
        "zero": way.zero,
        "workers": workers,
        "micro_batches": round(micro_batches(job, way, config, workers), 3),
        "given_to_collectives": round(wire.sent(given, workers)),
        "tcp": round(sum(tcp) / len(tcp)) if tcp else None,
    }


def speeds(found: Iterable[dict[str, Any]], cells: int, steps: int) -> dict[str, float]:
    """Of the fastest window of all rounds, and the mean of all."""
    rounds = list(found)
    windows = [seconds for one in rounds for seconds in one["seconds"]]
    best, tokens = min(windows), rounds[0]["tokens"]
    # Of the rank that computes longest: what a step takes where every worker has a core to itself and waits for nobody.
    here = sum(seconds for one in rounds for seconds in one["cpu_seconds"])
    cpu = min(max(rank["cpu_seconds"] for rank in one["ranks"]) for one in rounds)
    return {
        "cells_per_second": round(cells * steps / best, 3),
        "tokens_per_second": round(tokens * steps / best, 1),
        "cells_per_second_mean": round(cells * steps * len(windows) / sum(windows), 3),
        "seconds_a_step": round(best / steps, 4),
        "cells_per_cpu_second": round(cells / cpu, 3),
        "waiting": round(max(0.0, 1 - here / sum(windows)), 3),
    }


def reached(job: Job, way: Way, config: dict[str, Any], seconds: float, kind: str | None) -> dict[str, Any]:
    """The share of the peak that one worker reached, as the planner counts operations."""
    sizes, run = planner.read_architecture(config), job.run(way)
    if kind is None and torch.cuda.is_available():
        return {"kind": None, "utilisation": None, "peak_tflops": None}
    box = planner.find_box(f"1x{kind}" if kind else planner.CPU)
    rate = planner.rate_of(box, job.dtype, 1.0)
    from transformers import AutoTokenizer

    ahead = planner.load(job.stage, planner.exact_size(AutoTokenizer.from_pretrained(job.folder)))
    time_at_peak = planner.stage_time(ahead, planner.Clock(sizes, run, rate), ranks=1).seconds
    return {
        "kind": kind,
        "utilisation": round(time_at_peak / seconds, 4),
        "peak_tflops": round(rate.peak / 1e12, 3),
    }


def ways(dtype: str, quick: bool) -> tuple[Way, ...]:
    """The ways to train, the timed ones first; in bfloat16 there is no ZeRO 0 that shards nothing of all weights."""
    timed = [Way("lora", 2, True), Way("full", 2, True)] + ([] if quick else [Way("full", 3, True)])
    least = 0 if dtype == "float32" else 1
    every = [Way(kind, zero, False) for kind in ("lora", "full") for zero in range(least, 4)]
    return (*timed, *(way for way in every if way._replace(timed=True) not in timed))


def measure(
    job: Job, config: dict[str, Any], workers: Sequence[int], rounds: int, *, gpu: bool, folder: Path
) -> dict[str, Any]:
    """Every number of workers in turn, so many times; figures of all."""
    few = Job(**{**vars(job), "ways": tuple(way for way in job.ways if way.timed)})
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number in range(rounds):
        for count in workers:
            # Bytes are the same each time: once is enough for the ways that are not timed.
            once = job if number == 0 and count > 1 else few
            for one in train(once, count, gpu=gpu, folder=folder):
                found.setdefault((one["way"], count), []).append(one)
    cells = job.stage.cells_per_step
    rates: dict[str, dict[str, Any]] = {
        way.name: {str(count): speeds(found[way.name, count], cells, job.steps) for count in workers}
        for way in few.ways
    }
    most = str(max(workers))
    for name, one in rates.items():
        for key, rate in (("ratio", "cells_per_second"), ("ratio_of_cpu_seconds", "cells_per_cpu_second")):
            one[key] = round(one[most][rate] / one["1"][rate], 3)
        said = ", ".join(f"{one[str(count)]['cells_per_second']:.2f} cells/s with {count}" for count in workers)
        print(
            f"{name:14} {said}: {one['ratio']:.2f} times (by processor time {one['ratio_of_cpu_seconds']:.2f})",
            flush=True,
        )
    sent = [
        bytes_sent(job, way, config, found[way.name, count][0], count)
        for count in workers if count > 1 for way in job.ways
    ]  # fmt: skip
    wired = {"config": config, "dtype": job.dtype, "thresholds": SMALL if job.shrunk else {}, "sent": sent}
    for one in sent:
        planned, by_gloo = by_arithmetic(one, wired)
        print(
            f"{one['train']}, ZeRO {one['zero']}, {one['workers']} workers, {one['micro_batches']:g} micro-batches; "
            f"bytes a step and rank: {planned:,.0f} planned, {one['given_to_collectives']:,} given to collectives; "
            f"{by_gloo:,.0f} planned of gloo, {one['tcp']} over TCP",
            flush=True,
        )
    return {"rates": rates, "wire": wired, "threads": found[few.ways[0].name, 1][0]["threads"]}


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="cuda where there is one, unless given")
@click.option("--workers", "workers", multiple=True, type=click.IntRange(min=1), help="1 and 2, unless given")
@click.option("--width", type=click.IntRange(min=64))
@click.option("--layers", type=click.IntRange(min=1))
@click.option("--cells", type=click.IntRange(min=2), help="of an optimizer step, over all workers")
@click.option("--token-budget", type=click.IntRange(min=64), help="tokens of a micro-batch")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]))
@click.option("--steps", default=1, show_default=True, type=click.IntRange(min=1), help="of a window")
@click.option("--windows", default=8, show_default=True, type=click.IntRange(min=1), help="of each way and round")
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(min=1), help="Ray Train runs of each kind")
@click.option("--quick", is_flag=True, help="a model of nothing, one window of one step")
def main(
    device: str | None,
    workers: tuple[int, ...],
    width: int | None,
    layers: int | None,
    cells: int | None,
    token_budget: int | None,
    dtype: str | None,
    steps: int,
    windows: int,
    rounds: int,
    quick: bool,
) -> None:
    prepare_environment(token_file=False)  # before ray and deepspeed are imported
    import ray

    from valuealign.cluster.session import cluster

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device == "cuda"
    usual = (64, 2, 8, 256, "float32") if quick else DEFAULTS[device]
    size = width or usual[0], layers or usual[1]
    if quick:
        steps = windows = rounds = 1
    counts = sorted({1, *(workers or ((1, torch.cuda.device_count()) if gpu else (1, 2)))})
    if __name__ != "__main__":
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not find this file
    with tempfile.TemporaryDirectory(prefix="va-scaling-", dir="/tmp") as scratch:
        folder = Path(scratch)
        config = make_model(folder / "model", *size)
        kind = next((name for name in planner.GPUS if is_here(planner.find_box(f"1x{name}"))), None) if gpu else None
        job = Job(
            ways=ways(dtype or usual[4], quick),
            folder=str(folder / "model"),
            dtype=dtype or usual[4],
            stage=make_stage(cells or usual[2]),
            token_budget=token_budget or usual[3],
            steps=steps,
            windows=windows,
            shrunk=not gpu,
        )
        # Logical CPUs: one for each worker, whatever cores there are, and one to spare for Ray's own.
        resources = {"num_cpus": max(counts) + 1} | ({"num_gpus": torch.cuda.device_count()} if gpu else {})
        with cluster(include_dashboard=True, dashboard_host="127.0.0.1", **resources):
            found = measure(job, config, counts, rounds, gpu=gpu, folder=folder)
        first = job.ways[0]
        alone = found["rates"][first.name]["1"]["seconds_a_step"]
        result = {
            "workers": counts,
            **{f"ratio_{way.train}": found["rates"][way.name]["ratio"] for way in job.ways[:2]},
            **found,
            **reached(job, first, config, alone, kind),
            "parameters": planner.read_architecture(config).parameters,
            "cells_per_step": job.stage.cells_per_step,
            "token_budget": job.token_budget,
            "dtype": job.dtype,
            "device": device,
            "load_average": [round(load) for load in os.getloadavg()],
            "hardware": torch.cuda.get_device_name() if gpu else hardware(),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
