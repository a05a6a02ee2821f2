"""1,000 questions to 50 groups, scored with all options behind one prompt and with each option in a forward of its own.

    python benchmarks/evaluate_scale.py
    python benchmarks/evaluate_scale.py --whole       # ours on all 50,000 cells too, not on a sample only

The questions are closed, of four or five options, in the words of the seed model's text; with 50 groups they make
50,000 cells. An answer is the log-probability of one option. Both sides go through Host.score, so that tokens, sorting
by length, token budget, kernels and threads are the same: ours is given cells, whose prompt is forwarded once, the
other side each option as a cell of its own. They score the same cells, drawn at random, in rounds, turn about which
goes first, and must give the same. The ceiling is the ratio of tokens forwarded, padding left out. The last line is
JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, product
from random import Random
from typing import Any

import click
import numpy as np
import torch
from machine import hardware
from torch.nn.modules.module import register_module_forward_pre_hook

from valuealign.models.host import Host
from valuealign.models.score import CellModel
from valuealign.models.seed_text import closed
from valuealign.signals import question
from valuealign.types import Cell, Group, Item, Option

OPTIONS = (4, 5)
SEXES = ("man", "woman")
AGES = ("18 to 29", "30 to 44", "45 to 59", "60 to 74", "75 to 90")
PLACES = ("a village", "a town", "a suburb", "a city", "the capital")
GROUPS = len(SEXES) * len(AGES) * len(PLACES)
APART = 1e-3  # nats between the two sides' log-probabilities of an answer, at most
WARM_UP = 50  # cells


def make_items(count: int) -> list[Item]:
    """So many different closed questions, as the seed model's text has them."""
    rng, found = Random(0), dict[tuple[str, ...], Item]()
    while len(found) < count:
        sample = closed(rng)
        text, options = sample.messages[-1].content.partition("\n")[0], sample.completions
        if len(options) in OPTIONS:
            made = tuple(Option(k, option) for k, option in enumerate(options))
            found.setdefault((text, *options), Item(f"q{len(found) + 1}", text, made))
    return list(found.values())


def make_groups(count: int) -> list[Group]:
    """So many crossings of sex, age and place."""
    return [
        Group((("age", age), ("place", place), ("sex", sex)), f"a {sex} aged {age} who lives in {place}")
        for sex, age, place in islice(product(SEXES, AGES, PLACES), count)
    ]


def make_cells(items: Sequence[Item], groups: Sequence[Group]) -> list[Cell]:
    """Every question put to every group; the masses do not matter here."""
    none = {item.id: [0.0] * len(item.options) for item in items}
    return [question(item, group, none[item.id], none[item.id], n_eff=0.0) for item in items for group in groups]


def separate(cells: Sequence[Cell]) -> list[Cell]:
    """Each option of each cell as a cell of its own."""
    return [
        replace(cell, completions=(text,), desirable=(0.0,), undesirable=(0.0,), positions=())
        for cell in cells
        for text in cell.completions
    ]


