"""Ray Tune over KTO's hyperparameters: each trial is a training by Ray Train from the same stage-1 model.

A trial's driver lives on from trial to trial, and keeps one Ray Train run whose workers stay warm (``lane``).
Trials are ranked by behaviour gained among those that did not lose the people; a trial that lost
them is infeasible, never crowned. All trials read one reference table. A trial that fails is kept
with its reason, and the others go on; a sweep that is stopped leaves a state to go on from.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.logger import TBXLoggerCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from valuealign.cluster.lane import lane_of
from valuealign.cluster.log import probed
from valuealign.cluster.size import DRIVER, concurrent, sized
from valuealign.cluster.tracking import check_trackers
from valuealign.cluster.train import Progress
from valuealign.cluster.trials import (
    FAILED,
    FIGURES,
    REASON,
    Trial,
    TrialPlan,
    Value,
    infeasible,
    ranked,
    read_reason,
    shown,
    trial_folder,
    write_reason,
)
from valuealign.config import Axis, SweepConfig
from valuealign.errors import DiskError, Diverged, ModelError, ValuealignError

FAILURES = 1  # of a trial, beside those of its workers: its driver's death is one
ENDED = (TuneTrial.TERMINATED, TuneTrial.ERROR)


class SweepStopped(Exception):
    """The sweep was stopped (Ctrl-C, SIGTERM) with trials to go; its state is kept."""


def sweep(plan: TrialPlan, *, name: str, progress: Progress = print, go_on: str = "") -> list[Trial]:
    """Try ``sweep.trials`` settings on the connected cluster; best feasible trial first.

    ``plan.run`` has a probe that reports ``score`` and what ``Trial`` reads. An interrupted sweep of the same
    folder goes on where it stopped: ended trials are not repeated, running ones go on from their last
    checkpoint, so do those whose failure was no divergence. Raises SweepStopped if it is stopped
    (``go_on`` is then said, at once), ConfigError where a tracker is not installed, ModelError if the cluster is too
    small for a trial or if every trial failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_trackers(plan.config.train.log_to)
    plan = sized(plan)
    beside = concurrent(plan)
    trainable = tune.with_resources(_driver(plan), DRIVER)
    storage = plan.run.out / "tune"
    # Killed in its first moments a sweep leaves a tuner without a state, and no trial: it begins anew.
    if tune.Tuner.can_restore(str(storage / name)) and list((storage / name).glob("experiment_state-*.json")):
        progress("  an interrupted sweep is resumed; trials that ended are not repeated")
        tuner = tune.Tuner.restore(
            str(storage / name), trainable=trainable, resume_unfinished=True, resume_errored=True
        )
    else:
        tuner = _tuner(plan, trainable, beside, name)
    workers, trials = plan.size.workers, plan.config.sweep.trials
    progress(f"  {trials} trials, {beside} at a time, of {workers} worker{'s' if workers > 1 else ''} each")
    _desk.begin(progress, trials)
    with _stoppable(progress, go_on):
        tuner.fit()
    if _desk.to_go:
        raise SweepStopped(f"the sweep was stopped with {_desk.ended} of {trials} trials ended")
    tried = [_ended(trial, plan) for trial in _desk.trials]
    for trial in tried:
        if not trial.error:  # what failed may yet go on from its last
            shutil.rmtree(trial.out / "checkpoints", ignore_errors=True)
    return ranked(tried, plan.config.sweep)


def _tuner(plan: TrialPlan, trainable: Any, beside: int, name: str) -> tune.Tuner:
    config = plan.config.sweep
    chance = optuna.samplers.RandomSampler(seed=plan.config.seed) if config.sampler == "random" else None
    search = OptunaSearch(sampler=chance) if chance else OptunaSearch(seed=plan.config.seed)
    return tune.Tuner(
        trainable,
        param_space={key: _domain(axis) for key, axis in config.space.axes.items()},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=config.trials,
            reuse_actors=True,
            search_alg=ConcurrencyLimiter(search, max_concurrent=beside),
            scheduler=_scheduler(config, plan.run.out),
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(plan.run.out / "tune"),
            verbose=0,
            callbacks=[_Watch(), _NoTensorBoard()],
            failure_config=tune.FailureConfig(max_failures=FAILURES),
        ),
    )


def _scheduler(config: SweepConfig, out: Path) -> TrialScheduler:
    """By reports, not steps: how many steps a trial has may be swept over. No trial is stopped before its first."""
    if config.scheduler == "none":
        return FIFOScheduler()
    most = max(2, config.reports)
    return _Asha(out, time_attr="report", max_t=most, grace_period=1, reduction_factor=config.reduction)


class _Asha(ASHAScheduler):
    """ASHA that knows, when a sweep is resumed, what its trials reported before: Tune keeps nothing of a scheduler."""

    def __init__(self, out: Path, **how: Any) -> None:
        super().__init__(**how)
        self._out = out

    def on_trial_add(self, controller: Any, trial: TuneTrial) -> None:
        super().on_trial_add(controller, trial)
        scores = probed(trial_folder(self._out, trial.trial_id), "score")
        # An unfinished trial repeats its last report, and it is then decided whether it goes on.
        for report, score in enumerate(scores if trial.is_finished() else scores[:-1], start=1):
            self._trial_info[trial.trial_id].on_result(trial, report, score)


