"""Two processes give the same gradient as one, at every ZeRO stage, for adapters and for all weights.

The weights after plain SGD steps are compared, so a gradient of another scale would show. Both ranks go
through all settings in one pair of processes, since what takes the time is their start.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from steps import Setting, run_steps
from tiny import make_tiny

from valuealign.engine import LocalEngine
from valuealign.learner import learning_rate

HERE = Path(__file__).parent

CLIP = 1.0  # less than any step's norm here, of all weights

SETTINGS = [
    *(Setting(f"{train}-zero{zero}", train=train, zero=zero) for train in ("lora", "full") for zero in (0, 1, 2, 3)),
    *(Setting(f"{train}-zero3-loaded-whole", train=train, zero=3) for train in ("lora", "full")),
    Setting("lora-recomputed", zero=3, recompute=True),
    Setting("full-recomputed", train="full", zero=2, recompute=True),
    *(Setting(f"full-offloaded{zero}", train="full", zero=zero, offload=True) for zero in (1, 2, 3)),
    Setting("lora-accumulated", zero=2, budget=120),
    *(Setting(f"lora-bf16-zero{zero}", zero=zero, dtype="bfloat16") for zero in (0, 1, 2, 3)),
    *(Setting(f"full-bf16-zero{zero}", train="full", zero=zero, dtype="bfloat16") for zero in (1, 2, 3)),
    *(Setting(f"full-clipped-zero{zero}", train="full", zero=zero, clip=CLIP) for zero in (0, 1, 2, 3)),
    *(Setting(f"lora-nf4-zero{zero}", zero=zero, quantize="nf4") for zero in (0, 1, 2)),
    Setting("lora-nf4-bf16-zero1", zero=1, quantize="nf4", dtype="bfloat16"),
]
RESUMED = [
    Setting("lora-zero0-adam", zero=0),
    Setting("lora-zero2-adam", zero=2),
    Setting("lora-nf4-adam", zero=2, quantize="nf4"),
    Setting("full-zero1-adam", train="full", zero=1),
    Setting("full-zero3-adam", train="full", zero=3),
    Setting("full-bf16-zero1-adam", train="full", zero=1, dtype="bfloat16"),
    Setting("full-bf16-zero2-adam", train="full", zero=2, dtype="bfloat16"),
    Setting("full-offloaded-adam", train="full", zero=2, offload=True),
]
ENDS = {"whole": None, "cut": 1}


def _local(model: Any, pad_id: int, setting: Setting) -> LocalEngine:
    """One process."""
    return LocalEngine(model, pad_id=pad_id, clip=setting.clip, optimizer=setting.optimizer)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process ends with, for each setting's judge."""
    folder = tmp_path_factory.mktemp("one")
    for name, s in {s.judge: s for s in SETTINGS}.items():
        run_steps(model, folder, _local, Setting(name, train=s.train, clip=s.clip, quantize=s.quantize))
    return folder


@pytest.fixture(scope="module")
def ranks(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks end with, in every setting."""
    folder, port = tmp_path_factory.mktemp("two"), str(_free_port())
    resumed = [replace(s, name=f"{s.name}-{end}", adam=True, cut=cut) for s in RESUMED for end, cut in ENDS.items()]
    settings = json.dumps([asdict(s) for s in SETTINGS + resumed])
    command = [sys.executable, str(HERE / "two_ranks.py")]
    running = [
        subprocess.Popen(
            [*command, str(r), "2", port, str(model), str(folder), settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for r in range(2)
    ]
    outputs = [rank.communicate(timeout=600)[0] for rank in running]
    assert [rank.returncode for rank in running] == [0, 0], "\n".join(o[-4000:] for o in outputs)
    return folder


def _reports(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "reports.json").read_text())


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "trained").glob("*.safetensors")
    return load_file(file)


def _moved(folder: Path, model: Path) -> dict[str, torch.Tensor]:
    """How far training moved each weight (an adapter's B starts at 0, and its A hardly moves)."""
    start = load_file(model / "model.safetensors")
    return {k: v.float() - start.get(k, torch.zeros(1)) for k, v in _weights(folder).items() if "lora_A" not in k}


def _differs(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], floor: float = 1e-2) -> float:
    """The largest difference of a movement, relative to it, or to a share ``floor`` of the largest one."""
    assert one.keys() == two.keys()
    most = max(float(v.norm()) for v in one.values())
    assert most > 0.01, "the steps moved the weights"
    return max(float((one[k] - two[k]).norm()) / max(float(one[k].norm()), floor * most) for k in one)


@pytest.mark.parametrize("train", ["lora", "full"])
def test_accumulation_and_recomputation_change_nothing(alone: Path, model: Path, tmp_path: Path, train: str) -> None:
    one = _moved(alone / train, model)
    for name, change in {"whole": {"budget": 100_000}, "again": {"recompute": True}}.items():
        run_steps(model, tmp_path, _local, replace(Setting(name, train=train), **change))
        assert _differs(one, _moved(tmp_path / name, model)) < 1e-4


@pytest.mark.ray
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_two_ranks_are_one(alone: Path, ranks: Path, model: Path, setting: Setting) -> None:
    exact = setting.dtype == "float32"
    for a, b in zip(_reports(alone / setting.judge), _reports(ranks / setting.name), strict=True):
        assert a.keys() == b.keys() and (setting.clip > CLIP or a["norm"] > CLIP)
        near = 1e-3 if exact else 0.1
        assert all(abs(a[k] - b[k]) < near * max(1.0, abs(a[k])) for k in a), (a, b)
    # In bf16 the smallest movements vanish in the rounding of the weights that are written.
    one, two = _moved(alone / setting.judge, model), _moved(ranks / setting.name, model)
    differs = _differs(one, two) if exact else _differs(one, two, floor=1.0)
    assert differs < (1e-4 if exact else 0.1), f"{setting.name}: {differs:.2g}"


@pytest.mark.ray
def test_clipped_steps_are_as_long_as_the_clip(ranks: Path, alone: Path, model: Path) -> None:
    """Plain SGD moves all weights together by no more than learning rate times clip in a step."""
    steps = len(_reports(alone / "full-clipped"))
    most = CLIP * sum(learning_rate(n, steps=steps, peak=0.05, warmup=0.0) for n in range(steps))
    for zero in range(4):
        moved = _moved(ranks / f"full-clipped-zero{zero}", model)
        length = float(torch.stack([v.norm() for v in moved.values()]).norm())
        assert 0.5 * most < length < 1.001 * most


@pytest.mark.ray
@pytest.mark.parametrize("setting", RESUMED, ids=lambda s: s.name)
def test_a_resumed_run_on_two_ranks_is_equal_to_the_bit(ranks: Path, setting: Setting) -> None:
    (whole, cut) = (ranks / f"{setting.name}-{end}" for end in ENDS)
    assert _reports(whole) == _reports(cut)
    one, two = _weights(whole), _weights(cut)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
