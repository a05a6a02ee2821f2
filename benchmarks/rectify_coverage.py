"""How often rectified shares' 95 % intervals hold the population's shares, and how wide they are (simulated).

    python benchmarks/rectify_coverage.py
    python benchmarks/rectify_coverage.py --replicates 200      # a quick look

In each replicate a population of 12 groups is drawn with its true shares of four options (``apart``: how
far groups differ, logits), a model, and a pilot that draws groups unlike their size and is weighted
back (with noise in the weights), or plainly. The frame is known, or a weighted sample of 2,000 people
known by traits.

    good       the model says exactly what each group says
    biased     as good, but far too many choose the first option, in every group
    useless    other groups' shares: it knows everyone's average and nothing of who differs
    same       the same for every group

``held`` is of 100 intervals (``pilot``: those of the pilot alone), ``width`` that of the rectified over
that of the pilot alone. ``worth`` is how many respondents the model claims to be worth, ``is worth`` how
many it is by the errors that were made. ``least`` is the least ``held`` of one option's place (the
first to the fourth by true size). The last line is JSON.
"""

from __future__ import annotations

import json
from itertools import product
from typing import NamedTuple

import click
import numpy as np

from valuealign.evaluate.rectify import Frame, Rectified, rectify
from valuealign.metrics import softmax

GROUPS, OPTIONS, FRAME = 12, 4, 2000
MODELS = ("good", "biased", "useless", "same")
PILOTS = (30, 100, 200, 1000)
APART = (0.5, 1.5)


class Case(NamedTuple):
    """One replicate: the population's shares [K], and what was found."""

    true_K: np.ndarray
    found: Rectified


def case(model: str, n: int, apart: float, weighted: bool, rng: np.random.Generator) -> Case:
    size_G = rng.dirichlet(np.full(GROUPS, 2.0))
    base_K, shift_GK = rng.normal(0, 0.8, OPTIONS), rng.normal(0, apart, (GROUPS, OPTIONS))
    true_GK = softmax(base_K + shift_GK)
    says_GK = {
        "good": true_GK,
        "biased": softmax(base_K + shift_GK + np.array([1.2, *[0.0] * (OPTIONS - 1)])),
        "useless": softmax(base_K + rng.normal(0, apart, (GROUPS, OPTIONS))),
        "same": np.tile(softmax(base_K), (GROUPS, 1)),
    }[model]
    reached_G = np.exp(rng.normal(0, 0.6, GROUPS)) if weighted else np.ones(GROUPS)
    drawn_G = size_G * reached_G / (size_G @ reached_G)

    def people(count: int) -> tuple[np.ndarray, np.ndarray]:
        group = rng.choice(GROUPS, count, p=drawn_G)
        return group, np.exp(rng.normal(0, 0.2 if weighted else 0.0, count)) / reached_G[group]

    (group_N, weight_N), (group_M, weight_M) = people(n), people(FRAME)
    answer_N = (true_GK.cumsum(1)[group_N, :-1] < rng.random((n, 1))).sum(1)
    frame = Frame.sample(says_GK[group_M], weight_M) if weighted else Frame.known(says_GK, size_G)
    return Case(size_G @ true_GK, rectify(answer_N, says_GK[group_N], weight_N, frame))


def coverage(model: str, n: int, apart: float, weighted: bool, replicates: int, seed: int) -> dict[str, float]:
    """The figures of one kind of model and pilot, over ``replicates`` populations."""
    rng = np.random.default_rng([seed, n, round(10 * apart), weighted, MODELS.index(model)])
    cases = [case(model, n, apart, weighted, rng) for _ in range(replicates)]
    order_RK = np.argsort([-one.true_K for one in cases], axis=1)
    true_RK = np.take_along_axis(np.array([one.true_K for one in cases]), order_RK, 1)
    rectified_3RK, pilot_3RK = (
        np.stack([np.take_along_axis(one_RK, order_RK, 1) for one_RK in _limits(cases, of)])
        for of in ("shares", "pilot")
    )
    held_RK = (rectified_3RK[1] <= true_RK) & (true_RK <= rectified_3RK[2])
    alone_RK = (pilot_3RK[1] <= true_RK) & (true_RK <= pilot_3RK[2])
    error, error_alone = (float(np.mean((one[0] - true_RK) ** 2)) for one in (rectified_3RK, pilot_3RK))
    n_eff = float(np.mean([one.found.n_eff for one in cases]))
    return {
        "held": float(held_RK.mean()),
        "least": float(held_RK.mean(0).min()),
        "pilot": float(alone_RK.mean()),
        "width": float(np.mean(rectified_3RK[2] - rectified_3RK[1]) / np.mean(pilot_3RK[2] - pilot_3RK[1])),
        "lambda": float(np.mean([one.found.lambda_ for one in cases])),
        "n_eff": n_eff,
        "worth": float(np.mean([one.found.gained for one in cases])),
        "is worth": n_eff * (error_alone / error - 1),
    }


def _limits(cases: list[Case], of: str) -> list[np.ndarray]:
    """Values, lower and upper limits [R, K]."""
    estimates = [getattr(one.found, of) for one in cases]
    return [np.array([[getattr(e, part) for e in one] for one in estimates]) for part in ("value", "low", "high")]


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--replicates", default=2000, show_default=True, type=click.IntRange(min=10))
@click.option("--seed", default=7, show_default=True)
def main(replicates: int, seed: int) -> None:
    found = {}
    print("model    pilot apart weights |  held least pilot | width lambda  n_eff  worth  is worth")
    for model, n, apart, weighted in product(MODELS, PILOTS, APART, (False, True)):
        one = coverage(model, n, apart, weighted, replicates, seed)
        found[f"{model}, {n}, apart {apart:g}, {'weighted' if weighted else 'plain'}"] = one
        held, least, alone = (100 * one[key] for key in ("held", "least", "pilot"))
        print(
            f"{model:8} {n:5} {apart:5.1f} {'yes' if weighted else 'no':>7} | {held:5.1f} {least:5.1f} {alone:5.1f} | "
            f"{one['width']:5.2f} {one['lambda']:6.2f} {one['n_eff']:6.0f} {one['worth']:6.1f} {one['is worth']:9.1f}",
            flush=True,
        )
    plain = {name: {key: round(value, 4) for key, value in one.items()} for name, one in found.items()}
    print(json.dumps({"cases": plain, "replicates": replicates, "seed": seed}))


if __name__ == "__main__":
    main()
