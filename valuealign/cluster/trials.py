"""The trials of a sweep: what each is, what it reports, whether it is feasible, and who is best. It knows no Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from valuealign.cluster.worker import TrainRun, trained_folder
from valuealign.config import RunConfig, SweepConfig, home, with_keys
from valuealign.disk import writing
from valuealign.errors import ModelError, SplitError
from valuealign.evaluate import Exam, behaviour_auc
from valuealign.evaluate.paid.kl import option_kl
from valuealign.learner import plan_stages
from valuealign.loop import non_inferior
from valuealign.metrics import METRICS
from valuealign.models.trained import trained_done
from valuealign.objectives.kto import LambdaRule
from valuealign.planner import TrialSize
from valuealign.prepared import Prepared
from valuealign.types import Cell

Value = bool | int | float | str
WEIGHTS = ("kto.beta", "kto.lambda_d", "kto.lambda_u")
INFEASIBLE, FAILED = -100.0, -1000.0  # what the searcher is told of them: below whatever a feasible trial reaches
REASON = "failed.json"
# What is kept of a report; Tune adds its own clocks and ids.
FIGURES = ("step", "steps", "report", "loss", "auc", "auc_low", "auc_high", "change", "change_high", "kl", *METRICS)


@dataclass(frozen=True)
class TrialPlan:
    """What all trials have in common, and how one of them becomes a training run.

    ``run`` is a run without stages; ``survey`` are the cells of the anchor, ``judged`` those that people judged.
    """

    run: TrainRun
    config: RunConfig
    survey: tuple[Cell, ...]
    judged: tuple[Cell, ...]
    size: TrialSize = TrialSize(1, {})

    def configuration(self, setting: Mapping[str, Value]) -> RunConfig:
        """The whole run's configuration with a trial's own values. Raises ConfigError."""
        return with_keys(self.config, setting)

    def trial(self, setting: Mapping[str, Value], trial: str) -> TrainRun:
        """The run of one trial: its own values of some keys, and its own folder. Raises ConfigError."""
        config = with_keys(self.configuration(setting), self.size.settings).model_copy(update={"stages": ("kto",)})
        stages = plan_stages(config, self.survey, {"kto": self.judged})
        # Checkpoints come with the reports.
        train = config.train.model_copy(update={"workers": self.size.workers, "checkpoint_every": 10**9})
        return replace(self.run, train=train, stages=stages, out=trial_folder(self.run.out, trial))


def plan_trials(config: RunConfig, prepared: Prepared, *, base: Path, start: Path, out: Path) -> TrialPlan:
    """The trials of a configuration over the ``base`` model, from the stage-1 weights in ``start``, under ``out``."""
    select, marks = prepared.exam.only("select"), prepared.behaviour["select"]
    run = TrainRun(
        model=config.model.model_copy(update={"path": str(base)}),
        train=config.train,
        stages=(),
        out=out,
        cache=home() / "reference",
        seed=config.seed,
        start=start,
        probe=SweepProbe(select, marks, config.sweep, config.seed),
        probes=config.sweep.reports,
    )
    return TrialPlan(run, config, prepared.survey_cells, prepared.judged["kto"])


def check_objective(behaviour: Sequence[Cell], config: SweepConfig) -> None:
    """Raises SplitError where the marked answers of the select part cannot tell trials apart by ``auc``."""
    marks = [c.desirable for c in behaviour], [c.undesirable for c in behaviour]
    if config.objective == "auc" and math.isnan(behaviour_auc(marks[0], *marks, bootstrap=1).value):
        raise SplitError(
            f"the select part's {len(behaviour)} prompts hold no desirable answer beside an undesirable one: "
            "nothing there tells trials apart by AUC",
            where="sweep.objective",
            mend="bring more marked answers, give the select part more of them (splits.select), "
            "or rank by a survey figure (sweep.objective)",
        )


def trial_folder(out: Path, trial: str) -> Path:
    """Where a trial's run lies in a sweep's folder."""
    return out / "trials" / trial


@dataclass(frozen=True)
class SweepProbe:
    """What a trial reports: behaviour gained, survey distance lost, and what else is asked for, all on select parts.

    ``exam`` holds the select part's questions, ``behaviour`` the select prompts. Called with raw
    log-probabilities of ``cells`` now and before the stage (the reference: the stage-1 model).
    """

    exam: Exam
    behaviour: tuple[Cell, ...]
    config: SweepConfig
    seed: int = 0

    @property
    def cells(self) -> tuple[Cell, ...]:
        """What is scored: the exam's cells, then the behaviour cells."""
        return (*self.exam.cells, *self.behaviour)

    def __call__(self, now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> dict[str, float]:
        """``auc`` of r and ``change`` in distance with their bounds, ``kl`` (nats) and METRICS over survey options,
        ``feasible`` and ``score``, by which the searcher ranks.

        Raises Diverged for figures that are no numbers, SplitError where the select part cannot tell the objective.
        """
        asked = len(self.exam.cells)
        survey, was = now[:asked], before[:asked]
        ratios = [a - b for a, b in zip(now[asked:], before[asked:], strict=True)]
        desirable = [c.desirable for c in self.behaviour]
        auc = behaviour_auc(ratios, desirable, [c.undesirable for c in self.behaviour], seed=self.seed)
        kept = non_inferior(
            survey, was, "stage 1", self.exam,
            margin=self.config.margin or math.inf, draws=500, rng=np.random.default_rng(self.seed),
        ).figure  # fmt: skip
        figures = {
            **self.exam.figures(survey),
            "auc": auc.value,
            "auc_low": auc.low,
            "auc_high": auc.high,
            "change": kept.value,
            "change_high": kept.high,
            "kl": option_kl(survey, was),
        }
        reached = merit(figures, self.config)
        if not math.isfinite(reached):
            raise SplitError(
                f"nothing on the select part tells {self.config.objective}",
                where="sweep.objective",
                mend="bring more prompts with answers of both kinds, or another sweep.objective",
            )
        broken = infeasible(figures, self.config)
        return {**figures, "feasible": float(not broken), "score": reached + (INFEASIBLE if broken else 0.0)}


def merit(figures: Mapping[str, float], config: SweepConfig) -> float:
    """The objective, turned so that more is better; NaN where it is not known."""
    value = figures.get(config.objective, math.nan)
    better = "higher" if config.objective == "auc" else METRICS[config.objective].better
    return value if better == "higher" else -value if better == "lower" else -abs(value - 1.0)


def infeasible(figures: Mapping[str, float], config: SweepConfig) -> tuple[str, ...]:
    """Which constraints a trial's figures break, in words; a figure that is not a number holds none of them."""
    broken = []
    lost, spread, moved = (figures.get(name, math.nan) for name in ("change_high", "dispersion", "kl"))
    if config.margin is not None and not lost <= config.margin:
        broken.append(f"people lost: distance up by as much as {lost:.4f}, margin {config.margin:g}")
    if config.dispersion is not None and not config.dispersion[0] <= spread <= config.dispersion[1]:
        broken.append(f"dispersion {spread:.3f} outside {config.dispersion[0]:g} to {config.dispersion[1]:g}")
    if config.kl is not None and not moved <= config.kl:
        broken.append(f"KL {moved:.3f} over {config.kl:g}")
    return tuple(broken)


@dataclass(frozen=True)
class Trial:
    """A trial that ended: its setting by ``section.key``, its last figures, why it is infeasible (empty: it is not),
    why it failed (empty: it did not), and where its run lies."""

    id: str
    setting: Mapping[str, Value]
    figures: Mapping[str, float]
    broken: tuple[str, ...]
    error: str
    out: Path

    def weight(self, name: str) -> float:
        """One of KTO's three: ``beta``, ``lambda_d`` or ``lambda_u``."""
        return float(self.setting[f"kto.{name}"])

    def rule(self, rule: LambdaRule) -> LambdaRule:
        """The rule on the lambdas with this trial's own; ``rule`` brings masses and range."""
        return rule._replace(lambda_d=self.weight("lambda_d"), lambda_u=self.weight("lambda_u"))

    @property
    def feasible(self) -> bool:
        """Whether the last report held every constraint."""
        return not self.error and not self.broken

    @property
    def whole(self) -> bool:
        """Whether the trial ran all its steps and left its weights (ASHA stops the others early)."""
        ended = self.figures.get("step", 0) >= self.figures.get("steps", math.inf)
        return not self.error and ended and trained_done(trained_folder(self.out, "kto"))

    @property
    def verdict(self) -> str:
        """How it ended, in words; empty for a feasible trial that ran to its end."""
        if self.error:
            return f"failed: {self.error}"
        return "; ".join([*self.broken, *([] if self.whole else ["stopped early"])])

    def record(self) -> dict[str, Value | None]:
        """The trial as one flat row: KTO's three by their short names, other keys by their own."""
        setting = {key.removeprefix("kto.") if key in WEIGHTS else key: value for key, value in self.setting.items()}
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {
            "trial": self.id,
            **setting,
            **figures,
            "feasible": self.feasible,
            "whole": self.whole,
            "why": "; ".join(self.broken),
            "error": self.error,
        }


def ranked(trials: Sequence[Trial], config: SweepConfig) -> list[Trial]:
    """Feasible and whole trials first, by the objective; then the others, those that failed last.

    Raises ModelError with their reasons where every one of them failed.
    """
    if all(trial.error for trial in trials):
        reasons = dict.fromkeys(trial.error for trial in trials)
        raise ModelError(
            f"every trial failed ({len(trials)} of {len(trials)}): {'; '.join(reasons)}",
            where="sweep",
            mend="what diverged wants a lower kto.learning_rate or a narrower sweep.space, and another sweep; "
            "any other failure is tried again by --resume",
        )

    def place(trial: Trial) -> tuple[bool, bool, bool, float]:
        reached = merit(trial.figures, config)
        return bool(trial.error), not trial.feasible, not trial.whole, -reached if math.isfinite(reached) else math.inf

    return sorted(trials, key=place)


def trials_table(trials: Sequence[Trial], rule: LambdaRule) -> str:
    """The trials in the order given, for a terminal; ``*`` marks lambdas that the rule would not have."""
    lines = [f"ratio: lambda_d n_d / (lambda_u n_u), * outside [{rule.low:.2f}, {rule.high:.2f}]"]
    lines += ["trial     beta    lambda_d  lambda_u  ratio  steps    AUC    change in survey distance (bits, select)"]
    for t in trials:
        setting = f"{t.weight('beta'):<7.3f} {t.weight('lambda_d'):<9.3f} {t.weight('lambda_u'):<9.3f}"
        ratio = f"{t.rule(rule).ratio:.2f}{' ' if t.rule(rule).holds else '*'}"
        also = " ".join(f"{key} {shown(value)}" for key, value in t.setting.items() if key not in WEIGHTS)
        auc, change, most = (t.figures.get(name, math.nan) for name in ("auc", "change", "change_high"))
        at, of = int(t.figures.get("step", 0)), t.figures.get("steps")
        found = f"{auc:.3f}  {change:+.4f} (at most {most:+.4f})" if "auc" in t.figures else "-"
        steps = f"{at:>3}/{int(of) if of else '?':<4}"
        lines.append("  ".join(filter(None, (f"{t.id[-8:]:9} {setting} {ratio:6} {steps} {found}", also, t.verdict))))
    return "\n".join(lines)


def shown(value: Value) -> str:
    """A value of a setting, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_reason(out: Path, reason: str) -> None:
    """Keep why a trial failed beside its run. Raises DiskError."""
    aside = out / f".{REASON}"
    with writing(out / REASON):
        out.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"reason": reason}), encoding="utf-8")
        aside.replace(out / REASON)


def read_reason(out: Path) -> str:
    """Why a trial failed; empty where none is kept."""
    path = out / REASON
    return str(json.loads(path.read_text(encoding="utf-8"))["reason"]) if path.exists() else ""
