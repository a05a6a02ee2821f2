"""Supervised fine-tuning: the likelihood of what is wanted."""

from __future__ import annotations

from torch import Tensor

from valuealign.types import LossTerms, Sum, Wanted


def mass(wanted: Wanted) -> Tensor:
    """The desirable mass of the batch, cell weights applied (a scalar)."""
    return (wanted.desirable_N * wanted.weight_C[wanted.cell_N]).sum()


def sft(logp_N: Tensor, wanted: Wanted) -> LossTerms:
    """``-sum_k d_k log pi(y_k | x)``, in nats per unit of desirable mass.

    Args:
        logp_N: log-probabilities of whole completions, EOS included.
        wanted: what is wanted of each branch; undesirable mass is ignored.
    """
    loss = -(wanted.desirable_N * wanted.weight_C[wanted.cell_N] * logp_N).sum()
    return LossTerms(Sum(loss, mass(wanted)), {})
