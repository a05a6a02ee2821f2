"""A lane: runs in turn in the same warm workers, stopped early or failing alone; dead workers are replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.torch import load_file
from test_worker import first_stage, make_run
from tiny import make_tiny, survey_cells

from valuealign.cluster.lane import Lane
from valuealign.cluster.worker import TrainRun
from valuealign.errors import Diverged, ModelError
from valuealign.models.adapters import WEIGHTS
from valuealign.models.trained import trained_done
from valuealign.types import Cell

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class WhoTrains:
    """A probe that tells the worker's process."""

    cells: tuple[Cell, ...] = survey_cells(2)

    def __call__(self, now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> dict[str, float]:
        return {"pid": float(os.getpid()), "moved": float(np.abs(now[0] - before[0]).max())}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def start(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_stage(model, tmp_path_factory.mktemp("start"))


def steps_of(run: TrainRun) -> list[int]:
    lines = (run.out / "log.jsonl").read_text().splitlines()
    return [one["step"] for one in map(json.loads, lines) if one["event"] == "step"]


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    return a.keys() == b.keys() and all(bool((a[key] == b[key]).all()) for key in a)


def test_runs_share_their_workers_and_nothing_else(ray_cluster: None, model: Path, start: Path, tmp_path: Path) -> None:
    """The same run ends alike to the bit in a new worker and in one that has done, stopped and failed others; a
    killed worker costs what came after the last checkpoint."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not see this folder

    def made(name: str, **change: Any) -> TrainRun:
        run = make_run(model, tmp_path / name, score={}, start=start, probe=WhoTrains(), probes=3)
        settings = {"workers": 1, "cpus_per_worker": 0.5, "max_failures": 1, "checkpoint_every": 10**9}
        train = run.train.model_copy(update=settings)
        stage = replace(run.stages[1], epochs=9, **change)
        return replace(run, stages=(stage,), train=train, cache=tmp_path / "cache")

    first, again, stopped, wild, killed, misfit = (
        made("first"), made("again"), made("stopped"), made("wild", learning_rate=1e30), made("killed"),
        replace(made("misfit"), start=tmp_path / "nowhere"),
    )  # fmt: skip
    lane = Lane(first.train, tmp_path / "train")
    reports = list(lane.run(first))
    assert [figures["step"] for figures in reports] == [5, 10, 15] == [figures["report"] * 5 for figures in reports]
    (pid,) = {figures["pid"] for figures in reports}
    assert pid != os.getpid() and reports[-1]["moved"] > reports[0]["moved"] > 0

    with contextlib.closing(lane.run(stopped)) as some:
        assert next(some)["pid"] == pid
    with pytest.raises(Diverged, match="its loss is nan"):
        list(lane.run(wild))
    with pytest.raises(ModelError, match="nowhere"):
        list(lane.run(misfit))
    warm = list(lane.run(again))
    assert {figures["pid"] for figures in warm} == {pid}, "nobody started anew"
    assert same_weights(first.trained("kto"), again.trained("kto"))
    assert max(steps_of(stopped)) == 5 and not stopped.trained("kto").exists()

    seen: list[tuple[float, bool]] = []
    for figures in lane.run(killed):
        seen.append((figures["report"], figures["pid"] == pid))
        if len(seen) == 2:
            os.kill(int(pid), signal.SIGKILL)
    assert seen == [(1, True), (2, True), (2, True), (3, False)], "the last report is repeated: it may not have arrived"
    assert sorted(set(steps_of(killed))) == list(range(1, 16)) and steps_of(killed).count(10) == 1
    assert same_weights(first.trained("kto"), killed.trained("kto"))
    lane.close()


def test_two_workers_fail_stop_and_end_together(ray_cluster: None, model: Path, start: Path, tmp_path: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def made(name: str, probe: WhoTrains) -> TrainRun:
        run = make_run(model, tmp_path / name, score={}, start=start, probe=probe, probes=2)
        settings = {"workers": 2, "cpus_per_worker": 0.5, "max_failures": 0, "checkpoint_every": 10**9}
        return replace(run, stages=run.stages[1:], train=run.train.model_copy(update=settings))

    lane = Lane(made("", WhoTrains()).train, tmp_path / "train")
    with pytest.raises(ModelError, match="the probe is broken"):
        list(lane.run(made("broken", Broken())))
    with contextlib.closing(lane.run(made("stopped", WhoTrains()))) as some:
        assert next(some)["report"] == 1
    whole = made("whole", WhoTrains())
    assert [figures["report"] for figures in lane.run(whole)] == [1, 2]
    assert trained_done(whole.trained("kto"))
    lane.close()


@dataclass(frozen=True)
class Broken(WhoTrains):
    """A probe that raises."""

    def __call__(self, now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> dict[str, float]:
        raise RuntimeError("the probe is broken")
