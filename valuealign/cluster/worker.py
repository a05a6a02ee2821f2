"""What each training process does: load, score, train stage by stage, score again, write what was trained.

It knows no Ray: the caller hands it an engine and a way to report, so that one process
(LocalEngine) and many (DeepSpeed under Ray Train) run the same lines. Everything that outlives
the run is written under ``run.out`` by rank 0, aside and then renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from valuealign.cluster.build import Warm
from valuealign.cluster.log import RunLog
from valuealign.cluster.tracking import Value
from valuealign.config import ModelConfig, TrainConfig
from valuealign.disk import writing
from valuealign.engine import check_packing, score_all
from valuealign.errors import ModelError
from valuealign.learner import Stage, learn
from valuealign.models.adapters import without_adapter
from valuealign.models.chat import check_arguments, write_arguments
from valuealign.models.load import Base, fingerprint
from valuealign.models.score import CellModel
from valuealign.models.trained import read_trained
from valuealign.prompts import render, turn
from valuealign.reference import reference_logps
from valuealign.types import BASE, Cell, Engine


class Probe(Protocol):
    """Figures taken during training, from scores of ``cells`` (raw log pi, one array [K] a cell)."""

    @property
    def cells(self) -> tuple[Cell, ...]: ...

    def __call__(self, now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> dict[str, float]: ...


@dataclass(frozen=True)
class TrainRun:
    """One training run over shared storage.

    ``start`` is the folder of trained weights to go on from, ``also`` are such folders to score beside
    it, and ``score`` names the cell sets to score at the start and after every stage.
    """

    model: ModelConfig
    train: TrainConfig
    stages: tuple[Stage, ...]
    out: Path
    cache: Path
    seed: int = 0
    start: Path | None = None
    also: Mapping[str, Path] = field(default_factory=dict)
    score: Mapping[str, tuple[Cell, ...]] = field(default_factory=dict)
    probe: Probe | None = None
    probes: int = 0

    def trained(self, stage: str) -> Path:
        """Where the trained weights of a finished stage lie."""
        return trained_folder(self.out, stage)


def trained_folder(out: Path, stage: str) -> Path:
    """Where a run in ``out`` leaves the trained weights of a stage."""
    return out / "trained" / stage


class Checkpoints(Protocol):
    """How a worker keeps checkpoints, with figures, and finds them again (Ray Train, or nothing)."""

    def latest(self) -> Path | None: ...

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None: ...


class NoCheckpoints:
    """Keeps nothing: for short runs in one process."""

    def latest(self) -> Path | None:
        """There is none."""
        return None

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None:
        """Do nothing."""


MakeEngine = Callable[[CellModel, int], Engine]


def work(
    run: TrainRun,
    make_engine: MakeEngine,
    checkpoints: Checkpoints,
    *,
    device: str = "cpu",
    shard: Mapping[str, Any] | None = None,
    warm: Warm | None = None,
) -> None:
    """Do the run on this rank; ``shard`` as in ``build``. ``warm`` is kept by a process that does several.

    Raises DiskError where what it writes cannot be written; the last checkpoint is then as it was.
    """
    with contextlib.ExitStack() as ending:
        _work(run, make_engine, checkpoints, ending, device=device, shard=shard, warm=warm)


def _work(
    run: TrainRun,
    make_engine: MakeEngine,
    checkpoints: Checkpoints,
    ending: contextlib.ExitStack,
    *,
    device: str,
    shard: Mapping[str, Any] | None,
    warm: Warm | None,
) -> None:
    for folder in (*([run.start] if run.start else []), *run.also.values()):
        check_arguments(run.model.chat_template_kwargs, folder)
    how: dict[str, Any] = {"device": device, "recompute": run.train.recompute, "shard": shard}
    base, model = (warm or Warm()).build(run.model, seed=run.seed, start=run.start, **how)
    pad_id = int(base.tokenizer.pad_token_id)
    sets = {name: [render(c, base.tokenizer) for c in cells] for name, cells in run.score.items()}

    def scores(who: str) -> None:
        if sets:
            found = {
                name: score_all(engine, rows, pad_id=pad_id, packed=model.packed, token_budget=run.train.token_budget)
                for name, rows in sets.items()
            }
            if engine.rank == 0:
                write_scores(run.out, who, found)

    left = without_adapter(model.model) if run.model.train == "lora" else []
    engine = make_engine(model, pad_id)
    log = ending.enter_context(RunLog(run.out, engine.rank, trackers=run.train.log_to, hyper=hyperparameters(run)))
    _say_packing(engine, model, sets, run, base, pad_id, log)
    if remark := turn(base.tokenizer).remark:
        log.event({"event": "chat", "remark": remark})
    if left:
        log.event({"event": "unadapted", "weights": left})
    at = _resume(engine, checkpoints)
    if at == (0, 0):
        scores(BASE)
        if run.also:
            assert run.start is not None, "only a run that goes on from a version is compared with others"
            for who, folder in run.also.items():
                engine.put(read_trained(model, folder))
                scores(who)
            engine.put(read_trained(model, run.start))
    for number, stage in enumerate(run.stages):
        if number < at[0]:
            continue
        before = run.trained(run.stages[number - 1].name) if number else run.start
        _train(
            run,
            stage,
            number,
            engine,
            model,
            base,
            pad_id,
            identity(base, model, before),
            checkpoints,
            log,
            start=at[1] if number == at[0] else 0,
        )
        _save(engine, run, stage)
        scores(stage.name)
        if number + 1 < len(run.stages):
            engine.fresh_optimizer()
            _keep(run, engine, checkpoints, number + 1, 0, {})
    log.event({"event": "done"})


def identity(base: Base, model: CellModel, trained: Path | None) -> dict[str, str]:
    """What a reference table of this model is known by, besides its cells: weights, and how they are computed with."""
    return {
        "base": fingerprint(base.folder, base.quantize),
        "adapter": fingerprint(trained) if trained else "none",
        "dtype": "+".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})),
        "kernel": str(model.causal.config._attn_implementation),
        "device": next(model.parameters()).device.type,
        "packed": str(model.packed),
    }


def _train(
    run: TrainRun, stage: Stage, number: int, engine: Engine, model: CellModel, base: Base, pad_id: int,
    who: Mapping[str, str], checkpoints: Checkpoints, log: RunLog, *, start: int,
) -> None:  # fmt: skip
    tokenizer: Any = base.tokenizer
    form: dict[str, Any] = {"pad_id": pad_id, "packed": model.packed}

    def score(rows: Sequence[Any]) -> list[np.ndarray]:
        return score_all(engine, rows, token_budget=run.train.token_budget, **form)

    def agree(here: bool) -> bool:
        return bool(engine.all_sum(torch.tensor([float(here and engine.rank == 0)])).item())

    def table(cells: Sequence[Cell]) -> list[np.ndarray]:
        rows = [render(c, tokenizer) for c in cells]
        if not rows:
            return []
        return reference_logps(
            rows,
            score=score,
            identity=who,
            folder=run.cache,
            writer=engine.rank == 0,
            agree=agree,
            make=start == 0,
        )

    reference = table(stage.referenced)
    before = table(run.probe.cells) if run.probe else []
    probed = [render(c, tokenizer) for c in run.probe.cells] if run.probe else []
    at_probe = {max(1, round(stage.steps * (i + 1) / run.probes)) for i in range(run.probes)}
    for report in learn(engine, stage, tokenizer, train=run.train, reference=reference, start=start, **form):
        log.step(report)
        figures = {"stage": number, "step": report.step, "loss": report.loss, **report.stats}
        if run.probe and report.step in at_probe:
            now = score(probed)
            found = run.probe(now, before)
            log.probe(report, found)
            figures |= {"steps": stage.steps, "report": sum(at <= report.step for at in at_probe), **found}
            if report.step == stage.steps:
                # The scheduler may end a trial at its last report: what it made must lie there by then.
                _save(engine, run, stage)
            _keep(run, engine, checkpoints, number, report.step, figures)
        elif report.step % run.train.checkpoint_every == 0 and report.step < stage.steps:
            _keep(run, engine, checkpoints, number, report.step, figures)


def _save(engine: Engine, run: TrainRun, stage: Stage) -> None:
    """Write what the stage trained, and how its chats are written before it: the weights come last."""
    with writing(run.trained(stage.name)):
        if engine.rank == 0:
            write_arguments(run.model.chat_template_kwargs, run.trained(stage.name))
        engine.save_trained(run.trained(stage.name))


def _keep(
    run: TrainRun, engine: Engine, checkpoints: Checkpoints, stage: int, step: int, figures: Mapping[str, float]
) -> None:
    def write(folder: Path) -> None:
        with writing(folder):
            engine.save(folder)
            if engine.rank == 0:
                (folder / "place.json").write_text(json.dumps({"stage": stage, "step": step}))

    with writing(run.out):
        checkpoints.keep(write, {"stage": stage, "step": step, **figures})


def _resume(engine: Engine, checkpoints: Checkpoints) -> tuple[int, int]:
    """Load the latest checkpoint, if any; where it stands as (stage number, steps done)."""
    folder = checkpoints.latest()
    if folder is None:
        return 0, 0
    engine.load(folder)
    place = json.loads((folder / "place.json").read_text())
    return int(place["stage"]), int(place["step"])


def _say_packing(
    engine: Engine, model: CellModel, sets: Mapping[str, Any], run: TrainRun, base: Base, pad_id: int, log: RunLog
) -> None:
    """Check packed against dense scores where the model packs; say aloud where it does not."""
    if not model.packed:
        log.event({"event": "dense", "why": model.abilities.why})
        return
    few = next(iter(sets.values()), None) or [render(c, base.tokenizer) for c in run.stages[0].terms[0].cells[:3]]
    tolerance = 2e-3 if run.model.dtype == "float32" else 0.25
    try:
        log.event({"event": "packed", "nats": check_packing(engine, model, few, pad_id=pad_id, tolerance=tolerance)})
    except ModelError as error:
        model.packed = False
        log.event({"event": "dense", "why": str(error)})


def hyperparameters(run: TrainRun) -> dict[str, Value]:
    """What tells a run's curves from others', by the configuration's names: ``seed``, ``train.clip``, ``kto.beta``.

    A stage's terms after the first are named too: ``kto.survey.weight`` is the anchor's.
    """
    found: dict[str, Any] = {"seed": run.seed}
    for section, config in (("model", run.model), ("train", run.train)):
        found |= {f"{section}.{name}": value for name, value in config.model_dump(exclude={"log_to"}).items()}
    for stage in run.stages:
        own = {name: getattr(stage, name) for name in ("epochs", "learning_rate", "cells_per_step")}
        for place, term in enumerate(stage.terms):
            more = term.hyper if place == 0 else {"weight": term.weight, **term.hyper}
            own |= {f"{term.name}.{name}" if place else name: value for name, value in more.items()}
        found |= {f"{stage.name}.{name}": value for name, value in own.items()}
    return {name: value if isinstance(value, Value) else str(value) for name, value in found.items()}


def write_scores(out: Path, who: str, found: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Keep the log-probabilities of every cell set under ``out/scores/<who>.npz``. Raises DiskError."""
    folder = out / "scores"
    arrays: dict[str, Any] = {}
    for name, logps in found.items():
        arrays[f"{name}/logp"] = np.concatenate([*logps, np.empty(0)])
        arrays[f"{name}/k"] = np.array([len(x) for x in logps], dtype=np.int64)
    aside = folder / f".{who}.{os.getpid()}.npz"
    with writing(folder / f"{who}.npz"):
        folder.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            np.savez(stream, **arrays)
        os.replace(aside, folder / f"{who}.npz")


def read_scores(out: Path, who: str) -> dict[str, list[np.ndarray]]:
    """What ``write_scores`` kept: set name -> one array [K] of log-probabilities a cell."""
    with np.load(out / "scores" / f"{who}.npz", allow_pickle=False) as arrays:
        names = [key.removesuffix("/k") for key in arrays.files if key.endswith("/k")]
        return {n: np.split(arrays[f"{n}/logp"], np.cumsum(arrays[f"{n}/k"])[:-1]) for n in names}
