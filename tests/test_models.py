"""Loading real checkpoints: what is refused, and a checkpoint that this project did not make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny import behaviour_cells, make_tiny, survey_cells
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from valuealign.cluster.build import build
from valuealign.config import ModelConfig
from valuealign.engine import LocalEngine, check_packing, score_all
from valuealign.errors import ModelError
from valuealign.models.host import Host
from valuealign.models.load import abilities, fingerprint, load_base, resolve
from valuealign.models.trained import put_trained
from valuealign.prompts import ask, render
from valuealign.registry import Registry
from valuealign.store import Store
from valuealign.types import Message


def test_a_folder_that_is_no_safe_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        resolve(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"no safetensors weights \(found: pytorch_model\.bin\)") as caught:
        resolve(str(tmp_path))
    assert "pickled weights are not loaded" in caught.value.mend
    (tmp_path / "model.safetensors").write_bytes(b"not really")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        resolve(str(tmp_path))


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(folder))


def test_abilities_say_why_not() -> None:
    assert abilities(LlamaConfig(attn_implementation="sdpa")).packed
    sliding = abilities(MistralConfig(sliding_window=16))
    assert not sliding.packed and "sliding window" in sliding.why
    unknown = LlamaConfig()
    unknown.model_type = "mamba"
    assert not abilities(unknown).packed
    softcap = LlamaConfig()
    softcap.final_logit_softcapping = 30.0
    assert not abilities(softcap).plain_head


def test_a_head_with_extras_scores_through_the_whole_model(tmp_path: Path) -> None:
    """Softcapped logits come from the model itself, not from the bare head."""
    base, model = build(ModelConfig(path=str(make_tiny(tmp_path))), seed=0, start=None)
    rendered = [render(c, base.tokenizer) for c in survey_cells(2)]
    engine = LocalEngine(model, pad_id=2)
    plain = score_all(engine, rendered, pad_id=2, packed=True, token_budget=500)
    model.abilities = model.abilities._replace(plain_head=False)
    whole = score_all(engine, rendered, pad_id=2, packed=True, token_budget=500)
    assert max(float(np.abs(a - b).max()) for a, b in zip(plain, whole, strict=True)) < 1e-4


def test_adapters_load_in_plain_peft_and_in_the_host(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "m")
    base, model = build(ModelConfig(path=str(folder), lora_r=4), seed=0, start=None)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
    LocalEngine(model, pad_id=2).save_trained(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == 4 and config["lora_dropout"] == 0.0
    cells = (*survey_cells(3), *behaviour_cells(2))
    rows = [render(c, base.tokenizer) for c in cells]
    want = score_all(LocalEngine(model, pad_id=2), rows, pad_id=2, packed=True, token_budget=500)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path / "a")).eval()
    ids = torch.tensor([[*rows[0].prompt_ids, *rows[0].completion_ids[1]]])
    logits = plain(input_ids=ids).logits.log_softmax(-1)[0, len(rows[0].prompt_ids) - 1 : -1]
    got = float(logits.gather(1, ids[0, len(rows[0].prompt_ids) :, None]).sum())
    assert got == pytest.approx(float(want[0][1]), abs=1e-3)
    host = Host(str(folder))
    bare = host.score(None, cells)
    host.load("v1", tmp_path / "a")
    host.load("v2", tmp_path / "a")
    assert host.loaded() == ("v1", "v2")
    for version in ("v1", "v2"):
        found = host.score(version, cells)
        assert max(float(np.abs(a - b).max()) for a, b in zip(found, want, strict=True)) < 1e-4
    assert max(float(np.abs(a - b).max()) for a, b in zip(bare, want, strict=True)) > 0.1
    again = host.score(None, cells)  # the base stays there beneath the adapters
    assert max(float(np.abs(a - b).max()) for a, b in zip(bare, again, strict=True)) < 1e-6
    assert host.generate(None, [Message("user", "Hello?")], max_tokens=5).completion_tokens <= 5
    assert np.allclose(host.score("v1", cells[:1])[0], want[0], atol=1e-4)
    answer = host.generate("v2", [Message("user", "Hello?")], max_tokens=5)
    assert answer.completion_tokens <= 5 and answer.finish in ("stop", "length")
    again = [host.generate("v2", [Message("user", "Hello?")], max_tokens=5, temperature=1.0, seed=3).text for _ in "ab"]
    assert again[0] == again[1]
    with pytest.raises(ModelError, match="reads 512"):
        host.generate("v2", [Message("user", "x" * 600)], max_tokens=5)
    host.unload("v1")
    assert host.loaded() == ("v2",)


def test_a_full_fine_tune_is_a_version_that_any_reader_of_checkpoints_loads(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "m")
    base, model = build(ModelConfig(path=str(folder), train="full"), seed=0, start=None)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    engine = LocalEngine(model, pad_id=2)
    engine.save_trained(tmp_path / "w")
    engine.save_trained(tmp_path / "w")  # again over itself, as a resumed stage does
    cells = (*survey_cells(3), *behaviour_cells(2))
    want = score_all(engine, [render(c, base.tokenizer) for c in cells], pad_id=2, packed=True, token_budget=500)
    registry = Registry(tmp_path / "registry", Store.open(tmp_path / "db"))
    version = registry.register(tmp_path / "w", name="tiny", card={"base": str(folder)})
    _, plain = build(ModelConfig(path=str(version.path), train="full"), seed=0, start=None)
    rendered = [render(c, base.tokenizer) for c in cells]
    host = Host(str(folder))
    host.load("v1", version.path)
    host.load("v1", version.path)
    again = score_all(LocalEngine(plain, pad_id=2), rendered, pad_id=2, packed=True, token_budget=500)
    for found in (again, host.score("v1", cells)):
        assert max(float(np.abs(a - b).max()) for a, b in zip(found, want, strict=True)) < 1e-4
    assert host.generate("v1", [Message("user", "Hello?")], max_tokens=5).completion_tokens <= 5
    put_trained(model, version.path)
    with pytest.raises(ModelError, match="not an adapter"):
        put_trained(build(ModelConfig(path=str(folder)), seed=0, start=None)[1], version.path)


def test_dropout_is_off_even_where_a_checkpoint_asks_for_it(tmp_path: Path) -> None:
    """Also in the mode in which transformers recomputes activations."""
    folder = make_tiny(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"attention_dropout": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    base, model = build(ModelConfig(path=str(folder)), seed=0, start=None, recompute=True)
    rendered = [render(c, base.tokenizer) for c in survey_cells(2)]
    one, two = (
        score_all(LocalEngine(model, pad_id=2), rendered, pad_id=2, packed=True, token_budget=500) for _ in "ab"
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_fingerprint_sees_weights_and_tokenizer(tmp_path: Path) -> None:
    one, two = make_tiny(tmp_path / "a"), make_tiny(tmp_path / "b", seed=1)
    assert fingerprint(one) == fingerprint(make_tiny(tmp_path / "c"))
    assert fingerprint(one) != fingerprint(two)


def test_a_real_checkpoint_scores_packed_and_speaks(shared_data: Path) -> None:
    """stories260K: no chat template, a BOS of its own, 512 tokens of vocabulary."""
    base, model = build(ModelConfig(path=str(shared_data / "stories260K"), lora_r=4), seed=0, start=None)
    cells = survey_cells(3)
    rendered = [render(c, base.tokenizer) for c in cells]
    assert rendered[0].prompt_ids[0] == base.tokenizer.bos_token_id
    assert list(rendered[0].prompt_ids).count(base.tokenizer.bos_token_id) == 1
    assert all(ids[-1] == base.tokenizer.eos_token_id for r in rendered for ids in r.completion_ids)
    assert check_packing(LocalEngine(model, pad_id=0), model, rendered, pad_id=0) < 2e-3
    write = ask("How do you feel?", ["good", "bad"])
    from valuealign.models.generate import generate

    answer = generate(model.model, base.tokenizer, write, max_tokens=12, temperature=0.0)
    assert answer.completion_tokens == 12 or answer.finish == "stop"
    assert answer.text.strip()
