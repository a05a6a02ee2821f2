"""Curves of a run: read back from where they went, gone on with after a resume, and never in a training's way."""

from __future__ import annotations

import json
import math
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import ROOT
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c
from test_worker import FolderCheckpoints, Interrupted, local, make_run
from tiny import behaviour_cells, make_tiny

from valuealign.cluster import tracking
from valuealign.cluster.log import RunLog, Stopped, reached
from valuealign.cluster.tracking import Ending, Row, Tracked, Tracker, check_trackers
from valuealign.cluster.train import QUIET_S, describe
from valuealign.cluster.worker import NoCheckpoints, TrainRun, hyperparameters, work
from valuealign.config import RunConfig, load
from valuealign.errors import ConfigError
from valuealign.runs import run_folder
from valuealign.types import Cell, StepReport

Curves = dict[str, dict[int, float]]


class TensorBoardRun(NamedTuple):
    """What TensorBoard shows of a folder: tag -> step -> value, and the hyperparameters."""

    curves: Curves
    hyper: dict[str, Any]


def records(path: Path) -> list[bytes]:
    """The records of an event file, each held to its checksums."""
    data, found, at = path.read_bytes(), list[bytes](), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        sums = struct.unpack_from("<I", data, at + 8) + struct.unpack_from("<I", data, at + 12 + length)
        assert sums == (masked_crc32c(data[at : at + 8]), masked_crc32c(body))
        found.append(body)
        at += 16 + length
    return found


def read_tensorboard(folder: Path) -> TensorBoardRun:
    """As TensorBoard reads it: files by name; a session that starts again purges what has its step or a later one."""
    curves: Curves = {}
    hyper: dict[str, Any] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in map(Event.FromString, records(path)):
            if event.session_log.status == SessionLog.START:
                curves = {tag: {s: v for s, v in of.items() if s < event.step} for tag, of in curves.items()}
            for value in event.summary.value:
                if value.tag == "_hparams_/session_start_info":
                    data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    hyper = {
                        name: v.number_value or v.string_value for name, v in data.session_start_info.hparams.items()
                    }
                else:
                    assert event.step not in curves.setdefault(value.tag, {}), f"{value.tag} has {event.step} twice"
                    curves[value.tag][event.step] = value.simple_value
    return TensorBoardRun(curves, hyper)


