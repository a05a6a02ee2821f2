"""The sides of sweep_cost.py: a sweep, one run of ours alone, and one of TRL's; and who won a sweep, judged.

Wall time and CPU seconds are of this process and all below it: the Ray cluster that it started, and TRL's process.
``prepare_environment`` is called before this is imported.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from kto_sides import BLOCK, Job, write
from kto_vs_trl import once
from kto_vs_trl import run as run_side
from process_tree import Meter
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from valuealign.cluster.sweep import sweep
from valuealign.cluster.train import fit
from valuealign.cluster.trials import Trial, TrialPlan, plan_trials
from valuealign.cluster.worker import NoCheckpoints, TrainRun, trained_folder, work
from valuealign.config import RunConfig
from valuealign.engine import LocalEngine
from valuealign.evaluate import Questions, hear
from valuealign.evaluate.gained import HEADLINE, ORIGIN
from valuealign.learner import plan_stages
from valuealign.metrics import behaviour_difference
from valuealign.models.host import Host
from valuealign.pairing import rows_of
from valuealign.prepared import Prepared
from valuealign.types import Cell, Estimate

EARLY, FULL = "early", "full"


def tell(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


class Run(NamedTuple):
    """When a run trained, by its log: from the beginning of its first step to its last record (``time.time()``)."""

    began: float
    ended: float
    steps: int
    stepping: float  # seconds within optimizer steps

    @property
    def seconds(self) -> float:
        """Of training: steps, and what is between and behind them (looks at the model, checkpoints, saving)."""
        return self.ended - self.began


def read_run(log: Path) -> Run:
    """A run from its ``log.jsonl``. Ends the benchmark where it took no step."""
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    steps = [one for one in records if one["event"] == "step"]
    if not steps:
        raise SystemExit(f"{log} holds no step: the run did not train")
    began = steps[0]["time"] - steps[0]["seconds"]  # a record is written when its step has ended
    return Run(began, records[-1]["time"], len(steps), sum(one["seconds"] for one in steps))


class Course(NamedTuple):
    """How a sweep went: seconds from the call to its first step, from there to its last record, and for each trial
    but the first of every place from that place's becoming free to the trial's first step."""

    startup: float
    training: float
    starts: tuple[float, ...]
    steps: int
    stepping: float


def course(called: float, runs: Sequence[Run], *, places: int) -> Course:
    """Of trials that ran at most ``places`` at a time, each as soon as one was free."""
    ordered = sorted(runs)
    free: list[float] = []
    starts = []
    for one in ordered:
        if len(free) == places:
            starts.append(one.began - heapq.heappop(free))
        heapq.heappush(free, one.ended)
    first, last = ordered[0].began, max(one.ended for one in ordered)
    steps, stepping = sum(one.steps for one in ordered), sum(one.stepping for one in ordered)
    return Course(first - called, last - first, tuple(starts), steps, stepping)


@dataclass(frozen=True)
class Measured:
    """A piece of work: the whole of it, and the training in it. Memory is the sum over all processes, at its peak
    (PSS counts a page that several share once)."""

    seconds: float
    cpu_seconds: float
    startup_seconds: float
    training_seconds: float
    training_cpu_seconds: float
    steps: float
    step_seconds: float
    peak_rss_gib: float
    peak_pss_gib: float


class Swept(NamedTuple):
    """A sweep that was measured. ``starts`` as in ``Course``."""

    measured: Measured
    starts: tuple[float, ...]
    trials: tuple[Trial, ...]


def stage1(config: RunConfig, prepared: Prepared, base: Path, folder: Path) -> Path:
    """Train what the trials start from, in this process; returns its weights. Nothing of it is measured."""
    stages = plan_stages(config.model_copy(update={"stages": ("distribution",)}), prepared.survey_cells, {})
    model = config.model.model_copy(update={"path": str(base)})
    run = TrainRun(model, config.train, stages, folder / "stage1", folder / "reference", seed=config.seed)
    with _files_are_read():
        work(run, lambda model, pad_id: LocalEngine(model, pad_id=pad_id), NoCheckpoints())
    return run.trained("distribution")


@contextlib.contextmanager
def _files_are_read() -> Iterator[None]:
    """All sides' libraries are read from disk once beforehand, so that no side's start pays for it."""
    command = [sys.executable, "-c", "import deepspeed, ray.train.torch, ray.tune\nfrom trl import KTOTrainer"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as reading:
        try:
            yield
        finally:
            reading.wait()


def trial_plan(config: RunConfig, prepared: Prepared, *, base: Path, start: Path, out: Path) -> TrialPlan:
    """A sweep whose table of reference log-probabilities is yet to be made."""
    plan = plan_trials(config, prepared, base=base, start=start, out=out)
    return replace(plan, run=replace(plan.run, cache=out / "reference"))


def measure_sweep(plan: TrialPlan, name: str) -> Swept:
    """A sweep on the connected cluster. Ends the benchmark where a trial failed."""
    with Meter() as meter:
        called = time.time()
        trials = sweep(plan, name=name, progress=tell)
        ended = time.time()
    if failed := [trial.error for trial in trials if trial.error]:
        raise SystemExit(f"{len(failed)} trials failed: {failed[0]}")
    runs = [read_run(trial.out / "log.jsonl") for trial in trials]
    found = course(called, runs, places=plan.config.sweep.concurrent)
    first = called + found.startup
    measured = Measured(
        ended - called, meter.cpu_seconds(called, ended), found.startup, found.training,
        meter.cpu_seconds(first, first + found.training), found.steps, found.stepping,
        meter.peak_rss_gib, meter.peak_pss_gib,
    )  # fmt: skip
    tell(f"sweep {name}: {measured.seconds:.0f} s, of which {measured.training_seconds:.0f} s from the first step on")
    return Swept(measured, found.starts, tuple(trials))


def measure_own(plan: TrialPlan, trial: Trial, name: str) -> Measured:
    """The run of one trial to its end, by itself: a Ray Train run of its own, with workers that start for it."""
    run = plan.trial(trial.setting, name)
    with Meter() as meter:
        called = time.time()
        fit(run, name=name, progress=lambda _: None)
        ended = time.time()
    found = read_run(run.out / "log.jsonl")
    tell(f"one run: {ended - called:.0f} s, of which {found.seconds:.0f} s from the first step on")
    return Measured(
        ended - called, meter.cpu_seconds(called, ended), found.began - called, found.seconds,
        meter.cpu_seconds(found.began, found.ended), found.steps, found.stepping,
        meter.peak_rss_gib, meter.peak_pss_gib,
    )  # fmt: skip


class Peer(NamedTuple):
    """One run of TRL's to its end, scaled up from the steps that were measured; ``rows`` are those of a step."""

    estimate: Measured
    measured_steps: int
    rows: int


