"""Two processes give the same gradient as one: the weights after plain SGD steps agree."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from steps import run_steps
from tiny import make_tiny

from valuealign.engine import LocalEngine

HERE = Path(__file__).parent


def _sgd(model: Any, pad_id: int) -> LocalEngine:
    """One process and plain SGD, never clipped: a weight moves by exactly rate times gradient."""
    return LocalEngine(model, pad_id=pad_id, clip=1e9, optimizer=lambda ps: torch.optim.SGD(list(ps), lr=0.0))


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("ranks")
    model = make_tiny(folder / "model")
    run_steps(model, folder / "one", _sgd)
    return model, folder / "one"


def _reports(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "reports.json").read_text())


def _differs(a: Path, b: Path) -> float:
    one, two = (load_file(f / "adapter_model.safetensors") for f in (a, b))
    assert one.keys() == two.keys()
    return max(float((one[k] - two[k]).norm() / one[k].norm().clamp(min=1e-3)) for k in one)


def test_accumulation_changes_nothing(alone: tuple[Path, Path], tmp_path: Path) -> None:
    model, one = alone
    run_steps(model, tmp_path, _sgd, budget=100_000)
    assert _differs(one, tmp_path) < 1e-4


@pytest.mark.parametrize("zero", [2])
def test_two_ranks_are_one(alone: tuple[Path, Path], tmp_path: Path, zero: int) -> None:
    model, one = alone
    port = str(_free_port())
    command = [sys.executable, str(HERE / "two_ranks.py")]
    ranks = [
        subprocess.Popen(
            [*command, str(r), "2", port, str(model), str(tmp_path), str(zero)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(2)
    ]
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
    for a, b in zip(_reports(one), _reports(tmp_path), strict=True):
        assert a.keys() == b.keys()
        assert all(abs(a[k] - b[k]) < 1e-3 * max(1.0, abs(a[k])) for k in a), (a, b)
    moved = load_file(one / "adapter_model.safetensors")
    assert any(float(v.norm()) > 0.01 for k, v in moved.items() if "lora_B" in k), "the steps moved the weights"
    assert _differs(one, tmp_path) < 1e-4
