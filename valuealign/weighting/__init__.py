"""From the sample to the population: what everyone means, margins, trimming, Kish's design effect."""

from __future__ import annotations

from valuealign.weighting.margins import Margins
from valuealign.weighting.weigh import Gap, Kish, Weighted, Weights, kish, weigh

__all__ = ["Gap", "Kish", "Margins", "Weighted", "Weights", "kish", "weigh"]
