"""The Engine over DeepSpeed ZeRO: sharded optimizer (and gradients, and weights), one rank a worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from valuealign.engine import MakeOptimizer, adamw
from valuealign.models.score import CellModel, to_device
from valuealign.models.trained import trainable, write_trained
from valuealign.types import Batch

TAG = "deepspeed"
# On CPU DeepSpeed would compile a shared-memory collective at first use (over a minute);
# gloo serves as well. The dictionary is internal, so deepspeed is pinned and a test holds it.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def zero_config(*, stage: int, clip: float, dtype: str, offload: bool = False) -> dict[str, Any]:
    """DeepSpeed's configuration. The learner owns accumulation: ``step`` is the only boundary."""
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False}
    if offload and stage:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # a formality: micro-batches are sized in tokens
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": clip,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        # torch's AdamW runs on the host too; DeepSpeed's own is compiled at first use.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == "bfloat16"},
        # Gradients are added up and reduced in single precision, whatever the weights are.
        "communication_data_type": "fp32",
        # DeepSpeed cannot add bf16 gradients up in another precision where it shards nothing.
        **({"data_types": {"grad_accum_dtype": "fp32"}} if stage or dtype == "float32" else {}),
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
        offload: bool = False,
        optimizer: MakeOptimizer = adamw,
    ) -> None:
        self.model, self.pad_id = model, pad_id
        model.alike = most_over_ranks if zero == 3 else None
        plain = zero == 0 and dtype == "float32"  # DeepSpeed hands back torch's own optimizer, and tells no norm
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer(trainable(model).values()),
            config=zero_config(stage=zero, clip=0.0 if plain else clip, dtype=dtype, offload=offload),
        )
        self._zero, self._norm = zero, math.nan
        if plain:
            self._optimizer.register_step_pre_hook(lambda *_: self._clip(clip))
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
        return float(norm) if norm is not None else self._norm

    def _clip(self, most: float) -> None:
        """Clip reduced gradients that DeepSpeed does not shard, and keep their norm."""
        self._norm = float(torch.nn.utils.clip_grad_norm_(trainable(self.model).values(), most))

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

    def trained(self) -> dict[str, Tensor]:
        """Copies of the trained weights on rank 0's CPU, gathered one at a time; see Engine."""
        copies: dict[str, Tensor] = {}
        for name, parameter in trainable(self.model).items():
            with self._whole(parameter):
                if self.rank == 0:
                    copies[name] = parameter.detach().to("cpu", copy=True)
        return copies

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrite the trained weights; the optimizer's master copies stay as they are, so that only
        what they hold may be there again by the next step. See Engine."""
        for name, parameter in trainable(self.model).items():
            with self._whole(parameter, writer=0), torch.no_grad():
                if self.rank == 0 or self._zero < 3:
                    parameter.copy_(weights[name])

    def close(self) -> None:
        """Let go of the model's weights, for another engine in this process."""
        self._engine.destroy()

    def _whole(self, parameter: Tensor, writer: int | None = None) -> Any:
        """Under ZeRO 3 a parameter is in pieces: whole within this block, and back in pieces as ``writer`` left it."""
        return deepspeed.zero.GatheredParameters([parameter], modifier_rank=writer, enabled=self._zero == 3)

    def save_trained(self, folder: Path) -> None:
        """Write what was trained; every rank calls, rank 0 writes."""
        weights = self.trained()
        if self.rank == 0:
            write_trained(self.model, weights, folder)
        dist.barrier()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of ``values`` over the process group (the values themselves without one)."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = values.to(device, copy=True)
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total.to(values.device)


def most_over_ranks(count: int) -> int:
    """The largest ``count`` of the process group."""
    most = torch.tensor(count, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)


class Operations(NamedTuple):
    """DeepSpeed's version, what it computes on, and which of its ``known`` operations could be compiled here."""

    version: str
    accelerator: str
    known: int
    fitting: tuple[str, ...]


def operations() -> Operations:
    """What DeepSpeed finds on this box."""
    fits: dict[str, bool] = deepspeed.ops.__compatible_ops__
    accelerator = str(deepspeed.accelerator.get_accelerator().device_name())
    fitting = tuple(sorted(name for name, fit in fits.items() if fit))
    return Operations(str(deepspeed.__version__), accelerator, len(fits), fitting)


def device() -> torch.device:
    """Where this rank's model lives."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
