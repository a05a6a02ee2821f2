"""The planner: exact counts, memory that ZeRO only lowers, a verdict with its mend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny import make_tiny

from valuealign import planner
from valuealign.config import ModelConfig, RunConfig, load
from valuealign.errors import ConfigError, ModelError
from valuealign.planner import BOXES, find_box, mend, plan, read_architecture, read_config

THIRTY_B: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 5120,
    "intermediate_size": 25_600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
SMALL = THIRTY_B | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16}


def run(*overrides: str) -> RunConfig:
    return load(None, ("model.dtype=bfloat16", *overrides))


def test_counts_are_those_of_the_model_and_of_peft(tmp_path: Path) -> None:
    from valuealign.cluster.worker import build

    folder = make_tiny(tmp_path)
    _, model = build(ModelConfig(path=str(folder), lora_r=3), seed=0, start=None)
    sizes = read_architecture(read_config(folder))
    assert sizes.parameters == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert sizes.lora(3) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_counts_of_every_kind(kind: str, tied: bool) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    more = {"attention_bias": True, "mlp_bias": True, "head_dim": 16} if kind == "llama" else {}
    config = AutoConfig.for_model(
        kind,
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        **more,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    written = json.loads(config.to_json_string())
    assert read_architecture(written).parameters == sum(p.numel() for p in model.parameters())


def test_the_chunk_of_the_head_is_the_models() -> None:
    from valuealign.models import load as loading
    from valuealign.models import score

    assert planner.HEAD_CHUNK == score.HEAD_CHUNK
    assert planner.HEAD_EXTRAS == loading.HEAD_EXTRAS


@pytest.mark.parametrize("config", [SMALL, THIRTY_B])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_zero_stage_lowers_its_own_item(config: dict[str, Any], dtype: str) -> None:
    plans = [plan(config, run(f"train.zero={z}", f"model.dtype={dtype}"), BOXES["4xA40"]) for z in range(4)]
    states = ("weights of the base", "weights of the adapter", "gradients", "optimizer")
    held = [sum(p.items[name] for name in states) for p in plans]
    assert held[0] > held[1] > held[2] > held[3]
    assert plans[1].items["optimizer"] == plans[0].items["optimizer"] / 4
    assert plans[2].items["gradients"] == plans[1].items["gradients"] / 4
    assert plans[3].items["weights of the base"] < plans[2].items["weights of the base"]
    assert {p.items["activations"] for p in plans} == {plans[0].items["activations"]}


def test_one_gpu_has_nothing_to_shard() -> None:
    items = [plan(SMALL, run(f"train.zero={z}"), BOXES["1xH100"]).items for z in (2, 3)]
    assert items[0] == items[1]


def test_activations_grow_with_the_token_budget() -> None:
    sizes = read_architecture(SMALL)
    few, many = (planner.activations(sizes, tokens=t, r=16, width=2) for t in (1000, 2000))
    assert 2 * few < many < 4 * few  # the rest is linear, the dense mask is quadratic
    assert planner.logits(sizes, tokens=10**6, width=2) == planner.logits(sizes, tokens=planner.HEAD_CHUNK, width=2)


def test_thirty_billion_on_four_a40() -> None:
    for zero in range(4):
        found = plan(THIRTY_B, run(f"train.zero={zero}"), find_box("4xA40"))
        assert 30e9 < found.parameters < 35e9
        assert found.loading == 2 * found.parameters > found.usable
        assert not found.fits and found.largest == "activations"
        lean = plan(THIRTY_B, run(f"train.zero={zero}", "train.token_budget=256"), find_box("4xA40"))
        assert not lean.fits and "base" in lean.largest  # ZeRO 3 too: it shards what must first be loaded


@pytest.mark.parametrize("config", [SMALL, THIRTY_B])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mend_is_one(config: dict[str, Any], dtype: str) -> None:
    crowded = (f"model.dtype={dtype}", "train.token_budget=32768")
    found = plan(config, run(*crowded), find_box("4xA40"))
    assert not found.fits
    words = mend(config, run(*crowded), find_box("4xA40")).removeprefix("try ").split()
    box = words[words.index("--box") + 1] if "--box" in words else "4xA40"
    assert (box == "4xA40") == (config is SMALL)
    assert plan(config, run(*crowded, *(word for word in words if "=" in word)), find_box(box)).fits


def test_no_mend_is_no_mend() -> None:
    huge = THIRTY_B | {"num_hidden_layers": 1000}
    assert "smaller model" in mend(huge, run(), find_box("4xA40"))


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="4xA40"):
        find_box("4xA4O")
    with pytest.raises(ModelError, match="hidden_size"):
        plan({k: v for k, v in SMALL.items() if k != "hidden_size"}, run(), BOXES["4xA40"])
    with pytest.raises(ModelError, match="gpt2"):
        read_architecture({"model_type": "gpt2"})
    with pytest.raises(ModelError, match="not a size"):
        read_architecture(SMALL | {"num_hidden_layers": "28"})


def plan_job(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/plan.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100
    )


def test_the_job_needs_the_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    done = plan_job("--box", "1xH100", f"model.path={tmp_path}", "model.dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert "verdict: fits" in done.stdout and "assumed:" in done.stdout


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_the_job_says_what_is_wrong_with_a_config(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="config.json"):
        found = read_config(tmp_path)
        read_architecture(found)
