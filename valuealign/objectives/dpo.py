"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), on masses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from valuealign.objectives.branches import log_ratio, per_cell
from valuealign.types import LossTerms, Sum, Wanted


def pairs(wanted: Wanted) -> tuple[Tensor, Tensor, Tensor]:
    """Branches (i, j) of one cell with i desirable and j undesirable, and weights d_i u_j / sum u."""
    undesirable_C = per_cell(wanted.undesirable_N, wanted.cell_N, len(wanted.closed_C))
    same_NN = wanted.cell_N[:, None] == wanted.cell_N[None, :]
    mass_NN = wanted.desirable_N[:, None] * wanted.undesirable_N[None, :]
    i_P, j_P = torch.nonzero(same_NN & (mass_NN > 0), as_tuple=True)
    cell_P = wanted.cell_N[i_P]
    return i_P, j_P, wanted.weight_C[cell_P] * mass_NN[i_P, j_P] / undesirable_C[cell_P]


def mass(wanted: Wanted) -> Tensor:
    """The weight of the batch's pairs (a scalar)."""
    return pairs(wanted)[2].sum()


def dpo(
    logp_N: Tensor, wanted: Wanted, *, beta: float, label_smoothing: float = 0.0, reference_free: bool = False
) -> LossTerms:
    """``-log sigma(beta (r_i - r_j))`` over the pairs (i, j) of each cell, weighted d_i u_j / sum u.

    On survey shares its optimum is the reference times p^(1/beta), far sharper than the people:
    whoever configures that is warned.

    Args:
        logp_N: log-probabilities of whole completions under the policy, EOS included.
        wanted: masses, and the reference's log-probabilities.
        beta: strength of the pull towards the reference.
        label_smoothing: the chance that a pair was marked the wrong way round (Mitchell 2023, conservative
            DPO): the loss is (1 - s) times that of the pair plus s times that of the pair turned round.
        reference_free: the reference is uniform, so that r is log pi up to a constant.
    """
    r_N = log_ratio(logp_N, wanted, reference_free=reference_free)
    i_P, j_P, weight_P = pairs(wanted)
    margin_P = r_N[i_P] - r_N[j_P]
    count = weight_P.sum()
    stats = {
        "margin": Sum((weight_P * margin_P).sum().detach(), count),
        "accuracy": Sum((weight_P * (margin_P > 0)).sum().detach(), count),
    }
    loss_P = -(1 - label_smoothing) * F.logsigmoid(beta * margin_P)
    if label_smoothing:
        loss_P = loss_P - label_smoothing * F.logsigmoid(-beta * margin_P)
    return LossTerms(Sum((weight_P * loss_P).sum(), count), stats)
