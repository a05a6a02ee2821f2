"""From a configuration to the terms that a stage trains: what is picked, warned of, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import behaviour_cells, make_tiny, survey_cells

from valuealign.cluster.build import build
from valuealign.config import DpoConfig, KtoConfig, ModelConfig, RunConfig, SftConfig, TrainConfig
from valuealign.engine import LocalEngine, score_all
from valuealign.errors import ConfigError
from valuealign.learner import Stage, kto_term, learn, pick_lambdas, plan_stages, preference_term
from valuealign.prompts import render
from valuealign.types import Cell

CLOSED = tuple(replace(c, undesirable=tuple((1 - d) / 2 for d in c.desirable)) for c in survey_cells())


def marked(n_d: float, n_u: float) -> tuple[Cell, ...]:
    """Two open prompts with these masses in all."""
    return tuple(
        replace(c, completions=c.completions[:2], desirable=(n_d / 2, 0.0), undesirable=(0.0, n_u / 2))
        for c in behaviour_cells(2)
    )


@pytest.mark.parametrize(
    ("given", "picked"),
    [
        ({"lambda_d": "auto"}, (7 / 6 / 3, 1.0)),  # 3 desirable for 1 undesirable; the middle of [1, 4/3] is 7/6
        ({"lambda_u": "auto"}, (1.0, 3 * 6 / 7)),
        ({"lambda_d": "auto", "lambda_u": "auto"}, (1.0, 3 * 6 / 7)),
        ({"lambda_d": "auto", "lambda_u": 2.0}, (2 * 7 / 6 / 3, 2.0)),
        ({}, (1.0, 1.0)),
    ],
)
def test_auto_picks_what_the_rule_wants(given: dict[str, Any], picked: tuple[float, float]) -> None:
    rule = pick_lambdas(marked(30, 10), KtoConfig(**given))
    assert (rule.lambda_d, rule.lambda_u) == pytest.approx(picked)
    assert rule.holds is bool(given)
    other = pick_lambdas(marked(10, 30), KtoConfig(lambda_d="auto", lambda_u="auto"))
    assert (other.lambda_d, other.lambda_u) == pytest.approx((7 / 6 * 3, 1.0)), "the smaller of both is 1"


def test_a_ratio_outside_the_range_is_a_warning_that_names_what_would_hold() -> None:
    (note,) = kto_term(marked(30, 10), KtoConfig()).notes
    assert "warning" in note and "3.00, outside [1.00, 1.33]" in note and "0.333 to 0.444 would hold" in note
    (within,) = kto_term(marked(30, 10), KtoConfig(lambda_d=0.4)).notes
    assert "warning" not in within
    (onesided,) = kto_term(marked(30, 0), KtoConfig(lambda_d="auto")).notes
    assert "all answers are on one side" in onesided
    assert any("z0: none" in note for note in kto_term(marked(10, 9), KtoConfig(z0="none")).notes)


def test_negatives_of_the_policy_take_equal_weights() -> None:
    term = kto_term(CLOSED, KtoConfig(negatives="policy", lambda_d="auto", lambda_u=1.5))
    assert term.hyper["lambda_d"] == term.hyper["lambda_u"] == 1.5 and not term.notes
    with pytest.raises(ConfigError, match="only if lambda_d = lambda_u"):
        kto_term(CLOSED, KtoConfig(negatives="policy", lambda_d=1.2))


def test_reference_free_on_open_answers_needs_a_z0() -> None:
    with pytest.raises(ConfigError, match="need a reference or a z0"):
        kto_term(marked(10, 9), KtoConfig(reference_free=True, z0="none"))
    stage = Stage("kto", (kto_term(marked(10, 9), KtoConfig(reference_free=True)),), 1, 0.1, 4)
    assert stage.terms[0].mismatched and stage.referenced == (), "no reference is computed"


def test_dpo_keeps_prompts_with_a_pair_and_warns_on_surveys() -> None:
    alone = replace(behaviour_cells(3)[2], undesirable=(0.0, 0.0))
    term = preference_term((*behaviour_cells(2), alone), DpoConfig())
    assert len(term.cells) == 2 and term.notes == ("1 cells have no pair to prefer by",)
    assert "far sharper than the people" in preference_term(CLOSED, DpoConfig()).notes[0]
    for config in (DpoConfig(), SftConfig(), KtoConfig()):
        with pytest.raises(ConfigError, match="nothing for stage"):
            preference_term([replace(alone, desirable=(0.0, 0.0))], config)


def test_every_stage_of_a_configuration_trains_with_its_anchor(tmp_path: Path) -> None:
    """sft, dpo and kto in one run: each moves the model towards what was desirable."""
    config = RunConfig.model_validate({"stages": ["distribution", "sft", "dpo", "kto"], "sft": {"anchor": 0}})
    cells = behaviour_cells(4)
    stages = plan_stages(config, survey_cells(), dict.fromkeys(("sft", "dpo", "kto"), cells))
    assert [[t.objective for t in s.terms] for s in stages] == [
        ["distribution"], ["sft"], ["dpo", "distribution"], ["kto", "distribution"],
    ]  # fmt: skip
    model = make_tiny(tmp_path)
    for stage in stages[1:]:
        base, cell_model = build(ModelConfig(path=str(model), lora_r=4), seed=0, start=None)
        engine = LocalEngine(cell_model, pad_id=2)
        form: dict[str, Any] = {"pad_id": 2, "packed": True}
        rows = [render(c, base.tokenizer) for c in (*stage.referenced, *cells)]
        before = score_all(engine, rows, token_budget=600, **form)
        reference = before[: len(stage.referenced)]
        short = replace(stage, epochs=4, learning_rate=0.005)
        for report in learn(
            engine, short, base.tokenizer, train=TrainConfig(token_budget=600), reference=reference, **form
        ):
            assert np.isfinite(report.loss) and report.tokens > 0
        after = score_all(engine, rows, token_budget=600, **form)
        r = [a - b for a, b in zip(after[-len(cells) :], before[-len(cells) :], strict=True)]
        assert sum(x[0] - x[1] for x in r) > 0, stage.name