@dataclass
class Side:
    """What one way of scoring has done so far; ``padded`` are its ``tokens`` with padding."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all threads
    answers: int = 0
    tokens: int = 0
    padded: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    def score(self, host: Host, cells: Sequence[Cell]) -> np.ndarray:
        """Log-probabilities [answers] of the base, timed and counted."""
        with self._counting():
            began, cpu_began = time.perf_counter(), time.process_time()
            found = np.concatenate(host.score(None, cells))
            self.seconds += time.perf_counter() - began
            self.cpu_seconds += time.process_time() - cpu_began
        self.answers += len(found)
        return found

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Count what models are given meanwhile: a few microseconds of a forward's tenth of a second."""

        def count(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
            if isinstance(module, CellModel):
                self.tokens += given[0].tokens
                self.padded += given[0].input_ids_BT.numel()

        hook = register_module_forward_pre_hook(count)
        try:
            yield
        finally:
            hook.remove()


def race(host: Host, rounds: Sequence[Sequence[Cell]]) -> tuple[Side, Side, list[float], float]:
    """Our side and the other after all rounds, each round's ratio, and the largest difference in nats.

    Ends the benchmark where an answer differs by more than APART.
    """
    ours, theirs, ratios, largest = Side(), Side(), list[float](), 0.0
    for number, cells in enumerate(rounds, start=1):
        turns = [(ours, cells), (theirs, separate(cells))]
        before = ours.seconds, theirs.seconds
        if number % 2:
            found = [side.score(host, given) for side, given in turns]
        else:
            found = [side.score(host, given) for side, given in turns[::-1]]
        largest = max(largest, float(np.abs(found[0] - found[1]).max()))
        if not largest <= APART:
            raise SystemExit(f"the two sides differ by {largest:.3g} nats")
        mine, other = ours.seconds - before[0], theirs.seconds - before[1]
        ratios.append(round(other / mine, 2))
        took = f"{mine:.2f} s and {other:.2f} s"
        print(f"round {number}: {len(cells):,} cells, {len(found[0]):,} answers: {took}", flush=True)
    return ours, theirs, ratios, largest


def compare(host: Host, cells: list[Cell], *, rounds: int, each: int, whole: bool) -> dict[str, Any]:
    """All figures, of ``rounds`` of ``each`` cells drawn without replacement; with ``whole`` ours on all cells too."""
    threads = torch.get_num_threads()
    order = np.random.default_rng(0).permutation(len(cells))[: rounds * each]
    drawn = [[cells[i] for i in part] for part in np.array_split(order, rounds)]
    for given in (drawn[0][:WARM_UP], separate(drawn[0][:WARM_UP])):
        host.score(None, given)
    ours, theirs, ratios, largest = race(host, drawn)
    print(f"the same log-probabilities, up to {largest:.1e} nats", flush=True)
    all_of_it = Side()
    if whole:
        all_of_it.score(host, cells)
        print(f"all {len(cells):,} cells: {all_of_it.seconds:.1f} s, {all_of_it.rate:,.0f} answers a second")
    # Both sides gave as many answers, so tokens and seconds stand in the same ratio as those of an answer.
    ratio, ceiling = theirs.seconds / ours.seconds, theirs.tokens / ours.tokens
    return {
        "answers_per_second": round(ours.rate),
        "separate_answers_per_second": round(theirs.rate),
        "ratio_vs_separate_forwards": round(ratio, 3),
        "ceiling": round(ceiling, 3),
        "fraction_of_ceiling": round(ratio / ceiling, 3),
        "ratio_by_round": ratios,
        "ratio_of_cpu_seconds": round(theirs.cpu_seconds / ours.cpu_seconds, 3),
        "waiting": round(1 - (ours.cpu_seconds + theirs.cpu_seconds) / (ours.seconds + theirs.seconds) / threads, 3),
        "padding": round(1 - ours.tokens / ours.padded, 4),
        "separate_padding": round(1 - theirs.tokens / theirs.padded, 4),
        "largest_difference": largest,
        "seconds_of_all_cells": round(all_of_it.seconds or ours.seconds / len(order) * len(cells), 2),
        "all_cells_measured": whole,
        "all_cells_answers_per_second": round(all_of_it.rate) if whole else None,
        "threads": threads,
        "cells": len(cells),
        "cells_compared": len(order),
        "answers_compared": ours.answers,
        "tokens_an_answer": round(ours.tokens / ours.answers, 2),
    }


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--items", default=1000, show_default=True, type=click.IntRange(min=1))
@click.option("--groups", default=GROUPS, show_default=True, type=click.IntRange(min=1, max=GROUPS))
@click.option("--cells", default=1000, show_default=True, type=click.IntRange(min=1), help="of a round, at most")
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--whole", is_flag=True, help="score all cells too, on our side")
@click.option("--model", default="seed", show_default=True, help="or a Hugging Face folder")
def main(items: int, groups: int, cells: int, rounds: int, whole: bool, model: str) -> None:
    made = make_cells(make_items(items), make_groups(groups))
    rounds = min(rounds, len(made))
    each = min(cells, len(made) // rounds)
    figures = compare(Host(model), made, rounds=rounds, each=each, whole=whole)
    figures |= {"items": items, "groups": groups, "model": model}
    print(json.dumps(figures | {"hardware": hardware()}))


if __name__ == "__main__":
    main()
