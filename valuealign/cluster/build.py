"""The model that a worker trains: the base, what trains on it, and how a process that trains often keeps the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valuealign.config import ModelConfig
from valuealign.models.adapters import add_adapter, remove_adapter
from valuealign.models.load import Base, has_fused_experts, load_base, resolve
from valuealign.models.score import CellModel
from valuealign.models.trained import put_trained


def build(
    model: ModelConfig,
    *,
    seed: int,
    start: Path | None,
    device: str = "cpu",
    recompute: bool = False,
    shard: Mapping[str, Any] | None = None,
) -> tuple[Base, CellModel]:
    """The base with what trains on it, ready for an engine. Raises ModelError.

    ``shard`` as in ``load_base``; not where weights must be whole first: under adapters on fused experts, and where
    all weights are those of a version that a run goes on from.
    """
    return Warm().build(model, seed=seed, start=start, device=device, recompute=recompute, shard=shard)


class Warm:
    """What a process that does several runs keeps between them: the frozen base of the last one.

    The next run over the same base gets it with an adapter of its own: nothing of the run before is left in it.
    All weights that train, weights in pieces (ZeRO 3), fused experts and a model that recomputes are loaded anew.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._kept: tuple[Base, Any] | None = None  # with its adapter

    def build(
        self,
        model: ModelConfig,
        *,
        seed: int,
        start: Path | None,
        device: str = "cpu",
        recompute: bool = False,
        shard: Mapping[str, Any] | None = None,
    ) -> tuple[Base, CellModel]:
        """As the function ``build``."""
        folder = resolve(model.path, progress=lambda _: None)
        fused = has_fused_experts(folder)
        if start is not None if model.train == "full" else fused:
            shard = None
        # A model is not easily brought to forget that it recomputed.
        keeps = model.train == "lora" and shard is None and not fused and not recompute
        base = self._again((model, device) if keeps else ()) or load_base(
            model.path,
            dtype=model.dtype,
            quantize=model.quantize,
            device=device,
            shard=shard,
            arguments=model.chat_template_kwargs,
            progress=lambda _: None,
        )
        if model.train == "full":
            cell_model = CellModel(base.model.requires_grad_(True))
        else:
            adapted = add_adapter(base.model, r=model.lora_r, alpha=model.lora_alpha, seed=seed)
            cell_model = CellModel(adapted)
            if keeps:
                self._key, self._kept = (model, device), (base, adapted)
        if start is not None:
            put_trained(cell_model, start)
        if shard is not None and model.dtype == "bfloat16":
            cell_model.bfloat16()  # the adapter, as DeepSpeed casts it unless it finds weights in pieces
        if recompute:
            cell_model.recompute()
        return base, cell_model

    def _again(self, key: tuple[object, ...]) -> Base | None:
        """The kept base without its adapter, if it is the one that is wanted; else it is let go."""
        kept, self._kept = self._kept, None
        if kept is None or not key or key != self._key:
            return None
        base, adapted = kept
        return base._replace(model=remove_adapter(adapted))
