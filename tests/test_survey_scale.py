"""The scale benchmark runs, both of its sides agree, and its last line holds what it promises."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from typed import BENCHMARKS, benchmark


def test_the_benchmark_on_few_people() -> None:
    found, printed = benchmark("survey_scale", "--runs", "1", "--people", "800", "--items", "5")
    keys = ("seconds", "peak_gib", "seconds_per_million_answers", "ratio_vs_pandas", "growth_exponent")
    assert all(isinstance(found[key], float) for key in keys) and found["hardware"]
    assert 0 < found["shares_seconds"] < found["seconds"], "the table of targets with intervals is timed too"
    assert 0 < found["peak_gib"] < 4 and found["people"] == 800 and found["items"] == 5
    # 66 countries, with each of 2 + 6 + 3 + 2 levels, less the groups that nobody is in.
    assert 66 * 12 < found["groups"] <= 66 * 14
    assert "the same shares, n and n_eff" in printed


def test_groups_without_an_answer_are_on_neither_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewest people and one item of four options, where some group has people and no answer."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "survey_scale", raising=False)
    import survey_scale

    survey_scale.write_survey(tmp_path, 264, 1)
    for side in survey_scale.SIDES:
        arguments = ["--items", "1", "--side", side, "--folder", str(tmp_path)]
        done = CliRunner().invoke(survey_scale.main, arguments)
        assert done.exit_code == 0, done.output
    assert 0 < survey_scale.same(tmp_path) < 66 * 14
