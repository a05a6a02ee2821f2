"""How well a model tells desirable answers from undesirable ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from valuealign.metrics.distances import Floats
from valuealign.types import Estimate

Pairs = Literal["within", "all"]
Drawn = tuple[float, Floats, int]


def pairing(desirable: Sequence[Sequence[float]], undesirable: Sequence[Sequence[float]]) -> Pairs:
    """``within`` where some prompt has a desirable and another, undesirable answer; else ``all``."""
    within = any(
        _weights(np.asarray(d, float), np.asarray(u, float)).sum() > 0
        for d, u in zip(desirable, undesirable, strict=True)
    )
    return "within" if within else "all"


def behaviour_auc(
    ratios: Sequence[Sequence[float] | Floats],
    desirable: Sequence[Sequence[float]],
    undesirable: Sequence[Sequence[float]],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    pairs: Pairs | None = None,
) -> Estimate:
    """Mass-weighted AUC: how often a desirable answer has the larger ratio than an undesirable one.

    ``ratios`` holds one array [K] a prompt: r = log pi_theta - log pi_ref in nats (or plain
    log-probabilities, where there is no reference). Answers i, j of one prompt count
    d_i * u_j; ties count half; an answer is never paired with itself. Pairs stay within a prompt,
    because log-ratios of different prompts and lengths are not on one scale; only where no prompt
    has both kinds (one completion a prompt) are all prompts compared: ``pairing`` says which, and
    ``pairs`` forces one. The 95 % interval resamples prompts; ``n`` is the number of prompts that
    count. NaN where nothing can be compared.
    """
    return _estimate(*_drawn(ratios, desirable, undesirable, bootstrap, seed, pairs))


def behaviour_difference(
    ratios: Sequence[Sequence[float] | Floats],
    others: Sequence[Sequence[float] | Floats],
    desirable: Sequence[Sequence[float]],
    undesirable: Sequence[Sequence[float]],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """AUC of ``ratios`` minus that of ``others``, paired: every resample draws the same prompts for both.

    Arguments as in ``behaviour_auc``.
    """
    (one, one_B, n), (other, other_B, _) = (
        _drawn(some, desirable, undesirable, bootstrap, seed, None) for some in (ratios, others)
    )
    return _estimate(one - other, one_B - other_B, n)


def _drawn(
    ratios: Sequence[Sequence[float] | Floats],
    desirable: Sequence[Sequence[float]],
    undesirable: Sequence[Sequence[float]],
    bootstrap: int,
    seed: int,
    pairs: Pairs | None,
) -> Drawn:
    """The AUC, its resamples [B] (the same prompts for the same seed), and how many prompts count."""
    use = pairs or pairing(desirable, undesirable)
    cells = [
        (np.asarray(r, float), np.asarray(d, float), np.asarray(u, float))
        for r, d, u in zip(ratios, desirable, undesirable, strict=True)
    ]
    rng = np.random.default_rng(seed)
    return _within(cells, bootstrap, rng) if use == "within" else _across(cells, bootstrap, rng)


def _weights(d: Floats, u: Floats) -> Floats:
    weight = np.outer(d, u)
    np.fill_diagonal(weight, 0.0)
    return weight


def _within(cells: list[tuple[Floats, Floats, Floats]], bootstrap: int, rng: np.random.Generator) -> Drawn:
    won, weight = [], []
    for r, d, u in cells:
        pair = _weights(d, u)
        if pair.sum() > 0:
            won.append(np.sum(pair * _beats(r)))
            weight.append(pair.sum())
    if not weight:
        return float("nan"), np.full(bootstrap, np.nan), 0
    picks = rng.multinomial(len(weight), np.full(len(weight), 1 / len(weight)), size=bootstrap)
    draws = (picks @ np.array(won)) / (picks @ np.array(weight))
    return float(np.sum(won) / np.sum(weight)), draws, len(weight)


def _beats(r: Floats) -> Floats:
    won: Floats = np.where(r[:, None] > r[None, :], 1.0, np.where(r[:, None] == r[None, :], 0.5, 0.0))
    return won


def _across(cells: list[tuple[Floats, Floats, Floats]], bootstrap: int, rng: np.random.Generator) -> Drawn:
    kept = [cell for cell in cells if cell[1].sum() + cell[2].sum() > 0]
    if not kept:
        return float("nan"), np.full(bootstrap, np.nan), 0
    r, d, u = (np.concatenate([cell[i] for cell in kept]) for i in range(3))
    prompt = np.repeat(np.arange(len(kept)), [len(cell[0]) for cell in kept])
    rank = np.unique(r, return_inverse=True)[1]

    def auc(times: Floats) -> float:
        low = np.bincount(rank, weights=u * times, minlength=rank.max() + 1)
        below = np.cumsum(low) - low / 2
        itself = np.sum(d * u * times * times)
        weight = np.sum(d * times) * np.sum(u * times) - itself
        return float((np.sum(d * times * below[rank]) - itself / 2) / weight) if weight > 0 else float("nan")

    picks = rng.multinomial(len(kept), np.full(len(kept), 1 / len(kept)), size=bootstrap).astype(np.float64)
    draws = np.array([auc(times[prompt]) for times in picks])
    return auc(np.ones(len(r))), draws, len(kept)


def _estimate(value: float, draws: Floats, n: int) -> Estimate:
    known = draws[np.isfinite(draws)]
    if not np.isfinite(value) or len(known) < 2:
        return Estimate(value, float("nan"), float("nan"), n)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(value, float(low), float(high), n)
