"""The benchmark of the service runs through, and its sides answer alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from models_fixtures import tiny_seed as tiny_seed


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import serve_load

    return serve_load


def test_figures_by_hand(benchmark: Any) -> None:
    tally = benchmark.Tally(seconds=[n / 1000 for n in range(1, 101)][::-1], tokens=500, wall=10.0)
    want = {"rps": 10.0, "tokens_per_second": 50.0, "p50_ms": 51.0, "p95_ms": 96.0, "p99_ms": 100.0}
    assert tally.figures() == pytest.approx(want)


@pytest.mark.parametrize("rows", [9, 10])
def test_a_row_that_is_missing_fails_it(benchmark: Any, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(benchmark, "compare", lambda *given: {"acks": 10, "rows": rows})
    done = CliRunner().invoke(benchmark.main, ["--quick"])
    assert (done.exit_code == 0) == (rows == 10) and f'"rows": {rows}' in done.output


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_it_runs_through_on_a_model_of_nothing(tiny_seed: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "serve_load.py"), "--seconds=0.5", f"--model={tiny_seed}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["acks"] == found["rows"] > 100
    for side in ("chat", "distributions", "transformers_serve", "transformers_serve_batching"):
        assert set(found[side]) == {"1", "8", "32"}
        assert all(one["rps"] > 0 and one["p50_ms"] <= one["p99_ms"] for one in found[side].values())
    assert found["ratio_vs_transformers_serve_32"] > 0 < found["ratio_vs_transformers_serve_batching_32"]
    assert found["direct_p50_ms"] > 0 and found["hardware"]
