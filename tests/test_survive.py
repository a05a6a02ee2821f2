"""A sweep whose processes are killed amid its trials ends with the trials that it would have had.

The sweeps run in processes of their own (sweeping.py), and nothing here knows how a trial runs: processes are found
by the names that Ray gives them, and what trials did is read from their logs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import optuna
import psutil
import pytest
from conftest import ROOT
from ray.tune.search.optuna import OptunaSearch
from test_sweep import plan_of, steps_of
from test_worker import first_stage
from tiny import make_tiny

from valuealign.cluster.sweep import _domain

TRIALS, SEED = 2, 1
STEPS, EVERY = 600, 100  # of a trial, and from one checkpoint to the next
AMID = EVERY + 20  # a step that has a checkpoint behind it
# By this objective the tiny exam tells no trial from another, so the scheduler stops none.
SETTINGS = (
    f"sweep.trials={TRIALS}", f"sweep.concurrent={TRIALS}", f"seed={SEED}", f"kto.epochs={STEPS // 2}",
    f"sweep.reports={STEPS // EVERY}", "sweep.sampler=random", "sweep.objective=jsd_bits", "train.max_failures=2",
)  # fmt: skip
WORKER, DRIVER, RAYLET = r"^ray::RayTrainWorker", r"^ray::\w+\.train\b", r"/raylet/raylet "
PATIENCE = 300  # seconds, for what takes half a minute on a machine with nothing else to do

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3 * PATIENCE)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def start(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_stage(model, tmp_path_factory.mktemp("start"))


@dataclass
class Nodes:
    """A cluster of a head without CPUs and two nodes with room for a trial each, in a process of its own."""

    process: psutil.Popen
    env: dict[str, str]

    def family(self, name: str) -> list[psutil.Process]:
        """The cluster's processes whose command line has ``name``."""
        found = []
        for process in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if re.search(name, " ".join(process.cmdline())):
                    found.append(process)
        return found

    def lose(self, raylet: psutil.Process) -> None:
        """Lose a node, at once and with all that runs there."""
        self.process.stdin.write(f"{raylet.pid}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "lost\n"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    # Short: Ray puts sockets below it, whose paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="va-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        env = {**os.environ, "RAY_TMPDIR": scratch, "OMP_NUM_THREADS": "1"}
        with (Path(scratch) / "nodes.log").open("w") as log:
            process = psutil.Popen(
                [sys.executable, str(ROOT / "tests" / "nodes.py"), "0", "1", "1"],
                cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        try:
            address = process.stdout.readline().strip()
            assert address, (Path(scratch) / "nodes.log").read_text()
            yield Nodes(process, {**env, "RAY_ADDRESS": address})
        finally:
            family = [process, *process.children(recursive=True)]
            process.stdin.close()
            _, left = psutil.wait_procs(family, timeout=30)
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(left, timeout=15)


class Sweeping:
    """A sweep on a cluster, in a process of its own; it ends with the block."""

    def __init__(self, nodes: Nodes, model: Path, start: Path, out: Path, *more: str) -> None:
        self.out, self.log = out, out.with_suffix(".log")
        command = [sys.executable, str(ROOT / "tests" / "sweeping.py"), model, start, out, *SETTINGS, *more]
        with self.log.open("w") as log:
            self.process = psutil.Popen(command, cwd=ROOT, env=nodes.env, stdout=log, stderr=subprocess.STDOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failed: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def done(self) -> dict[str, int]:
        """How many steps each trial did, those done twice included."""
        return {one.name: len(steps_of(one)) for one in self.out.glob("trials/*")}

    def until(self, what: Callable[[], Any]) -> Any:
        """Wait until ``what`` is true; what it is."""
        deadline = time.monotonic() + PATIENCE
        while not (found := what()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return found

    def amid(self, since: Mapping[str, int], steps: int) -> dict[str, int]:
        """Wait until every trial did so many steps more than ``since``; how many each did in all."""
        self.until(lambda: len(now := self.done()) == TRIALS and all(now[t] >= since.get(t, 0) + steps for t in now))
        now = self.done()
        assert all(steps_of(one)[-1] < STEPS for one in self.out.glob("trials/*")), "too late: a trial has ended"
        return now

    def ended(self) -> list[dict[str, Any]]:
        """The trials that the sweep ended with."""
        assert self.process.wait(timeout=PATIENCE) == 0, self.log.read_text()
        found: list[dict[str, Any]] = json.loads(self.log.read_text().splitlines()[-1])
        return found


def undisturbed() -> list[dict[str, float]]:
    """The settings that the sweep draws with its seed."""
    config = plan_of(Path(), Path(), Path(), *SETTINGS).config
    search = OptunaSearch(sampler=optuna.samplers.RandomSampler(seed=SEED))
    space = {key: _domain(axis) for key, axis in config.sweep.space.axes.items()}
    search.set_search_properties("score", "max", space)
    return [search.suggest(str(number)) for number in range(TRIALS)]


def check_nothing_lost(trials: Sequence[Mapping[str, Any]], out: Path, hit: Collection[str]) -> None:
    """The same trials as without a kill, each whole; those that were ``hit`` went on from a checkpoint."""
    by_setting = sorted(trials, key=lambda trial: sorted(trial["setting"].items()))
    wanted = sorted(undisturbed(), key=lambda setting: sorted(setting.items()))
    assert [trial["setting"] for trial in by_setting] == [pytest.approx(setting) for setting in wanted]
    ids = [trial["id"] for trial in trials]
    assert sorted(ids) == sorted(one.name for one in out.glob("trials/*")), "none twice, none beside them"
    for trial in trials:
        steps = steps_of(out / "trials" / trial["id"])
        assert trial["whole"] and not trial["error"], trial
        assert (trial["figures"]["step"], trial["figures"]["report"]) == (STEPS, STEPS // EVERY)
        assert sorted(set(steps)) == list(range(1, STEPS + 1)) and steps.count(1) == 1
        again = [now for before, now in pairwise(steps) if now != before + 1]
        assert all(step % EVERY == 1 for step in again), "it goes on from a checkpoint"
        assert bool(again) or trial["id"] not in hit, "it was not hit: the test did not test"


def test_a_sweep_outlives_its_job_a_worker_and_a_driver(nodes: Nodes, model: Path, start: Path, tmp_path: Path) -> None:
    """The job is killed amid both trials and given again; then the worker of one trial and the driver of the other."""
    with Sweeping(nodes, model, start, tmp_path / "sweep") as first:
        done = first.amid({}, AMID)
        first.process.kill()
        first.process.wait()
        deadline = time.monotonic() + PATIENCE
        while nodes.family(WORKER) or nodes.family(DRIVER):
            assert time.monotonic() < deadline, "a killed job's processes still train"
            time.sleep(0.1)
        done = first.done()
    with Sweeping(nodes, model, start, tmp_path / "sweep") as second:
        done = second.amid(done, 20)
        worker, *_ = nodes.family(WORKER)
        theirs = trial_of(worker, second)
        drivers = sorted(nodes.family(DRIVER), key=lambda driver: theirs in driver.cwd())
        worker.kill()
        drivers[0].kill()
        check_nothing_lost(second.ended(), second.out, hit=done)


def trial_of(worker: psutil.Process, sweeping: Sweeping) -> str:
    """Whose worker it is: the trial that stands still while the worker does. It is left stopped."""
    worker.suspend()
    before = sweeping.until(lambda: worker.status() == psutil.STATUS_STOPPED and sweeping.done())
    moved = sweeping.until(lambda: {t for t, steps in sweeping.done().items() if steps > before[t]})
    (still,) = set(before) - moved
    return still


def test_a_sweep_outlives_a_node(nodes: Nodes, model: Path, start: Path, tmp_path: Path) -> None:
    with Sweeping(nodes, model, start, tmp_path / "sweep") as one:
        one.amid({}, AMID)
        worker, *_ = nodes.family(WORKER)
        theirs = trial_of(worker, one)
        (raylet,) = (parent for parent in worker.parents() if parent in nodes.family(RAYLET))
        nodes.lose(raylet)
        check_nothing_lost(one.ended(), one.out, hit=[theirs])
