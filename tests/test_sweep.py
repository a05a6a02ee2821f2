"""The sweep: what a trial is and reports, who is feasible, failures that stay one trial's, stops and resumes."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from test_tracking import read_tensorboard
from test_worker import first_stage, local, make_run
from tiny import behaviour_cells, make_tiny, survey_cells

from valuealign.cluster.size import fitting
from valuealign.cluster.sweep import SweepStopped, _ended, _scheduler, _stoppable, sweep
from valuealign.cluster.trials import (
    FAILED,
    FIGURES,
    INFEASIBLE,
    SweepProbe,
    Trial,
    TrialPlan,
    check_objective,
    infeasible,
    merit,
    ranked,
    read_reason,
    trials_table,
    write_reason,
)
from valuealign.cluster.worker import NoCheckpoints, TrainRun, work
from valuealign.config import ModelConfig, SweepConfig, load
from valuealign.errors import ConfigError, DiskError, Diverged, ModelError, SplitError
from valuealign.metrics import METRICS, jsd_bits, softmax
from valuealign.objectives.kto import LambdaRule
from valuealign.planner import Box, TrialSize
from valuealign.types import Cell

CELLS = survey_cells(5)
SEED = 1  # of the two settings drawn, the first is calm and the second wild
RULE = LambdaRule(1.0, 1.0, 10.0, 10.0)


@dataclass(frozen=True)
class SmallExam:
    """Five questions, each an item."""

    cells: tuple[Cell, ...] = CELLS

    def distances(self, logps: Sequence[Any], part: str = "select") -> tuple[np.ndarray, tuple[Any, ...]]:
        truth = [np.array(cell.desirable) / sum(cell.desirable) for cell in self.cells]
        apart = [float(jsd_bits(softmax(np.asarray(x)), t)) for x, t in zip(logps, truth, strict=True)]
        return np.array(apart), tuple(("seen", f"q{n}", "everyone") for n in range(len(self.cells)))

    def figures(self, logps: Sequence[Any], part: str = "select") -> dict[str, float]:
        return dict.fromkeys(METRICS, 0.9)


def scores(tilt: float, cells: Sequence[Cell]) -> list[np.ndarray]:
    """Log-probabilities that favour the first completion by ``tilt`` nats."""
    rows = [np.array([tilt, *[0.0] * (len(cell.completions) - 1)]) for cell in cells]
    return [row - np.logaddexp.reduce(row) for row in rows]


def probe(config: SweepConfig) -> SweepProbe:
    return SweepProbe(SmallExam(), behaviour_cells(4), config)  # type: ignore[arg-type]


def trial(**change: Any) -> Trial:
    figures = {"step": 8.0, "steps": 8.0, "auc": 0.7, "change": 0.001, "change_high": 0.004, "dispersion": 0.9}
    setting = {"kto.beta": 0.1, "kto.lambda_d": 1.2, "kto.lambda_u": 1.0, "kto.anchor": 3.0}
    return replace(Trial("abc", setting, figures, (), "", Path("nowhere")), **change)


def test_a_probe_reports_what_trials_are_ranked_and_held_by() -> None:
    made = probe(SweepConfig())
    before = [*scores(0.0, CELLS), *scores(0.0, made.behaviour)]
    now = [*scores(0.3, CELLS), *scores(1.0, made.behaviour)]
    found = made(now, before)
    assert set(FIGURES) - {"step", "steps", "report", "loss"} <= set(found)
    assert found["auc"] > 0.9 and found["auc_low"] <= found["auc"] <= found["auc_high"]
    assert found["score"] == found["auc"] + (0.0 if found["feasible"] else INFEASIBLE)
    p, q = np.exp(now[0]), np.exp(before[0])
    assert found["kl"] == pytest.approx(float((p * np.log(p / q)).sum())), "nats, of now from before"
    strict = replace(made, config=SweepConfig(margin=1e-6))(now, before)
    assert not strict["feasible"] and strict["score"] == pytest.approx(found["auc"] + INFEASIBLE)
    lower = replace(made, config=SweepConfig(objective="jsd_bits", margin=None))(now, before)
    assert lower["score"] == pytest.approx(-0.9) and lower["feasible"]
    with pytest.raises(SplitError, match="nothing on the select part tells auc"):
        replace(made, behaviour=())(now[:5], before[:5])


def test_answers_that_cannot_rank_trials_are_said_before_anything_is_trained() -> None:
    good, bad = (
        Cell(({"role": "user", "content": "Q?"},), ("a",), (float(fine),), (float(not fine),)) for fine in (True, False)
    )
    check_objective((good, bad), SweepConfig())
    check_objective((good,), SweepConfig(objective="jsd_bits"))
    for lone in ((), (good, good), (bad,)):
        with pytest.raises(SplitError, match=f"select part's {len(lone)} prompts .* by AUC") as error:
            check_objective(lone, SweepConfig())
        assert "splits.select" in error.value.mend


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SweepConfig(margin=0.003), "people lost: distance up by as much as 0.0040, margin 0.003"),
        (SweepConfig(dispersion=(0.95, 1.2)), "dispersion 0.900 outside 0.95 to 1.2"),
        (SweepConfig(kl=0.05), "KL 0.060 over 0.05"),
    ],
)
def test_a_trial_that_breaks_a_constraint_says_which_and_is_never_crowned(config: SweepConfig, words: str) -> None:
    figures = {**trial().figures, "kl": 0.06}
    assert infeasible(figures, config) == (words,)
    off = config.model_copy(update={"margin": None, "dispersion": None, "kl": None})
    assert infeasible(figures, off) == () and infeasible({}, off) == ()
    assert len(infeasible({}, config)) >= 1, "a figure that is not known holds nothing"
    lost = trial(id="lost", figures={**figures, "auc": 0.99}, broken=(words,))
    kept = trial(id="kept", figures={**figures, "auc": 0.6})
    failed = trial(id="failed", figures={"score": -1000.0}, error="the loss is nan")
    assert [one.id for one in ranked([failed, lost, kept], config)] == ["kept", "lost", "failed"]
    assert words in trials_table([kept, lost], RULE).splitlines()[-1]
    assert lost.record()["why"] == words and lost.record()["feasible"] is False
    assert (lost.record()["beta"], lost.record()["kto.anchor"]) == (0.1, 3.0)


def test_any_figure_can_be_the_objective() -> None:
    figures = {"auc": 0.7, "wasserstein": 0.2, "mode_accuracy": 0.6, "dispersion": 0.9}
    reached = {name: merit(figures, SweepConfig(objective=name)) for name in figures}  # type: ignore[arg-type]
    assert reached == pytest.approx({"auc": 0.7, "wasserstein": -0.2, "mode_accuracy": 0.6, "dispersion": -0.1})
    for name in ("auc", *METRICS):
        assert SweepConfig(objective=name).objective == name, "every metric has a name here"  # type: ignore[arg-type]


def test_a_failed_trial_has_its_reason_in_the_table_and_a_sweep_of_failures_is_an_error(tmp_path: Path) -> None:
    failed = trial(id="failed", figures={}, error="the training diverged: its loss is nan")
    table = trials_table([trial(), failed], RULE).splitlines()
    assert table[-1].endswith("failed: the training diverged: its loss is nan") and "0.700" in table[-2]
    assert failed.record()["error"].startswith("the training diverged") and not failed.whole
    with pytest.raises(ModelError, match=r"every trial failed \(2 of 2\): the training diverged") as error:
        ranked([failed, failed], SweepConfig())
    assert str(error.value).count("the training diverged") == 1 and "--resume" in error.value.mend
    assert read_reason(tmp_path / "t") == ""


def test_a_resumed_sweep_holds_trials_against_those_of_before(tmp_path: Path) -> None:
    def add(scheduler: Any, name: str, scores: Sequence[float], ended: bool) -> Any:
        log = tmp_path / "trials" / name / "log.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        probe = {"event": "probe", "stage": "kto"}
        lines = [{**probe, "step": n, "figures": {"score": x}} for n, x in enumerate(scores, start=1)]
        log.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *lines[-1:]]))
        trial = SimpleNamespace(trial_id=name, is_finished=lambda: ended)
        scheduler.on_trial_add(None, trial)
        return trial

    def made(*before: float) -> Any:
        scheduler: Any = _scheduler(SweepConfig(reports=4, reduction=2), tmp_path)
        scheduler.set_search_properties("score", "max")
        for n, score in enumerate(before):
            add(scheduler, f"before{n}", [score, score], ended=True)
        return scheduler

    poor = {"report": 1, "score": 0.5}
    for scheduler, action in ((made(), "CONTINUE"), (made(0.8, 0.9), "STOP"), (made(0.3, 0.4), "CONTINUE")):
        assert scheduler.on_trial_result(None, add(scheduler, "now", [0.5], ended=False), poor) == action
    assert type(_scheduler(SweepConfig(scheduler="none"), tmp_path)).__name__ == "FIFOScheduler"


def test_sigterm_stops_a_sweep_as_ctrl_c_does_and_says_how_to_go_on() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with pytest.raises(KeyboardInterrupt), _stoppable(said.append, "python jobs/sweep_kto.py --resume"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert said == ["stopping. python jobs/sweep_kto.py --resume"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def start(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the trials start from: a short first stage."""
    return first_stage(model, tmp_path_factory.mktemp("start"))


