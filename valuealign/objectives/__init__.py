"""Objectives: pure functions from log-probabilities to losses. Importing this loads only torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from valuealign.objectives import distribution, dpo, kto, reward, sft
from valuealign.types import LossTerms

__all__ = ["OBJECTIVES", "Objective"]


class Objective(NamedTuple):
    """``loss(logp_N, wanted, **hyperparameters)`` (``reward``: of scores) and the mass that its mean is taken over."""

    loss: Callable[..., LossTerms]
    mass: Callable[..., Tensor]
    reference: bool


OBJECTIVES: dict[str, Objective] = {
    "sft": Objective(sft.sft, sft.mass, reference=False),
    "distribution": Objective(distribution.distribution, distribution.mass, reference=False),
    "dpo": Objective(dpo.dpo, dpo.mass, reference=True),
    "kto": Objective(kto.kto, kto.mass, reference=True),
    "reward": Objective(reward.reward, dpo.mass, reference=False),
}
