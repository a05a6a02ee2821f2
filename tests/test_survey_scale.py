"""The scale benchmark runs, both of its sides agree, and its last line holds what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from conftest import ROOT


def figures(people: int, items: int) -> tuple[dict[str, Any], str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "survey_scale.py"), "--runs", "1"]
    command += ["--people", str(people), "--items", str(items)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def test_the_benchmark_on_few_people() -> None:
    found, printed = figures(800, 5)
    keys = ("seconds", "peak_gib", "seconds_per_million_answers", "ratio_vs_pandas", "growth_exponent")
    assert all(isinstance(found[key], float) for key in keys) and found["hardware"]
    assert 0 < found["shares_seconds"] < found["seconds"], "the table of targets with intervals is timed too"
    assert 0 < found["peak_gib"] < 4 and found["people"] == 800 and found["items"] == 5
    # 66 countries, with each of 2 + 6 + 3 + 2 levels, less the groups that nobody is in.
    assert 66 * 12 < found["groups"] <= 66 * 14
    assert "the same shares, n and n_eff" in printed


def test_groups_without_an_answer_are_on_neither_side() -> None:
    """The fewest people and one item of four options, where some group has people and no answer."""
    found, printed = figures(264, 1)
    assert found["groups"] < 66 * 14 and "the same shares, n and n_eff" in printed
