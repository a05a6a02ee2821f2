"""QLoRA on a small base: 4-bit weights, exact gradients for the adapter, and figures that stay with their base."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny import make_tiny, survey_cells
from torch import nn
from transformers import AutoModelForCausalLM
from trl_side import Keeping

from valuealign import config as configuration
from valuealign.cluster.build import build
from valuealign.cluster.worker import identity
from valuealign.config import DistributionConfig, ModelConfig, RunConfig, TrainConfig
from valuealign.engine import LocalEngine, score_all
from valuealign.errors import ConfigError, ModelError
from valuealign.learner import Stage, distribution_term, learn
from valuealign.models.adapters import add_adapter
from valuealign.models.export import export_version
from valuealign.models.host import Host
from valuealign.models.load import fingerprint, load_base
from valuealign.models.score import CellModel
from valuealign.planner import boxes, memory
from valuealign.planner.architecture import read_config
from valuealign.prompts import render
from valuealign.registry import Registry, Version, check_base
from valuealign.store import Store

CELLS = survey_cells(5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("base"), "qwen3", width=64)


def scores(model: CellModel, tokenizer: Any, packed: bool = True) -> list[np.ndarray]:
    engine = LocalEngine(model, pad_id=2)
    return score_all(
        engine, [render(c, tokenizer) for c in CELLS], pad_id=2, packed=packed and model.packed, token_budget=600
    )


def train(model: CellModel, tokenizer: Any) -> dict[str, torch.Tensor]:
    """The first step's gradients of all that trains, under their names."""
    engine = Keeping(model, 2)
    stage = Stage("s", (distribution_term(CELLS, DistributionConfig()),), 1, 1.0, len(CELLS))
    list(learn(engine, stage, tokenizer, train=TrainConfig(token_budget=600), pad_id=2, packed=model.packed))
    return engine.gradients[0]


def moved(model: CellModel) -> CellModel:
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.05)
    return model


def quantized(folder: Path, **more: Any) -> tuple[Any, CellModel]:
    return build(ModelConfig(path=str(folder), quantize="nf4", lora_r=4, **more), seed=0, start=None)