@dataclass(frozen=True)
class Counting:
    """A probe with a figure that is no number beside one that is."""

    cells: tuple[Cell, ...] = tuple(behaviour_cells(2))

    def __call__(self, now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> dict[str, float]:
        return {"auc": 0.5 + float(np.mean([a[0] - b[0] for a, b in zip(now, before, strict=True)])), "kl": math.nan}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model"))


def tracked_run(model: Path, out: Path, *names: str) -> TrainRun:
    """The second stage of the tiny run (seven steps), probed twice, tracked by ``names``."""
    run = make_run(model, out, score={}, probe=Counting(), probes=2)
    train = run.train.model_copy(update={"log_to": names, "checkpoint_every": 2})
    return replace(run, stages=run.stages[1:], train=train)


def logged(out: Path) -> Curves:
    """The curves of a run's log, the last value of each step."""
    curves: Curves = {}
    for record in map(json.loads, (out / "log.jsonl").read_text().splitlines()):
        figures = {"loss": record.get("loss"), **record.get("stats", {})} if record["event"] == "step" else {}
        for name, value in figures.items():
            curves.setdefault(f"{record['stage']}/{name}", {})[record["step"]] = value
    return curves


def untracked(out: Path) -> list[tuple[str, str]]:
    told = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [(one["tracker"], one["why"]) for one in told if one["event"] == "untracked"]


def writers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tracker-")]


def test_tensorboard_has_every_step_and_probe_and_what_the_run_is(model: Path, tmp_path: Path) -> None:
    run = tracked_run(model, tmp_path, "tensorboard")
    work(run, local, NoCheckpoints())
    found = read_tensorboard(tmp_path / "tensorboard" / "kto")
    for tag, values in logged(tmp_path).items():
        assert found.curves[tag] == pytest.approx(values, rel=1e-5), tag
        assert list(values) == list(range(1, run.stages[0].steps + 1))
    assert {"kto/z0", "kto/distance", "kto/learning_rate", "kto/grad_norm"} <= set(found.curves)
    assert all(value > 0 for value in found.curves["kto/tokens_per_second"].values())
    assert set(found.curves["kto/probe/auc"]) == {4, 7}, "a curve beside the others, at its own steps"
    assert "kto/probe/kl" not in found.curves, "what is no number is left out"
    assert found.hyper["kto.beta"] == 0.5 and found.hyper["kto.lambda_d"] == 1.0 and found.hyper["kto.survey.weight"]
    assert found.hyper["kto.learning_rate"] == 0.01 and found.hyper["model.train"] == "lora"
    assert not writers(), "nothing is left in a process that goes on to another run"


@pytest.mark.parametrize("survive", [1, 2])
def test_a_resumed_run_goes_on_in_its_curve(model: Path, tmp_path: Path, survive: int) -> None:
    """Interrupted after the checkpoint at step 2, or the one at the probe of step 4: what is done again counts once."""
    whole, cut = (tracked_run(model, tmp_path / name, "tensorboard") for name in ("whole", "cut"))
    work(whole, local, NoCheckpoints())
    (tmp_path / "kept").mkdir()
    with pytest.raises(Interrupted):
        work(cut, local, FolderCheckpoints(tmp_path / "kept", survive=survive))
    before = read_tensorboard(cut.out / "tensorboard" / "kto").curves
    assert len(before["kto/loss"]) == 2 * survive
    work(cut, local, FolderCheckpoints(tmp_path / "kept"))
    one, other = (read_tensorboard(run.out / "tensorboard" / "kto").curves for run in (whole, cut))
    assert one.keys() == other.keys()
    for tag in one.keys() - {"kto/tokens_per_second"}:
        assert one[tag] == other[tag], f"{tag} is not the curve of a run that was not interrupted"
    assert reached(cut.out / "log.jsonl") == {"kto": 7, "kto/probe": 7}


def test_steps_done_again_are_purged(tmp_path: Path) -> None:
    for first, until in ((1, 5), (3, 6)):
        curves = Tracker(["tensorboard"], Tracked(tmp_path), say=lambda name, why: None)
        for step in range(first, until):
            curves.scalars("kto", step, {"loss": first + step / 10})
        curves.scalars("distribution", 1, {"loss": 9.0})
        curves.close()
    found = read_tensorboard(tmp_path / "tensorboard" / "kto").curves["kto/loss"]
    assert found == pytest.approx({1: 1.1, 2: 1.2, 3: 3.3, 4: 3.4, 5: 3.5})
    assert read_tensorboard(tmp_path / "tensorboard" / "distribution").curves == {"distribution/loss": {1: 9.0}}


def report(step: int, **change: Any) -> StepReport:
    return replace(StepReport("kto", step, 9, 0.5, {"z0": 0.0}, 40, 0.1, 0.01, 1.0), **change)


def test_what_is_no_number_breaks_nothing_and_rank_0_alone_writes(tmp_path: Path) -> None:
    for rank in (0, 1):
        with RunLog(tmp_path / str(rank), rank, trackers=("tensorboard",), hyper={"name": "a", "on": True}) as log:
            log.step(report(1, grad_norm=math.inf, seconds=0.0, stats={"z0": math.nan, "r": 1e300}))
            log.step(report(2, loss=math.nan))
            log.probe(report(2), {"auc": math.nan})
    assert not list((tmp_path / "1").iterdir())
    curves = read_tensorboard(tmp_path / "0" / "tensorboard" / "kto").curves
    assert curves["kto/loss"] == {1: 0.5} and set(curves["kto/z0"]) == {2} and set(curves["kto/grad_norm"]) == {2}
    assert untracked(tmp_path / "0") == []


class Breaking:
    """A server that takes the first batch and is gone at the second."""

    def __init__(self, run: Tracked) -> None:
        self.batches = 0

    def write(self, rows: Sequence[Row]) -> None:
        self.batches += 1
        if self.batches > 1:
            raise ConnectionError("no route to host\nand a long story")

    def close(self, ending: Ending) -> None:
        raise AssertionError("it failed before")


def test_a_tracker_that_fails_is_said_once_and_the_training_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "BACKENDS", {**tracking.BACKENDS, "mlflow": Breaking})
    run = tracked_run(model, tmp_path, "mlflow", "tensorboard")
    work(run, local, NoCheckpoints())
    assert untracked(tmp_path) == [("mlflow", "ConnectionError: no route to host")]
    assert len(read_tensorboard(tmp_path / "tensorboard" / "kto").curves["kto/loss"]) == 7, "the other has it all"
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [one["event"] for one in events].count("done") == 1
    (said,) = (describe(one) for one in events if one["event"] == "untracked")
    assert "mlflow no longer keeps the curves" in said and "no route to host" in said and "\n" not in said


