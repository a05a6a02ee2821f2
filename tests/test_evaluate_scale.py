"""The evaluation's benchmark on a model of nothing: both sides agree, and its ceiling counts tokens."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ROOT
from tiny import byte_tokenizer, make_tiny

from valuealign.prompts import render


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import evaluate_scale

    return evaluate_scale


def test_both_sides_agree_and_the_ceiling_is_of_tokens(benchmark: Any, tmp_path: Path) -> None:
    size = ["--items", "4", "--groups", "3", "--rounds", "2", "--cells", "6", "--whole"]
    done = CliRunner().invoke(benchmark.main, [*size, "--model", str(make_tiny(tmp_path))])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.output.strip().splitlines()[-1])
    cells = benchmark.make_cells(benchmark.make_items(4), benchmark.make_groups(3))
    rendered = [render(cell, byte_tokenizer()) for cell in cells]
    branches = sum(len(ids) - 1 for r in rendered for ids in r.completion_ids)  # the last token is never read
    once = sum(len(r.prompt_ids) for r in rendered) + branches
    apart = sum(len(r.prompt_ids) * len(r.completion_ids) for r in rendered) + branches
    assert figures["ceiling"] == pytest.approx(apart / once, abs=1e-3) and 2 < figures["ceiling"] < 5
    assert figures["cells_compared"] == figures["cells"] == 12 and len(figures["ratio_by_round"]) == 2
    assert figures["answers_compared"] == sum(len(cell.completions) for cell in cells)
    assert figures["fraction_of_ceiling"] == pytest.approx(
        figures["ratio_vs_separate_forwards"] / figures["ceiling"], abs=2e-3
    )
    assert 0 <= figures["largest_difference"] <= benchmark.APART
    assert 0 <= figures["padding"] < 1 and 0 <= figures["separate_padding"] < 1
    assert figures["all_cells_measured"] and figures["seconds_of_all_cells"] > 0 and figures["hardware"]


def test_it_asks_as_many_different_questions_as_it_says(benchmark: Any) -> None:
    items, groups = benchmark.make_items(1000), benchmark.make_groups(benchmark.GROUPS)
    assert benchmark.GROUPS == len({group.text for group in groups}) == len(set(groups)) == 50
    assert len({item.id for item in items}) == len({(item.text, item.options) for item in items}) == 1000
    assert {len(item.options) for item in items} == {4, 5}


def test_a_side_that_differs_ends_it(benchmark: Any) -> None:
    cells = benchmark.make_cells(benchmark.make_items(1), benchmark.make_groups(2))

    def score(version: None, asked: Any) -> list[np.ndarray]:
        return [np.full(len(cell.completions), -1.0 - 0.01 * (len(cell.completions) == 1)) for cell in asked]

    with pytest.raises(SystemExit, match="differ by 0.01 nats"):
        benchmark.race(SimpleNamespace(score=score), [cells])
