"""What preflight trains: a small run on a few questions, of a tiny model or the user's own. Heavy imports wait."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from valuealign.config import DistributionConfig, ModelConfig, TrainConfig

if TYPE_CHECKING:
    import numpy as np

    from valuealign.cluster.worker import TrainRun
    from valuealign.types import Cell

STAGE, ASKED = "preflight", "asked"
OPTIONS = ("agree", "neither", "disagree")
QUESTIONS = (
    "It is important to help the people nearby.",
    "It is important to be admired.",
    "It is important to try new things.",
    "It is important to keep to the rules.",
    "It is important to have a good time.",
    "It is important to be safe.",
    "It is important to decide for oneself.",
    "It is important to keep traditions.",
)
SHARES = ((0.7, 0.2, 0.1), (0.2, 0.3, 0.5), (0.5, 0.3, 0.2), (0.4, 0.4, 0.2))
# Peak of the schedule. The tiny model is to move so far that a wrong step shows; a real one is to stay itself.
TINY_RATE, REAL_RATE = 5e-3, 2e-4


class Setting(NamedTuple):
    """The model (``folder``), how it is computed with, and how many processes train it, with so many GPUs each."""

    folder: Path
    tiny: bool
    dtype: Literal["float32", "bfloat16"]
    workers: int
    gpus: float

    @property
    def same(self) -> float:
        """Losses (nats) that lie nearer to each other than this are the same."""
        return 1e-3 if self.dtype == "float32" else 0.05


def cells() -> tuple[Cell, ...]:
    """The questions, with the shares that are taught."""
    from valuealign.prompts import ask
    from valuealign.types import Cell

    nothing = (0.0,) * len(OPTIONS)
    return tuple(
        Cell(ask(question, OPTIONS), OPTIONS, SHARES[i % len(SHARES)], nothing, closed=True, n_eff=100.0)
        for i, question in enumerate(QUESTIONS)
    )


def small_run(setting: Setting, out: Path, *, steps: int, zero: Literal[0, 1, 2, 3] = 2) -> TrainRun:
    """A run of so many optimizer steps that keeps a checkpoint after each, and scores the first question."""
    from valuealign.cluster.worker import TrainRun
    from valuealign.learner import Stage, distribution_term

    per_step = len(QUESTIONS) // 2
    stage = Stage(
        STAGE,
        (distribution_term(cells(), DistributionConfig()),),
        epochs=steps * per_step / len(QUESTIONS),
        learning_rate=TINY_RATE if setting.tiny else REAL_RATE,
        cells_per_step=per_step,
    )
    return TrainRun(
        model=ModelConfig(path=str(setting.folder), dtype=setting.dtype, lora_r=8, lora_alpha=16.0),
        train=TrainConfig(
            workers=setting.workers,
            cpus_per_worker=0.5,
            gpus_per_worker=setting.gpus,
            zero=zero,
            token_budget=1024,
            checkpoint_every=1,
            max_failures=1,
        ),
        stages=(stage,),
        out=out,
        cache=out / "cache",
        score={ASKED: cells()[:1]},
    )


@dataclass
class Killer:
    """A probe that kills the first process to come by, once: ``mark`` says that it was done."""

    cells: tuple[Cell, ...]
    mark: Path

    def __call__(self, now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> dict[str, float]:
        """No figures; SIGKILL to this process if it is the first."""
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return {}
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # a signal is delivered when it is
        return {}
