"""The scale benchmark runs, both of its sides agree, and its last line holds what it promises."""

from __future__ import annotations

import json
import subprocess
import sys

from conftest import ROOT


def test_the_benchmark_on_few_people() -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "survey_scale.py"),
        "--people",
        "800",
        "--items",
        "5",
        "--runs",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    keys = ("seconds", "peak_gib", "seconds_per_million_answers", "ratio_vs_pandas", "growth_exponent")
    assert all(isinstance(figures[key], float) for key in keys) and figures["hardware"]
    assert figures["seconds"] > 0 and 0 < figures["peak_gib"] < 4 and figures["people"] == 800 and figures["items"] == 5
    # 66 countries, with each of 2 + 6 + 3 + 2 levels, less the groups that nobody is in.
    assert 66 * 12 < figures["groups"] <= 66 * 14
    assert "the same shares, n and n_eff" in done.stdout
