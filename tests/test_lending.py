"""One box for serving and training: when training needs all of its GPUs, the service makes room and comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from tiny import make_tiny, random_adapter

from valuealign.models.load import fingerprint
from valuealign.registry import Registry
from valuealign.store import Store

pytestmark = pytest.mark.ray


def test_training_gets_all_gpus_and_nobody_is_failed(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base")
    store = Store.open(tmp_path / "valuealign.db")
    registry = Registry(tmp_path / "registry", store)
    card = {"base": str(base), "base_hash": fingerprint(base)}
    version = registry.register(random_adapter(base, tmp_path / "adapter", seed=1), name="demo", card=card)
    registry.move("demo", "champion", version, expected=None, who="test", why="test")
    _, key = store.keys.create("tests", ["query", "feedback"], who="test")
    store.close()
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "lending.py"), str(tmp_path), key],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["moved_for_three"], found["three"]) == (False, "three"), "three are free beside the service"
    assert (found["moved_for_four"], found["four"]) == (True, "four"), "it gave its own away"
    assert found["moved_for_another"] and found["deployed"] == [False, True, False], "the second moves nothing"
    assert found["feedback"] == 201, "what people say is taken meanwhile"
    assert (found["ready_away"], found["ready_back"]) == (503, 200), "what balances the load is told"
    seen = found["seen"]
    assert "503 30" in seen["dying"], "and yet the models came back"
    assert set(seen["before"]) == set(seen["three"]) == set(seen["back"]) == {"200"}
    assert set(seen["away"]) == {"503 30"}
    everything = {said for counts in seen.values() for said in counts}
    assert everything == {"200", "503 30"}, "no request failed in another way"
