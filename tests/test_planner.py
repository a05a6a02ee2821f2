"""The planner: exact counts, memory that each way to train lowers, a verdict with its mend, tokens and hours."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from tiny import behaviour_cells, make_tiny, survey_cells

from valuealign import planner
from valuealign.config import ModelConfig, RunConfig, load
from valuealign.errors import ConfigError, ModelError
from valuealign.learner import learn, plan_stages
from valuealign.planner import BOXES, Micro, candidates, find_box, mend, plan, read_architecture, read_config, work
from valuealign.planner.choice import Candidate, best, changed, trial_size
from valuealign.planner.hours import Clock, Rate, rate_of, stage_time, sweep_time
from valuealign.prepared import prepare

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
EIGHT_B = THIRTY_B | {
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
}
MIXTURE = SMALL | {
    "model_type": "qwen3_moe",
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
KINDS = planner.architecture.KINDS


def run(*overrides: str) -> RunConfig:
    return load(None, ("model.dtype=bfloat16", *overrides))


def tiny_config(kind: str, **more: Any) -> Any:
    from transformers import AutoConfig

    if kind == "qwen3_moe":
        more |= {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [1]}
    if kind == "llama":
        more |= {"attention_bias": True, "mlp_bias": True, "head_dim": 16}
    return AutoConfig.for_model(
        kind,
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        **more,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_counts_of_every_kind(kind: str, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_config(kind, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert read_architecture(json.loads(config.to_json_string())).parameters == sum(
        p.numel() for p in model.parameters()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_counted_as_peft_makes_them(kind: str) -> None:
    from transformers import AutoModelForCausalLM

    from valuealign.models.adapters import add_adapter

    config = tiny_config(kind)
    model = add_adapter(AutoModelForCausalLM.from_config(config), r=3, alpha=6, seed=0)
    sizes = read_architecture(json.loads(config.to_json_string()))
    assert sizes.lora(3) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_mixture_is_large_and_a_token_passes_little_of_it() -> None:
    sizes = read_architecture(MIXTURE)
    assert 30e9 < sizes.parameters < 31e9 and 2.5e9 < sizes.active < 3.5e9
    assert read_architecture(MIXTURE | {"decoder_sparse_step": 2}).parameters < sizes.parameters / 1.8


@pytest.mark.parametrize("config", [SMALL, THIRTY_B])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", ["lora", "full"])
def test_each_zero_stage_lowers_its_own_item(config: dict[str, Any], dtype: str, train: str) -> None:
    plans = [
        plan(config, run(f"train.zero={z}", f"model.dtype={dtype}", f"model.train={train}"), BOXES["4xA40"])
        for z in range(4)
    ]
    states = ("weights of the base", "weights of the adapter", "gradients", "optimizer")
    held = [sum(p.items[name] for name in states) for p in plans]
    assert held[0] > held[1] > held[2] > held[3]
    # Single precision needs no master copy of its own until DeepSpeed shards it.
    assert plans[1].items["optimizer"] == plans[0].items["optimizer"] * (12 / 8 if dtype == "float32" else 1) / 4
    assert plans[3].items["gradients"] < plans[1].items["gradients"] / 3.9
    assert plans[3].items["weights of the base"] < plans[2].items["weights of the base"]
    assert {p.items["activations"] for p in plans} == {plans[0].items["activations"]}


def test_full_training_needs_more_and_offload_moves_it_to_the_host() -> None:
    few = "train.token_budget=1024"
    lora, full = (plan(EIGHT_B, run(few, f"model.train={train}"), BOXES["4xA40"]) for train in ("lora", "full"))
    assert full.trained == full.parameters and lora.trained < full.trained / 100
    assert full.items["optimizer"] == 12 * full.parameters / 4 and not full.fits and lora.fits
    away = plan(EIGHT_B, run(few, "model.train=full", "train.offload=optimizer"), BOXES["4xA40"])
    assert away.items["optimizer"] == 0 and away.total < full.total - full.items["optimizer"]
    assert away.host * 4 == (5 * 4 + 2) * full.parameters and full.host == 0


@pytest.mark.parametrize("train", ["lora", "full"])
def test_recomputation_keeps_little(train: str) -> None:
    plans = [plan(EIGHT_B, run(f"model.train={train}", f"train.recompute={again}"), BOXES["4xA40"]) for again in (0, 1)]
    assert plans[1].items["activations"] < plans[0].items["activations"] / 10
    assert plans[1].training < plans[0].training


def test_a_step_of_the_optimizer_can_be_the_fullest_moment() -> None:
    keys = ("model.train=full", "train.recompute=true", "train.zero=3")
    lean = plan(EIGHT_B, run(*keys), BOXES["4xH100"], micro=Micro(1, 8, 4))
    assert lean.total == lean.step > lean.training > lean.loading and lean.largest == "the optimizer's step"
    wide = plan(EIGHT_B, run(*keys, "train.token_budget=16384"), BOXES["4xH100"])
    assert wide.step == lean.step and wide.total == wide.training


def test_one_gpu_has_nothing_to_shard() -> None:
    items = [plan(SMALL, run(f"train.zero={z}"), BOXES["1xH100"]).items for z in (2, 3)]
    del items[0]["communication"], items[1]["communication"]  # type: ignore[attr-defined]
    assert items[0] == items[1]


def test_activations_grow_with_the_token_budget() -> None:
    sizes = read_architecture(SMALL)
    few, many = (planner.activations(sizes, Micro(1, t, t), r=16, width=2) for t in (1000, 2000))
    assert 2 * few < many < 4 * few  # the rest is linear, the dense masks are quadratic
    short = planner.activations(sizes, Micro(20, 100, 400), r=16, width=2)
    assert short < many  # the same tokens in short rows
    chunk = planner.logits(sizes, Micro(1, 1024, 1024), width=2)
    assert planner.logits(sizes, Micro(1, 10**6, 10**6), width=2) == chunk
    assert planner.logits(sizes._replace(plain_head=False), Micro(1, 1024, 1024), width=2) > 1.6 * chunk


def test_thirty_billion_on_four_a40() -> None:
    for zero in range(4):
        found = plan(THIRTY_B, run(f"train.zero={zero}"), find_box("4xA40"))
        assert 30e9 < found.parameters < 35e9
        assert not found.fits and found.largest == "activations"
        lean = plan(THIRTY_B, run(f"train.zero={zero}", "train.token_budget=256"), find_box("4xA40"))
        assert lean.fits == (zero == 3)
        embedding = 2 * 151_936 * 5120
        pieces = found.parameters * 2 / 4 + embedding
        assert found.loading == (pieces if zero == 3 else 2 * found.parameters)
    full = plan(THIRTY_B, run("train.zero=3", "model.train=full"), find_box("4xA40"))
    assert full.loading == pieces


def test_a_trial_has_one_gpu_where_it_fits_and_all_of_them_where_it_does_not() -> None:
    lean = run("train.token_budget=256", "train.zero=1")
    small, large = (trial_size(config, lean, BOXES["4xA40"]) for config in (SMALL, THIRTY_B))
    assert small == (1, {})
    assert large is not None and large.workers == 4 and large.settings["train.zero"] == 3
    assert trial_size(THIRTY_B, lean, BOXES["1xA40"]) is None
    assert trial_size(THIRTY_B, run("sweep.workers=2"), BOXES["4xA40"]) == (2, {}), "as it is told"
    assert trial_size(SMALL, lean, find_box("cpu")) == (1, {})


def test_adapters_on_fused_experts_see_whole_weights_first() -> None:
    for train, whole in (("lora", True), ("full", False)):
        found = plan(MIXTURE, run("train.zero=3", f"model.train={train}"), find_box("4xA40"))
        assert (found.loading == 2 * found.parameters) == whole


def ways(found: list[Candidate]) -> list[tuple[int, bool, str]]:
    return [(s["train.zero"], s["train.recompute"], s["train.offload"]) for s in (one.settings for one in found)]


def test_the_fastest_way_that_fits_is_named() -> None:
    box = BOXES["4xA40"]
    found = candidates(EIGHT_B, run("model.train=full", "train.token_budget=1024"), box)
    chosen = best(found)
    assert chosen is not None and chosen.plan.fits
    assert not any(one.plan.fits for one in found[: found.index(chosen)])
    again = changed(run("model.train=full", "train.token_budget=1024"), chosen.settings)
    assert plan(EIGHT_B, again, box) == chosen.plan
    easy = best(candidates(SMALL, run("train.token_budget=1024"), box))
    assert easy is not None and easy.overrides == "train.zero=1 train.recompute=false train.offload=none"


def test_the_order_is_by_what_is_sent_and_computed() -> None:
    over_pcie = ways(candidates(SMALL, run(), BOXES["4xA40"]))
    assert over_pcie[:3] == [(1, False, "none"), (2, False, "none"), (1, True, "none")]
    assert over_pcie.index((2, True, "none")) < over_pcie.index((3, False, "none"))
    over_nvlink = ways(candidates(SMALL, run(), BOXES["4xH100"]))
    assert over_nvlink.index((3, False, "none")) < over_nvlink.index((1, True, "none"))
    assert [way[2] for way in over_pcie] == sorted(way[2] for way in over_pcie)  # none, then optimizer
    assert {way[0] for way in ways(candidates(SMALL, run("model.dtype=float32"), BOXES["2xA40"]))} == {0, 1, 2, 3}
    assert ways(candidates(SMALL, run("model.dtype=float32"), BOXES["1xA40"]))[0] == (0, False, "none")
    assert {way[2] for way in ways(candidates(SMALL, run(), find_box("cpu")))} == {"none"}


@pytest.mark.parametrize("config", [SMALL, THIRTY_B])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mend_is_one(config: dict[str, Any], dtype: str) -> None:
    crowded = (f"model.dtype={dtype}", "train.token_budget=262144")
    found = plan(config, run(*crowded), find_box("4xA40"))
    assert not found.fits
    words = mend(config, run(*crowded), find_box("4xA40")).removeprefix("try ").split()
    assert "--box" not in words and "model.quantize=nf4" not in words
    assert plan(config, run(*crowded, *(word for word in words if "=" in word)), find_box("4xA40")).fits


def test_a_large_base_on_one_gpu_is_quantized() -> None:
    words = mend(THIRTY_B, run(), find_box("1xA40")).removeprefix("try ").split()
    assert "model.quantize=nf4" in words and "--box" not in words
    assert plan(THIRTY_B, run(*words), find_box("1xA40")).fits


def test_a_mend_that_needs_a_larger_box() -> None:
    """All weights cannot train in 4 bits."""
    asked = ("model.train=full", "model.dtype=bfloat16")
    words = mend(THIRTY_B, run(*asked), find_box("1xA40")).removeprefix("try ").split()
    box = words[words.index("--box") + 1]
    assert box != "1xA40" and "model.quantize=nf4" not in words
    assert plan(THIRTY_B, run(*asked, *(word for word in words if "=" in word)), find_box(box)).fits


def test_what_is_quantized_is_not_sharded() -> None:
    found = candidates(THIRTY_B, run("model.quantize=nf4", "model.dtype=bfloat16"), find_box("4xA40"))
    assert {one.plan.zero for one in found} == {1, 2} and any(one.plan.fits for one in found)
    assert all(one.plan.loading < 0.3 * 2 * one.plan.parameters for one in found)


def test_no_mend_is_no_mend() -> None:
    huge = THIRTY_B | {"num_hidden_layers": 1000}
    assert "smaller model" in mend(huge, run(), find_box("4xA40"))


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="4xA40"):
        find_box("4xA4O")
    with pytest.raises(ModelError, match="hidden_size"):
        plan({k: v for k, v in SMALL.items() if k != "hidden_size"}, run(), BOXES["4xA40"])
    with pytest.raises(ModelError, match="num_experts_per_tok"):
        read_architecture({k: v for k, v in MIXTURE.items() if k != "num_experts_per_tok"})
    with pytest.raises(ModelError, match="gpt2"):
        read_architecture({"model_type": "gpt2"})
    with pytest.raises(ModelError, match="not a size"):
        read_architecture(SMALL | {"num_hidden_layers": "28"})


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_what_is_wrong_with_a_config_is_said(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="config.json"):
        found = read_config(tmp_path)
        read_architecture(found)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def make_loads(folder: Path, config: RunConfig) -> list[work.Load]:
    from valuealign.models.load import load_tokenizer

    size = planner.exact_size(load_tokenizer(folder))  # type: ignore[arg-type]
    return [planner.load(stage, size) for stage in plan_stages(config, survey_cells(6), {"kto": behaviour_cells(5)})]


CONFIG = load(None, ("distribution.cells_per_step=4", "kto.cells_per_step=3", "train.token_budget=300"))


@pytest.mark.parametrize("packed", [True, False])
def test_micro_batches_are_the_learners(tiny: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A KTO step with its anchor and its mismatched rows, as the learner computes it and as it is planned."""
    import numpy as np

    from valuealign.cluster.build import build
    from valuealign.engine import LocalEngine
    from valuealign.learner import loop as learner

    load_ = make_loads(tiny, CONFIG)[1]
    planned = load_.step(0, ranks=1, token_budget=300, packed=packed)
    base, model = build(ModelConfig(path=str(tiny)), seed=0, start=None)
    model.packed = packed
    shapes: list[Micro] = []
    plain = learner.collate

    def collate(*args: Any, **form: Any) -> Any:
        batch = plain(*args, **form)
        shapes.append(Micro(*batch.input_ids_BT.shape, len(batch.target_S)))
        return batch

    monkeypatch.setattr(learner, "collate", collate)
    form: dict[str, Any] = {"train": CONFIG.train, "pad_id": 2, "packed": packed}
    reference = [np.zeros(len(cell.completions)) for cell in load_.stage.referenced]
    report = next(learn(LocalEngine(model, pad_id=2), load_.stage, base.tokenizer, reference=reference, **form))  # type: ignore[arg-type]
    assert sorted(shapes) == sorted(planned.trained[0] + planned.scored[0])
    assert planned.scored[0] and report.tokens == planned.tokens


