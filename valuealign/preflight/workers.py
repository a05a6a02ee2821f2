"""What preflight does inside worker processes: look at the device, exchange, pack, train. Heavy imports wait."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from valuealign.errors import ClusterError, ModelError
from valuealign.preflight.small import ASKED, STAGE, Setting, cells, small_run

GB = 1e9
SIDE = 1024  # of the matrices multiplied
LEAST_FREE = 0.5  # share of a GPU's memory
MAKE = "a torch with CUDA: `make setup` on the box that has the GPU takes one"
PEER = "run it with NCCL_P2P_DISABLE=1; if it then passes, turn ACS or the IOMMU off in the box's firmware"


class Exchange(NamedTuple):
    """An all-reduce: by which backend, of how many bytes, in how many seconds."""

    backend: str
    size: int
    seconds: float


class Alone(NamedTuple):
    """A run in one process: its losses, the first question's shares [K] before and after, the base's hash."""

    losses: list[float]
    before: list[float]
    after: list[float]
    base_hash: str


def device(gpu: bool) -> str:
    """Words on this process's device, having computed on it. Raises ClusterError."""
    import torch

    if not gpu:
        return f"CPU, torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    here = socket.gethostname()
    if torch.version.cuda is None:
        raise ClusterError(f"torch {torch.__version__} was built without CUDA", where=here, mend=MAKE)
    driver = _driver()
    if not torch.cuda.is_available():
        what = f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU; the driver is {driver}"
        mend = f"a driver for CUDA {torch.version.cuda} or newer (`nvidia-smi` shows what it takes), or {MAKE}"
        raise ClusterError(what, where=here, mend=mend)
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    known = torch.cuda.get_arch_list()
    if not any(int(arch.rstrip("af").partition("_")[2]) // 10 == major for arch in known):
        what = f"this torch has no kernels for the {name} (sm_{major}{minor}; it has {', '.join(known)})"
        raise ClusterError(what, where=here, mend="a build of torch for this GPU")
    ones = torch.ones(SIDE, SIDE, dtype=torch.bfloat16, device="cuda")
    if not bool(((ones @ ones) == SIDE).all()):
        raise ClusterError(f"the {name} multiplies wrongly", where=here, mend="look at `nvidia-smi -q` for errors")
    free, total = torch.cuda.mem_get_info()
    if free < LEAST_FREE * total:
        what = f"only {free / GB:.0f} of {total / GB:.0f} GB of the {name} are free"
        mend = "`nvidia-smi` shows who uses it; name other GPUs in CUDA_VISIBLE_DEVICES before `ray start`"
        raise ClusterError(what, where=here, mend=mend)
    return f"{name}, {free / GB:.0f} of {total / GB:.0f} GB free, driver {driver}, CUDA {torch.version.cuda}"


def _driver() -> str:
    """The NVIDIA driver's version, as nvidia-smi has it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (done.stdout.split() or ["unknown"])[0]


def leave(folder: Path) -> str:
    """Write a file of this process's own; its name. Raises OSError."""
    name = f"{socket.gethostname()}-{os.getpid()}"
    (folder / name).write_text("here")
    return name


def lacking(folder: Path, names: list[str]) -> list[str]:
    """Which of the files that the processes left this one cannot read."""
    return [name for name in names if not (folder / name).is_file() or (folder / name).read_text() != "here"]


def deepspeed(gpu: bool) -> str:
    """Words on DeepSpeed: its version, its accelerator, its operations. Raises ClusterError."""
    from valuealign.cluster.deepspeed_engine import operations

    found = operations()
    wanted = "cuda" if gpu else "cpu"
    if found.accelerator != wanted:
        raise ClusterError(
            f"DeepSpeed {found.version} takes '{found.accelerator}' for its accelerator, not '{wanted}'",
            where=socket.gethostname(),
            mend='unset DS_ACCELERATOR, or set it by `eval "$(python -m valuealign.cluster.env)"`, before `ray start`',
        )
    extensions = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home())
    extensions.mkdir(parents=True, exist_ok=True)
    if not os.access(extensions, os.W_OK):
        mend = "set TORCH_EXTENSIONS_DIR to a folder that you may write to"
        raise ClusterError("cannot be written", where=str(extensions), mend=mend)
    built = f"{len(found.fitting)} of {found.known} operations fit this box"
    return f"{found.version} on {wanted}, {built}; a run needs none of them compiled"


