"""Stage 1's objective: the model's shares over the options become the people's shares."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from valuealign.objectives.branches import log_mass, per_cell, target_shares
from valuealign.types import LossTerms, Sum, Wanted


def mass(wanted: Wanted) -> Tensor:
    """The weight of the batch's cells times their desirable mass (a scalar)."""
    _, total_C = target_shares(wanted)
    return (wanted.weight_C * total_C).sum()


def distribution(
    logp_N: Tensor,
    wanted: Wanted,
    *,
    distance: Literal["kl", "wasserstein"] = "kl",
    raw_mass: float = 0.0,
) -> LossTerms:
    """The distance between the people's shares and the model's, a mean over cells.

    ``kl`` is KL(want || softmax of log pi over the K options), in nats. ``wasserstein`` is
    sum_i |F_want(i) - F_model(i)| (o_{i+1} - o_i) / (o_K - o_1) on ordinal items; on nominal ones
    total variation, which is the same transport with unit distances.

    Args:
        logp_N: log-probabilities of whole completions, EOS included.
        wanted: targets; a cell's target is its desirable mass, normalised.
        distance: which distance.
        raw_mass: weight of ``-log sum_k pi(y_k|x)``: without it the shares may be perfect while
            hardly any probability falls on the options.
    """
    cells = len(wanted.closed_C)
    logq_N = logp_N - log_mass(logp_N, wanted.cell_N, cells)[wanted.cell_N]
    share_N, total_C = target_shares(wanted)
    if distance == "kl":
        loss_C = per_cell(torch.xlogy(share_N, share_N) - share_N * logq_N, wanted.cell_N, cells)
    else:
        loss_C = _transport(share_N, logq_N.exp(), wanted, cells)
    on_options_C = log_mass(logp_N, wanted.cell_N, cells)
    weight_C = wanted.weight_C * total_C
    count = weight_C.sum()
    stats = {
        "distance": Sum((weight_C * loss_C).sum().detach(), count),
        "raw_mass": Sum((weight_C * on_options_C.exp()).sum().detach(), count),
    }
    return LossTerms(Sum((weight_C * (loss_C - raw_mass * on_options_C)).sum(), count), stats)


def _transport(share_N: Tensor, model_N: Tensor, wanted: Wanted, cells: int) -> Tensor:
    cell_N, position_N = wanted.cell_N, wanted.position_N
    ordinal_N = ~position_N.isnan()
    variation_C = per_cell((share_N - model_N).abs(), cell_N, cells) / 2
    # Within a cell both shares sum to 1, so the running sum of differences starts each cell at 0.
    gap_N = torch.zeros_like(share_N)
    same_N = cell_N[1:] == cell_N[:-1]
    gap_N[:-1] = torch.where(
        same_N, (position_N[1:] - position_N[:-1]).abs(), torch.zeros_like(gap_N[:-1])
    ).nan_to_num()
    range_C = per_cell(gap_N, cell_N, cells).clamp(min=1e-12)
    moved_N = (share_N - model_N).cumsum(0).abs() * gap_N
    moved_C = per_cell(moved_N, cell_N, cells) / range_C
    return torch.where(per_cell(ordinal_N.to(share_N), cell_N, cells) > 0, moved_C, variation_C)