def test_what_sharing_and_collapsing_save(tiny: Path) -> None:
    first = make_loads(tiny, CONFIG)[0]
    cells = first.stage.terms[0].cells
    many = first.volume({cell.key: 50.0 for cell in cells})
    assert many.cells == 6 and many.people == 300 and many.collapses
    assert many.shared < many.unshared == first.volume({}).rows
    assert many.rows == 50 * many.unshared
    alone = first.volume({cell.key: 1.0 for cell in cells})
    assert not alone.collapses and (alone + alone).rows == 2 * alone.rows


def test_more_gpus_and_a_faster_one_take_less_time(tiny: Path) -> None:
    first, second = make_loads(tiny, CONFIG)
    sizes = read_architecture(SMALL)
    clock = Clock(sizes, CONFIG, Rate(1e12, 0.4))
    one, two = (stage_time(first, clock, ranks=ranks) for ranks in (1, 2))
    assert one.steps == first.stage.steps and one.tokens == two.tokens
    assert 0.4 * one.seconds < two.seconds < one.seconds
    assert stage_time(first, clock.on(Rate(2e12, 0.4)), ranks=1).seconds == pytest.approx(one.seconds / 2)
    assert rate_of(BOXES["1xA40"], "bfloat16").reached == pytest.approx(0.4 * 149.7e12)
    full = Clock(sizes, load(None, ("model.train=full",)), clock.rate)
    again = Clock(sizes, load(None, ("model.train=full", "train.recompute=true")), clock.rate)
    steps = first.steps(ranks=1, token_budget=300, packed=True)
    assert clock.flops(steps[0]) < full.flops(steps[0]) < again.flops(steps[0]) < 1.34 * full.flops(steps[0])
    kto = stage_time(second, clock, ranks=1)
    assert kto.reference > 0 == one.reference


