"""Where each objective leads on survey cells: how far from the people, and what is left of their spread.

    python benchmarks/objectives_table.py            # prints the table, then one line of JSON
    python benchmarks/objectives_table.py --write    # and puts the table into docs/objectives.md

The cells are those of the embedded population. The policy is a free log-probability for every option, so that nothing
but the objective decides where it ends: Adam, from a reference near the people (their shares, a little noise on the
logits) or far from them (logits drawn at random). People's answers are desirable; the undesirable mass is what people
did not choose (`human`) or the policy's own answers (`policy`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from machine import hardware

from valuealign.config import RunConfig
from valuealign.dataset import build
from valuealign.metrics import entropy_bits, jsd_bits
from valuealign.objectives import OBJECTIVES
from valuealign.objectives.branches import log_mass
from valuealign.packing import Row, wanted
from valuealign.signals import survey_cells
from valuealign.types import Cell, Rendered, Wanted

DOCS = Path(__file__).parents[1] / "docs" / "objectives.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"
BETAS, RATIOS = (0.1, 0.5, 1.0), (0.75, 1.0, 4 / 3, 2.0)
REFERENCES = {"near": 0.3, "far": 1.5}  # standard deviation of the logits: of the noise, and of the whole


class Setting(NamedTuple):
    """An objective with its hyperparameters, as a row of the table names it."""

    name: str
    objective: str
    hyper: dict[str, Any]
    beta: str = "-"
    ratio: str = "-"


def settings() -> Iterator[Setting]:
    """Every row of the table."""
    yield Setting("distribution, KL", "distribution", {})
    yield Setting("distribution, Wasserstein", "distribution", {"distance": "wasserstein"})
    yield from (Setting("DPO, human", "dpo", {"beta": beta}, f"{beta:g}") for beta in BETAS)
    for negatives in ("human", "policy"):
        for beta in BETAS:
            for ratio in RATIOS:
                hyper = {"beta": beta, "lambda_d": ratio, "lambda_u": 1.0, "negatives": negatives}
                yield Setting(f"KTO, {negatives}", "kto", hyper, f"{beta:g}", f"{ratio:.3g}")


def cells(count: int) -> list[Cell]:
    """Cells of the embedded population, evenly picked, with what people did not choose as undesirable mass."""
    data = build(RunConfig())
    found = survey_cells(data.train, data.splits.train, undesirable="others")
    return found[:: max(1, len(found) // count)][:count]


def asked(some: list[Cell], reference: np.ndarray) -> Wanted:
    """The cells as an objective reads them, with log pi_ref [N]."""
    ends = np.cumsum([len(c.completions) for c in some])[:-1]
    rows = [
        Row(Rendered(cell, (), ((),) * len(cell.completions)), tuple(part))
        for cell, part in zip(some, np.split(reference, ends), strict=True)
    ]
    return wanted(rows)


def normalised(logits_N: torch.Tensor, cell_N: torch.Tensor) -> torch.Tensor:
    """Log-shares [N]: logits less their log-sum-exp over the cell."""
    return logits_N - log_mass(logits_N, cell_N, int(cell_N[-1]) + 1)[cell_N]


def descend(setting: Setting, some: list[Cell], spread: float, far: bool, steps: int) -> list[np.ndarray]:
    """The policy's shares [K] of each cell after training from a reference."""
    rng = np.random.default_rng(0)
    people = np.concatenate([c.desirable for c in some])
    noise = spread * rng.standard_normal(len(people))
    cell_N = asked(some, noise).cell_N
    reference = normalised(torch.tensor(noise if far else np.log(people + 1e-3) + noise), cell_N)
    batch = asked(some, reference.numpy())
    theta = reference.float().clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-4)
    objective = OBJECTIVES[setting.objective]
    for _ in range(steps):
        optimizer.zero_grad()
        terms = objective.loss(normalised(theta, cell_N), batch, **setting.hyper)
        (terms.loss.total / terms.loss.count).backward()
        optimizer.step()
        schedule.step()
    ends = np.cumsum([len(c.completions) for c in some])[:-1]
    return np.split(normalised(theta.detach().double(), cell_N).exp().numpy(), ends)


def judge(shares: list[np.ndarray], some: list[Cell]) -> dict[str, float]:
    """Distance from the people in milli-bits, entropy in bits, and that over the people's (dispersion)."""
    width = max(len(c.completions) for c in some)

    def padded(rows: list[Any]) -> np.ndarray:
        return np.array([[*row, *[np.nan] * (width - len(row))] for row in rows], dtype=np.float64)

    model, people = padded(shares), padded([c.desirable for c in some])
    entropy = entropy_bits(model)
    return {
        "jsd_millibits": 1000 * float(np.mean(jsd_bits(model, people))),
        "dispersion": float(entropy.sum() / entropy_bits(people).sum()),
        "entropy_bits": float(entropy.mean()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown; a reference near and one far beside each other."""
    figures = ("jsd_millibits", "dispersion", "entropy_bits")
    heads = [f"{name}, {place}" for place in REFERENCES for name in ("JSD", "dispersion", "entropy")]
    lines = [f"| objective | beta | lambda ratio | {' | '.join(heads)} |", "|---|---|---|" + "---|" * len(heads)]
    for row in rows:
        shown = [f"{row[place][name]:.{1 if name == figures[0] else 2}f}" for place in REFERENCES for name in figures]
        lines.append(f"| {row['name']} | {row['beta']} | {row['ratio']} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--cells", "count", default=60, show_default=True, type=click.IntRange(min=2))
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(min=1))
@click.option("--write", is_flag=True, help="put the table into docs/objectives.md")
def main(count: int, steps: int, write: bool) -> None:
    torch.set_num_threads(1)
    began, some, rows = time.perf_counter(), cells(count), []
    for setting in settings():
        row: dict[str, Any] = {"name": setting.name, "beta": setting.beta, "ratio": setting.ratio}
        for place, spread in REFERENCES.items():
            row[place] = judge(descend(setting, some, spread, place == "far", steps), some)
        rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
    if write:
        before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
        DOCS.write_text(before + BEGIN + table(rows) + END + rest.partition(END)[2], encoding="utf-8")
    fair = [row for row in rows if row["name"] == "KTO, policy" and row["ratio"] == "1"]
    figures = {
        "cells": len(some),
        "steps": steps,
        "kto_human_least_jsd_millibits": min(_worse(row) for row in rows if row["name"] == "KTO, human"),
        "kto_policy_equal_lambdas_most_jsd_millibits": max(_worse(row) for row in fair),
        "rows": rows,
        "seconds": round(time.perf_counter() - began, 1),
        "hardware": hardware(),
    }
    print(json.dumps(figures))


def _worse(row: dict[str, Any]) -> float:
    """The larger distance of the two references."""
    return max(round(float(row[place]["jsd_millibits"]), 3) for place in REFERENCES)


if __name__ == "__main__":
    main()
