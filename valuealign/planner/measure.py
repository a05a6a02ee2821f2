"""Measuring what the planner estimates: bytes that exist, bytes that autograd keeps, and a rate of products."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that exist while it is on: ``now``, and ``peak`` since it was set.

    What torch.cuda.max_memory_allocated is for a GPU, on any device. What an operation allocates and frees
    within itself is not seen. ``known`` are the tensors that are there already.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bytes: dict[int, int] = {}
        self.now = self.peak = 0
        for tensor in known:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if tensor.device.type == "meta" or key in self._bytes:
            return
        self._bytes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._bytes.pop(key)


def kept_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward pass of ``forward``, the model's own weights not counted."""
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no later tensor takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out
    return sum(storage.nbytes() for storage in kept.values())


def matmul_rate(dtype: str, device: str = "cpu", *, size: int = 1024, seconds: float = 0.5) -> float:
    """FLOP/s of square matrix products on this machine: the best of what fits into ``seconds``."""
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    best, until = float("inf"), time.perf_counter() + seconds
    a @ a
    while time.perf_counter() < until:
        wait(device)
        began = time.perf_counter()
        a @ a
        wait(device)
        best = min(best, time.perf_counter() - began)
    return float(2 * size**3 / best)


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
