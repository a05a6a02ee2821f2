"""Ray Train runs a TrainRun: DeepSpeed ZeRO on every worker, checkpoints, recovery, progress."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.train.torch import TorchTrainer

from valuealign.cluster.build import Warm
from valuealign.cluster.tracking import check_trackers
from valuealign.cluster.worker import Checkpoints, TrainRun, work
from valuealign.config import TrainConfig
from valuealign.engine import adamw
from valuealign.errors import Diverged, ModelError, ValuealignError
from valuealign.planner.words import duration

Progress = Callable[[str], None]
QUIET_S = 60.0  # by then a training that goes on says so, however long its steps are


def fit(run: TrainRun, *, name: str, progress: Progress = print) -> None:
    """Run to the end on the connected Ray cluster; what it made lies under ``run.out``.

    A run with the same ``name`` and ``run.out`` goes on from its last checkpoint. Raises the
    worker's own error if it is a user's mistake, ConfigError where a tracker of ``train.log_to`` is not installed,
    else ModelError naming the failure.
    """
    check_trackers(run.train.log_to)
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"run": ray.put(run)},
        scaling_config=scaling(run.train),
        run_config=train.RunConfig(
            name=name,
            storage_path=str(run.out / "train"),
            failure_config=train.FailureConfig(max_failures=run.train.max_failures, controller_failure_limit=2),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
        ),
    )
    with follow(run.out / "log.jsonl", progress):
        try:
            ended = trainer.fit().return_value
        except Exception as error:
            raise users_error(error) from error
    if isinstance(ended, Diverged):
        raise ended


def scaling(settings: TrainConfig) -> train.ScalingConfig:
    """How many workers there are, and what each of them holds."""
    use_gpu = settings.gpus_per_worker > 0
    resources = {"CPU": settings.cpus_per_worker} | ({"GPU": settings.gpus_per_worker} if use_gpu else {})
    return train.ScalingConfig(num_workers=settings.workers, use_gpu=use_gpu, resources_per_worker=resources)


def users_error(error: BaseException) -> ValuealignError:
    """The first of our own errors among a training failure's causes, else a ModelError about it."""
    causes: list[BaseException] = [error]
    for cause in causes:
        if isinstance(cause, ValuealignError):
            return cause
        failures = getattr(cause, "worker_failures", None) or {}
        causes += [
            *failures.values(),
            *(c for c in (cause.__cause__, getattr(cause, "cause", None)) if isinstance(c, BaseException)),
        ]
        if len(causes) > 50:
            break
    return ModelError(
        f"training failed: {str(error).strip().splitlines()[-1]}",
        mend="the workers' logs under Ray's session folder say more",
    )


def _loop(config: Mapping[str, Any]) -> Diverged | None:
    """The training function of one worker. It returns a divergence: raised, it would be tried again, and end alike."""
    try:
        train_on(ray.get(config["run"]), RayCheckpoints())
    except Diverged as error:
        return error
    return None


def train_on(run: TrainRun, checkpoints: Checkpoints, warm: Warm | None = None) -> None:
    """Do a run by DeepSpeed on this rank of the process group; ``warm`` is kept by one that does several."""
    from valuealign.cluster.deepspeed_engine import DeepSpeedEngine, device, zero_config

    zero, clip = run.train.zero, run.train.clip
    how: dict[str, Any] = {"clip": clip, "dtype": run.model.dtype, "offload": run.train.offload == "optimizer"}
    made: list[DeepSpeedEngine] = []

    def engine(model: Any, pad_id: int) -> DeepSpeedEngine:
        optimizer = partial(adamw, weight_decay=run.train.weight_decay)
        made.append(DeepSpeedEngine(model, pad_id=pad_id, zero=zero, optimizer=optimizer, **how))
        return made[0]

    shard = zero_config(stage=zero, **how) if zero == 3 else None
    try:
        work(run, engine, checkpoints, device=str(device()), shard=shard, warm=warm)
    finally:
        for one in made if warm else ():
            one.close()


class RayCheckpoints:
    """Checkpoints through Ray Train: every rank writes a folder of its own, Train merges them."""

    def latest(self) -> Path | None:
        """The last checkpoint of this run, if it was interrupted."""
        checkpoint = train.get_checkpoint()
        return Path(checkpoint.to_directory(tempfile.mkdtemp())) if checkpoint else None

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None:
        """Write a checkpoint and report figures with it; every rank calls."""
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            train.report(dict(figures), checkpoint=train.Checkpoint.from_directory(folder))


@contextlib.contextmanager
def follow(path: Path, progress: Progress, *, every: float = 0.5) -> Iterator[None]:
    """Print a line for each record that is appended to a run's log while the block runs.

    The log lies on shared storage, so this works wherever the workers are.
    """
    stop = threading.Event()
    at = path.stat().st_size if path.exists() else 0
    told = 0.0  # when the last line was written, by the clock of who wrote it

    def tail() -> None:
        nonlocal at, told
        while True:
            last = stop.is_set()
            if path.exists():
                with path.open("rb") as stream:
                    stream.seek(at)
                    whole, _, _ = stream.read().rpartition(b"\n")
                at += len(whole) + 1 if whole else 0
                for line in whole.splitlines():
                    with contextlib.suppress(json.JSONDecodeError):  # a line cut off by a kill
                        record = json.loads(line)
                        if text := describe(record, quiet=record.get("time", 0.0) - told):
                            progress(text)
                            told = record.get("time", 0.0)
            if last:
                return
            stop.wait(every)

    thread = threading.Thread(target=tail, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def describe(record: Mapping[str, Any], *, quiet: float = 0.0) -> str:
    """A line of a run's log in words; empty for what is not worth one.

    Of a stage's steps about eleven are, and any that comes after QUIET_S without a line (``quiet``: seconds since).
    """
    if record["event"] == "packed":
        return f"  prompts are shared by their answers (packed = dense to {record['nats']:.1e} nats)"
    if record["event"] == "dense":
        return f"  one forward per answer, slower: {record['why']}"
    if record["event"] == "chat":
        return f"  note on the model: {record['remark']} (model.chat_template_kwargs may change it)"
    if record["event"] == "unadapted":
        return f"  without an adapter, so never trained: {', '.join(record['weights'])}"
    if record["event"] == "untracked":
        return f"  note: {record['tracker']} no longer keeps the curves of this run, which goes on ({record['why']})"
    if record["event"] != "step":
        return ""
    step, steps = record["step"], record["steps"]
    if step % max(1, steps // 10) and step not in (1, steps) and quiet < QUIET_S:
        return ""
    stats = " ".join(f"{name} {value:.3f}" for name, value in record["stats"].items())
    rate = record["tokens"] / max(record["seconds"], 1e-9)
    where = f"{record['stage']} step {step}/{steps}"
    left = duration(round((steps - step) * record["seconds"]))
    return f"  {where}  loss {record['loss']:.4f}  {stats}  {rate:,.0f} tokens/s  about {left} left"
