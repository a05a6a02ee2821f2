"""A version leaves as a plain Hugging Face folder: it scores alike, and only where its survey's licence lets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny import make_tiny, survey_cells
from transformers import AutoModelForCausalLM, AutoTokenizer

from valuealign.cluster.build import build
from valuealign.config import ModelConfig
from valuealign.engine import LocalEngine, score_all
from valuealign.errors import RegistryError
from valuealign.models.chat import write_arguments
from valuealign.models.export import export_version
from valuealign.models.score import CellModel
from valuealign.prompts import render
from valuealign.registry import Registry, Version
from valuealign.store import Store

CELLS = survey_cells(3)


def scores(model: Any, tokenizer: Any) -> list[np.ndarray]:
    rows = [render(c, tokenizer) for c in CELLS]
    engine = LocalEngine(CellModel(model.eval().requires_grad_(True)), pad_id=2)
    return score_all(engine, rows, pad_id=2, packed=True, token_budget=600)


def made(folder: Path, train: Literal["lora", "full"], **card: Any) -> tuple[Version, Path, list[np.ndarray]]:
    """A registered version over a Qwen3-like base, the base, and what it answers."""
    base_folder = make_tiny(folder / "base", "qwen3")
    config = ModelConfig(path=str(base_folder), train=train, lora_r=4, chat_template_kwargs={"enable_thinking": False})
    base, model = build(config, seed=0, start=None)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.05)
    write_arguments(config.chat_template_kwargs, folder / "trained")
    LocalEngine(model, pad_id=2).save_trained(folder / "trained")
    registry = Registry(folder / "registry", Store.open(folder / "db"))
    told: dict[str, Any] = {
        "base": str(base_folder),
        "licence": "CC-BY-4.0",
        "tier": "open",
        "config": {"survey": {"file": str(folder / "town.csv")}},
    }
    version = registry.register(folder / "trained", name="town", card=told | card)
    return version, base_folder, scores(model.model, base.tokenizer)


def near(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True)) < 1e-4


@pytest.mark.parametrize(("train", "merged"), [("lora", False), ("lora", True), ("full", False)])
def test_the_folder_scores_like_the_version(tmp_path: Path, train: Literal["lora", "full"], merged: bool) -> None:
    version, base, want = made(tmp_path, train)
    out = tmp_path / "release" / "town"
    export_version(version, out, base=str(base), merged=merged, progress=lambda _: None)
    tokenizer = AutoTokenizer.from_pretrained(out)
    if train == "lora" and not merged:
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(out))
        assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
        plain = plain.merge_and_unload()
    else:
        plain = AutoModelForCausalLM.from_pretrained(out)
    assert near(scores(plain, tokenizer), want), "with the template's arguments in the tokenizer that came along"
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n") and "CC-BY-4.0" in card and "town.csv" in card
    for file in out.rglob("*"):
        if file.suffix in (".json", ".md"):
            assert str(tmp_path) not in file.read_text(), f"{file.name} tells where things lay"
    with pytest.raises(RegistryError, match="there already"):
        export_version(version, out, base=str(base), merged=merged, progress=lambda _: None)


def test_a_licence_that_lets_nothing_pass_keeps_the_model_too(tmp_path: Path) -> None:
    version, base, _ = made(tmp_path, "lora", tier="closed", licence="members only")
    with pytest.raises(RegistryError, match=r"members only.*lets nothing be passed on"):
        export_version(version, tmp_path / "out", base=str(base))
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    open_version = Version(version.name, 1, version.path, None, {**version.card, "tier": "open"})
    with pytest.raises(RegistryError, match="cannot write there"):
        export_version(open_version, tmp_path / "file" / "out", base=str(base))