def measure_trl(config: RunConfig, cells: Sequence[Cell], base: Path, folder: Path, *, seconds: float) -> Peer:
    """TRL's KTOTrainer in its default form, LoRA, all cores, on the distinct rows of ``cells``.

    As many rows make a step as the cells of ours hold, rounded to whole micro-batches; measured for so many
    ``seconds`` of training at least.
    """
    rows = list(rows_of([once(cell) for cell in cells]))
    rows = [rows[i] for i in np.random.default_rng(config.seed).permutation(len(rows))]
    share = min(1.0, config.kto.cells_per_step / len(cells))
    per_step = max(1, int(len(rows) * share) // BLOCK) * BLOCK
    if len(rows) < per_step:
        raise SystemExit(f"{len(rows)} marked answers are too few for TRL: bring {per_step}")
    folder.mkdir()
    write(folder / "distinct.json", rows[: len(rows) // per_step * per_step])
    _without_bos(base, folder / "model")
    job = Job(
        side="default", tune="lora", seconds=seconds, wall=0.0, rows=per_step, feedback_rows=BLOCK, cells=1,
        rates=(config.kto.learning_rate,), token_budget=config.train.token_budget,
    )  # fmt: skip
    with Meter() as meter, contextlib.redirect_stdout(sys.stderr):
        called = time.time()
        found = run_side(job, folder, len(os.sched_getaffinity(0)))["distinct"]
        ended = time.time()
    steps = config.kto.epochs * len(rows) / per_step
    return Peer(scaled(found, steps, called, ended, meter), found["steps"], per_step)


def scaled(found: dict[str, Any], steps: float, called: float, ended: float, meter: Any) -> Measured:
    """A run of so many ``steps`` from a process that measured fewer, or more: its start is what was not training.

    What it burns in a second of training is taken from the middle of the training, since its end (but for a moment
    in which the process ends) is known, and its beginning is not.
    """
    trained = found["per_step"] * found["steps"]
    startup = max(0.0, ended - called - trained)
    edge = 0.15 * trained
    rate = meter.cpu_seconds(ended - trained + edge, ended - edge) / (trained - 2 * edge)
    training = found["per_step"] * steps
    cpu = meter.cpu_seconds(called, ended) - rate * trained
    return Measured(
        startup + training, cpu + rate * training, startup, training, rate * training, steps, training,
        found["peak"], found["peak"],
    )  # fmt: skip


def _without_bos(base: Path, folder: Path) -> None:
    """A copy of the model whose tokenizer adds no BOS: the chat template begins with one, and TRL would add another."""
    shutil.copytree(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.save_pretrained(folder)


def winners(config: RunConfig, prepared: Prepared, base: Path, start: Path, swept: dict[str, Swept]) -> dict[str, Any]:
    """The early-stopped sweep's winner less the full one's, paired, on the report part: AUC of r and distance (bits).

    Also where it stands among the trials of the full sweep, which drew the same settings.
    """
    first = {name: one.trials[0] for name, one in swept.items()}
    if not all(trial.whole for trial in first.values()):
        raise SystemExit("a sweep has no trial that ran to its end: there is no winner")
    host = Host.of(config.model.model_copy(update={"path": str(base)}))
    # Later less earlier is what the exam compares.
    folders = {ORIGIN: start, **{name: trained_folder(first[name].out, "kto") for name in (FULL, EARLY)}}
    for who, folder in folders.items():
        host.load(who, folder)
    exam, marks = prepared.exam.only("report"), prepared.behaviour["report"]
    asked = {"survey": Questions(exam.cells), "behaviour": Questions(marks)}
    heard = hear(host, {who: who for who in folders}, asked, seed=config.seed, say=tell)
    logps = heard["behaviour"].logps
    r = {who: [now - was for now, was in zip(logps[who], logps[ORIGIN], strict=True)] for who in first}
    labels = [c.desirable for c in marks], [c.undesirable for c in marks]
    evaluation = exam.judge(heard["survey"].logps, part="report")
    split = next(name for name in HEADLINE if name in evaluation.splits)
    settings = [dict(trial.setting) for trial in swept[FULL].trials]
    mine = dict(first[EARLY].setting)
    return {
        "winner_auc_difference": three(behaviour_difference(r[EARLY], r[FULL], *labels, seed=config.seed)),
        "winner_distance_difference": three(evaluation.figure(split, f"{EARLY} - {FULL}")),
        "winner_distance_change": {who: three(evaluation.figure(split, f"{who} - {ORIGIN}")) for who in first},
        "winner_auc_on_select": {who: trial.figures["auc"] for who, trial in first.items()},
        "winner_feasible": {who: trial.feasible for who, trial in first.items()},
        "winner_rank_in_full_sweep": settings.index(mine) + 1 if mine in settings else None,
        "report_prompts": len(marks),
    }


def three(one: Estimate) -> list[float | None]:
    """Value, low and high; null where there is none."""
    return [x if np.isfinite(x) else None for x in (one.value, one.low, one.high)]
