"""Ray Train with DeepSpeed: two workers do a run; a killed worker is replaced and the run ends alike."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from test_worker import local, make_run
from tiny import make_tiny

from valuealign.cluster.worker import NoCheckpoints, TrainRun, read_scores, work
from valuealign.errors import ModelError
from valuealign.models.trained import trained_done

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model"))


def long_run(model: Path, out: Path) -> TrainRun:
    """Enough steps to be interrupted in: the first stage stretched, checkpoints far apart."""
    run = make_run(model, out)
    # Small rates: at larger ones the last bits, which differ between one process and two, grow until they show.
    first = replace(run.stages[0], epochs=150, learning_rate=0.001)
    second = replace(run.stages[1], learning_rate=0.001)
    train = run.train.model_copy(
        update={"checkpoint_every": 25, "workers": 2, "cpus_per_worker": 0.5, "weight_decay": 0.0}
    )
    return replace(run, stages=(first, second), train=train)


def steps_of(run: TrainRun) -> list[tuple[str, int]]:
    log = run.out / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [(r["stage"], r["step"]) for r in records if r["event"] == "step"]


def training_workers() -> list[psutil.Process]:
    """The training processes under this test's own raylet."""
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if any("RayTrainWorker" in part for part in p.cmdline())]


def test_a_killed_worker_is_replaced_and_the_run_ends_alike(ray_cluster: None, model: Path, tmp_path: Path) -> None:
    from valuealign.cluster.train import fit

    whole, cut = long_run(model, tmp_path / "whole"), long_run(model, tmp_path / "cut")
    work(whole, local, NoCheckpoints())  # one process, uninterrupted
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and not killed:
            reached = steps_of(cut)
            if reached and reached[-1][1] >= 240:
                victim = training_workers()[-1]
                os.kill(victim.pid, signal.SIGKILL)
                killed.append(victim.pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    said: list[str] = []
    fit(cut, name="killed", progress=said.append)
    killer.join(timeout=5)
    assert killed, "no worker was killed: the test did not test"
    steps = steps_of(cut)
    first = [step for stage, step in steps if stage == "distribution"]
    assert len(first) > cut.stages[0].steps, "some steps were done twice, from the last checkpoint on"
    assert first.count(1) == 1, "but not from the beginning"
    assert sorted(set(first)) == list(range(1, cut.stages[0].steps + 1))
    assert any("tokens/s" in line for line in said)
    for stage in ("distribution", "kto"):
        assert trained_done(cut.trained(stage))
        one, two = read_scores(whole.out, stage), read_scores(cut.out, stage)
        apart = max(float(np.abs(a - b).max()) for name in one for a, b in zip(one[name], two[name], strict=True))
        assert apart < 0.05, f"{stage}: two workers and a kill end where one process does ({apart:.4f} nats)"


def test_a_users_mistake_in_a_worker_comes_back_as_his_error(ray_cluster: None, model: Path, tmp_path: Path) -> None:
    from valuealign.cluster.train import fit

    run = make_run(model, tmp_path / "run")
    settings: dict[str, Any] = {"workers": 1, "cpus_per_worker": 0.5, "max_failures": 0}
    run = replace(run, start=tmp_path / "nothing", train=run.train.model_copy(update=settings))
    with pytest.raises(ModelError, match="adapter has no"):
        fit(run, name="mistake", progress=lambda _: None)