def add_up(values: int) -> Exchange:
    """Sum so many numbers over all processes, check the sum, and time it. Raises ClusterError for a wrong one."""
    import torch
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    where = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.full((values,), rank + 1.0, device=where)
    dist.all_reduce(total)
    wanted = world * (world + 1) / 2
    if not bool((total == wanted).all()):
        what = f"a sum over {world} ranks is {float(total.mean()):g} where it is {wanted:g}"
        raise ClusterError(what, where=socket.gethostname(), mend=PEER)
    again = torch.ones_like(total)
    began = time.perf_counter()
    dist.all_reduce(again)
    float(again[0])  # waits for the GPU
    return Exchange(dist.get_backend(), total.numel() * total.element_size(), time.perf_counter() - began)


def _device(setting: Setting) -> str:
    return "cuda" if setting.gpus else "cpu"


def packing(setting: Setting) -> tuple[float, str]:
    """The largest difference (nats) of packed and dense scores; or why this model is not packed.

    Raises ModelError where it is larger than rounding is.
    """
    from valuealign.cluster.build import build
    from valuealign.engine import LocalEngine, check_packing
    from valuealign.prompts import render

    run = small_run(setting, Path(), steps=1)
    base, model = build(run.model, seed=run.seed, start=None, device=_device(setting))
    tokenizer: Any = base.tokenizer
    if not model.packed:
        return 0.0, model.abilities.why
    pad = int(tokenizer.pad_token_id)
    rows = [render(cell, tokenizer) for cell in cells()]
    tolerance = 2e-3 if setting.dtype == "float32" else 0.25
    return check_packing(LocalEngine(model, pad_id=pad), model, rows, pad_id=pad, tolerance=tolerance), ""


def alone(setting: Setting, out: Path, steps: int) -> Alone:
    """Do the small run in this process, without DeepSpeed; the adapter lies in ``adapter(out)``."""
    from valuealign.cluster.worker import NoCheckpoints, read_scores, work
    from valuealign.engine import LocalEngine, adamw
    from valuealign.models.load import fingerprint
    from valuealign.types import BASE

    run = small_run(setting, out, steps=steps)
    optimizer = partial(adamw, weight_decay=run.train.weight_decay)

    def engine(model: Any, pad_id: int) -> LocalEngine:
        return LocalEngine(model, pad_id=pad_id, clip=run.train.clip, optimizer=optimizer)

    work(run, engine, NoCheckpoints(), device=_device(setting))
    before, after = (_shares(read_scores(out, who)[ASKED][0]) for who in (BASE, STAGE))
    return Alone([loss for _, loss in losses(out)], before, after, fingerprint(setting.folder))


def zero3(setting: Setting, out: Path, steps: int) -> None:
    """Do the small run in all processes together, every weight sharded over them."""
    from valuealign.cluster.deepspeed_engine import DeepSpeedEngine, zero_config
    from valuealign.cluster.worker import NoCheckpoints, work
    from valuealign.engine import adamw

    run = small_run(setting, out, steps=steps, zero=3)
    how: dict[str, Any] = {"clip": run.train.clip, "dtype": setting.dtype}
    optimizer = partial(adamw, weight_decay=run.train.weight_decay)

    def engine(model: Any, pad_id: int) -> DeepSpeedEngine:
        return DeepSpeedEngine(model, pad_id=pad_id, zero=3, optimizer=optimizer, **how)

    work(run, engine, NoCheckpoints(), device=_device(setting), shard=zero_config(stage=3, **how))


def tiny(home: Path) -> Path:
    """A tiny model with the seed model's tokenizer, made in seconds and kept."""
    from valuealign.models.seed import SeedRecipe, ensure_seed

    recipe = SeedRecipe(
        vocabulary=512, hidden=32, layers=2, heads=2, intermediate=64, tokenizer_samples=300, steps=20, batch=4, row=160
    )
    return ensure_seed(home, recipe=recipe, progress=lambda _: None)


def given(folder: Path) -> Path:
    """The user's own model folder, checked. Raises ModelError."""
    from valuealign.models.load import resolve

    return resolve(str(folder), progress=lambda _: None)


def losses(out: Path) -> list[tuple[int, float]]:
    """The steps of a run and their losses, in the order they were done. Raises ModelError if there are none."""
    log = out / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    found: list[tuple[int, float]] = []
    for line in lines:
        try:
            told = json.loads(line)
        except json.JSONDecodeError:  # a line cut off by a kill
            continue
        if told["event"] == "step":
            found.append((int(told["step"]), float(told["loss"])))
    if not found:
        raise ModelError(
            "no step was done", where=str(out), mend="the workers' logs under Ray's session folder say more"
        )
    return found


def _shares(logp_K: Any) -> list[float]:
    from valuealign.metrics import softmax

    return [float(share) for share in softmax(logp_K)]


def adapter(out: Path) -> Path:
    """Where the small run in ``out`` leaves what it trained."""
    from valuealign.cluster.worker import trained_folder

    return trained_folder(out, STAGE)
