"""Distances between two share vectors over the last axis, and what else one reads off them.

All take ``[..., K]`` arrays that broadcast; NaN marks the places beyond an item's own options,
and a vector that is NaN throughout (nobody answered) gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Parts(NamedTuple):
    """A figure as a ratio of sums over cells: ``sum(top) / sum(bottom)``; both ``[...]`` per cell.

    A mean has bottom 1; a cell that does not count has 0 in both.
    """

    top: Floats
    bottom: Floats


class Metric(NamedTuple):
    """A measure of shares against shares: ``measure(model, people, positions)``, all ``[..., K]``."""

    title: str
    unit: str
    better: Literal["lower", "higher", "near 1"]
    measure: Callable[[Floats, Floats, Floats], Parts]


def mean_of(distance: Callable[[Floats, Floats], Floats]) -> Callable[[Floats, Floats, Floats], Parts]:
    """A metric that averages a distance over cells; cells without an answer don't count."""
    return lambda model, people, positions: _averaged(distance(model, people))


def on_scale(distance: Callable[[Floats, Floats, Floats], Floats]) -> Callable[[Floats, Floats, Floats], Parts]:
    """As ``mean_of`` for a distance that also needs the options' positions; nominal cells don't count."""
    return lambda model, people, positions: _averaged(distance(model, people, positions))


def softmax(logp: Floats) -> Floats:
    """Shares [..., K] from raw log-probabilities in nats, renormalised over the options (NaN: no option).

    NaN throughout where nothing was asked.
    """
    top = np.where(np.isnan(logp), -np.inf, logp).max(axis=-1, keepdims=True)
    power = np.exp(logp - top)
    shares: Floats = power / np.nansum(power, axis=-1, keepdims=True)
    return shares


def raw_mass(logp: Floats) -> Floats:
    """How much raw probability falls on the options at all, in [0, 1]: sum of exp(logp) [..., K], nats."""
    mass: Floats = np.nansum(np.exp(logp), axis=-1)
    return mass


def entropy_bits(shares: Floats) -> Floats:
    """Shannon entropy (log base 2) of shares [..., K]; 0 log 0 = 0."""
    known = np.where(np.isnan(shares), 0.0, shares)
    entropy: Floats = -np.sum(known * np.log2(np.maximum(known, np.finfo(np.float64).tiny)), axis=-1)
    return np.where(np.isnan(shares).all(-1), np.nan, entropy)


def jsd_bits(p: Floats, q: Floats) -> Floats:
    """Jensen-Shannon DIVERGENCE in bits: logarithm base 2, no square root; 0 (equal) to 1 (disjoint).

    JSD(P, Q) = H((P + Q)/2) - (H(P) + H(Q))/2 (Lin 1991, eq. 4.1). The literature also prints its
    square root, and base e; those figures are not comparable with these.
    """
    divergence = entropy_bits((p + q) / 2) - (entropy_bits(p) + entropy_bits(q)) / 2
    return np.clip(divergence, 0.0, 1.0)


def total_variation(p: Floats, q: Floats) -> Floats:
    """Half the sum of absolute differences: the share of people who would have to change their answer."""
    apart = np.abs(p - q)
    total: Floats = np.nansum(apart, axis=-1) / 2
    return np.where(np.isnan(apart).all(-1), np.nan, total)


def wasserstein(p: Floats, q: Floats, positions: Floats) -> Floats:
    """Ordinal Wasserstein-1 distance over the scale's range: 0 (equal) to 1 (opposite ends).

    sum_i |F_p(i) - F_q(i)| * (o_{i+1} - o_i) / (o_K - o_1), options sorted by position o. NaN for
    nominal items (positions all NaN); 0 where the scale has one point only.
    """
    p, q, positions = np.broadcast_arrays(p, q, positions)
    order = np.argsort(positions, axis=-1)  # NaN last
    place = np.take_along_axis(positions, order, -1)
    apart = np.take_along_axis(p - q, order, -1)
    nobody = np.isnan(apart).all(-1) | np.isnan(place).all(-1)
    gap = np.nan_to_num(np.diff(place, axis=-1))
    span = np.sum(gap, axis=-1)
    moved = np.sum(np.abs(np.cumsum(np.nan_to_num(apart), axis=-1)[..., :-1]) * gap, axis=-1)
    distance: Floats = np.divide(moved, span, out=np.zeros_like(moved), where=span > 0)
    return np.where(nobody, np.nan, distance)


def mode_accuracy(model: Floats, people: Floats) -> Floats:
    """Whether the model's likeliest option is the people's most chosen one, in [0, 1].

    Several most chosen options all count; a model that ties options gets the share of them that
    is right, so that a uniform model scores chance.
    """
    model, people = np.broadcast_arrays(model, people)
    ours = _modes(model)
    hits: Floats = np.sum(ours & _modes(people), axis=-1) / np.maximum(np.sum(ours, axis=-1), 1)
    return np.where(np.isnan(people).all(-1) | np.isnan(model).all(-1), np.nan, hits)


def dispersion_parts(model: Floats, people: Floats, positions: Floats) -> Parts:
    """Entropy of the model over entropy of the people: under 1 the model is surer than people differ."""
    ours, theirs = np.broadcast_arrays(entropy_bits(model), entropy_bits(people))
    known = ~np.isnan(ours) & ~np.isnan(theirs)
    return Parts(np.where(known, ours, 0.0), np.where(known, theirs, 0.0))


def variance_parts(model: Floats, people: Floats, positions: Floats) -> Parts:
    """Variance of the model's answers over variance of the people's, on the scale from 0 to 1.

    Unlike entropy it knows how far apart answers are: half at either end is .25, all in the middle 0.
    Nominal cells don't count, nor do scales of one point.
    """
    ours, theirs = np.broadcast_arrays(variance(model, positions), variance(people, positions))
    known = ~np.isnan(ours) & ~np.isnan(theirs)
    return Parts(np.where(known, ours, 0.0), np.where(known, theirs, 0.0))


def variance(shares: Floats, positions: Floats) -> Floats:
    """Variance of shares [..., K] on a scale whose ends are 0 and 1: from 0 (one answer) to .25 (half at each end).

    NaN for nominal items (positions all NaN) and where nobody answered; 0 where the scale has one point only.
    """
    shares, positions = np.broadcast_arrays(shares, positions)
    nominal = np.asarray(np.isnan(positions).all(-1, keepdims=True))
    place = np.where(nominal, 0.0, positions)
    low, high = np.nanmin(place, axis=-1, keepdims=True), np.nanmax(place, axis=-1, keepdims=True)
    above = np.nan_to_num(place - low)
    scaled = np.divide(above, high - low, out=np.zeros_like(above), where=high > low)
    known = np.nan_to_num(shares)
    mean = np.sum(known * scaled, axis=-1, keepdims=True)
    spread: Floats = np.sum(known * (scaled - mean) ** 2, axis=-1)
    return np.where(nominal[..., 0] | np.isnan(shares).all(-1), np.nan, spread)


def _averaged(distance: Floats) -> Parts:
    known = ~np.isnan(distance)
    return Parts(np.where(known, distance, 0.0), known.astype(np.float64))


def _modes(shares: Floats) -> NDArray[np.bool_]:
    filled = np.where(np.isnan(shares), -1.0, shares)
    modes: NDArray[np.bool_] = np.isclose(filled, filled.max(-1, keepdims=True), rtol=1e-9, atol=1e-12) & ~np.isnan(
        shares
    )
    return modes