def test_a_sweep_runs_trials_beside_each_other(tiny: Path) -> None:
    second = make_loads(tiny, CONFIG)[1]
    sizes = read_architecture(SMALL)
    run_ = load(None, ("sweep.trials=5", "sweep.concurrent=3", "kto.cells_per_step=3", "train.token_budget=300"))
    clock = Clock(sizes, run_, Rate(1e12, 0.4))
    alone, four = (sweep_time(second, clock, BOXES[name]) for name in ("1xA40", "4xA40"))
    reference = stage_time(second, clock, ranks=1).reference
    assert alone.beside == 1 and alone.total == pytest.approx(5 * alone.trial + reference)
    assert four.beside == 3 and four.total == pytest.approx(2 * four.trial + reference)
    whole = sweep_time(second, clock, BOXES["4xA40"], workers=4)
    assert (whole.workers, whole.beside) == (4, 1) and whole.trial < four.trial
    free = Clock(sizes, load(None, ("sweep.trials=5", "kto.cells_per_step=3")), clock.rate)
    assert sweep_time(second, free, BOXES["4xA40"]).beside == 4
    assert sweep_time(second, clock, BOXES["4xA40"], probe=second.terms[0]).trial > four.trial


def test_guessed_tokens_are_near_a_real_count() -> None:
    cell = survey_cells(1)[0]
    size = planner.rough_size(cell)
    characters = sum(len(message.content) for message in cell.prompt)
    assert characters / 4 < size.prompt < characters / 4 + 10 and size.completions == (2, 2, 2)


