"""LocalEngine: one process, no cluster; and what every engine shares: scoring many cells.

The engines differ in who owns the gradient. The arithmetic (packing, objectives, reduction) is the
same, so a run gives the same weights on one process as on several, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from valuealign.errors import ModelError
from valuealign.models.score import CellModel, to_device
from valuealign.models.trained import trainable, write_trained
from valuealign.packing import Row, collate, micro_batches
from valuealign.types import Batch, Engine, Rendered

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def adamw(parameters: Iterable[Tensor], *, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """AdamW; the learner sets the learning rate at each step."""
    return torch.optim.AdamW(list(parameters), lr=0.0, betas=(0.9, 0.99), weight_decay=weight_decay)


class LocalEngine:
    """Trains a CellModel's trainable parameters in this process."""

    rank = 0
    world = 1

    def __init__(self, model: CellModel, *, pad_id: int, clip: float = 1.0, optimizer: MakeOptimizer = adamw) -> None:
        self.model, self.pad_id, self.clip = model, pad_id, clip
        self._make = optimizer
        self._trainable = list(trainable(model).values())
        self._optimizer = optimizer(self._trainable)

    def score(self, batch: Batch) -> Tensor:
        """Log-probabilities [N]; see Engine."""
        device = next(self.model.parameters()).device
        logp_N: Tensor = self.model(to_device(batch, device))
        return logp_N

    def backward(self, loss: Tensor) -> None:
        """Add the gradient; see Engine."""
        loss.backward()

    def step(self, learning_rate: float) -> float:
        """Clip, apply, forget the gradient; returns its norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self._trainable, self.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def all_sum(self, values: Tensor) -> Tensor:
        """The values themselves: there is one rank."""
        return values

    def fresh_optimizer(self) -> None:
        """Forget the optimizer's moments."""
        self._optimizer = self._make(self._trainable)

    def save(self, folder: Path) -> None:
        """Write trained weights and optimizer state for ``load``."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = [p.detach().clone() for p in self._trainable]
        torch.save({"weights": weights, "optimizer": self._optimizer.state_dict()}, folder / "local.pt")

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote (tensors only; nothing in it is executed)."""
        state: dict[str, Any] = torch.load(folder / "local.pt", weights_only=True)
        with torch.no_grad():
            for parameter, saved in zip(self._trainable, state["weights"], strict=True):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])

    def trained(self) -> dict[str, Tensor]:
        """Copies of the trained weights, on the CPU."""
        return {name: p.detach().to("cpu", copy=True) for name, p in trainable(self.model).items()}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Overwrite the trained weights; see Engine."""
        mine = trainable(self.model)
        with torch.no_grad():
            for name, tensor in weights.items():
                mine[name].copy_(tensor)

    def save_trained(self, folder: Path) -> None:
        """Write what was trained; see Engine."""
        write_trained(self.model, self.trained(), folder)


@torch.no_grad()
def score_all(
    engine: Engine, rendered: Sequence[Rendered], *, pad_id: int, packed: bool, token_budget: int
) -> list[np.ndarray]:
    """Raw log-probabilities [K] of every cell's completions, in order, on every rank.

    The cells are shared out over the ranks and summed back, so all ranks must call this.
    """
    offsets = np.cumsum([0] + [len(r.completion_ids) for r in rendered])
    logps_N = torch.zeros(int(offsets[-1]), dtype=torch.float64)
    plan = micro_batches([row_tokens(r, packed) for r in rendered], token_budget=token_budget, ranks=engine.world)
    for indices in plan[engine.rank]:
        rows = [Row(rendered[i]) for i in indices] or [Row(rendered[0])]
        logp_N = engine.score(collate(rows, pad_id=pad_id, packed=packed)).double().cpu()
        if indices:
            logps_N[np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in indices])] = logp_N
    logps_N = engine.all_sum(logps_N)
    return [logps_N[a:b].numpy() for a, b in zip(offsets, offsets[1:], strict=False)]


def row_tokens(rendered: Rendered, packed: bool) -> int:
    """Tokens that a cell costs: shared prefix, or one prompt per completion."""
    k = len(rendered.completion_ids)
    return rendered.tokens if packed else rendered.tokens + (k - 1) * len(rendered.prompt_ids)


@torch.no_grad()
def check_packing(
    engine: Engine, model: CellModel, rendered: Sequence[Rendered], *, pad_id: int, tolerance: float = 2e-3
) -> float:
    """The largest difference (nats) between packed and dense scores of a few cells.

    Raises ModelError beyond the tolerance: then this model must not be packed.
    """
    rows = [Row(r) for r in rendered[:3]]
    was, results = model.packed, []
    try:
        for packed in (True, False):
            model.packed = packed
            results.append(engine.score(collate(rows, pad_id=pad_id, packed=packed)))
    finally:
        model.packed = was
    worst = float((results[0] - results[1]).abs().max())
    # Ranks that packed unlike each other would wait for each other for ever.
    if float(engine.all_sum(torch.tensor([float(not worst <= tolerance)]))):
        raise ModelError(
            f"packed and dense scores differ by {worst:.3g} nats",
            mend="report this architecture; it is not plain causal",
        )
    return worst
