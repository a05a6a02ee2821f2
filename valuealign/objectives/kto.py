"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306), on masses.

With r = log pi_theta(y|x) - log pi_ref(y|x) the value of a desirable completion is
lambda_d sigma(beta (r - z0)) and of an undesirable one lambda_u sigma(beta (z0 - r)); the loss is
E[lambda - value]. Equal rows are one mass, which for a given z0 is exact. On closed answer sets r
and z0 use log-probabilities renormalised over the options.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from valuealign.objectives.branches import log_ratio, per_cell, renormalised, target_shares
from valuealign.types import Borrowed, LossTerms, Sum, Wanted

Negatives = Literal["human", "policy"]


def mass(wanted: Wanted, *, negatives: Negatives = "human") -> Tensor:
    """All desirable and undesirable mass of the batch, cell weights applied (a scalar)."""
    weight_N = wanted.weight_C[wanted.cell_N]
    if negatives == "policy":  # the model's own answers, as much of them as of the people's
        return 2 * (weight_N * wanted.desirable_N).sum()
    return (weight_N * (wanted.desirable_N + wanted.undesirable_N)).sum()


def kto(
    logp_N: Tensor,
    wanted: Wanted,
    *,
    beta: float,
    lambda_d: float = 1.0,
    lambda_u: float = 1.0,
    negatives: Negatives = "human",
    z0_open: Tensor | None = None,
    z0_closed: Literal["options", "none"] = "options",
    reference_free: bool = False,
) -> LossTerms:
    """KTO's loss per unit of mass (equations 7 and 8 of the paper); no gradient through z0.

    Args:
        logp_N: log-probabilities of whole completions under the policy, EOS included.
        wanted: masses, and the reference's log-probabilities.
        beta: how fast value saturates.
        lambda_d: weight of desirable completions.
        lambda_u: weight of undesirable completions.
        negatives: ``policy`` makes the undesirable mass of a closed cell the model's own shares;
            the people's shares are then the fixed point, and only then if lambda_d = lambda_u.
        z0_open: the reference point of open cells (see ``mismatch``): a scalar, or [2, N] for the desirable
            and the undesirable mass of each branch; None means 0.
        z0_closed: ``options``: sum_k pi_k (log pi_k - log pi_ref,k), exact; ``none``: 0.
        reference_free: the reference is uniform: 1 / K of a closed cell, and for open text a constant that
            is left out, so that there z0 is the mean log pi of mismatched completions, not clamped.
    """
    cells = len(wanted.closed_C)
    logq_N = renormalised(logp_N, wanted)
    r_N = log_ratio(logp_N, wanted, reference_free=reference_free)
    z0_C = torch.zeros(cells, dtype=r_N.dtype, device=r_N.device)
    if z0_closed == "options":
        z0_C = torch.where(wanted.closed_C, per_cell((logq_N.exp() * r_N).detach(), wanted.cell_N, cells), z0_C)
    desirable_N, undesirable_N = wanted.desirable_N, wanted.undesirable_N
    if negatives == "policy":
        assert bool(wanted.closed_C.all()), "checked where the run is configured"
        undesirable_N = logq_N.exp().detach() * target_shares(wanted)[1][wanted.cell_N]
    z0_2N, weight_N = z0_C[wanted.cell_N].expand(2, -1), wanted.weight_C[wanted.cell_N]
    if z0_open is not None:
        z0_2N = torch.where(wanted.closed_C[wanted.cell_N], z0_2N, z0_open.to(z0_2N))
    value_d_N = torch.sigmoid(beta * (r_N - z0_2N[0]))
    value_u_N = torch.sigmoid(beta * (z0_2N[1] - r_N))
    loss_N = desirable_N * lambda_d * (1 - value_d_N) + undesirable_N * lambda_u * (1 - value_u_N)
    count = mass(wanted, negatives=negatives)
    d_N, u_N = weight_N * desirable_N, weight_N * undesirable_N
    stats = {
        "z0": Sum((d_N * z0_2N[0] + u_N * z0_2N[1]).sum(), count),
        "r_desirable": Sum((d_N * r_N).sum().detach(), d_N.sum()),
        "r_undesirable": Sum((u_N * r_N).sum().detach(), u_N.sum()),
    }
    return LossTerms(Sum((weight_N * loss_N).sum(), count), stats)


def mismatch(logp_N: Tensor, wanted: Wanted, borrowed: Borrowed) -> Tensor:
    """What the z0 of open answers are the means of: totals and weights [2, G], without gradient.

    A mean is taken, and clamped at 0, once both are summed over all ranks.
    """
    r_N = (logp_N.detach() - wanted.reference_N).double()
    weight_M = borrowed.weight_M.double()
    parts_2M = torch.stack([weight_M * r_N[borrowed.branch_M], weight_M])
    zeros_2G = torch.zeros(2, borrowed.groups, dtype=torch.float64, device=r_N.device)
    return zeros_2G.index_add(1, borrowed.group_M, parts_2M)


class LambdaRule(NamedTuple):
    """KTO's guidance on the two weights (eq. 8): ``ratio`` should lie in [``low``, ``high``].

    ``n_d`` and ``n_u`` are masses. The first version of the paper gives [1, 4/3]; later ones print [1, 3/2].
    """

    lambda_d: float
    lambda_u: float
    n_d: float
    n_u: float
    low: float = 1.0
    high: float = 4 / 3

    @property
    def ratio(self) -> float:
        """lambda_d n_d / (lambda_u n_u)."""
        return self.lambda_d * self.n_d / (self.lambda_u * self.n_u) if self.n_u else float("inf")

    @property
    def holds(self) -> bool:
        """Whether the ratio lies in the range."""
        return self.low * (1 - 1e-9) <= self.ratio <= self.high * (1 + 1e-9)

    def __str__(self) -> str:
        weights = f"lambda_d {self.lambda_d:.3g}, lambda_u {self.lambda_u:.3g}"
        where = f"lambda_d n_d / (lambda_u n_u) = {self.ratio:.2f}"
        if self.holds:
            return f"{weights}: {where}, within [{self.low:.2f}, {self.high:.2f}]"
        text = f"warning: {weights}: {where}, outside [{self.low:.2f}, {self.high:.2f}]"
        if not (self.n_d and self.n_u):
            return f"{text}; all answers are on one side, so no weights would hold"
        unit = self.lambda_u * self.n_u / self.n_d
        return f"{text}; lambda_d from {self.low * unit:.3g} to {self.high * unit:.3g} would hold, and auto picks it"
