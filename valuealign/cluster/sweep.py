"""Ray Tune over KTO's hyperparameters: each trial is a Ray Train run from the same stage-1 model.

Trials are ranked by behaviour gained among those that did not lose the people; a trial that lost
them is infeasible, never crowned. All trials read one reference table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from valuealign.cluster.train import Progress, fit
from valuealign.cluster.worker import TrainRun, trained_folder
from valuealign.config import SweepConfig
from valuealign.errors import ModelError
from valuealign.evaluate import Exam, behaviour_auc
from valuealign.loop import non_inferior
from valuealign.models.trained import trained_done
from valuealign.objectives.kto import LambdaRule
from valuealign.types import Cell

DRIVER_CPUS = 0.1  # what a trial's driver reserves; 0 is refused by Tune


@dataclass(frozen=True)
class SweepProbe:
    """What a trial reports: behaviour gained and survey distance lost, both on select parts only.

    ``exam`` holds the select part's questions, ``behaviour`` the select prompts. Called with raw
    log-probabilities of ``cells`` now and before the stage (the reference: the stage-1 model).
    """

    exam: Exam
    behaviour: tuple[Cell, ...]
    margin: float
    seed: int = 0

    @property
    def cells(self) -> tuple[Cell, ...]:
        """What is scored: the exam's cells, then the behaviour cells."""
        return (*self.exam.cells, *self.behaviour)

    def __call__(self, now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> dict[str, float]:
        """``auc`` of r, ``change`` in distance with its upper bound, ``feasible``, and ``score``.

        ``score`` is the AUC of a feasible trial; an infeasible one ranks below every feasible one.
        """
        asked = len(self.exam.cells)
        ratios = [a - b for a, b in zip(now[asked:], before[asked:], strict=True)]
        desirable = [c.desirable for c in self.behaviour]
        auc = behaviour_auc(ratios, desirable, [c.undesirable for c in self.behaviour], seed=self.seed)
        kept = non_inferior(
            now[:asked], before[:asked], "stage 1", self.exam,
            margin=self.margin, draws=500, rng=np.random.default_rng(self.seed),
        )  # fmt: skip
        return {
            "auc": auc.value,
            "auc_low": auc.low,
            "auc_high": auc.high,
            "change": kept.figure.value,
            "change_high": kept.figure.high,
            "feasible": float(kept.passed),
            "score": auc.value if kept.passed else auc.value - 1.0,
        }


@dataclass(frozen=True)
class Trial:
    """A finished or stopped trial: its setting, its last figures, and where its run lies."""

    id: str
    setting: Mapping[str, float]
    figures: Mapping[str, float]
    error: str
    out: Path

    def rule(self, rule: LambdaRule) -> LambdaRule:
        """The rule on the lambdas with this trial's own; ``rule`` brings masses and range."""
        return rule._replace(lambda_d=self.setting["lambda_d"], lambda_u=self.setting["lambda_u"])

    @property
    def feasible(self) -> bool:
        """Whether the last probe found the people kept."""
        return not self.error and bool(self.figures.get("feasible", 0.0))

    @property
    def whole(self) -> bool:
        """Whether the trial ran all its steps and left its weights (ASHA stops the others early)."""
        ended = self.figures.get("step", 0) >= self.figures.get("steps", math.inf)
        return ended and trained_done(trained_folder(self.out, "kto"))


def trials_table(trials: Sequence[Trial], rule: LambdaRule) -> str:
    """The trials in the order given, for a terminal; ``*`` marks lambdas that the rule would not have."""
    lines = [f"ratio: lambda_d n_d / (lambda_u n_u), * outside [{rule.low:.2f}, {rule.high:.2f}]"]
    lines += ["trial     beta    lambda_d  lambda_u  ratio  steps    AUC    change in survey distance (bits, select)"]
    for t in trials:
        verdict = t.error or ("" if t.feasible else "people lost") or ("" if t.whole else "stopped early")
        setting = f"{t.setting['beta']:<7.3f} {t.setting['lambda_d']:<9.3f} {t.setting['lambda_u']:<9.3f}"
        ratio = f"{t.rule(rule).ratio:.2f}{' ' if t.rule(rule).holds else '*'}"
        auc, change, most = (t.figures.get(name, float("nan")) for name in ("auc", "change", "change_high"))
        steps = f"{int(t.figures.get('step', 0)):>3}/{int(t.figures['steps']):<4}"
        lines.append(
            f"{t.id[-8:]:9} {setting} {ratio:6} {steps} {auc:.3f}  {change:+.4f} (at most {most:+.4f})  {verdict}"
        )
    return "\n".join(lines)


def trial_run(run: TrainRun, setting: Mapping[str, float], trial: str) -> TrainRun:
    """The run of one trial: the base run with its own hyperparameters and folder."""
    stage = run.stages[0]
    first = replace(stage.terms[0], hyper={**stage.terms[0].hyper, **setting})
    stage = replace(stage, terms=(first, *stage.terms[1:]))
    return replace(run, stages=(stage,), out=run.out / "trials" / trial)


def sweep(run: TrainRun, config: SweepConfig, *, name: str, progress: Progress = print) -> list[Trial]:
    """Try ``config.trials`` settings on the connected cluster; best feasible trial first.

    ``run`` has one stage, whose first term is KTO, and a probe that reports ``auc``, ``feasible``
    and ``score``. An interrupted sweep of the same ``run.out`` goes on where it stopped. Raises
    ModelError if the cluster is too small for a trial.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    concurrent = _concurrent(run, config)
    trainable = tune.with_resources(_trial(run, name), {"CPU": DRIVER_CPUS})
    storage = run.out / "tune"
    if tune.Tuner.can_restore(str(storage / name)):
        progress("  an interrupted sweep is resumed; finished trials are not repeated")
        tuner = tune.Tuner.restore(
            str(storage / name), trainable=trainable, resume_unfinished=True, restart_errored=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=_space(config),
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                num_samples=config.trials,
                search_alg=ConcurrencyLimiter(OptunaSearch(seed=run.seed), max_concurrent=concurrent),
                scheduler=ASHAScheduler(
                    time_attr="step", max_t=run.stages[0].steps, grace_period=_grace(run), reduction_factor=2
                ),
            ),
            run_config=tune.RunConfig(
                name=name, storage_path=str(storage), verbose=0, callbacks=[_Progress(progress, config.trials)]
            ),
        )
    results = tuner.fit()
    return ranked([_finished(result, run) for result in results])


def ranked(trials: list[Trial]) -> list[Trial]:
    """Feasible and whole trials first, by behaviour gained; then the others."""
    return sorted(trials, key=lambda t: (not t.feasible, not t.whole, -t.figures.get("auc", -math.inf)))


def _trial(run: TrainRun, name: str) -> Callable[[dict[str, Any]], None]:
    reference = ray.put(run)

    def drive(setting: dict[str, Any]) -> None:
        trial = tune.get_context().get_trial_id()
        own = trial_run(ray.get(reference), {k: float(setting[k]) for k in ("beta", "lambda_d", "lambda_u")}, trial)
        # The name is stable, so a trial that is taken up again goes on from its own checkpoint.
        fit(own, name=f"{name}-{trial}", progress=lambda _: None, callbacks=(TuneReportCallback(),))

    return drive


def _space(config: SweepConfig) -> dict[str, Any]:
    space = config.space
    return {
        "beta": tune.loguniform(*space.beta),
        "lambda_d": tune.uniform(*space.lambda_d),
        "lambda_u": tune.uniform(*space.lambda_u),
    }


def _grace(run: TrainRun) -> int:
    """No trial is stopped before its first probe."""
    return max(1, round(run.stages[0].steps / max(1, run.probes)))


def _concurrent(run: TrainRun, config: SweepConfig) -> int:
    """How many trials fit beside each other: drivers and workers must never starve each other."""
    have = ray.cluster_resources()
    need = {"CPU": DRIVER_CPUS + run.train.workers * run.train.cpus_per_worker}
    if run.train.gpus_per_worker:
        need["GPU"] = run.train.workers * run.train.gpus_per_worker
    fit_at_once = min(int(have.get(kind, 0) / amount + 1e-9) for kind, amount in need.items())
    if fit_at_once < 1:
        wants = ", ".join(f"{amount:g} {kind}" for kind, amount in need.items())
        raise ModelError(
            f"a trial needs {wants}; the cluster has {have.get('CPU', 0):g} CPU, {have.get('GPU', 0):g} GPU",
            where="train.workers",
            mend="lower train.workers, train.cpus_per_worker or train.gpus_per_worker",
        )
    return min(config.concurrent, fit_at_once)


def _finished(result: tune.Result, run: TrainRun) -> Trial:
    figures = {k: float(v) for k, v in (result.metrics or {}).items() if isinstance(v, int | float)}
    trial = str((result.metrics or {}).get("trial_id") or Path(result.path).name.split("_")[1])
    setting = {k: float(v) for k, v in (result.config or {}).items() if isinstance(v, int | float)}
    error = str(result.error).strip().splitlines()[-1] if result.error else ""
    return Trial(trial, setting, {**figures, "steps": run.stages[0].steps}, error, run.out / "trials" / trial)


class _Progress(tune.Callback):
    """A line for every probe and every end of a trial."""

    def __init__(self, progress: Progress, trials: int) -> None:
        self._say, self._trials, self._ended = progress, trials, 0

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        at = " ".join(f"{k} {trial.config[k]:.3g}" for k in ("beta", "lambda_d", "lambda_u"))
        people = "people kept" if result.get("feasible") else "people lost"
        self._say(
            f"  trial {trial.trial_id} step {result.get('step')}: {at}  AUC {result.get('auc', math.nan):.3f}  {people}"
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended += 1
        self._say(f"  {self._ended}/{self._trials} trials ended")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended += 1
        self._say(f"  trial {trial.trial_id} failed ({self._ended}/{self._trials} ended)")
