"""How well each stage tells held-out desirable answers from undesirable ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from valuealign.metrics import behaviour_auc
from valuealign.types import Cell, Estimate


def behaviour_by_stage(
    logps: Mapping[str, Sequence[np.ndarray]], cells: Sequence[Cell], *, base: str
) -> dict[str, Estimate]:
    """The AUC of r = log pi_stage - log pi_base for every stage; empty without behaviour cells.

    ``logps`` holds raw log-probabilities [K] of each cell, in nats; ``base`` is the key of the
    model that ratios are taken against (its own AUC is 0.5).
    """
    if not cells:
        return {}
    desirable, undesirable = [c.desirable for c in cells], [c.undesirable for c in cells]
    return {
        stage: behaviour_auc([now - was for now, was in zip(found, logps[base], strict=True)], desirable, undesirable)
        for stage, found in logps.items()
    }
