"""The job that judges, without a model: what its report shows of the data."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from valuealign import config as configuration
from valuealign.types import Cell


def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """jobs/evaluate.py with a version that answers by chance."""
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    spec = importlib.util.spec_from_file_location("evaluate_job", ROOT / "jobs" / "evaluate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(0)

    def by_chance(cells: tuple[Cell, ...]) -> list[np.ndarray]:
        return [np.log(rng.dirichlet(np.ones(len(cell.completions)))) for cell in cells]

    def score(_: object, __: object, sets: dict[str, tuple[Cell, ...]]) -> Any:
        return {name: {who: by_chance(cells) for who in ("base", "v1")} for name, cells in sets.items()}

    version = SimpleNamespace(ref="v1", id="v1", name="demo", path="", card={})
    for name, stub in {"open_registry": None, "check_base": None, "resolve": None, "fingerprint": ""}.items():
        monkeypatch.setattr(module, name, lambda *_, stub=stub, **__: stub)
    monkeypatch.setattr(module, "_get", lambda *_: version)
    monkeypatch.setattr(module, "_score", score)
    return module


def test_the_report_shows_margins_and_screens(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = job(monkeypatch)
    config = configuration.load(None, ["survey.people=900", "groups.crossings=1", "evaluate.bootstrap=20"])
    page = Path(evaluate.evaluate(config, ("v1",))["report"]).read_text()
    assert "Margins before and after weighting" in page and "With and without careless answers" in page
    (tmp_path / "on.yaml").write_text("survey: {people: 500}\ngroups: {crossings: 0}\n")
    other = Path(evaluate.evaluate(config, ("v1",), tmp_path / "on.yaml")["report"]).read_text()
    assert "Margins before and after weighting" in other, "those of the survey that is the judge"
