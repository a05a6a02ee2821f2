"""A lane: one Ray Train run whose workers do training runs one after another, so that only the first pays for a start.

The workers keep what they imported, their process group and the frozen base (``Warm``). Whoever drives a lane gives it
a run, hears its reports, and says after each whether it goes on. A worker that dies is replaced by Ray Train, and the
run in hand goes on from its last checkpoint, which lies in the run's own folder: the lane outlives its runs.

driver -> ``Lane`` -> ``_Desk`` (an actor between them) <- ``_serve`` (each worker)
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import threading
import uuid
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
import torch.distributed as dist
from ray import train
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from valuealign.cluster.build import Warm
from valuealign.cluster.log import Stopped
from valuealign.cluster.train import scaling, train_on, users_error
from valuealign.cluster.worker import TrainRun
from valuealign.config import TrainConfig
from valuealign.errors import Diverged, ModelError, ValuealignError

FIGURES = "figures.json"
MOST_FAILURES = 20  # of a lane's workers over all of its runs
LOOK_SECONDS = 1.0  # how often a waiting driver looks whether the lane is still there


class Lane:
    """Workers for runs of the same ``train`` settings, started at the first; its files lie in ``folder``."""

    def __init__(self, settings: TrainConfig, folder: Path) -> None:
        # Where its driver is: the one is nothing without the other.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(_Desk).remote(settings.max_failures)
        self._error: BaseException | None = None
        trainer = TorchTrainer(
            _serve,
            train_loop_config={"desk": self._desk},
            scaling_config=scaling(settings),
            run_config=train.RunConfig(
                name=f"lane-{uuid.uuid4().hex[:8]}",
                storage_path=str(folder),
                # The desk counts what fails, run by run; a lane that waits for room has not failed.
                failure_config=train.FailureConfig(max_failures=MOST_FAILURES, controller_failure_limit=-1),
            ),
        )
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

    @property
    def open(self) -> bool:
        """Whether it takes runs."""
        return self._thread.is_alive()

    def run(self, run: TrainRun) -> Generator[dict[str, Any], None, None]:
        """Do a run; yields its reports, and waits with each until the next is asked for. Closed early, the run ends.

        A run in whose folder a checkpoint lies goes on from there. Raises what the run raised: a user's mistake or
        Diverged as it is, else ModelError once it has failed ``max_failures`` times more.
        """
        number: int = self._ask(self._desk.put.remote([ray.put(run)]))
        ended = False
        try:
            while not ended:
                said: _Said = self._ask(self._desk.hear.remote(number))
                ended = said.figures is None
                if said.error is not None:
                    raise said.error
                if said.figures is not None:
                    yield said.figures
                    self._desk.decide.remote(number, said.place, True)
        finally:
            if not ended:  # nobody waits for it: whoever stops a driver has little patience
                self._desk.decide.remote(number, 0, False)

    def close(self) -> None:
        """End the workers once no run is in hand."""
        self._desk.close.remote()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self._error = error

    def _ask(self, call: Any) -> Any:
        """What the desk answers. Raises ModelError if the lane ends first: there is nobody to wait for."""
        while not ray.wait([call], timeout=LOOK_SECONDS)[0]:
            if not self.open:
                raise users_error(self._error or ModelError("the workers ended without a word"))
        return ray.get(call)


_lanes: dict[tuple[object, ...], Lane] = {}


def lane_of(settings: TrainConfig, folder: Path) -> Lane:
    """This process's lane of that many workers, opened if there is none; another one's workers end."""
    key = (settings.workers, settings.cpus_per_worker, settings.gpus_per_worker, settings.max_failures, folder)
    if key not in _lanes or not _lanes[key].open:
        for lane in _lanes.values():
            lane.close()
        _lanes.clear()
        _lanes[key] = Lane(settings, folder)
    return _lanes[key]


class _Said(NamedTuple):
    """What a driver hears of a run: figures of a report, or (None) that it ended, with the error if it failed.
    ``place`` counts the reports."""

    figures: dict[str, Any] | None
    error: BaseException | None = None
    place: int = 0


class _Desk:
    """The actor between a driver and the workers. Runs are numbered from 1; one at a time is in hand."""

    def __init__(self, max_failures: int) -> None:
        self._allowed = max_failures
        self._runs: list[Any] = []
        self._number = self._ended = self._stopped = self._failures = self._starts = self._place = 0
        self._closed = False
        self._why: BaseException | None = None
        self._said: asyncio.Queue[tuple[int, _Said]] = asyncio.Queue()
        self._waiting: asyncio.Future[bool] | None = None
        self._put = asyncio.Condition()

    async def put(self, runs: list[Any]) -> int:
        """Driver: the next run, as a reference in a list; returns its number."""
        async with self._put:
            self._runs, self._number, self._failures, self._why = runs, self._number + 1, 0, None
            self._put.notify_all()
        return self._number

    async def hear(self, number: int) -> _Said:
        """Driver: what comes next of this run."""
        while True:
            whose, said = await self._said.get()
            if whose == number:
                return said

    async def decide(self, number: int, place: int, goes_on: bool) -> None:
        """Driver: this run goes on after the report of that place, or ends whatever it has reported."""
        if not goes_on:
            self._stopped = number
        waits = self._waiting is not None and not self._waiting.done() and number == self._number
        if self._waiting is not None and waits and (not goes_on or place == self._place):
            self._waiting.set_result(goes_on)

    async def begin(self) -> None:
        """Rank 0, when the workers start, before the others ask: a run that was in hand has failed once more."""
        self._starts += 1
        if self._starts > 1 and self._number > max(self._ended, self._stopped):
            self._failures += 1
            if self._failures > self._allowed:
                error = self._why or ModelError(
                    "a worker died", mend="the logs in Ray's session folder say more (often it is the host's memory)"
                )
                await self.end(self._number, error)

    async def ended(self) -> int:
        """Workers: the last run that ended."""
        return max(self._ended, self._stopped)

    async def close(self) -> None:
        """Driver: no more runs come."""
        async with self._put:
            self._closed = True
            self._put.notify_all()

    async def take(self, after: int) -> tuple[int, list[Any]]:
        """Workers: the next run after this one, once there is one; nothing in the list if none will come."""
        async with self._put:
            await self._put.wait_for(lambda: self._number > after or self._closed)
        return self._number, self._runs if self._number > after else []

    async def report(self, number: int, figures: dict[str, Any]) -> bool:
        """Rank 0: figures of a report; whether the run goes on."""
        if number <= self._stopped:
            return False
        self._waiting, self._place = asyncio.get_running_loop().create_future(), self._place + 1
        await self._said.put((number, _Said(figures, place=self._place)))
        return await self._waiting

    async def fail(self, number: int, error: BaseException) -> None:
        """A worker: why it now ends, amid this run."""
        if number > self._ended:
            self._why = error

    async def end(self, number: int, error: BaseException | None) -> None:
        """Rank 0: this run ended."""
        self._ended = number
        await self._said.put((number, _Said(None, error)))


def _serve(config: Mapping[str, Any]) -> None:
    """One worker: run after run, for as long as the lane is there."""
    desk, warm = config["desk"], Warm()
    first, alone = dist.get_rank() == 0, dist.get_world_size() == 1
    if first:
        ray.get(desk.begin.remote())
    dist.barrier()
    number: int = ray.get(desk.ended.remote())
    while True:
        number, runs = ray.get(desk.take.remote(number))
        if not runs:
            return
        run: TrainRun = ray.get(runs[0])
        error: BaseException | None = None
        _forget()
        try:
            train_on(run, FolderCheckpoints(run.out / "checkpoints", _reporter(desk, number)), warm)
        except Stopped:
            pass
        except Diverged as raised:
            error = raised
        except Exception as raised:
            # Others may wait for this worker, and what it holds may be damaged: not so by a user's mistake, met alone.
            if not (alone and isinstance(raised, ValuealignError)):
                ray.get(desk.fail.remote(number, users_error(raised)))
                raise
            error = raised
        if first:
            ray.get(desk.end.remote(number, error))


def _forget() -> None:
    """Free what the run before left in circles of references: weights that trained may fill a GPU twice."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reporter(desk: Any, number: int) -> Callable[[Mapping[str, float]], None]:
    """Reports to the desk by rank 0; raises Stopped on all ranks if the run does not go on."""

    def report(figures: Mapping[str, float]) -> None:
        goes_on = dist.get_rank() != 0 or ray.get(desk.report.remote(number, dict(figures)))
        stops = torch.tensor(float(not goes_on), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(stops)
        if stops.item():
            raise Stopped

    return report


class FolderCheckpoints:
    """A run's last checkpoint, in a folder that all ranks see; ``report`` is told the figures once it lies there.

    It is written aside and renamed, and the one before it is removed last: one that is whole is always there. Its
    figures lie in it: they are reported again when a run goes on from it, in case they had not arrived.
    """

    def __init__(self, folder: Path, report: Callable[[Mapping[str, float]], None]) -> None:
        self._folder, self._report = folder, report

    def latest(self) -> Path | None:
        """The last whole checkpoint, if there is one; its figures are reported. Every rank calls."""
        found = _agreed(self._last())
        if found:
            self._report(json.loads((found / FIGURES).read_text(encoding="utf-8")))
        return found

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None:
        """Write a checkpoint and report figures; every rank calls."""
        before, first = _agreed(self._last()), dist.get_rank() == 0
        name = f"{int(before.name) + 1 if before else 1:06}"
        aside = self._folder / f".{name}"
        if first:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            (aside / FIGURES).write_text(json.dumps(dict(figures)), encoding="utf-8")
        dist.barrier()
        write(aside)
        dist.barrier()
        if first:
            aside.rename(self._folder / name)
            if before:
                shutil.rmtree(before)
        self._report(figures)

    def _last(self) -> Path | None:
        return max(self._folder.glob("[0-9]*"), default=None)


def _agreed(path: Path | None) -> Path | None:
    """What rank 0 sees: a shared folder may show the others an older listing."""
    seen = [path]
    dist.broadcast_object_list(seen, src=0)
    return seen[0]