def test_a_training_that_diverges_ends_at_once_and_says_where(model: Path, tmp_path: Path) -> None:
    run = make_run(model, tmp_path, score={})
    wild = replace(run.stages[0], learning_rate=1e30)
    with pytest.raises(Diverged, match="its loss is nan") as error:
        work(replace(run, stages=(wild,)), local, NoCheckpoints())
    assert "stage distribution, step" in error.value.where and "distribution.learning_rate" in error.value.mend
    steps = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(one["loss"]) for one in steps if one["event"] == "step")


def plan_of(model: Path, start: Path, out: Path, *overrides: str) -> TrialPlan:
    """Trials of eight steps and two reports on the tiny model."""
    small = ("kto.epochs=4", "kto.cells_per_step=2", "train.token_budget=600", "train.max_failures=0",
             "sweep.margin=null", "sweep.reports=2", "train.cpus_per_worker=0.5")  # fmt: skip
    config = load(None, [*small, *overrides])
    run = TrainRun(
        model=ModelConfig(path=str(model), lora_r=4, lora_alpha=8),
        train=config.train.model_copy(update={"workers": 1}),
        stages=(),
        out=out,
        cache=out / "cache",
        start=start,
        probe=probe(config.sweep),
        probes=config.sweep.reports,
    )
    return TrialPlan(run, config, CELLS, behaviour_cells(4))


