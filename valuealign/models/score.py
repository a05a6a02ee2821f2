"""From a batch to log-probabilities. Shapes: ``S`` scored tokens, ``N`` branches, ``H`` width, ``V`` vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from valuealign.models.load import Abilities, abilities
from valuealign.packing import visible
from valuealign.types import Batch

# Rows of the head's matrix product computed at a time, so that [S, V] never exists whole.
HEAD_CHUNK = 1024


class CellModel(nn.Module):
    """A causal language model (with or without adapter) that maps a batch to log pi [N].

    It is a module so that DeepSpeed can own it. ``packed`` says how batches must be collated.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.abilities: Abilities = abilities(self.causal.config)
        self.packed = self.abilities.packed

    @property
    def causal(self) -> Any:
        """The Hugging Face model under the adapter."""
        inner: Any = self.model
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    def recompute(self) -> None:
        """Keep only the inputs of the layers for the backward pass, which then computes the rest anew."""
        self.causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()  # transformers recomputes in this mode only; there is no dropout for it to switch on

    def forward(self, batch: Batch) -> Tensor:
        """Log-probabilities [N] of whole completions, in nats, summed in fp32."""
        if self.packed:
            mask = visible(batch.branch_BT)
        else:
            mask = (batch.branch_BT >= 0).long()
        where = {"input_ids": batch.input_ids_BT, "position_ids": batch.position_ids_BT, "attention_mask": mask}
        if self.abilities.plain_head:
            hidden_BTH = self.causal.get_decoder()(**where, use_cache=False).last_hidden_state
            logp_S = self._chunked(hidden_BTH[batch.row_S, batch.col_S], batch.target_S)
        else:
            logits_BTV = self.causal(**where, use_cache=False).logits
            logp_S = _gather(logits_BTV[batch.row_S, batch.col_S], batch.target_S)
        branches = len(batch.wanted.cell_N)
        return torch.zeros(branches, device=logp_S.device).index_add(0, batch.branch_S, logp_S)

    def _chunked(self, hidden_SH: Tensor, target_S: Tensor) -> Tensor:
        head = self.causal.get_output_embeddings()

        def chunk(hidden: Tensor, target: Tensor) -> Tensor:
            return _gather(head(hidden), target)

        if len(target_S) <= HEAD_CHUNK:
            return chunk(hidden_SH, target_S)
        pieces = zip(hidden_SH.split(HEAD_CHUNK), target_S.split(HEAD_CHUNK), strict=True)
        # Recomputing a chunk's logits in the backward pass costs one product and saves [S, V].
        return torch.cat([checkpoint(chunk, h, t, use_reentrant=False) for h, t in pieces])


def _gather(logits_SV: Tensor, target_S: Tensor) -> Tensor:
    picked_S: Tensor = logits_SV.float().log_softmax(-1).gather(-1, target_S[:, None]).squeeze(-1)
    return picked_S


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """The batch with all its tensors on a device."""
    if str(device) == "cpu":
        return batch
    moved = {k: v.to(device, non_blocking=True) for k, v in vars(batch).items() if isinstance(v, Tensor)}
    inner = {k: v.to(device, non_blocking=True) for k, v in vars(batch.wanted).items()}
    return Batch(**moved, wanted=type(batch.wanted)(**inner))
