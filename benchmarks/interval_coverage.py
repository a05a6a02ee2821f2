"""How often 95 % intervals hold the true share: as counted (exactly), and of shrunk targets (simulated).

    python benchmarks/interval_coverage.py
    python benchmarks/interval_coverage.py --answers 1000     # a quick look at the shrunk targets

First, for n answers that count alike and true shares from 0.001 to 0.999: the probability of every
count that n people can give, summed over those whose interval holds the share. No simulation, and the
same for any number of options, as each is taken against all others. ``93..98`` is the part of the true
shares whose coverage lies between the two.

Then shrunk targets: groups of 60 people who make up everyone, their true shares drawn around those of
everyone (Dirichlet, kappa; inf: all alike), for an item of 3 options and one of 10. How often the
interval holds the group's true share, of 100 times, and how wide it is beside that of the shares as
counted. The last line is JSON.
"""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
from scipy.stats import binom

from valuealign.population import ShareTable, shrink
from valuealign.population.table import intervals
from valuealign.types import EVERYONE, Group, Item, Option

SIZES = (10, 30, 60, 100, 300, 1000, 5000)
GROUPS = (2, 3, 8, 30, 150)
KAPPAS = (20.0, 100.0, 400.0, float("inf"))
SHARES = {"3 options": (0.6, 0.3, 0.1), "10 options": (0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01)}
# People in each simulated group.
SIZE = 60
# An option is common where so many people are expected to choose it, and so many not to.
COMMON = 10
# What the coverage is meant to be near.
NEAR = (0.93, 0.98)


def exact(n: int) -> dict[str, float]:
    """Coverage over true shares p: over all of them, and over those that are ``COMMON`` among n people."""
    count = np.arange(n + 1)
    low, high = intervals(count + 0.5, n - count + 0.5, count / n)
    shares = np.unique(np.round(np.concatenate([np.arange(1, 20) / 1000, np.arange(4, 197) / 200]), 4))
    shares = np.unique(np.round(np.concatenate([shares, 1 - shares]), 4))
    held = np.array([binom.pmf(count, n, p)[(low <= p) & (p <= high)].sum() for p in shares])
    common = n * np.minimum(shares, 1 - shares) >= COMMON
    return {
        "mean": float(held.mean()),
        "least": float(held.min()),
        "least_at": float(shares[held.argmin()]),
        "most": float(held.max()),
        "near": float(((held >= NEAR[0]) & (held <= NEAR[1])).mean()),
        "least_common": float(held[common].min()) if common.any() else float("nan"),
    }


def drawn(kappa: float, shares: tuple[float, ...], groups: int, items: int, seed: int) -> tuple[ShareTable, np.ndarray]:
    """Groups who make up everyone, and their true shares [G, I, K]."""
    rng = np.random.default_rng(seed)
    alike = np.broadcast_to(shares, (groups, items, len(shares)))
    true_GIK = alike if np.isinf(kappa) else rng.dirichlet(kappa * np.array(shares), (groups, items))
    found_GIK = rng.multinomial(SIZE, true_GIK) / SIZE
    n_GI = np.full((groups + 1, items), SIZE)
    n_GI[0] = SIZE * groups
    options = tuple(Option(k, f"o{k}") for k in range(len(shares)))
    table = ShareTable(
        tuple(Item(f"q{i}", f"Question {i}?", options) for i in range(items)),
        (EVERYONE, *(Group((("region", str(g)),)) for g in range(groups))),
        np.concatenate([found_GIK.mean(axis=0, keepdims=True), found_GIK]),
        n_GI,
        n_GI.astype(float),
    )
    return table, true_GIK


def shrunk(kappa: float, shares: tuple[float, ...], groups: int, answers: int, seed: int) -> dict[str, float]:
    """Coverage of the targets of about ``answers`` (item, group) pairs, and their width beside the raw shares'."""
    table, true_GIK = drawn(kappa, shares, groups, max(10, answers // groups), seed)
    found = shrink(table)
    low, high = intervals(*found.posterior(), found.shares_GIK)
    raw_low, raw_high = intervals(*table.posterior(), table.shares_GIK)
    covered = (low[1:] <= true_GIK) & (true_GIK <= high[1:])
    return {"held": float(covered.mean()), "width": float((high - low)[1:].mean() / (raw_high - raw_low)[1:].mean())}


def report(answers: int, seed: int) -> dict[str, Any]:
    print("As counted: how often the interval holds the true share, of 100 times")
    print(f"{'n':>6} {'mean':>6} {'least':>6} {'at p':>7} {'most':>6} {'93..98':>7} {'least where common':>19}")
    counted = {}
    for n in SIZES:
        one = counted[str(n)] = exact(n)
        mean, least, most, near, common = (100 * one[key] for key in ("mean", "least", "most", "near", "least_common"))
        print(f"{n:>6} {mean:6.1f} {least:6.1f} {one['least_at']:7.3f} {most:6.1f} {near:6.0f}% {common:19.1f}")
    print(f"common: {COMMON} people or more are expected to choose the option, and as many not to")
    print(f"\nShrunk targets of groups of {SIZE}: held, of 100 times (width beside the shares as counted)")
    print(f"{'groups':>6} {'options':>10} " + " ".join(f"{f'kappa {kappa:g}':>14}" for kappa in KAPPAS))
    drawn_in = {}
    for groups in GROUPS:
        for name, shares in SHARES.items():
            row = [shrunk(kappa, shares, groups, answers, seed) for kappa in KAPPAS]
            drawn_in |= {f"{groups} groups, {name}, kappa {k:g}": one for k, one in zip(KAPPAS, row, strict=True)}
            cells = (f"{100 * one['held']:.1f} ({one['width']:.2f})" for one in row)
            print(f"{groups:>6} {name:>10} " + " ".join(f"{cell:>14}" for cell in cells), flush=True)
    return {"as_counted": rounded(counted), "shrunk": rounded(drawn_in), "answers": answers, "seed": seed}


def rounded(tree: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    return {name: {k: None if np.isnan(v) else round(v, 4) for k, v in one.items()} for name, one in tree.items()}


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--answers", default=6_000, show_default=True, type=click.IntRange(min=100), help="pairs of each cell")
@click.option("--seed", default=7, show_default=True)
def main(answers: int, seed: int) -> None:
    print(json.dumps(report(answers, seed)))


if __name__ == "__main__":
    main()
