"""KTO against TRL: the benchmark runs through, both of its sides see the same, and its ceilings count tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT
from tiny import make_tiny

from valuealign.errors import ValuealignError
from valuealign.models.load import load_base
from valuealign.prompts import render
from valuealign.types import Cell, Message

SCRIPT = ROOT / "benchmarks" / "kto_vs_trl.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import kto_sides
    import kto_vs_trl

    return SimpleNamespace(**vars(kto_sides), **{k: v for k, v in vars(kto_vs_trl).items() if k not in vars(kto_sides)})


@pytest.mark.ray
def test_it_runs_through_and_both_sides_train_alike() -> None:
    command = [sys.executable, str(SCRIPT), "--smoke", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for tune in ("lora", "full"):
        # Per-token work of a model of nothing is not what a step costs, so no ratio is asserted here.
        assert found[tune]["loss_difference"] < 1e-4 and found[tune]["rows_per_second"] > 0
        assert found[tune]["ceiling_tuned_before_collapse"] > found[tune]["ceiling_feedback_k1"] > 1
        (ours,), (trl,) = (found[tune][f"curves_{side}"].values() for side in ("ours", "trl"))
        assert len(ours) > 1 and len(trl) > 1 and ours[0] == trl[0], "both start at the same model"
    assert found["threads"] == 1 and found["dtype"] == "float32" and found["hardware"]


def test_mistakes_on_the_command_line(benchmark: Any, tmp_path: Path) -> None:
    (tmp_path / "marked.jsonl").write_text('{"prompt": "p"}\n')
    (tmp_path / "survey.csv").write_text("a\n1\n")
    for arguments, words in {
        ("--survey", str(tmp_path / "survey.csv")): "--survey and --codebook go together",
        ("--smoke", "--feedback", str(tmp_path / "marked.jsonl")): "marked.jsonl, line 1",
        ("--gpu",): "needs a CUDA device",
    }.items():
        if words != "needs a CUDA device" or not torch.cuda.is_available():
            done = CliRunner().invoke(benchmark.main, list(arguments))
            assert done.exit_code != 0 and words in done.output and not isinstance(done.exception, ValuealignError)


def test_different_losses_end_the_benchmark(benchmark: Any) -> None:
    def side(*losses: float) -> dict[str, Any]:
        return {"distinct": {"losses": list(losses)}}

    assert benchmark.same(side(0.5, 0.4), side(0.5, 0.4, 0.3), "float32") == 0
    with pytest.raises(SystemExit, match="0.25 apart"):
        benchmark.same(side(0.5, 0.5), side(0.5, 0.4), "float32")


def test_figures_of_two_sides(benchmark: Any) -> None:
    """By hand: seconds of a row in an epoch are its share of a step, and of the reference's pass."""

    def of(per_step: float, reference: float, peak: float) -> dict[str, Any]:
        return {"per_step": per_step, "reference": reference, "peak": peak, "losses": [1.0]}

    job = benchmark.Job("ours", "full", 1.0, 1.0, rows=10, feedback_rows=5, cells=2, rates=(1.0,), token_budget=1)
    curves = {"0.1": [[0.0, 9.0, 5.0], [1.0, 2.0, 3.0]], "0.2": [[0.0, 9.0, 5.0], [1.0, 4.0, 1.0], [1.1, 1.0, 0.1]]}
    ours = {"distinct": of(1.0, 0.1, 1.0), "feedback": of(1.0, 0.2, 3.0), "people": of(1.0, 0.5, 0.0), "curves": curves}
    default = {"distinct": of(20.0, 0.0, 2.0)}
    tuned = {"distinct": of(10.0, 0.2, 9.0), "feedback": of(1.5, 0.1, 4.0), "curves": curves}
    tokens = benchmark.Tokens(count=10, rows=100, mismatched=50, ours=30, ours_still=10, ours_reference=40)
    facts = {"tokens": dict.fromkeys(("distinct", "feedback", "people"), tokens), "mass": 100.0}
    found = benchmark.figures({"ours": ours, "default": default, "tuned": tuned}, "full", job, facts)
    assert found["ratio_default_before_collapse"] == pytest.approx(2.0 / 0.2)
    assert found["ratio_tuned_before_collapse"] == pytest.approx(1.2 / 0.2)
    assert found["later_ratio_default_before_collapse"] == pytest.approx(2.0 / 0.1)
    assert found["later_ratio_tuned_before_collapse"] == pytest.approx(1.0 / 0.1)
    assert found["ratio_default_after_collapse"] == pytest.approx(100 * 2.0 / 1.0)
    assert found["ratio_feedback_k1"] == pytest.approx(0.4 / 0.4)
    assert found["peak_rss_ratio"] == 3 / 4 and found["peak_rss_ratio_default"] == 1 / 2
    # Passes of all weights: ours 3 of 30, 10 still, 40 once; default 5 of 100 and 2 of 50; tuned 4 of 100 and 2 of 50.
    assert found["ceiling_default_before_collapse"] == pytest.approx(600 / 140)
    assert found["ceiling_tuned_before_collapse"] == pytest.approx(500 / 140)
    assert found["fraction_of_ceiling"] == pytest.approx(6 / (500 / 140))
    assert found["distance_start"] == 5.0 and found["distance_ours"] == 3.0, "within the time"