def test_a_trial_takes_its_own_values_of_any_key(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, tmp_path, tmp_path)
    setting = {"kto.beta": 0.3, "kto.lambda_d": 1.1, "kto.lambda_u": 0.9, "kto.epochs": 2, "train.clip": 0.5}
    one = plan.trial({**setting, "distribution.raw_mass": 0.7}, "t1")
    (stage,) = one.stages
    behaviour, anchor = stage.terms
    assert (behaviour.hyper["beta"], behaviour.hyper["lambda_d"], behaviour.hyper["lambda_u"]) == (0.3, 1.1, 0.9)
    assert stage.steps == 4 and one.train.clip == 0.5 and anchor.hyper["raw_mass"] == 0.7
    assert one.out == tmp_path / "trials" / "t1" and plan.configuration(setting).kto.beta == 0.3
    with pytest.raises(ConfigError, match=r"'kto.beta': input should be greater than 0"):
        plan.trial({"kto.beta": -1.0}, "t2")


def test_a_trial_is_as_large_as_the_gpus_ask(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, tmp_path, tmp_path)
    roomy = fitting(plan, Box(4, 48e9, "A40"))
    assert roomy == (1, {}) and replace(plan, size=roomy).trial({}, "t").train.workers == 1
    whole = replace(plan, size=TrialSize(4, {"train.zero": 3, "train.recompute": True}))
    trained = whole.trial({"kto.beta": 0.2}, "t").train
    assert (trained.workers, trained.zero, trained.recompute) == (4, 3, True)
    with pytest.raises(ModelError, match="neither on one GPU of 0 GB nor on all 4") as error:
        fitting(plan, Box(4, 1e5, "A40"))
    assert error.value.where == "sweep.workers" and error.value.mend


def steps_of(out: Path) -> list[int]:
    log = out / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [one["step"] for one in map(json.loads, lines) if one["event"] == "step"]


