"""On a small language model trained from cells: published KTO collapses their shares, representative KTO does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import make_tiny, survey_cells

from valuealign.cluster.build import build
from valuealign.config import DistributionConfig, KtoConfig, ModelConfig, TrainConfig
from valuealign.engine import LocalEngine, score_all
from valuealign.learner import Stage, Term, distribution_term, kto_term, learn
from valuealign.metrics import entropy_bits, jsd_bits
from valuealign.prompts import render
from valuealign.signals.targets import others

CELLS = tuple(replace(c, undesirable=tuple(others(c.desirable))) for c in survey_cells(5))
PEOPLE = np.array([c.desirable for c in CELLS])


class Small:
    """A tiny model with an engine, and the people's answers as it gives them."""

    def __init__(self, folder: Path) -> None:
        self.base, model = build(ModelConfig(path=str(folder), train="full"), seed=0, start=None)
        self.engine = LocalEngine(model, pad_id=2)

    def scores(self) -> list[np.ndarray]:
        rows = [render(c, self.base.tokenizer) for c in CELLS]
        return score_all(self.engine, rows, pad_id=2, packed=True, token_budget=4096)

    def shares(self) -> np.ndarray:
        logp = np.array(self.scores())
        return np.exp(logp - np.logaddexp.reduce(logp, axis=1, keepdims=True))

    def train(self, term: Term, *, steps: int, rate: float) -> None:
        reference: Sequence[Any] = self.scores() if term.objective == "kto" else ()
        stage = Stage("one", (term,), epochs=steps, learning_rate=rate, cells_per_step=len(CELLS))
        for _ in learn(
            self.engine, stage, self.base.tokenizer, train=TrainConfig(), pad_id=2, packed=True, reference=reference
        ):
            pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("negatives", ["human", "policy"])
def test_from_the_stage_1_model_on(folder: Path, negatives: Any) -> None:
    small = Small(folder)
    small.train(distribution_term(CELLS, DistributionConfig()), steps=50, rate=0.01)
    before = small.shares()
    assert jsd_bits(before, PEOPLE).mean() < 0.005, "stage 1 learnt the people"
    small.engine.fresh_optimizer()
    small.train(kto_term(CELLS, KtoConfig(negatives=negatives, beta=1.0)), steps=50, rate=0.01)
    after = small.shares()
    spread = entropy_bits(after).sum() / entropy_bits(PEOPLE).sum()
    if negatives == "policy":
        assert 0.9 < spread < 1.1 and jsd_bits(after, PEOPLE).mean() < 0.01
    else:
        assert spread < 0.5 and jsd_bits(after, PEOPLE).mean() > 0.1
