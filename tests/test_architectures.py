"""Llama, Qwen3, Qwen3-MoE and Gemma: packed or said not to be, adapters on every weight, served as trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny import ARCHITECTURES, behaviour_cells, make_tiny, survey_cells
from transformers import AutoModelForCausalLM, MistralConfig, Qwen3Config

from valuealign.cluster.build import build
from valuealign.cluster.worker import NoCheckpoints, TrainRun, read_scores, work
from valuealign.config import DistributionConfig, KtoConfig, ModelConfig, TrainConfig
from valuealign.engine import LocalEngine, score_all
from valuealign.errors import ModelError
from valuealign.learner import Stage, distribution_term, kto_term
from valuealign.models.adapters import read_adapter, without_adapter, write_adapter
from valuealign.models.chat import FILE
from valuealign.models.host import Host
from valuealign.models.load import Base, abilities
from valuealign.models.score import CellModel
from valuealign.models.trained import put_trained
from valuealign.packing import Row, collate
from valuealign.prompts import render
from valuealign.types import Message

PACKED = ("llama", "qwen3", "qwen3_moe")
CELLS = (*survey_cells(4), *behaviour_cells(3))
NO_THINKING = {"enable_thinking": False}


def local(model: Any, pad: int) -> LocalEngine:
    return LocalEngine(model, pad_id=pad)


def noisy(model: CellModel, std: float = 0.2) -> CellModel:
    """The model with an adapter that says something: a fresh one adds nothing."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=std)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    # Larger weights than these classes start with: attention must matter, or a wrong mask would hardly show.
    return {kind: make_tiny(tmp_path_factory.mktemp(kind), kind, initializer_range=0.1) for kind in ARCHITECTURES}


def save(model: CellModel, folder: Path) -> None:
    LocalEngine(model, pad_id=2).save_trained(folder)


def built(folder: Path, **more: Any) -> tuple[Base, CellModel]:
    base, model = build(ModelConfig(path=str(folder), lora_r=4, **more), seed=0, start=None)
    return base, noisy(model)


def forward(model: CellModel, rows: Sequence[Row], *, packed: bool) -> torch.Tensor:
    """Log-probabilities [N] of the rows in one of the two forms, whatever the model may do."""
    was, model.packed = model.packed, packed
    try:
        found: torch.Tensor = model(collate(rows, pad_id=2, packed=packed))
    finally:
        model.packed = was
    return found


def split(logp_N: torch.Tensor) -> list[np.ndarray]:
    """The log-probabilities of CELLS, cell by cell."""
    ends = np.cumsum([len(c.completions) for c in CELLS])
    return np.split(logp_N.detach().numpy(), ends[:-1])


