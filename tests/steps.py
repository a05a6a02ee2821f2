"""The same few steps on any engine: distribution and KTO (mismatched z0) together.

Plain SGD unless said otherwise: a weight then moves by exactly learning rate times gradient, so a wrong scale shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import behaviour_cells, survey_cells

from valuealign.cluster.build import build
from valuealign.config import DistributionConfig, KtoConfig, ModelConfig, TrainConfig
from valuealign.engine import adamw, score_all
from valuealign.learner import Stage, distribution_term, kto_term, learn
from valuealign.models.trained import read_trained
from valuealign.prompts import render


@dataclass(frozen=True)
class Setting:
    """How the steps are taken. ``cut`` saves the engine before that step, forgets it, and goes on from there."""

    name: str
    train: str = "lora"
    zero: int = 2
    recompute: bool = False
    offload: bool = False
    dtype: str = "float32"
    adam: bool = False
    budget: int = 300
    cut: int | None = None
    clip: float = 1e9
    quantize: str = "none"

    @property
    def judge(self) -> str:
        """The run of one process that this one must equal."""
        return self.train + ("-clipped" if self.clip < 1e9 else "") + ("-nf4" if self.quantize == "nf4" else "")

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return adamw(parameters) if self.adam else torch.optim.SGD(list(parameters), lr=0.0)


def run_steps(
    model: Path,
    out: Path,
    make: Callable[[Any, int, Setting], Any],
    setting: Setting,
    shard: dict[str, Any] | None = None,
) -> None:
    """Train a few steps; leaves the trained weights and ``reports.json`` in ``out / setting.name``."""

    def fresh() -> tuple[Any, Any, Any]:
        config = ModelConfig(
            path=str(model), train=setting.train, dtype=setting.dtype, lora_r=4, lora_alpha=8, quantize=setting.quantize
        )
        base, cell_model = build(config, seed=0, start=None, recompute=setting.recompute, shard=shard)
        frozen = [p for name, p in cell_model.named_parameters() if "lora_" not in name]
        assert not shard or not any(p.numel() for p in frozen), "nothing is whole on any rank"
        return base.tokenizer, cell_model, make(cell_model, base.tokenizer.pad_token_id, setting)

    tokenizer, cell_model, engine = fresh()
    pad, out = tokenizer.pad_token_id, out / setting.name
    terms = (
        kto_term(behaviour_cells(), KtoConfig(beta=0.5, lambda_d=1.2)),
        distribution_term(survey_cells(7), DistributionConfig(), weight=0.7),
    )
    rate = 0.01 if setting.adam else 0.5 if setting.train == "lora" else 0.05
    stage = Stage("mixed", terms, epochs=2, learning_rate=rate, cells_per_step=4)
    rows = [render(c, tokenizer) for c in stage.referenced]
    reference = score_all(engine, rows, pad_id=pad, packed=True, token_budget=setting.budget)
    engine.save_trained(out / "start")
    start = read_trained(cell_model, out / "start")
    # Others' weights for a while, as an update scores the versions it is compared with.
    engine.put({name: tensor + 0.1 for name, tensor in start.items()})
    other = score_all(engine, rows[:2], pad_id=pad, packed=True, token_budget=setting.budget)
    assert abs(other[0] - reference[0]).max() > 0.01
    engine.put(start)
    settings = TrainConfig(token_budget=setting.budget, warmup=0.0)
    how: dict[str, Any] = {"train": settings, "pad_id": pad, "packed": True, "reference": reference}
    reports = []
    for report in learn(engine, stage, tokenizer, **how):
        if report.step - 1 == setting.cut:
            break
        reports.append(report)
        if report.step == setting.cut:
            engine.save(out / "checkpoint")
    if setting.cut is not None:
        # What came after the checkpoint is lost; a new engine takes up from it.
        tokenizer, cell_model, engine = fresh()
        engine.load(out / "checkpoint")
        reports += learn(engine, stage, tokenizer, start=setting.cut, **how)
    engine.save_trained(out / "trained")
    if engine.rank == 0:
        told = [{"loss": r.loss, "norm": r.grad_norm, "tokens": r.tokens, **r.stats} for r in reports]
        (out / "reports.json").write_text(json.dumps(told))