def test_a_folder_that_cannot_be_written_is_such_a_failure(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    work(tracked_run(model, tmp_path, "tensorboard"), local, NoCheckpoints())
    ((name, why),) = untracked(tmp_path)
    assert name == "tensorboard" and str(tmp_path / "tensorboard") in why


def test_a_tracker_that_hangs_is_left_behind_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = threading.Event()

    class Hanging(Breaking):
        def write(self, rows: Sequence[Row]) -> None:
            gone.wait(60)
            raise ConnectionError("at last")

    monkeypatch.setattr(tracking, "BACKENDS", {**tracking.BACKENDS, "wandb": Hanging})
    monkeypatch.setattr(tracking, "CLOSE_S", 0.1)
    with RunLog(tmp_path, 0, trackers=("wandb",), hyper={}) as log:
        log.step(report(1))
    (left,) = (thread for thread in threading.enumerate() if thread.name == "tracker-wandb")
    gone.set()
    left.join(30)
    assert [name for name, _ in untracked(tmp_path)] == ["wandb"] and "at the end" in untracked(tmp_path)[0][1]


def test_how_a_run_ended_reaches_its_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Ending] = []

    class Noting(Breaking):
        def close(self, ending: Ending) -> None:
            ends.append(ending)

    monkeypatch.setattr(tracking, "BACKENDS", {**tracking.BACKENDS, "wandb": Noting})
    with RunLog(tmp_path / "well", 0, trackers=("wandb",), hyper={}):
        pass
    for error, step in ((Interrupted, 3), (Stopped, 3), (Stopped, 9)):
        with pytest.raises(error), RunLog(tmp_path / "ill", 0, trackers=("wandb",), hyper={}) as log:
            log.step(report(step))
            raise error
    assert ends == ["finished", "failed", "stopped", "finished"], "a trial that its sweep stopped has not failed"


def test_a_run_is_known_by_its_place(home: Path, tmp_path: Path) -> None:
    trial = Tracked(home / "runs" / "demo" / "sweep-1" / "trials" / "t2")
    assert (trial.name, trial.group) == ("demo/sweep-1/trials/t2", "demo/sweep-1")
    assert Tracked(home / "runs" / "demo" / "align-1").group == "demo/align-1"
    assert Tracked(tmp_path / "elsewhere").name == "elsewhere"


def test_hyperparameters_have_the_configuration_s_names(model: Path, tmp_path: Path) -> None:
    found = hyperparameters(make_run(model, tmp_path, seed=3))
    assert found["seed"] == 3 and found["kto.beta"] == 0.5 and found["distribution.epochs"] == 10
    assert found["kto.survey.distance"] == "kl" and found["train.clip"] == 1.0 and "train.log_to" not in found
    assert all(isinstance(value, bool | int | float | str) for value in found.values())


def test_who_is_not_installed_is_named_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(("tensorboard",))
    check_trackers(())
    monkeypatch.setitem(tracking.PACKAGES, "wandb", "wandb_of_nowhere")
    for _ in range(2):
        with pytest.raises(ConfigError, match="wandb is asked for and is not installed") as error:
            check_trackers(("tensorboard", "wandb"))
        assert "pip install 'valuealign[wandb]'" in error.value.mend and error.value.where == "train.log_to"
        (tmp_path / "wandb_of_nowhere").mkdir(exist_ok=True)
        monkeypatch.syspath_prepend(str(tmp_path))  # a folder that only looks like a package