def test_linear_layers_are_in_4_bits_and_the_head_is_not(folder: Path) -> None:
    model = load_base(str(folder), quantize="nf4").model
    plain = load_base(str(folder)).model
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    linear = {f"{n}.weight" for n, m in plain.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    assert {n for n, dtype in kinds.items() if dtype == torch.uint8} == linear and len(linear) == 14
    assert kinds["lm_head.weight"] == kinds["model.embed_tokens.weight"] == torch.float32


def test_the_adapter_learns_as_over_the_same_weights_unpacked(folder: Path) -> None:
    """The judge is a plain model with the weights that 4 bits stand for."""
    base, model = quantized(folder)
    moved(model)
    plain = copy.deepcopy(load_base(str(folder), quantize="nf4").model).dequantize(dtype=torch.float32)
    assert not any(p.dtype == torch.uint8 for p in plain.parameters())
    twin = moved(CellModel(add_adapter(plain.requires_grad_(False), r=4, alpha=32.0, seed=0)))
    for mine, judge in zip(scores(model, base.tokenizer), scores(twin, base.tokenizer), strict=True):
        np.testing.assert_allclose(mine, judge, atol=1e-4)
    exact = load_base(str(folder))
    far = moved(CellModel(add_adapter(exact.model, r=4, alpha=32.0, seed=0)))
    apart = [abs(a - b).max() for a, b in zip(scores(model, base.tokenizer), scores(far, base.tokenizer), strict=True)]
    assert max(apart) > 0.01, "4 bits are not the checkpoint's own weights"

    gradients, judged = train(model, base.tokenizer), train(twin, base.tokenizer)
    assert gradients.keys() == judged.keys() and len(gradients) == 2 * 14
    for name, gradient in gradients.items():
        assert (gradient - judged[name]).norm() < 1e-4 * judged[name].norm(), name
    packed, dense = scores(model, base.tokenizer), scores(model, base.tokenizer, packed=False)
    assert max(abs(a - b).max() for a, b in zip(packed, dense, strict=True)) < 1e-3


def test_recomputation_changes_nothing(folder: Path) -> None:
    base, model = quantized(folder)
    plain = train(moved(model), base.tokenizer)
    again = train(moved(build(ModelConfig(path=str(folder), quantize="nf4", lora_r=4), seed=0, start=None,
                              recompute=True)[1]), base.tokenizer)  # fmt: skip
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


def test_a_quantized_base_is_another_base(folder: Path) -> None:
    """Its reference tables are its own, and a version is judged, served and exported over what it was trained over."""
    base, model = quantized(folder)
    plain, other = build(ModelConfig(path=str(folder), lora_r=4), seed=0, start=None)
    mine, theirs = identity(base, model, None), identity(plain, other, None)
    assert mine["base"] == fingerprint(folder, "nf4") == theirs["base"] + "+nf4"


@pytest.fixture
def version(folder: Path, tmp_path: Path) -> tuple[Version, list[np.ndarray]]:
    base, model = quantized(folder)
    want = scores(moved(model), base.tokenizer)
    LocalEngine(model, pad_id=2).save_trained(tmp_path / "trained")
    registry = Registry(tmp_path / "registry", Store.open(tmp_path / "db"))
    card = {"base": str(folder), "base_hash": fingerprint(folder, "nf4"), "licence": "CC0", "tier": "open"}
    return registry.register(tmp_path / "trained", name="town", card=card), want


def test_a_version_answers_over_its_own_base(folder: Path, version: tuple[Version, list[np.ndarray]]) -> None:
    one, want = version
    assert one.quantize == "nf4"
    for quantize, alike in (("nf4", True), ("none", False)):
        host = Host.of(ModelConfig(path=str(folder), quantize=quantize))
        host.load("v1", one.path)
        apart = max(abs(a - b).max() for a, b in zip(host.score("v1", CELLS), want, strict=True))
        assert (apart < 1e-4) == alike


def test_a_job_that_would_judge_it_over_another_says_so(
    folder: Path, version: tuple[Version, list[np.ndarray]]
) -> None:
    check_base(version[0], fingerprint(folder, "nf4"), "mend")
    with pytest.raises(ModelError, match="set model.quantize=nf4"):
        check_base(version[0], fingerprint(folder), "mend")
    with pytest.raises(ModelError, match="another base model"):
        check_base(version[0], "0" * 32, "mend")
    plain = replace(version[0], card={"base_hash": fingerprint(folder)})
    with pytest.raises(ModelError, match="set model.quantize=none"):
        check_base(plain, fingerprint(folder, "nf4"), "mend")


def test_merged_it_is_a_plain_model_of_the_weights_it_was_trained_over(
    folder: Path, version: tuple[Version, list[np.ndarray]], tmp_path: Path
) -> None:
    one, want = version
    out = tmp_path / "release"
    export_version(one, out, base=str(folder), merged=True, progress=lambda _: None)
    plain = AutoModelForCausalLM.from_pretrained(out)
    assert "quantization_config" not in read_config(out) and "quantized to nf4" in (out / "README.md").read_text()
    tokenizer = load_base(str(folder)).tokenizer
    found = scores(CellModel(plain.eval().requires_grad_(True)), tokenizer)
    assert max(abs(a - b).max() for a, b in zip(found, want, strict=True)) < 1e-3


def test_what_cannot_be_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="all weights cannot train in 4 bits"):
        ModelConfig(quantize="nf4", train="full")
    with pytest.raises(ConfigError, match=r"train\.zero 3 cannot shard"):
        configuration.load(None, ["model.quantize=nf4", "train.zero=3"])
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else found(name, *a)
    )
    with pytest.raises(ModelError, match="bitsandbytes") as error:
        load_base(str(folder), quantize="nf4")
    assert "valuealign[qlora]" in str(error.value)


def test_the_planner_counts_4_bits(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path, "llama", width=256, layers=3)
    model = load_base(str(folder), quantize="nf4").model
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            held += sum(t.numel() * t.element_size() for t in (state.absmax, state.state2.absmax))
    run = RunConfig(model=ModelConfig(path=str(folder), quantize="nf4"))
    planned = memory.plan(read_config(folder), run, boxes.Box(1, 1e12, boxes.CPU))
    assert planned.items["weights of the base"] == pytest.approx(held, rel=0.01)
    plain = memory.plan(read_config(folder), RunConfig(), boxes.Box(1, 1e12, boxes.CPU))
    key = "for a while, going backward"
    assert planned.items[key] - plain.items[key] == 4 * 512 * 256, "the largest weight, unpacked"
