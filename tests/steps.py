"""The same few steps on any engine: distribution and KTO (mismatched z0) together, plain SGD.

SGD, because a weight then moves by exactly learning rate times gradient: a wrong scale shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny import behaviour_cells, survey_cells

from valuealign.cluster.worker import build
from valuealign.config import DistributionConfig, KtoConfig, ModelConfig, TrainConfig
from valuealign.engine import score_all
from valuealign.learner import Stage, distribution_term, kto_term, learn
from valuealign.prompts import render


def run_steps(model: Path, out: Path, make: Callable[..., Any], *, writes: bool = True, budget: int = 300) -> None:
    base, cell_model = build(ModelConfig(path=str(model), lora_r=4, lora_alpha=8), seed=0, start=None)
    pad = base.tokenizer.pad_token_id
    engine = make(cell_model, pad)
    terms = (
        kto_term(behaviour_cells(), KtoConfig(beta=0.5, lambda_d=1.2)),
        distribution_term(survey_cells(7), DistributionConfig(), weight=0.7),
    )
    stage = Stage("mixed", terms, epochs=2, learning_rate=0.5, cells_per_step=4)
    reference = score_all(
        engine, [render(c, base.tokenizer) for c in stage.referenced], pad_id=pad, packed=True, token_budget=budget
    )
    settings = TrainConfig(token_budget=budget, warmup=0.0)
    reports = [
        {"loss": r.loss, "norm": r.grad_norm, "tokens": r.tokens, **r.stats}
        for r in learn(engine, stage, base.tokenizer, train=settings, pad_id=pad, packed=True, reference=reference)
    ]
    engine.save_adapter(out)
    if writes:
        (out / "reports.json").write_text(json.dumps(reports))
