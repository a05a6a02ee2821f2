"""The packing benchmark on a model of nothing: it runs, and its last line is JSON that adds up."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner
from conftest import ROOT


def test_it_ends_in_json_whose_shares_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "packing", raising=False)
    import packing

    done = CliRunner().invoke(packing.main, ["--tokens", "512", "--width", "64", "--layers", "1", "--runs", "1"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.output.strip().splitlines()[-1])
    assert sum(figures["shares"].values()) == pytest.approx(1, abs=0.01)
    assert all(0 <= figures["shares"][part] <= 1 for part in packing.PARTS)
    assert 0 < figures["fraction_of_matmul_rate_whole_step"] <= figures["fraction_of_matmul_rate"]
    assert set(figures["milliseconds_a_cell_by_cells_a_row"]) == {"1", "2", "3"}