@pytest.mark.parametrize("job", ["align", "sweep_kto", "update"])
def test_a_job_that_trains_refuses_before_it_begins(
    job: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(tracking.PACKAGES, "wandb", "wandb_of_nowhere")
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    monkeypatch.setattr(sys, "argv", [f"{job}.py", "train.log_to=wandb"])
    source = (ROOT / "jobs" / f"{job}.py").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        exec(compile(source, f"{job}.py", "exec"), {"__name__": "__main__", "__doc__": job})
    assert ended.value.code == 2 and "pip install 'valuealign[wandb]'" in capsys.readouterr().err
    assert not list(home.iterdir())


def test_the_setting_and_what_it_takes(home: Path) -> None:
    assert RunConfig().train.log_to == ("tensorboard",)
    assert load(None, ["train.log_to=mlflow"]).train.log_to == ("mlflow",)
    assert load(None, ["train.log_to=[]"]).train.log_to == ()
    for wrong in ("[tensorbord]", "[mlflow, mlflow]", "true"):
        with pytest.raises(ConfigError, match="train"):
            load(None, [f"train.log_to={wrong}"])
    with pytest.raises(ConfigError, match="the same for all trials"):
        load(None, ["sweep.space.also={train.log_to: {choices: [mlflow, wandb]}}"])


def test_a_run_is_the_same_whoever_watches_it(home: Path) -> None:
    facts = {"data": "d1"}
    first, _ = run_folder("align", RunConfig(), facts)
    (first / "log.jsonl").touch()
    other = load(None, ["train.log_to=[mlflow]"])
    assert run_folder("align", other, facts, resume=True) == (first, True)
    assert load(first / "run.yaml") == other, "the folder says what runs now"
    with pytest.raises(ConfigError) as error:
        run_folder("align", load(None, ["train.clip=2.0"]), facts, resume=True)
    assert "train.clip: 1.0 there, 2.0 now" in error.value.what and "log_to" not in error.value.what


def test_a_line_is_worth_saying_after_a_minute_without_one() -> None:
    record = {"event": "step", **vars(report(3, steps=2000, seconds=30.0))}
    assert describe(record, quiet=QUIET_S - 1) == ""
    said = describe(record, quiet=QUIET_S)
    assert "kto step 3/2000" in said and "about 16.6 h left" in said
    assert describe({**record, "step": 200}), "a tenth of the stage"
    assert "about 12 s left" in describe({**record, "step": 2000 - 12, "seconds": 1.0}, quiet=QUIET_S)


def track(
    name: str, out: Path, steps: range, *, ending: Ending = "finished", known: Mapping[str, int] | None = None
) -> None:
    """A run's curves of some steps, with a probe at the last."""
    out.mkdir(parents=True, exist_ok=True)
    run = Tracked(out, {"kto.beta": 0.1, "model.train": "lora"}, known or {})
    said: list[str] = []
    curves = Tracker([name], run, say=lambda name, why: said.append(f"{name}: {why}"))
    for step in steps:
        curves.scalars("kto", step, {"loss": steps[0] + step / 10, "z0": math.nan})
    curves.scalars("kto/probe", steps[-1], {"auc": 0.6}, at_once=True)
    curves.close(ending)
    assert not said


TWICE = {1: 1.1, 2: 1.2, 3: 1.3, 4: 1.4, 5: 3.5, 6: 3.6}  # steps 1 to 4, then 3 to 6: those done again are not kept


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time to make a database, or to start a process, on a machine that is busy."""
    monkeypatch.setattr(tracking, "CLOSE_S", 240.0)


@pytest.fixture
def mlflow_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home)  # where nothing else is to appear
    return home


def test_mlflow_has_the_run_in_the_home_and_goes_on_with_it(mlflow_home: Path, patient: None) -> None:
    from mlflow import MlflowClient

    out = mlflow_home / "runs" / "demo" / "sweep-1" / "trials" / "t1"
    track("mlflow", out, range(1, 5), ending="stopped")
    client = MlflowClient(f"sqlite:///{mlflow_home / 'mlflow.db'}")
    (first,) = client.search_runs(["1"])
    assert first.info.status == "KILLED"
    track("mlflow", out, range(3, 7))
    (run,) = client.search_runs(["1"])
    assert run.info.run_id == first.info.run_id and run.info.status == "FINISHED"
    assert run.info.run_name == "demo/sweep-1/trials/t1" and run.data.tags["group"] == "demo/sweep-1"
    assert run.data.params == {"kto.beta": "0.1", "model.train": "lora"}
    assert set(run.data.metrics) == {"kto/loss", "kto/probe/auc"}
    history = client.get_metric_history(run.info.run_id, "kto/loss")
    assert [one.step for one in history] == list(TWICE) and {m.step: m.value for m in history} == pytest.approx(TWICE)
    assert [one.step for one in client.get_metric_history(run.info.run_id, "kto/probe/auc")] == [4, 6]
    assert client.get_experiment("1").name == "valuealign"
    assert {path.name for path in mlflow_home.iterdir()} == {"runs", "mlflow.db", "mlflow.lock"}


def test_a_store_that_does_not_know_the_run_gets_a_new_one(
    mlflow_home: Path, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    out = mlflow_home / "runs" / "demo" / "align-1"
    out.mkdir(parents=True)
    (out / "mlflow.json").write_text(json.dumps({"run": "0" * 32}))
    uri = f"sqlite:///{mlflow_home / 'other.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "town")
    track("mlflow", out, range(3, 5))
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("town").experiment_id])
    assert [one.step for one in client.get_metric_history(run.info.run_id, "kto/loss")] == [3, 4]
    assert json.loads((out / "mlflow.json").read_text()) == {"run": run.info.run_id}
    assert not (mlflow_home / "mlflow.db").exists()


def test_an_mlflow_server_that_is_gone_ends_no_training(
    model: Path, tmp_path: Path, mlflow_home: Path, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = tracked_run(model, tmp_path, "mlflow", "tensorboard")
    work(run, local, NoCheckpoints())
    ((name, why),) = untracked(tmp_path)
    assert name == "mlflow" and "127.0.0.1" in why
    assert len(read_tensorboard(tmp_path / "tensorboard" / "kto").curves["kto/loss"]) == 7


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """W&B reads its variables once a process, and its service ends with this."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def ended_records(path: Path) -> list[Any]:
    """Its records, once the service has written that the run ended."""
    until = time.monotonic() + 60
    while True:
        records = list(wandb_records(path))
        if any(one.WhichOneof("record_type") == "exit" for one in records) or time.monotonic() > until:
            return records
        time.sleep(0.2)


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a run that Weights & Biases kept offline: LevelDB's log format behind a head of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:  # too little of a block for another record
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def test_wandb_keeps_the_run_offline_and_goes_on_with_it(
    home: Path, tmp_path: Path, patient: None, fresh_wandb: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "town")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    out = home / "runs" / "demo" / "sweep-1" / "trials" / "t1"
    track("wandb", out, range(1, 5))
    (first,) = (out / "wandb").glob("offline-run-*/*.wandb")
    time.sleep(1.1)  # its folder's name has seconds only
    track("wandb", out, range(3, 7), known={"kto": 4, "kto/probe": 4})
    (second,) = set((out / "wandb").glob("offline-run-*/*.wandb")) - {first}
    rows, runs, ends = list[dict[str, Any]](), list[Any](), list[int]()
    for record in (*ended_records(first), *ended_records(second)):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
        elif kind == "run":
            runs.append(record.run)
        elif kind == "exit":
            ends.append(record.exit.exit_code)
    losses = [(row["step"], row["kto/loss"]) for row in rows if "kto/loss" in row]
    assert [step for step, _ in losses] == list(TWICE) and dict(losses) == pytest.approx(TWICE)
    assert [(row["step"], row["kto/probe/auc"]) for row in rows if "kto/probe/auc" in row] == [(4, 0.6), (6, 0.6)]
    assert not any("kto/z0" in row for row in rows) and ends == [0, 0]
    assert len({run.run_id for run in runs}) == 1, "one run, which a later `wandb sync` puts together"
    assert (runs[0].project, runs[0].display_name, runs[0].run_group) == (
        "town", "demo/sweep-1/trials/t1", "demo/sweep-1"
    )  # fmt: skip
    assert {"kto.beta": "0.1"}.items() <= {one.key: one.value_json for one in runs[0].config.update}.items()


def test_wandb_without_a_key_is_said(
    tmp_path: Path, patient: None, fresh_wandb: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    with RunLog(tmp_path / "run", 0, trackers=("wandb",), hyper={}) as log:
        log.step(report(1))
    ((name, why),) = untracked(tmp_path / "run")
    assert name == "wandb" and "API key" in why
