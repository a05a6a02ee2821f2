"""From a batch to log-probabilities. Shapes: ``S`` scored tokens, ``N`` branches, ``H`` width, ``V`` vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
        # Where weights are gathered at each use, all ranks must use them equally often, whatever their batches hold:
        # then this gives the most pieces that any rank cuts its head's work into.
        self.alike: Callable[[int], int] | None = None

    @property
    def causal(self) -> Any:
        """The Hugging Face model under the adapter."""
        inner: Any = self.model
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    def attend_by(self, kernel: str) -> None:
        """Compute attention by another of transformers' kernels; packs only where that one may."""
        self.causal.set_attn_implementation(kernel)
        self.abilities = abilities(self.causal.config)
        self.packed = self.abilities.packed

    def recompute(self) -> None:
        """Keep only the inputs of the layers for the backward pass, which then computes the rest anew."""
        self.causal.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()  # transformers recomputes in this mode only; there is no dropout for it to switch on

    def forward(self, batch: Batch) -> Tensor:
        """Log-probabilities [N] of whole completions, in nats (fp32, summed in double precision)."""
        if self.packed:
            mask = visible(batch.branch_BT)
        else:
            mask = (batch.branch_BT >= 0).long()
        where = {"input_ids": batch.input_ids_BT, "position_ids": batch.position_ids_BT, "attention_mask": mask}
        if self.abilities.plain_head and self.alike is not None:
            logp_S = self._chunked(self._at_once(batch, where)[batch.row_S, batch.col_S], batch.target_S)
        elif self.abilities.plain_head:
            decode = self._in_two if batch.still.columns and torch.is_grad_enabled() else self._at_once
            hidden_SH = decode(batch, where)[batch.row_S, batch.col_S]
            with_grad = len(batch.target_S) - batch.still.scored
            logp_S = self._chunked(hidden_SH[:with_grad], batch.target_S[:with_grad])
            if batch.still.scored:
                with torch.no_grad():
                    still_S = self._chunked(hidden_SH[with_grad:], batch.target_S[with_grad:])
                logp_S = torch.cat([logp_S, still_S])
        else:
            logits_BTV = self.causal(**where, use_cache=False).logits
            logp_S = _gather(logits_BTV[batch.row_S, batch.col_S], batch.target_S)
        branches = len(batch.wanted.cell_N)
        # Sums near -100 lose 1e-5 in single precision, and KTO and DPO live on their differences.
        logp_N = torch.zeros(branches, device=logp_S.device, dtype=torch.float64)
        return logp_N.index_add(0, batch.branch_S, logp_S.double()).float()

    def _at_once(self, batch: Batch, where: dict[str, Tensor]) -> Tensor:
        hidden_BTH: Tensor = self.causal.get_decoder()(**where, use_cache=False).last_hidden_state
        return hidden_BTH

    def _in_two(self, batch: Batch, where: dict[str, Tensor]) -> Tensor:
        """The last columns apart and without gradient: they read the prompts' keys and values."""
        if self.training and self.causal.is_activation_checkpointing:
            return self._at_once(batch, where)  # what is recomputed keeps no keys and values
        decoder, t = self.causal.get_decoder(), batch.input_ids_BT.shape[1] - batch.still.columns
        ids_BT, positions_BT, mask_B1TT = where.values()
        first = decoder(
            input_ids=ids_BT[:, :t],
            position_ids=positions_BT[:, :t],
            attention_mask=mask_B1TT[:, :, :t, :t],
            use_cache=True,
        )
        with torch.no_grad():
            last_BTH = decoder(
                input_ids=ids_BT[:, t:],
                position_ids=positions_BT[:, t:],
                attention_mask=mask_B1TT[:, :, t:],
                past_key_values=first.past_key_values,
            ).last_hidden_state
        return torch.cat([first.last_hidden_state, last_BTH], dim=1)

    def _chunked(self, hidden_SH: Tensor, target_S: Tensor) -> Tensor:
        head = self.causal.get_output_embeddings()

        def chunk(hidden: Tensor, target: Tensor) -> Tensor:
            return _gather(head(hidden), target)

        count = max(1, -(-len(target_S) // HEAD_CHUNK))
        if self.alike is not None:
            count = self.alike(count)
        if count == 1:
            return chunk(hidden_SH, target_S)
        pieces = [slice(n * HEAD_CHUNK, (n + 1) * HEAD_CHUNK) for n in range(count)]  # this rank's last may be empty
        # Recomputing a chunk's logits in the backward pass costs one product and saves [S, V].
        return torch.cat([checkpoint(chunk, hidden_SH[s], target_S[s], use_reentrant=False) for s in pieces])


def _gather(logits_SV: Tensor, target_S: Tensor) -> Tensor:
    picked_S: Tensor = logits_SV.float().log_softmax(-1).gather(-1, target_S[:, None]).squeeze(-1)
    return picked_S


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """The batch with all its tensors on a device."""
    if str(device) == "cpu":
        return batch
    moved: dict[str, Any] = {
        k: v.to(device, non_blocking=True) for k, v in vars(batch).items() if isinstance(v, Tensor)
    }
    inner = {k: v.to(device, non_blocking=True) for k, v in vars(batch.wanted).items()}
    return replace(batch, **moved, wanted=type(batch.wanted)(**inner))
