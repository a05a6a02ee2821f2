"""The Engine over DeepSpeed ZeRO: sharded optimizer (and gradients, and weights), one rank a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from valuealign.engine import MakeOptimizer, adamw, write_trained
from valuealign.models.score import CellModel, to_device
from valuealign.types import Batch

TAG = "deepspeed"


def zero_config(*, stage: int, clip: float, dtype: str) -> dict[str, Any]:
    """DeepSpeed's configuration. The learner owns accumulation: ``step`` is the only boundary."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # a formality: micro-batches are sized in tokens
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": clip,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "overlap_comm": False},
        "bf16": {"enabled": dtype == "bfloat16"},
    }


class DeepSpeedEngine:
    """Trains a CellModel's trainable parameters on all ranks of the process group."""

    def __init__(
        self,
        model: CellModel,
        *,
        pad_id: int,
        zero: int = 2,
        clip: float = 1.0,
        dtype: str = "float32",
        optimizer: MakeOptimizer = adamw,
    ) -> None:
        # On CPU DeepSpeed would compile a shared-memory collective at first use (over a minute);
        # gloo serves as well. The dictionary is internal, so deepspeed is pinned and a test holds it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.model, self.pad_id = model, pad_id
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer(self._trainable), config=zero_config(stage=zero, clip=clip, dtype=dtype)
        )
        self._zero = zero
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def score(self, batch: Batch) -> Tensor:
        """Log-probabilities [N]; see Engine."""
        logp_N: Tensor = self._engine(to_device(batch, self._engine.device))
        return logp_N

    def backward(self, loss: Tensor) -> None:
        """Add the gradient. DeepSpeed averages over ranks; the loss is a share of a global mean, so
        it is multiplied by their number."""
        self._engine.backward(loss * self.world, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Reduce, clip and apply; returns the global norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def all_sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks."""
        return sum_over_ranks(values)

    def fresh_optimizer(self) -> None:
        """Zero the optimizer's moments and step counts, in place: ZeRO owns their storage."""
        inner = getattr(self._optimizer, "optimizer", self._optimizer)
        for state in inner.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()

    def save(self, folder: Path) -> None:
        """Write the ranks' states; every rank calls."""
        self._engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote on the same number of ranks."""
        self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in PEFT's layout; every rank calls, rank 0 writes."""
        with deepspeed.zero.GatheredParameters(self._trainable, modifier_rank=None, enabled=self._zero == 3):
            if self.rank == 0:
                write_trained(self.model, folder)
        dist.barrier()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of ``values`` over the process group (the values themselves without one)."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = values.to(device, copy=True)
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total.to(values.device)


def device() -> torch.device:
    """Where this rank's model lives."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class RankScorer:
    """Scores on all ranks without an optimizer: for adapters that are only looked at."""

    def __init__(self, model: CellModel) -> None:
        self.model = model
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def score(self, batch: Batch) -> Tensor:
        """Log-probabilities [N]; see Engine."""
        logp_N: Tensor = self.model(to_device(batch, device()))
        return logp_N

    def all_sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks."""
        return sum_over_ranks(values)