def _domain(axis: Axis) -> Any:
    if axis.span is None:
        return tune.choice(list(axis.choices))
    return (tune.loguniform if axis.log else tune.uniform)(*axis.span)


def _driver(plan: TrialPlan) -> Callable[[dict[str, Any]], None]:
    reference, folder = ray.put(plan), plan.run.out

    def drive(setting: dict[str, Any]) -> None:
        trial = tune.get_context().get_trial_id()
        out = trial_folder(folder, trial)
        (out / REASON).unlink(missing_ok=True)
        try:
            shared: TrialPlan = ray.get(reference)
            run = shared.trial(setting, trial)
            with contextlib.closing(lane_of(run.train, folder / "train").run(run)) as reports:
                for figures in reports:
                    tune.report(figures)
        except Diverged as error:
            # It would diverge again: for Tune it has ended.
            write_reason(out, _reason(error))
            tune.report({"score": FAILED, "report": 1, "feasible": 0.0})
        except Exception as error:
            with contextlib.suppress(DiskError):  # Tune keeps the error too
                write_reason(out, _reason(error))
            raise

    return drive


def _reason(error: BaseException) -> str:
    if isinstance(error, ValuealignError):
        return error.what + (f" ({error.where})" if error.where else "")
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _ended(trial: TuneTrial, plan: TrialPlan) -> Trial:
    out = trial_folder(plan.run.out, trial.trial_id)
    last: Mapping[str, Any] = trial.last_result or {}
    figures = {name: float(last[name]) for name in FIGURES if name in last}
    # A reason may have been left by an earlier failure, from which the trial has recovered.
    failed = trial.status == TuneTrial.ERROR
    error = read_reason(out) if failed or last.get("score") == FAILED else ""
    if failed and not error:
        error = _reason(trial.get_error() or ModelError("its driver ended without a word"))
    setting: dict[str, Value] = {key: trial.config[key] for key in plan.config.sweep.space.axes}
    broken = () if error else infeasible(figures, plan.config.sweep)
    return Trial(trial.trial_id, setting, figures, broken, error, out)


@contextlib.contextmanager
def _stoppable(progress: Progress, go_on: str) -> Iterator[None]:
    """SIGTERM (what `ray job stop` sends) ends the block as Ctrl-C does: Tune keeps its state and comes back.

    What to do next is said at once, because `ray job stop` kills after three seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        progress(f"stopping. {go_on}")
        signal.raise_signal(signal.SIGINT)

    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@dataclass
class _Desk:
    """Where the callback leaves what it sees: Tune restores a pickled copy of a callback, so it can hold nothing."""

    say: Progress = print
    planned: int = 0
    trials: list[TuneTrial] = field(default_factory=list)
    ended: int = 0

    def begin(self, say: Progress, planned: int) -> None:
        self.say, self.planned, self.trials, self.ended = say, planned, [], 0

    def see(self, trials: list[TuneTrial]) -> None:
        self.trials, self.ended = list(trials), sum(trial.status in ENDED for trial in trials)

    @property
    def to_go(self) -> int:
        """How many trials have not ended."""
        return self.planned - self.ended


_desk = _Desk()


class _Watch(tune.Callback):
    """A line for every report and every end of a trial."""

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        _desk.see(trials)

    def on_experiment_end(self, trials: list[TuneTrial], **info: Any) -> None:
        if not _desk.trials:  # all had ended before; else what ends now is cut off, not ended
            _desk.see(trials)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "auc" not in result:
            return
        at = " ".join(f"{key.removeprefix('kto.')} {shown(value)}" for key, value in trial.config.items())
        people = "people kept" if result.get("feasible") else "infeasible"
        _desk.say(f"  trial {trial.trial_id} step {result.get('step')}: {at}  AUC {result['auc']:.3f}  {people}")

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        diverged = trial.last_result.get("score") == FAILED
        self._ended(trials, trial, f"trial {trial.trial_id} diverged; " if diverged else "")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._ended(trials, trial, f"trial {trial.trial_id} failed; the others go on; ")

    def _ended(self, trials: list[TuneTrial], trial: TuneTrial, what: str) -> None:
        ended = {one.trial_id for one in trials if one.status in ENDED} | {trial.trial_id}
        _desk.say(f"  {what}{len(ended)}/{_desk.planned} trials ended")


class _NoTensorBoard(TBXLoggerCallback):
    """In the place of Tune's own TensorBoard files: a trial's run has better ones, and each would be seen twice."""

    def log_trial_start(self, trial: TuneTrial) -> None:
        """Open no file."""

    def log_trial_result(self, iteration: int, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Write nothing."""

    def log_trial_end(self, trial: TuneTrial, failed: bool = False) -> None:
        """There is nothing to close."""
