"""Where a run's curves are kept beside its log: TensorBoard, MLflow, Weights & Biases. It knows no Ray.

Every tracker writes in a thread of its own, so that a slow server holds up no training. One that fails is left
behind with a word, and the training goes on. A series is a stage (``kto``) or a stage's probe (``kto/probe``);
steps are those of the stage. A run that is taken up again goes on in its own curves, each step once.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import math
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from valuealign.config import home
from valuealign.errors import ConfigError

Value = bool | int | float | str
Ending = Literal["finished", "stopped", "failed"]  # stopped: by whoever heard its reports, as a sweep does
PROJECT = "valuealign"  # MLflow's experiment and the project at Weights & Biases, where their variables name no other
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
EVERY_S = 2.0  # what is written at a time
CLOSE_S = 60.0  # how long the end of a run waits for its trackers
MLFLOW_BATCH, MLFLOW_PARAMS, MLFLOW_TEXT = 1000, 100, 500  # what MLflow takes at a time, and of a parameter's text


def check_trackers(names: Sequence[str]) -> None:
    """Raises ConfigError naming the first tracker whose package is not installed, and how it is."""
    for name in names:
        found = importlib.util.find_spec(PACKAGES[name])
        if found is None or found.origin is None:  # without origin: a folder of that name
            raise ConfigError(
                f"{name} is asked for and is not installed",
                where="train.log_to",
                mend=f"pip install 'valuealign[{name}]', or leave it out of train.log_to",
            )


@dataclass(frozen=True)
class Tracked:
    """The run that is tracked: its ``folder``, its hyperparameters, and the last step of each series that was logged
    before it was interrupted."""

    folder: Path
    hyper: Mapping[str, Value] = field(default_factory=dict)
    reached: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run below the folder of all runs, as in ``demo/sweep-1f2e3d4c5b/trials/8c1f3_00002``."""
        runs = home() / "runs"
        return self.folder.relative_to(runs).as_posix() if self.folder.is_relative_to(runs) else self.folder.name

    @property
    def group(self) -> str:
        """What a trial's run has in common with the others of its sweep; else the run's own name."""
        return self.name.partition("/trials/")[0]


class Row(NamedTuple):
    """Finite figures of one step of a series."""

    series: str
    step: int
    time: float  # seconds since the epoch
    values: Mapping[str, float]

    @property
    def curves(self) -> Iterator[tuple[str, float]]:
        """Each figure under its whole name, as in ``kto/probe/auc``."""
        return ((f"{self.series}/{name}", value) for name, value in self.values.items())


class Backend(Protocol):
    """Where curves go. Whatever a method raises ends this tracker alone."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self, ending: Ending) -> None: ...


class Tracker:
    """Keeps a run's curves with all trackers of ``names``. ``say(name, why)`` is called, once and from any thread,
    of each that fails. Nothing here raises or waits but ``close``, which waits for at most CLOSE_S."""

    def __init__(self, names: Sequence[str], run: Tracked, *, say: Callable[[str, str], None]) -> None:
        self._writers = [_Writer(name, run, say) for name in names]

    def scalars(self, series: str, step: int, values: Mapping[str, float], *, at_once: bool = False) -> None:
        """Add a step of a series; figures that are not finite are left out. ``at_once``: not with the next batch."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for writer in self._writers:
            writer.put(Row(series, step, time.time(), finite), at_once)

    def close(self, ending: Ending = "finished") -> None:
        """Write what is left, and how the run ended."""
        for writer in self._writers:
            writer.end(ending)
        until = time.monotonic() + CLOSE_S
        for writer in self._writers:
            writer.wait(until - time.monotonic())
        self._writers = []


class _Writer:
    """A tracker's thread: batches of rows, until the end or the first error."""

    def __init__(self, name: str, run: Tracked, say: Callable[[str, str], None]) -> None:
        self._name, self._run = name, run
        self._say: Callable[[str, str], None] | None = say
        self._queue: queue.SimpleQueue[tuple[Row | None, bool]] = queue.SimpleQueue()  # no row: the end
        self._ending: Ending = "finished"
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def put(self, row: Row | None, at_once: bool) -> None:
        if self._thread.is_alive():
            self._queue.put((row, at_once))

    def end(self, ending: Ending) -> None:
        self._ending = ending
        self.put(None, True)

    def wait(self, seconds: float) -> None:
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self._tell(f"it took longer than {CLOSE_S:.0f} s at the end")

    def _work(self) -> None:
        try:
            backend = BACKENDS[self._name](self._run)
            ended = False
            while not ended:
                rows, ended = self._batch()
                if rows:
                    backend.write(rows)
            backend.close(self._ending)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self._tell(f"{type(error).__name__}: {lines[0][:200]}".removesuffix(": "))

    def _tell(self, why: str) -> None:
        say, self._say = self._say, None
        if say is not None:
            say(self._name, why)

    def _batch(self) -> tuple[list[Row], bool]:
        """The next row and what comes soon after it, and whether that was all."""
        row, at_once = self._queue.get()
        rows, until = [], time.monotonic() + EVERY_S
        while row is not None:
            rows.append(row)
            if at_once:
                break
            try:
                row, at_once = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
        return rows, row is None


