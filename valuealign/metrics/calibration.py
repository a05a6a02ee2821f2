"""Are people as sure as the model says? The slope of their shares on its shares."""

from __future__ import annotations

import numpy as np

from valuealign.metrics.distances import Floats, Parts

# An even split that a division has rounded: such a cell says nothing of the slope.
EVEN = 1e-9


def slope_parts(model: Floats, people: Floats, positions: Floats) -> Parts:
    """The calibration slope: least squares of people's shares on the model's, both less 1/K of their cell.

    sum (m - 1/K)(p - 1/K) / sum (m - 1/K)^2 over all options of all cells, every option weighted alike (after
    Cox 1958, who regresses single outcomes on log-odds). 1: where the model puts an option d above an
    even split, the people are d above it on average. Under 1 the model is surer than the people bear out
    (a flatter one would be nearer); over 1 it is too even; 0: unrelated; negative: opposed. A cell that the
    model splits evenly adds nothing, so the uniform model has no slope.

    The people are regressed on the model, not the other way: the model's shares are known exactly, theirs
    are a sample's, and error in what is regressed leaves a slope unbiased, while error in what it is
    regressed on draws it to 0 (so a *sample* in the model's place, such as the split-half, has a slope
    under 1 with nothing amiss).
    """
    model, people = np.broadcast_arrays(model, people)
    known = ~np.isnan(model) & ~np.isnan(people)
    even = 1.0 / np.maximum(known.sum(-1, keepdims=True), 1)
    ours = np.where(known, model - even, 0.0)
    ours = np.where(np.abs(ours) > EVEN, ours, 0.0)
    theirs = np.where(known, people - even, 0.0)
    return Parts(np.sum(ours * theirs, axis=-1), np.sum(ours * ours, axis=-1))
