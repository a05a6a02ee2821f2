"""The benchmark of the possible gain: it runs through on a very small model, and its pooled gain is worked by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ROOT
from tiny import make_tiny

SMALL = ("survey.people=400", "groups.max_groups=24", "evaluate.bootstrap=20", "distribution.epochs=0.05")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "possible_gain", raising=False)
    import possible_gain

    return possible_gain


def test_it_ends_in_json(benchmark: Any, tmp_path: Path) -> None:
    model = make_tiny(tmp_path / "model")
    done = CliRunner().invoke(benchmark.main, ["--seeds", "1", f"model.path={model}", *SMALL])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output.strip().splitlines()[-1])
    (only,) = found["seeds"]
    for split in ("cells", "groups"):
        one, whole = only[split]["jsd_bits"], found[split]["jsd_bits"]
        null, model_, floor = (one[who][0] for who in ("additive", "model", "noise floor"))
        assert one["gain"][0] == pytest.approx((null - model_) / (null - floor), rel=2e-3)
        # One seed pooled is that seed: per-item sums and the judge's own figures meet.
        assert whole["gain_pooled"]["model"][0] == pytest.approx(one["gain"][0], abs=1e-4)
        regression = (null - one["regression"][0]) / (null - floor)
        assert whole["gain_pooled"]["regression"][0] == pytest.approx(regression, abs=5e-3)
        assert one["model - additive"][0] == pytest.approx(model_ - null, abs=2e-5)
        assert whole["surely_nearer"]["additive"] == 0, "an untrained model is not nearer than the null"
    assert found["hardware"] and found["settings"]["distribution"]["epochs"] == 0.05


def test_a_pooled_gain_by_hand(benchmark: Any) -> None:
    """Two items over two seeds: (1 + 3 + 2 - .5 - 1 - 1) of (6 - .6), and the regression (6 - 3) of it."""
    first = {"a": np.array([1, 0.5, 0.5, 0.1]), "b": np.array([3, 1, 1.5, 0.3])}
    found = benchmark.pooled([first, {"a": np.array([2, 1, 1, 0.2])}])
    value, low, high = found["model"]
    assert value == pytest.approx(3.5 / 5.4, abs=1e-4) and low < value < high
    assert found["regression"][0] == pytest.approx(3 / 5.4, abs=1e-4)
    at_the_floor = benchmark.pooled([{"a": np.array([1, 0.5, 0.5, 1])}])
    assert at_the_floor == dict.fromkeys(("model", "regression"), [None, None, None])


def test_a_mistake_is_said_in_words(benchmark: Any) -> None:
    done = CliRunner().invoke(benchmark.main, ["--seeds", "1", "distribution.epoch=1"])
    assert done.exit_code == 1 and "distribution.epochs" in done.output