class TensorBoard:
    """Event files, a folder for each stage: their steps begin anew, and TensorBoard tells runs apart by folder."""

    def __init__(self, run: Tracked) -> None:
        self._run = run
        self._files: dict[str, Any] = {}

    def write(self, rows: Sequence[Row]) -> None:
        """Add the rows, and have them on the disk."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        for row in rows:
            stage = row.series.partition("/")[0]
            if stage not in self._files:
                self._files[stage] = self._open(self._run.folder / "tensorboard" / stage, row.step)
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in row.curves])
            self._files[stage].write_event(Event(wall_time=row.time, step=row.step, summary=summary))
        for file in self._files.values():
            file.flush()

    def close(self, ending: Ending) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _open(self, folder: Path, step: int) -> Any:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import hparams

        again = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        # Its name has seconds only, and a file of the same name would be written over.
        file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        if again:  # an interrupted run: what it did from here on is done again
            file.write_event(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))
        _, hyper, _ = hparams(dict(self._run.hyper), {})
        file.write_event(Event(wall_time=time.time(), summary=hyper))
        return file


class Mlflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI or in ``mlflow.db`` of the home."""

    def __init__(self, run: Tracked) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        with contextlib.nullcontext() if uri else _alone(home() / "mlflow.lock"):
            # The first to come makes the database; two at once would spoil it for each other.
            self._client = MlflowClient(tracking_uri=uri or f"sqlite:///{home() / 'mlflow.db'}")
            experiment = self._experiment("" if uri else (home() / "mlartifacts").as_uri())
        self._reached: dict[str, int] = {}
        kept = _kept(run.folder, "mlflow")
        self._again = kept is not None and self._take_up(kept)
        if kept is not None and self._again:
            self._id = kept
            return
        tags = {"mlflow.runName": run.name, "group": run.group}
        self._id = str(self._client.create_run(experiment, tags=tags).info.run_id)
        _keep(run.folder, "mlflow", self._id)
        hyper = [Param(name, str(value)[:MLFLOW_TEXT]) for name, value in run.hyper.items()]
        for begin in range(0, len(hyper), MLFLOW_PARAMS):
            self._client.log_batch(self._id, params=hyper[begin : begin + MLFLOW_PARAMS])

    def write(self, rows: Sequence[Row]) -> None:
        """Add the rows that the run does not have."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int(row.time * 1000), row.step)
            for row in rows
            if row.step > self._last(row)
            for name, value in row.curves
        ]
        for begin in range(0, len(metrics), MLFLOW_BATCH):
            self._client.log_batch(self._id, metrics=metrics[begin : begin + MLFLOW_BATCH])

    def close(self, ending: Ending) -> None:
        """End the run."""
        self._client.set_terminated(self._id, {"stopped": "KILLED"}.get(ending, ending.upper()))

    def _experiment(self, artifacts: str) -> str:
        """The id of the experiment; made, with its ``artifacts`` there, if it is missing."""
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts or None))
            except MlflowException:  # another trial was quicker
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _take_up(self, kept: str) -> bool:
        """Go on with the run of that id; false where this store does not have it."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(kept, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def _last(self, row: Row) -> int:
        """The last step of the row's series that the run has from before; 0 where it has none."""
        if row.series not in self._reached:
            name = next((name for name, _ in row.curves), None) if self._again else None
            known = self._client.get_metric_history(self._id, name) if name else []
            self._reached[row.series] = max((int(one.step) for one in known), default=0)
        return self._reached[row.series]


class Wandb:
    """A run of Weights & Biases, where and how its own variables say (WANDB_MODE=offline: in the run's folder)."""

    def __init__(self, run: Tracked) -> None:
        import wandb

        kept = _kept(run.folder, "wandb")
        self._reached = run.reached if kept else {}
        kept = kept or uuid.uuid4().hex[:12]
        _keep(run.folder, "wandb", kept)
        quiet = {"silent": True, "console": "off"} if "WANDB_CONSOLE" not in os.environ else {}
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or run.name,
            group=os.environ.get("WANDB_RUN_GROUP") or run.group,
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            id=kept,
            resume="allow",
            config=dict(run.hyper),
            reinit="create_new",  # a process may do many runs, and those of others are none of ours
            settings=wandb.Settings(**quiet),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, rows: Sequence[Row]) -> None:
        """Add the rows that were not logged before."""
        for row in rows:
            if row.step > self._reached.get(row.series, 0):
                self._run.log({**dict(row.curves), "step": row.step})

    def close(self, ending: Ending) -> None:
        """End the run, when all is sent."""
        self._run.finish(exit_code=int(ending == "failed"))


BACKENDS: Mapping[str, Callable[[Tracked], Backend]] = {"tensorboard": TensorBoard, "mlflow": Mlflow, "wandb": Wandb}


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock of all processes that see the file while the block runs."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
        yield


def _kept(folder: Path, name: str) -> str | None:
    """The id under which a run is known to a tracker; None where it is not yet."""
    path = folder / f"{name}.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["run"]) if path.exists() else None


def _keep(folder: Path, name: str, run: str) -> None:
    aside = folder / f".{name}.{os.getpid()}"
    aside.write_text(json.dumps({"run": run}), encoding="utf-8")
    aside.replace(folder / f"{name}.json")