def test_many_cells_are_sized_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = plan_stages(CONFIG, survey_cells(6), {})[:1] if CONFIG.stages == ("distribution",) else None
    stage = stage or plan_stages(load(None, ("stages=[distribution]",)), survey_cells(6), {})
    monkeypatch.setattr(work, "SAMPLE_CELLS", 2)
    asked: list[Any] = []
    found = planner.load(stage[0], lambda cell: asked.append(cell) or planner.rough_size(cell))  # type: ignore[func-returns-value]
    assert len(asked) == 2 and len(found.terms[0]) == 6 and len(set(found.terms[0])) <= 2


def plan_job(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/plan.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200
    )


def test_the_job_counts_all_that_the_evaluation_asks(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read-outs, sheets and value questions are scored with the exam after each stage, so their time counts."""
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    spec = importlib.util.spec_from_file_location("plan_job", ROOT / "jobs" / "plan.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    found = []
    for asked in (("evaluate.sheets=[]",), ("evaluate.sheets=[probes, neutral]", "evaluate.readouts=[letters]")):
        config = load(None, (f"model.path={tmp_path}", "survey.people=600", "groups.crossings=0", *asked))
        module.plan_run(config, "1xA40", False, None, None)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("the run: ")]
        counted = re.search(r"([\d.e-]+) s of it scoring .*\(([\d,]+) cells, 3 times\)", line)
        assert counted is not None, line
        found.append((float(counted[1]), int(counted[2].replace(",", ""))))
        cells = prepare(config, lambda _: None).examination(config).cells
        assert found[-1][1] == sum(map(len, cells.values())) and {"exam", "behaviour", "values"} <= set(cells)
    assert found[1][1] > found[0][1] + 800 and found[1][0] > 1.5 * found[0][0]


@pytest.mark.ray
def test_the_job_needs_the_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    arguments = ("--box", "4xA40", "--price-per-gpu-hour", "0.5", f"model.path={tmp_path}", "model.dtype=bfloat16")
    done = plan_job(*arguments, "survey.people=1000")
    assert done.returncode == 0, done.stderr
    for words in ("verdict: fits", "assumed:", "run it with: train.workers=4", "no tokenizer", "cost ", "the sweep: "):
        assert words in done.stdout, done.stdout
    assert "model.train=full: would fit" in done.stdout and "times)" in done.stdout


def test_a_persona_for_each_person_collapses_nothing(tiny: Path) -> None:
    from valuealign.planner.words import volume_lines

    first = make_loads(tiny, CONFIG)[0]
    alone = list(volume_lines(first.volume({}), exact=True))
    shared = list(volume_lines(first.volume({c.key: 9.0 for c in first.stage.terms[0].cells}), exact=True))
    assert any("collapses nothing" in line for line in alone) and not any("collapses" in line for line in shared)


@pytest.mark.ray
def test_the_probe_prints_both_sides(tiny: Path) -> None:
    keys = ("distribution.cells_per_step=4", "kto.cells_per_step=4", "survey.people=1000", "model.lora_r=2")
    done = plan_job("--box", "cpu", "--probe", f"model.path={tiny}", *keys)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    memory = [line.split()[-3:] for line in lines if "peak memory" in line]
    assert len(memory) == 2 and all(0.85 < float(ratio) < 1.15 for _, _, ratio in memory), done.stdout
    assert any("as the probe measured" in line for line in lines)


def test_a_box_is_known_by_its_gpus_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from valuealign.planner.probe import is_here

    assert not torch.cuda.is_available()
    assert is_here(find_box("cpu")) and not is_here(BOXES["1xA40"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    assert is_here(BOXES["4xA100-80"]) and not is_here(BOXES["4xA100-40"]) and not is_here(BOXES["1xA40"])
    assert not is_here(find_box("cpu"))


def test_all_cells_behind_a_target_are_people() -> None:
    from valuealign.dataset import build
    from valuealign.signals import survey_cells as cells_of

    dataset = build(load(None, ("survey.people=600",)))
    survey = cells_of(dataset.train, dataset.splits.train)
    judged = replace(behaviour_cells(1)[0])
    people = planner.people_behind(dataset.train, survey, [judged])
    everyone = [people[cell.key] for cell in survey if cell.group == "everyone"]
    assert len(people) == len(survey) + 1 and people[judged.key] == judged.mass
    assert max(people.values()) == max(everyone) <= 600 / 2 + 50