def test_the_clock_counts_whole_epochs(benchmark: Any) -> None:
    clock = benchmark.Clock(epoch=3)
    clock.steps = [9.0, 1.0, 2.0]
    assert not clock.enough(1.0)
    clock.steps += [3.0]
    assert clock.enough(1.0) and not clock.enough(100.0) and clock.per_step == 2.0, "the first step warms up"


def test_the_ceiling_counts_tokens(benchmark: Any, tmp_path: Path) -> None:
    """Eight rows: two prompts with four answers each. A row borrows the answer of the row before it."""
    tokenizer = load_base(str(make_tiny(tmp_path / "tiny"))).tokenizer
    prompts = [(Message("user", text),) for text in ("What do you value?", "And what does your family value the most?")]
    rows = [Cell(p, (a,), (1.0,), (0.0,)) for p in prompts for a in ("freedom", "order", "family", "wealth")]
    counted = benchmark.tokens_of(rows, benchmark.BLOCK, tokenizer)
    seen = [render(row, tokenizer) for row in rows]
    prompt = [len(r.prompt_ids) for r in seen]
    answer = [len(r.completion_ids[0]) for r in seen]
    both = prompt[0] + prompt[4] + sum(a - 1 for a in answer)
    assert counted.count == len(rows)
    assert counted.rows == sum(prompt) + sum(answer)
    assert counted.mismatched == sum(prompt) + sum(answer), "each answer is borrowed once"
    # A prompt once, each of its answers once; an answer's last token is predicted and not read.
    assert counted.ours == both
    # "wealth" crosses over to the other prompt, both ways, where it is there already.
    assert counted.ours_still == 0 and counted.ours_reference == both
    assert benchmark.passes(counted, "tuned", "full") == 4 * counted.rows + 2 * counted.mismatched
    assert benchmark.passes(counted, "tuned", "lora") == 3 * counted.rows + 2 * counted.mismatched
    assert benchmark.passes(counted, "default", "full") == 5 * counted.rows + 2 * counted.mismatched
    assert benchmark.passes(counted, "ours", "lora") == 2 * counted.ours + counted.ours_still + counted.ours_reference
    crossed = [
        Cell(p, (a,), (1.0,), (0.0,)) for p, a in zip(prompts * 4, [c.completions[0] for c in rows], strict=True)
    ]
    counted = benchmark.tokens_of(crossed, benchmark.BLOCK, tokenizer)
    assert counted.ours == both and counted.ours_still == sum(a - 1 for a in answer[:4]), "once a prompt"


def test_each_row_that_occurs_counts_once(benchmark: Any) -> None:
    cell = Cell((Message("user", "?"),), ("a", "b"), (3.0, 0.0), (7.0, 4.0))
    assert benchmark.once(cell) == replace(cell, desirable=(1.0, 0.0), undesirable=(1.0, 1.0))
    assert [row.mass for row in benchmark.rows_of([benchmark.once(cell)])] == [1.0, 1.0, 1.0]
