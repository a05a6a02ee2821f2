"""The job that judges, without a model: what its report shows of the data."""

from __future__ import annotations

import importlib.util
import json
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from prepared_once import prepare_once
from tiny import byte_tokenizer

from valuealign import config as configuration
from valuealign.errors import ConfigError, RegistryError
from valuealign.types import Cell

SMALL = ("survey.people=900", "groups.crossings=0", "evaluate.bootstrap=20", "splits.groups=0", "splits.cells=0")


def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """jobs/evaluate.py with a version that answers by chance; equal runs are prepared once."""
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    spec = importlib.util.spec_from_file_location("evaluate_job", ROOT / "jobs" / "evaluate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(0)

    class ByChance:
        def score(self, version: str | None, cells: tuple[Cell, ...]) -> list[np.ndarray]:
            return [np.log(rng.dirichlet(np.ones(len(cell.completions)))) for cell in cells]

        def tokenizer(self, version: str | None) -> Any:
            return byte_tokenizer()

        def generate(self, version: str | None, chat: object, **_: object) -> Any:
            return SimpleNamespace(
                text=str(rng.choice(["Yes.", "I cannot help with that.", "Two words"])), finish="stop"
            )

    version = SimpleNamespace(ref="v1", id="v1", name="demo", path="", card={})
    monkeypatch.setattr(module, "prepare", prepare_once)
    monkeypatch.setattr(module, "hosted", lambda *_: (ByChance(), (version,), {"base": None, "v1": "v1"}))
    return module


def test_the_report_shows_margins_and_screens(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = job(monkeypatch)
    config = configuration.load(None, ["survey.people=900", "groups.crossings=1", "evaluate.bootstrap=20"])
    report = Path(evaluate.evaluate(config, ("v1",))["report"])
    page, facts = report.read_text(), json.loads((report.parent / "evaluation.json").read_text())["facts"]
    assert facts["tier"] == "open" and facts["sharing"][0] in unescape(page) and facts["withheld"]["fewer_than"] == 10
    assert "Margins before and after weighting" in page and "With and without careless answers" in page
    (tmp_path / "on.yaml").write_text("survey: {people: 500}\ngroups: {crossings: 0}\n")
    made = evaluate.evaluate(config, ("v1",), on=tmp_path / "on.yaml")
    assert [row for row in made["evaluation"].rows if row.metric == "nats_per_token" and "perplexity" in row.note]
    other = Path(made["report"]).read_text()
    assert "Margins before and after weighting" in other, "those of the survey that is the judge"


def test_benchmarks_ballots_and_lm_eval_join_the_record(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = job(monkeypatch)
    config = configuration.load(None, [*SMALL, "evaluate.sheets=[generations, format]", "evaluate.samples=1"])
    first = evaluate.evaluate(config, ("v1",), ballots=tmp_path / "blind")["evaluation"]
    assert {"generations", "format", "kl"} <= set(first.facts["sheets"]) and "blind ballots" in capsys.readouterr().out
    ballots = tmp_path / "blind" / "ballots.csv"
    ballots.write_text(ballots.read_text(encoding="utf-8-sig").replace(",,\n", ",a,me\n"), encoding="utf-8")
    again = evaluate.evaluate(config, ("v1",), ballots=tmp_path / "blind")["evaluation"]
    (row,) = [row for row in again.rows if row.metric.startswith("win_rate") and row.kind == "stage"]
    assert 0 <= row.estimate.value <= 1 and "blind" in row.note
    file = tmp_path / "gpo.csv"
    file.write_text(
        "question,selections,options,source\n\"Is it so?\",\"defaultdict(<class 'list'>, {'Chile': [0.3, 0.7]})\","
        "\"['yes', 'no']\",GAS\n",
        encoding="utf-8",
    )
    made = evaluate.evaluate(config, ("v1",), benchmark="globalopinionqa", file=file)
    assert any(row.who == "v1" and row.metric.startswith("similarity") for row in made["evaluation"].rows)
    assert "questions left out" not in capsys.readouterr().out
    page = Path(made["report"]).read_text(encoding="utf-8")
    assert "GlobalOpinionQA" in page and "similarity" in page and "Stage by stage" not in page


def test_a_benchmark_is_held_against_what_was_trained(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = job(monkeypatch)
    config = configuration.load(None, SMALL)
    item = prepare_once(config).trained(config).items[0]
    rows = [{"question": text, "options": ["yes", "no"], "selections": {"Chile": [0.3, 0.7]}}
            for text in (item.text.upper(), "Is it so?")]  # fmt: skip
    file = tmp_path / "gpo.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    made = evaluate.evaluate(config, ("v1",), benchmark="globalopinionqa", file=file)
    assert (
        f"judged on questions left out, since they were trained: '{item.text.upper()[:20]}" in capsys.readouterr().out
    )
    (note,) = [n for n in made["evaluation"].facts["sheets"]["globalopinionqa"]["notes"] if "left out, since" in n]
    assert "1 of 2 questions" in note and item.id in note
    assert "questions left out, since they were trained" in Path(made["report"]).read_text(encoding="utf-8")


def test_two_things_at_once_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, config = job(monkeypatch), configuration.load(None, [])
    with pytest.raises(ConfigError, match="do not go together"):
        evaluate.evaluate(config, ("v1",), compare=("v1", "v2"))
    for given in ({"file": Path("x.csv")}, {"benchmark": "subpop"}):
        with pytest.raises(ConfigError, match="--benchmark NAME and --file PATH go together"):
            evaluate.evaluate(config, ("v1",), **given)
    with pytest.raises(ConfigError, match="there are no free answers to compare"):
        evaluate.evaluate(config, ("v1",), ballots=Path("blind"))
    with pytest.raises(ConfigError, match="no user, password or query"):
        configuration.load(None, ["evaluate.judge_url=https://me:secret@host/v1"])
    with pytest.raises(ConfigError, match="no sheet is called 'probe'"):
        small = ["survey.people=900", "groups.crossings=1", "evaluate.bootstrap=20", "evaluate.sheets=[probe]"]
        evaluate.evaluate(configuration.load(None, small), ("v1",))


def test_the_first_of_two_versions_is_the_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = job(monkeypatch)
    host, (one,), _ = evaluate.hosted(None, ())
    two = SimpleNamespace(ref="v2", id="v2", name="demo", path="", card={})
    who = {"base": None, "v1": "v1", "v2": "v2"}
    monkeypatch.setattr(evaluate, "hosted", lambda *_: (host, (one, two), who))
    config = configuration.load(None, SMALL)
    made = evaluate.evaluate(config, compare=("v1", "v2"))
    assert made["evaluation"].facts["before"] == "v1"
    assert evaluate.evaluate(config, ("v1", "v2"))["evaluation"].facts.get("before") is None


def test_a_version_named_twice_is_refused_before_anything_loads(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    models = importlib.import_module("_models")
    known = {"v1": "v1", "v2": "v2", "champion": "v2"}
    registry = SimpleNamespace(
        get=lambda ref, name: SimpleNamespace(id=known[ref], ref=f"demo@{known[ref]}", name="demo"),
        verify=lambda one: pytest.fail("nothing is read once a mistake is known"),
    )
    monkeypatch.setattr(models, "open_registry", lambda: registry)
    monkeypatch.setattr(models, "resolve", lambda *_, **__: Path())
    monkeypatch.setattr(models, "fingerprint", lambda *_: "")
    config = configuration.load(None, [])
    for refs, what in (
        (("v2", "champion"), r"demo@v2 is named twice \('champion' is another name of it\)"),
        (("v1", "v1"), r"demo@v1 is named twice"),
    ):
        with pytest.raises(RegistryError, match=what) as found:
            models.hosted(config, refs)
        assert "name each version once" in str(found.value)
