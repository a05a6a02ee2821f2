"""What a statistician would fit to the same table: a log-linear regression of shares on the groups' traits.

Shape letters: ``G`` groups, ``I`` items, ``K`` options (NaN beyond an item's own), ``F`` features of a group.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from valuealign.metrics.distances import Floats, softmax

STEPS, MISFIT = 2000, 0.005  # steps at most, and what a fitted count may be off, in standard errors


def log_linear(shares_GIK: Floats, mass_GI: Floats, design_GF: Floats, ridge: float, start: Floats) -> Floats:
    """Coefficients [F, I, K] of log p = design @ coefficients + constant, fitted by penalised likelihood.

    A cell counts by its mass (respondents; 0: not used). ``ridge`` is the weight, in respondents, of half the
    squared coefficients; the first feature is the intercept and goes free. ``start`` is where the search begins.
    """
    (g, i, k), f = shares_GIK.shape, design_GF.shape[1]
    options_IK = np.where(np.isnan(shares_GIK).all(0), -np.inf, 0.0)
    options_IK[np.isinf(options_IK).all(1)] = 0.0  # an item that nobody answered
    counts_GIK = np.nan_to_num(shares_GIK) * mass_GI[..., None]
    total, total_GI1 = max(float(counts_GIK.sum()), 1.0), counts_GIK.sum(-1, keepdims=True)
    ridge_F1 = np.full((f, 1), ridge)
    ridge_F1[0] = 1e-3  # where an option was chosen by nobody the likelihood alone has no best intercept

    # In units of each coefficient's own uncertainty the search is short.
    spread_FI1 = np.einsum("gf,gi->fi", design_GF**2, mass_GI)[..., None] / k + ridge_F1[..., None]
    scale_FC = np.broadcast_to(1 / np.sqrt(spread_FI1), (f, i, k)).reshape(f, i * k)

    def loss(flat: Floats) -> tuple[float, Floats]:
        beta_FC = flat.reshape(f, i * k) * scale_FC
        logit_GIK = (design_GF @ beta_FC).reshape(g, i, k) + options_IK
        logit_GIK -= logit_GIK.max(-1, keepdims=True)
        power_GIK = np.exp(logit_GIK)
        norm_GI1 = power_GIK.sum(-1, keepdims=True)
        logp_GIK = np.where(np.isfinite(logit_GIK), logit_GIK, 0.0) - np.log(norm_GI1)
        off_GC = (power_GIK / norm_GI1 * total_GI1 - counts_GIK).reshape(g, i * k)
        value = float((ridge_F1 * beta_FC**2).sum() / 2 - (counts_GIK * logp_GIK).sum())
        return value / total, ((design_GF.T @ off_GC + ridge_F1 * beta_FC) * scale_FC / total).ravel()

    exact = {"maxiter": STEPS, "maxfun": 2 * STEPS, "maxcor": 20, "gtol": MISFIT / total, "ftol": 0.0}
    found = minimize(loss, (start.reshape(f, i * k) / scale_FC).ravel(), jac=True, method="L-BFGS-B", options=exact)
    return np.asarray((found.x.reshape(f, i * k) * scale_FC).reshape(f, i, k))


def log_linear_shares(beta_FIK: Floats, design_GF: Floats, shares_GIK: Floats) -> Floats:
    """Shares [G, I, K] that the coefficients give to groups of these features; options as in ``shares_GIK``."""
    logit_GIK = np.tensordot(design_GF, beta_FIK, axes=1)
    return softmax(np.where(np.isnan(shares_GIK).all(0), np.nan, logit_GIK))
