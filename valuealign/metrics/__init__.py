"""How far a model's answers are from the people's. Arrays in, arrays or an Estimate out.

``METRICS`` maps a name to a measure of shares against shares; a new one is a file and a line
here. Shape letters: ``K`` options (NaN beyond an item's own), ``C`` cells, ``B`` resamples; ``...``
stands for any leading axes.
"""

from __future__ import annotations

from valuealign.metrics.behaviour import behaviour_auc, behaviour_difference, pairing
from valuealign.metrics.calibration import slope_parts
from valuealign.metrics.distances import (
    Floats,
    Metric,
    Parts,
    dispersion_parts,
    entropy_bits,
    jsd_bits,
    mean_of,
    mode_accuracy,
    on_scale,
    raw_mass,
    softmax,
    total_variation,
    variance,
    variance_parts,
    wasserstein,
)
from valuealign.metrics.intervals import around, crossed_draws, crossed_interval, interval, ratio_draws
from valuealign.metrics.nulls import additive, mean_shares, uniform
from valuealign.metrics.regression import log_linear, log_linear_shares

METRICS: dict[str, Metric] = {
    "jsd_bits": Metric("Jensen-Shannon divergence", "bits", "lower", mean_of(jsd_bits)),
    "wasserstein": Metric("ordinal Wasserstein distance", "share of the scale", "lower", on_scale(wasserstein)),
    "total_variation": Metric("total variation distance", "share", "lower", mean_of(total_variation)),
    "mode_accuracy": Metric("most chosen answer named", "share of cells", "higher", mean_of(mode_accuracy)),
    "dispersion": Metric("dispersion ratio", "model / people", "near 1", dispersion_parts),
    "dispersion_variance": Metric("dispersion ratio of variances", "model / people", "near 1", variance_parts),
    "calibration_slope": Metric("calibration slope", "people's share per model's share", "near 1", slope_parts),
}

__all__ = [
    "METRICS",
    "Floats",
    "Metric",
    "Parts",
    "additive",
    "around",
    "behaviour_auc",
    "behaviour_difference",
    "crossed_draws",
    "crossed_interval",
    "entropy_bits",
    "interval",
    "jsd_bits",
    "log_linear",
    "log_linear_shares",
    "mean_shares",
    "mode_accuracy",
    "pairing",
    "ratio_draws",
    "raw_mass",
    "softmax",
    "total_variation",
    "uniform",
    "variance",
    "wasserstein",
]
