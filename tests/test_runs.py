"""Where runs lie: gone on with until done; --resume refuses to begin another, and says what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from valuealign.config import RunConfig, load
from valuealign.errors import ConfigError
from valuealign.runs import done, run_folder

FACTS = {"data": "d1", "start": "demo@v1"}


def test_the_same_configuration_and_data_give_the_same_folder_until_it_is_done(home: Path) -> None:
    first, resumed = run_folder("sweep", RunConfig(), FACTS)
    assert first.parent == home / "runs" / "demo" and not resumed
    assert load(first / "run.yaml") == RunConfig(), "the folder says what ran"
    (first / "tune").mkdir()
    assert run_folder("sweep", RunConfig(), FACTS) == (first, True)
    assert run_folder("sweep", RunConfig(), FACTS, resume=True) == (first, True)
    assert run_folder("sweep", RunConfig(), {**FACTS, "data": "d2"}).path != first
    assert run_folder("sweep", RunConfig(seed=1), FACTS).path != first
    done(first, {"best": "t1"})
    assert run_folder("sweep", RunConfig(), FACTS) == (first.with_name(f"{first.name}-2"), False)


def test_resuming_what_differs_is_refused_with_what_differs(home: Path) -> None:
    with pytest.raises(ConfigError, match="no interrupted sweep of 'demo'") as error:
        run_folder("sweep", RunConfig(), FACTS, resume=True)
    assert "leave --resume away" in error.value.mend
    assert not (home / "runs").exists(), "nothing was begun"
    there, _ = run_folder("sweep", RunConfig(), FACTS)
    (there / "tune").mkdir()
    other = load(None, ["kto.epochs=3", "sweep.trials=8", "model.chat_template_kwargs={enable_thinking: false}"])
    with pytest.raises(ConfigError, match="another configuration or other data") as error:
        run_folder("sweep", other, {**FACTS, "start": "demo@v2"}, resume=True)
    for word in (
        "kto.epochs: 20.0 there, 3.0 now",
        "sweep.trials: 4 there, 8 now",
        "model.chat_template_kwargs.enable_thinking: None there, False now",
        "start: demo@v1 there, demo@v2 now",
    ):
        assert word in error.value.what
    assert "data" not in error.value.what.partition(": ")[2], "what is the same is not named"
    assert error.value.where == str(there) and str(there / "run.yaml") in error.value.mend
    assert [one.name for one in there.parent.iterdir()] == [there.name], "nothing was begun"
    done(there, {})
    with pytest.raises(ConfigError, match="no interrupted sweep"):
        run_folder("sweep", other, FACTS, resume=True)
