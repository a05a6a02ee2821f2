"""A reward model's objective: Bradley and Terry (1952) on DPO's pairs (Ouyang et al. 2022, arXiv 2203.02155, eq. 1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from valuealign.objectives.dpo import pairs
from valuealign.types import LossTerms, Sum, Wanted


def reward(score_N: Tensor, wanted: Wanted, *, margin: float = 0.0, centre: float = 0.0) -> LossTerms:
    """``-log sigma(s_i - s_j - margin)`` over the pairs (i, j) of each cell, weighted d_i u_j / sum u.

    Args:
        score_N: a reward model's score of each branch, of any unit (no log-probability).
        wanted: masses; the reference is not read.
        margin: by how much a desirable answer should score more before its loss is that of a tie.
        centre: weight of (s_i + s_j)^2, which keeps scores around 0 (differences alone leave their level free;
            Eisenstein et al. 2023, arXiv 2312.09244).
    """
    i_P, j_P, weight_P = pairs(wanted)
    apart_P = score_N[i_P] - score_N[j_P]
    loss_P = -F.logsigmoid(apart_P - margin) + centre * (score_N[i_P] + score_N[j_P]).square()
    count = weight_P.sum()
    stats = {
        "margin": Sum((weight_P * apart_P).sum().detach(), count),
        "accuracy": Sum((weight_P * (apart_P > 0)).sum().detach(), count),
    }
    return LossTerms(Sum((weight_P * loss_P).sum(), count), stats)