def test_a_trial_that_raised_is_kept_with_its_reason_and_so_is_one_whose_driver_died(
    model: Path, tmp_path: Path
) -> None:
    plan = plan_of(model, tmp_path, tmp_path)
    ended = dict(plan.config.sweep.space.axes)
    seen: dict[str, Any] = {"config": dict.fromkeys(ended, 0.5), "last_result": {"auc": 0.6, "step": 4, "pid": 7}}

    def tried(trial: str, status: str, error: Exception | None = None) -> Trial:
        made = SimpleNamespace(trial_id=trial, status=status, get_error=lambda: error, **seen)
        return _ended(made, plan)  # type: ignore[arg-type]

    write_reason(tmp_path / "trials" / "raised", "the disk is full")
    raised = tried("raised", "ERROR", RuntimeError("Traceback: far too long"))
    assert raised.error == "the disk is full" and not raised.feasible and raised.figures == {"auc": 0.6, "step": 4.0}
    seen["last_result"] = {"score": FAILED, "report": 1}
    write_reason(tmp_path / "trials" / "diverged", "its loss is nan")
    assert tried("diverged", "TERMINATED").error == "its loss is nan", "for Tune it has ended"
    seen["last_result"] = {"score": 0.6}
    died = tried("died", "ERROR", RuntimeError("The actor died unexpectedly\nand more"))
    assert died.error == "The actor died unexpectedly"
    assert tried("silent", "ERROR").error == "its driver ended without a word"
    write_reason(tmp_path / "trials" / "well", "its driver was stopped by the scheduler")
    assert tried("well", "TERMINATED").error == "" and tried("well", "TERMINATED").weight("beta") == 0.5


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_stopped_sweep_goes_on_and_a_trial_that_diverges_is_its_own_affair(
    ray_cluster: None, model: Path, start: Path, tmp_path: Path
) -> None:
    """Stopped by SIGTERM amid the first trial; resumed, that one goes on from its checkpoint, and the second, whose
    rate is absurd, diverges and is kept with its reason."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not see this folder
    out, said = tmp_path / "sweep", list[str]()
    wild = "sweep.space.also={kto.learning_rate: {choices: [0.01, 1.0e+30]}}"
    settings = ("sweep.trials=2", "sweep.concurrent=1", "sweep.sampler=random", f"seed={SEED}", "kto.epochs=400")
    plan = plan_of(model, start, out, wild, *settings)

    def stop() -> None:
        while not any(step >= 410 for one in out.glob("trials/*") for step in steps_of(one)):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(SweepStopped, match="0 of 2 trials ended"):
        sweep(plan, name="kto", progress=said.append, go_on="--resume")
    assert "stopping. --resume" in said
    (first,) = out.glob("trials/*")
    assert max(steps_of(first)) < 800, "it was stopped amid a trial"

    calm, diverged = sweep(plan, name="kto", progress=said.append)
    assert (calm.out, calm.error, calm.whole) == (first, "", True)
    steps = steps_of(first)
    assert steps.count(1) == 1 and steps[-1] == 800, "from its checkpoint, not from its beginning"
    shown = read_tensorboard(first / "tensorboard" / "kto")
    assert list(shown.curves["kto/loss"]) == list(range(1, 801)) and set(shown.curves["kto/probe/auc"]) == {400, 800}
    assert shown.hyper["kto.beta"] == pytest.approx(calm.weight("beta"))
    assert not list((out / "tune").rglob("*tfevents*")), "Tune's own files would show each trial twice"
    assert calm.figures["report"] == 2 and calm.figures["steps"] == 800 and 0 <= calm.figures["auc"] <= 1
    assert "its loss is nan (stage kto, step" in diverged.error and not steps_of(diverged.out)[2:]
    assert any("diverged; 2/2 trials ended" in line for line in said)
    assert trials_table([calm, diverged], RULE).count("failed: ") == 1


@dataclass(frozen=True)
class NeedsRoom(SweepProbe):
    """A probe that fails from the second report on, until there is a file."""

    room: Path = Path()

    def __call__(self, now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> dict[str, float]:
        if not self.room.exists() and list(self.room.parent.rglob("000001")):
            raise DiskError("it cannot be written: the disk is full", where="there")
        return super().__call__(now, before)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_trial_that_failed_goes_on_from_its_checkpoint_when_the_sweep_is_repeated(
    ray_cluster: None, model: Path, start: Path, tmp_path: Path
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    plan = plan_of(model, start, tmp_path / "sweep", "sweep.trials=1", "sweep.reports=4")
    needy = NeedsRoom(*(getattr(plan.run.probe, name) for name in ("exam", "behaviour", "config", "seed")),
                      room=tmp_path / "room")  # fmt: skip
    plan = replace(plan, run=replace(plan.run, probe=needy))
    with pytest.raises(ModelError, match="every trial failed .* the disk is full"):
        sweep(plan, name="kto", progress=lambda _: None)
    (out,) = (tmp_path / "sweep" / "trials").iterdir()
    assert read_reason(out) and [file.name for file in (out / "checkpoints").iterdir()] == ["000001"]
    needy.room.touch()
    (trial,) = sweep(plan, name="kto", progress=lambda _: None)
    assert (trial.out, trial.error, trial.whole) == (out, "", True)
    assert steps_of(out).count(1) == 1 and steps_of(out)[-1] == 8, "from its checkpoint, not from its beginning"
    assert not (out / "checkpoints").exists(), "nothing needs it any more"
