"""Prefix-shared rows score like dense ones, and the plan of a run depends on its cells and seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import behaviour_cells, make_tiny, survey_cells

from valuealign.cluster.build import build
from valuealign.config import ModelConfig
from valuealign.engine import LocalEngine, check_packing, score_all
from valuealign.errors import ModelError
from valuealign.models.load import Base
from valuealign.models.score import CellModel
from valuealign.packing import Row, collate, micro_batches, step_cells, visible, weighed
from valuealign.prompts import render


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, CellModel]:
    folder = make_tiny(tmp_path_factory.mktemp("model"))
    base, model = build(ModelConfig(path=str(folder), lora_r=4), seed=0, start=None)
    with torch.no_grad():  # a fresh adapter adds nothing: give it something to say
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2)
    return base, model


def test_packed_scores_and_gradients_equal_dense(tiny: tuple[Base, CellModel]) -> None:
    base, model = tiny
    rows = [Row(render(c, base.tokenizer)) for c in (*survey_cells(4), *behaviour_cells(3))]
    found = []
    for packed in (True, False):
        model.packed = packed
        model.zero_grad()
        logp = model(collate(rows, pad_id=2, packed=packed))
        (logp * torch.linspace(-1, 1, len(logp))).sum().backward()
        found.append((logp.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    model.packed = True
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=0)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert float((a - b).norm() / b.norm().clamp(min=1e-4)) < 1e-3


def test_scores_equal_a_plain_forward(tiny: tuple[Base, CellModel]) -> None:
    """Against the model called the ordinary way, one prompt and one completion at a time."""
    base, model = tiny
    rendered = render(survey_cells(1)[0], base.tokenizer)
    engine = LocalEngine(model, pad_id=2)
    got = score_all(engine, [rendered], pad_id=2, packed=True, token_budget=512)[0]
    for k, completion in enumerate(rendered.completion_ids):
        ids = torch.tensor([[*rendered.prompt_ids, *completion]])
        with torch.no_grad():
            logits = model.model(input_ids=ids).logits.log_softmax(-1)[0]
        start = len(rendered.prompt_ids)
        want = sum(float(logits[start + i - 1, token]) for i, token in enumerate(completion))
        assert got[k] == pytest.approx(want, abs=1e-3)


def test_batch_composition_changes_no_score(tiny: tuple[Base, CellModel]) -> None:
    base, model = tiny
    rendered = [render(c, base.tokenizer) for c in (*survey_cells(5), *behaviour_cells(4))]
    engine = LocalEngine(model, pad_id=2)
    big, small = (score_all(engine, rendered, pad_id=2, packed=True, token_budget=b) for b in (100_000, 64))
    assert max(float(np.abs(a - b).max()) for a, b in zip(big, small, strict=True)) < 1e-4
    assert check_packing(engine, model, rendered, pad_id=2) < 2e-3
    with pytest.raises(ModelError, match="packed and dense scores differ"):
        check_packing(engine, model, rendered, pad_id=2, tolerance=-1.0)
    engine.all_sum = lambda values: values + 1  # another rank found a difference
    with pytest.raises(ModelError, match="packed and dense scores differ"):
        check_packing(engine, model, rendered, pad_id=2)


def test_a_branch_sees_the_prompt_and_itself() -> None:
    mask = visible(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_micro_batches_cover_every_cell_once_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    for ranks in (1, 2, 3):
        tokens = rng.integers(20, 200, size=41).tolist()
        plan = micro_batches(tokens, token_budget=600, ranks=ranks)
        assert len({len(per_rank) for per_rank in plan}) == 1, "ranks run equally many micro-batches"
        flat = [chunk for per_rank in plan for chunk in per_rank]
        assert sorted(i for chunk in flat for i in chunk) == list(range(41))
        assert all(len(c) * max(tokens[i] for i in c) <= 600 for c in flat if len(c) > 1)
    assert micro_batches([50], token_budget=10, ranks=2) in ([[[0]], [[]]], [[[]], [[0]]])


def test_steps_walk_through_every_cell_and_resume_alike() -> None:
    seen = [i for step in range(5) for i in step_cells(10, step=step, cells_per_step=4, seed=3)]
    assert sorted(seen[:10]) == list(range(10)) and sorted(seen[10:20]) == list(range(10))
    assert step_cells(10, step=3, cells_per_step=4, seed=3) == seen[12:16]
    assert sorted(step_cells(3, step=7, cells_per_step=64, seed=0)) == [0, 1, 2]


def test_weighing() -> None:
    cell = behaviour_cells(1)[0]
    same, one = weighed(cell, "mass")
    assert same == cell and one == 1.0
    unit, weight = weighed(survey_cells(1)[0], "n_eff", shrink=40.0)
    assert sum(unit.desirable) == pytest.approx(1.0) and weight == pytest.approx(0.5)
