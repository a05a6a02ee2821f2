"""What GPUs send each other, by hand and as two workers really did; and docs/scaling.md has the figures computed."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT

from valuealign.config import RunConfig, load
from valuealign.planner import GPUS, UTILISATION, read_architecture, wire

sys.path.insert(0, str(ROOT / "benchmarks"))

import scaling_plan
from planner_memory import make_model, sizes

KINDS = ("llama", "qwen3", "qwen3_moe", "gemma3_text")


def run(train: str, zero: int, dtype: str = "bfloat16") -> RunConfig:
    return load(None, (f"model.train={train}", f"train.zero={zero}", f"model.dtype={dtype}"))


@pytest.mark.parametrize("train", ["lora", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_those_of_the_model(kind: str, train: str) -> None:
    config = sizes(kind, 128, 2, 500)
    model = make_model(config, run(train, 2), "cpu")
    r = 16 if train == "lora" else 0
    counted: Counter[int] = Counter()
    for elements, count in wire.tensors(read_architecture(config), r):
        counted[elements] += count
    assert counted == Counter(p.numel() for p in model.parameters())


def test_bytes_of_a_step_by_hand() -> None:
    model = read_architecture(sizes("llama", 64, 2, 500))
    base, adapter, embedding = model.parameters, model.lora(16), model.embedding
    for zero, times in ((0, 1), (1, 1), (2, 3)):
        found = wire.moved(model, run("full", zero), trained=3)
        assert wire.sent(found, 4) == 0.75 * (2 * 4 * times * base + (2 * base if zero else 0))
    assert wire.sent(wire.moved(model, run("lora", 2), trained=1), 2) == 0.5 * (2 * 4 + 2) * adapter
    strict = wire.sent(wire.moved(model, run("lora", 3), trained=3, scored=2, persistent=0, reuse=0), 4)
    # The head is there still; nothing before the first trained weight takes part: embedding, and q, k, v of a layer.
    forward, again = base + adapter, base + adapter - 2 * embedding - 2 * 64 * 64
    assert strict == 0.75 * (5 * 2 * forward + 3 * 2 * again + 3 * 4 * adapter), "a frozen base is gathered too"
    # Half of what is used again soon enough stays; small tensors are sent once, whatever the micro-batches.
    again = wire.sent(wire.moved(model, run("full", 3), trained=1, persistent=0, reuse=100_000), 2)
    assert again == 0.5 * (2 * base + 2 * (base - 50_000) + 4 * base)
    whole = wire.sent(wire.moved(model, run("full", 3), trained=3, persistent=10**9, reuse=0), 2)
    assert whole == 0.5 * (2 * base + 3 * 4 * base)
    assert wire.sent(wire.moved(model, run("full", 3), trained=3), 1) == 0, "one GPU sends nothing"


def test_a_ring_waits_for_its_slowest_link() -> None:
    inside, across = wire.Link("PCIe", 31.5e9), wire.Link("network", 25e9 / 8)
    assert wire.slowest(inside, across) is across
    assert across.seconds(25e9 / 8, reached=0.5) == pytest.approx(2)
    assert scaling_plan.Setup(8, "A40", 2, 25).link.bandwidth == 25e9 / 8
    assert scaling_plan.Setup(64, "H100", 8, 10**6).link.name == "NVLink"


def test_the_models_have_the_parameters_that_are_published() -> None:
    """Qwen's model cards: 1.7B, 8.2B, 32.8B."""
    rounded = [round(scaling_plan.sizes_of(name).parameters / 1e9, 1) for name in scaling_plan.MODELS]
    assert rounded == [1.7, 8.2, 32.8]


def check(*arguments: str) -> Any:
    return CliRunner().invoke(scaling_plan.main, ["--check", *arguments])


def test_the_page_has_what_is_computed() -> None:
    done = check()
    assert done.exit_code == 0, done.output


def test_another_figure_is_found_and_mended(tmp_path: Path) -> None:
    page, text = tmp_path / "scaling.md", scaling_plan.PAGE.read_text(encoding="utf-8")
    figure = re.search(r"together +(\d+\.\d+) GB", text)
    assert figure is not None
    page.write_text(text.replace(figure[1], "1.234", 1), encoding="utf-8")
    done = check("--page", str(page))
    assert done.exit_code == 1 and "1.234" in done.output and figure[1] in done.output
    assert CliRunner().invoke(scaling_plan.main, ["--write", "--page", str(page)]).exit_code == 0
    assert page.read_text(encoding="utf-8") == text


def test_a_measured_rate_takes_the_assumed_one_s_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert scaling_plan.utilisation("L4") == (UTILISATION, "assumed")
    name = "2000-01-01-scaling-L4.json"
    (tmp_path / name).write_text(json.dumps({"kind": "L4", "utilisation": 0.25, "device": "cuda"}))
    monkeypatch.setattr(scaling_plan, "RESULTS", tmp_path)
    assert scaling_plan.utilisation("L4") == (0.25, f"measured: `benchmarks/results/{name}`")
    found = scaling_plan.row("small", "lora", scaling_plan.Setup(1, "L4"), 16)
    assert found is not None
    monkeypatch.setattr(scaling_plan, "RESULTS", tmp_path / "none")
    scaling_plan.row.cache_clear()
    assumed = scaling_plan.row("small", "lora", scaling_plan.Setup(1, "L4"), 16)
    assert assumed is not None and found.computing == pytest.approx(assumed.computing * UTILISATION / 0.25)
    assert GPUS["L4"].sends == 31.5


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_two_workers_send_what_is_planned(ray_cluster: None) -> None:
    import scaling

    done = CliRunner().invoke(scaling.main, ["--quick", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output.strip().splitlines()[-1])
    assert found["workers"] == [1, 2] and found["hardware"] and found["kind"] is None
    assert len(found["wire"]["sent"]) == 8, "both kinds of training at four ZeRO stages"
    wired = found["wire"]
    for one in wired["sent"]:
        # What is not planned for: norms, losses and counts, a few hundred bytes; and padding of shards.
        planned, gloo = scaling_plan.by_arithmetic(one, wired)
        assert one["given_to_collectives"] == pytest.approx(planned, rel=0.03, abs=2000), one
        assert one["tcp"] == pytest.approx(gloo, rel=0.04, abs=4000), one
    for rate in found["rates"].values():
        assert rate["ratio"] == pytest.approx(rate["2"]["cells_per_second"] / rate["1"]["cells_per_second"], rel=0.01)
        assert rate["1"]["tokens_per_second"] > rate["1"]["cells_per_second"] > 0