def worst(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", PACKED)
def test_packed_scores_and_gradients_equal_dense(folders: dict[str, Path], kind: str) -> None:
    base, model = built(folders[kind])
    assert model.packed and not model.abilities.why
    rows = [Row(render(c, base.tokenizer)) for c in CELLS]
    found = []
    for packed in (True, False):
        model.zero_grad()
        logp = forward(model, rows, packed=packed)
        (logp * torch.linspace(-1, 1, len(logp))).sum().backward()
        found.append((logp.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=0)
    assert found[0][1].keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, a in found[0][1].items():
        b = found[1][1][name]
        assert float((a - b).norm() / b.norm().clamp(min=1e-4)) < 1e-3, name


@pytest.mark.parametrize("kind", PACKED)
def test_packed_equals_dense_in_bf16(folders: dict[str, Path], kind: str) -> None:
    """To .05 nats of up to 200: rounding, where a wrong mask is off by nats."""
    base, model = built(folders[kind], dtype="bfloat16")
    rows = [Row(render(c, base.tokenizer)) for c in CELLS]
    assert worst(*(split(forward(model, rows, packed=packed)) for packed in (True, False))) < 0.05


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_scores_equal_a_plain_forward(folders: dict[str, Path], kind: str) -> None:
    """Whichever form an architecture gets: against the model called the ordinary way, a text at a time."""
    base, model = built(folders[kind])
    rows = [render(c, base.tokenizer) for c in CELLS[3:6]]
    got = score_all(LocalEngine(model, pad_id=2), rows, pad_id=2, packed=model.packed, token_budget=512)
    for row, logp_K in zip(rows, got, strict=True):
        for completion, logp in zip(row.completion_ids, logp_K, strict=True):
            ids = torch.tensor([[*row.prompt_ids, *completion]])
            with torch.no_grad():
                logits = model.model(input_ids=ids).logits.log_softmax(-1)[0, len(row.prompt_ids) - 1 : -1]
            assert float(logp) == pytest.approx(
                float(logits.gather(1, torch.tensor(completion)[:, None]).sum()), abs=1e-3
            )


def test_gemma_falls_back_and_says_why(folders: dict[str, Path]) -> None:
    base, model = built(folders["gemma2"])
    assert not model.packed and "not full attention: full_attention, sliding_attention" in model.abilities.why
    assert base.model.config._attn_implementation == "eager", "sdpa cannot soft-cap attention scores"
    rows = [Row(render(c, base.tokenizer)) for c in CELLS]
    assert worst(*(split(forward(model, rows, packed=packed)) for packed in (True, False))) > 1


def test_eager_is_refused_because_it_is_wrong(folders: dict[str, Path]) -> None:
    """A boolean mask is added to eager's scores as 0 and 1: nothing is hidden, and nothing complains."""
    base, model = built(folders["llama"])
    rows = [Row(render(c, base.tokenizer)) for c in CELLS]
    right = forward(model, rows, packed=True)
    base.model.set_attn_implementation("eager")
    eager = CellModel(model.model)
    assert not eager.packed and "packed rows need sdpa attention, this is eager" in eager.abilities.why
    torch.testing.assert_close(forward(eager, rows, packed=False), right, atol=1e-4, rtol=0)
    assert worst(split(forward(eager, rows, packed=True)), split(right)) > 1


def test_windows_and_mixed_layers_are_announced() -> None:
    mixed = abilities(Qwen3Config(use_sliding_window=True, sliding_window=16, max_window_layers=1, num_hidden_layers=2))
    assert not mixed.packed and "layers that are not full attention: full_attention, sliding_attention" in mixed.why
    assert abilities(Qwen3Config(use_sliding_window=False, sliding_window=16)).packed
    sliding = abilities(MistralConfig(sliding_window=16))
    assert not sliding.packed and "sliding window of 16" in sliding.why


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_adapters_cover_every_matrix_and_come_back(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Attention, feed-forward, fused experts and their router; in plain PEFT, in a run, twice in a host."""
    base, model = built(folders[kind])
    assert without_adapter(model.model) == []
    save(model, tmp_path)
    names = {key.split("layers.0.")[1].removesuffix(".weight") for key in read_adapter(tmp_path) if ".0." in key}
    parts = {name.rsplit(".lora_", 1)[0] for name in names}
    experts = {"mlp.experts", "mlp.experts.base_layer", "mlp.gate"}  # down, gate and up, router
    dense = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    attention = {f"self_attn.{x}_proj" for x in "qkvo"}
    assert parts == attention | (experts if kind == "qwen3_moe" else dense)
    rows = [Row(render(c, base.tokenizer)) for c in CELLS]
    want = split(forward(model, rows, packed=model.packed))
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders[kind]), str(tmp_path)).eval()
    assert worst(split(forward(CellModel(plain), rows, packed=model.packed)), want) < 1e-4
    _, put = build(ModelConfig(path=str(folders[kind]), lora_r=4), seed=1, start=tmp_path)
    assert worst(split(forward(put, rows, packed=model.packed)), want) < 1e-4
    host = Host(str(folders[kind]))
    bare = host.score(None, CELLS)
    assert worst(bare, want) > 0.1
    state = {key: torch.zeros_like(value) for key, value in read_adapter(tmp_path).items()}
    write_adapter(state, model.model.peft_config["default"], tmp_path / "none", base="tiny")
    host.load("v1", tmp_path)
    host.load("v2", tmp_path / "none")
    assert worst(host.score("v1", CELLS), want) < 1e-4 and worst(host.score("v2", CELLS), bare) < 1e-4
    host.unload("v2")
    assert worst(host.score("v1", CELLS), want) < 1e-4


def test_what_stays_without_an_adapter_is_said(tmp_path: Path) -> None:
    """A dense layer among layers of experts: PEFT takes its names for the experts' and leaves it out."""
    folder = make_tiny(tmp_path / "m", "qwen3_moe", mlp_only_layers=[1])
    _, model = build(ModelConfig(path=str(folder), lora_r=4), seed=0, start=None)
    left = [f"model.layers.*.mlp.{name}_proj.weight" for name in ("down", "gate", "up")]
    assert without_adapter(model.model) == left
    work(make_run(folder, tmp_path / "run"), local, NoCheckpoints())
    assert {"event": "unadapted", "weights": left} in events(tmp_path / "run")


def test_an_adapter_that_does_not_fit_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    _, model = built(folders["qwen3_moe"])
    save(model, tmp_path / "own")
    state, config = read_adapter(tmp_path / "own"), model.model.peft_config["default"]
    write_adapter({k: v for k, v in state.items() if "experts" not in k}, config, tmp_path / "half", base="tiny")
    with pytest.raises(ModelError, match=r"experts.* is lacking"):
        put_trained(model, tmp_path / "half")
    _, wide = built(make_tiny(tmp_path / "wide", "qwen3_moe", width=64))
    save(wide, tmp_path / "a")
    with pytest.raises(ModelError, match="do(es)? not fit"):
        put_trained(model, tmp_path / "a")
    with pytest.raises(ModelError, match="do(es)? not fit"):
        Host(str(folders["qwen3_moe"])).load("v1", tmp_path / "a")


def make_run(folder: Path, out: Path, arguments: dict[str, Any] | None = None, **more: Any) -> TrainRun:
    survey = distribution_term(survey_cells(4), DistributionConfig())
    behaviour = kto_term(behaviour_cells(3), KtoConfig(beta=0.5))
    return TrainRun(
        model=ModelConfig(path=str(folder), lora_r=4, chat_template_kwargs=arguments or {}),
        train=TrainConfig(token_budget=600),
        stages=(
            Stage("distribution", (survey,), epochs=5, learning_rate=0.005, cells_per_step=4),
            Stage("kto", (behaviour, survey), epochs=1, learning_rate=0.005, cells_per_step=3),
        ),
        out=out,
        cache=out / "cache",
        score={"exam": CELLS},
        **more,
    )


def events(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in one.items() if key != "time"} for one in found]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_run_trains_and_is_served_as_it_was_trained(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    arguments = NO_THINKING if kind.startswith("qwen3") else {}
    run = make_run(folders[kind], tmp_path, arguments)
    work(run, local, NoCheckpoints())
    said = [one["event"] for one in events(tmp_path)]
    assert said[0] == ("packed" if kind in PACKED else "dense") and "unadapted" not in said and "chat" not in said
    losses = [one["loss"] for one in events(tmp_path) if one["event"] == "step" and one["stage"] == "distribution"]
    assert losses[-1] < losses[0]
    host = Host(str(folders[kind]))
    host.load("v1", run.trained("kto"))
    assert worst(host.score("v1", CELLS), read_scores(tmp_path, "kto")["exam"]) < 1e-3


def test_versions_of_one_base_are_asked_each_in_its_own_way(folders: dict[str, Path], tmp_path: Path) -> None:
    """The arguments lie beside the adapter, and no run or service can forget or mix them."""
    runs = {
        name: make_run(folders["qwen3"], tmp_path / name, given) for name, given in (("off", NO_THINKING), ("on", {}))
    }
    for run in runs.values():
        work(run, local, NoCheckpoints())
    tables = [{f.name for f in run.cache.iterdir()} for run in runs.values()]
    assert all(tables) and not tables[0] & tables[1], "other prompts, other reference tables"
    (remark,) = (one["remark"] for one in events(tmp_path / "on") if one["event"] == "chat")
    assert remark == r"answers begin with '<think>\n\n</think>\n\n', as its chat template has them"
    assert json.loads((runs["off"].trained("kto") / FILE).read_text()) == NO_THINKING
    assert not (runs["on"].trained("kto") / FILE).exists()
    host = Host(str(folders["qwen3"]), arguments=NO_THINKING)
    assert worst(host.score(None, CELLS), read_scores(tmp_path / "off", "base")["exam"]) < 1e-3
    for name, run in runs.items():
        host.load(name, run.trained("kto"))
    for name in runs:
        assert worst(host.score(name, CELLS), read_scores(tmp_path / name, "kto")["exam"]) < 1e-3
    asked = [host.generate(name, [Message("user", "Who sings?")], max_tokens=1).prompt_tokens for name in runs]
    assert asked[0] - asked[1] == len("<think>\n\n</think>\n\n"), "a token a byte"
    for more in ({"start": runs["off"].trained("kto")}, {"also": {"stage1": runs["off"].trained("distribution")}}):
        with pytest.raises(ModelError, match=r'trained with model.chat_template_kwargs \{"enable_thinking": false\}'):
            work(make_run(folders["qwen3"], tmp_path / "next", **more), local, NoCheckpoints())


def test_an_argument_that_the_template_does_not_know_stops_the_run(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not know 'enable_thinkin'") as caught:
        work(make_run(folders["qwen3"], tmp_path, {"enable_thinkin": False}), local, NoCheckpoints())
    assert caught.value.where == "model.chat_template_kwargs"
    with pytest.raises(ModelError, match="no chat template"):
        Host(str(folders["llama"]), arguments=NO_THINKING)
