"""Sums and softmaxes over the branches of each cell. Shapes: ``N`` branches, ``C`` cells."""

from __future__ import annotations

import torch
from torch import Tensor

from valuealign.types import Wanted


def per_cell(values_N: Tensor, cell_N: Tensor, cells: int) -> Tensor:
    """Sums [C] of ``values_N`` over the branches of each cell."""
    return torch.zeros(cells, dtype=values_N.dtype, device=values_N.device).index_add(0, cell_N, values_N)


def log_mass(logp_N: Tensor, cell_N: Tensor, cells: int) -> Tensor:
    """log of the probability [C] that falls on each cell's completions (a log-sum-exp)."""
    top_C = torch.full((cells,), -torch.inf, dtype=logp_N.dtype, device=logp_N.device)
    top_C = top_C.scatter_reduce(0, cell_N, logp_N.detach(), "amax")
    return top_C + per_cell((logp_N - top_C[cell_N]).exp(), cell_N, cells).log()


def renormalised(logp_N: Tensor, wanted: Wanted) -> Tensor:
    """Log-probabilities [N], renormalised over the options where the cell is closed."""
    norm_C = log_mass(logp_N, wanted.cell_N, len(wanted.closed_C))
    norm_C = torch.where(wanted.closed_C, norm_C, torch.zeros_like(norm_C))
    return logp_N - norm_C[wanted.cell_N]


def log_ratio(logp_N: Tensor, wanted: Wanted, *, reference_free: bool = False) -> Tensor:
    """r = log pi - log pi_ref [N], both renormalised over the options where the cell is closed.

    ``reference_free`` takes a uniform reference: 1 / K of a closed cell; for open text a constant that is left out.
    """
    reference_N = torch.zeros_like(wanted.reference_N) if reference_free else wanted.reference_N
    return renormalised(logp_N, wanted) - renormalised(reference_N, wanted)


def target_shares(wanted: Wanted) -> tuple[Tensor, Tensor]:
    """The desirable mass as shares [N], and its total [C]."""
    total_C = per_cell(wanted.desirable_N, wanted.cell_N, len(wanted.closed_C))
    return wanted.desirable_N / total_C.clamp(min=1e-12)[wanted.cell_N], total_C
