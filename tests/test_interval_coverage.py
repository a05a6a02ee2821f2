"""The benchmark of the intervals: its exact part against plain sums, and the keys that it promises."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.stats import beta
from typed import benchmark


def test_the_coverage_of_the_intervals() -> None:
    found, _ = benchmark("interval_coverage", "--answers", "100")
    worst = found["as_counted"]["30"]
    p, n, held = worst["least_at"], 30, 0.0
    for k in range(n + 1):
        low, high = beta(k + 0.5, n - k + 0.5).ppf([0.025, 0.975])
        held += comb(n, k) * p**k * (1 - p) ** (n - k) * (min(low, k / n) <= p <= max(high, k / n))
    assert worst["least"] == pytest.approx(held, abs=2e-4) and worst["least"] < 0.9, "rare options are held less often"
    assert worst["least_common"] > 0.92 and found["as_counted"]["10"]["least_common"] is None
    assert all(0.94 < one["mean"] < 0.96 for one in found["as_counted"].values())
    assert len(found["shrunk"]) == 5 * 2 * 4
    assert np.mean([one["held"] for one in found["shrunk"].values()]) > 0.9
