"""How often the evaluation's 95 % intervals hold what they are of (simulated).

    python benchmarks/judge_coverage.py
    python benchmarks/judge_coverage.py --replicates 50      # a quick look

In each replicate everything is drawn anew: items with the public's true answers by sex and age, two
fixed models' answers to them, and people of both parts, whose answers to different items go together
(a person's own leaning) and who may be weighted. Each goes through the exam as a survey does, and is
judged. An interval should hold the figure's expectation over new items and new people, as many as
there were: so the floor bias that comes with their number is part of what is meant. A gain should
hold (null - model) / (null - floor) of the expected figures.

``held`` is of 100 intervals; ``width`` is the mean half-width over 1.96 standard deviations of the figure:
above 1 the interval is wider than it need be. The noise floor's own interval is over items: it is the
floor of the people who were asked ("the same people"), and too narrow for others, among whom groups
have other sizes. ``floor`` is the noise floor over what the true shares score. The last line is JSON.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import click
import numpy as np
import polars as pl
from scipy.special import ndtr

from valuealign.evaluate import FLOOR, Evaluation, build_exam
from valuealign.metrics import softmax
from valuealign.splits import Splits
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group, Item, Option

SEXES, AGES, SHARE_T = ("f", "m"), ("old", "mid", "young"), np.outer([0.5, 0.5], [0.5, 0.3, 0.2]).ravel()
TYPES = [(sex, age) for sex in SEXES for age in AGES]
TEXTS = ("never", "seldom", "often", "always")
PAIRS = tuple(Group((("age", age), ("sex", sex))) for sex, age in TYPES)
SINGLES = tuple(Group((one,)) for one in [("sex", sex) for sex in SEXES] + [("age", age) for age in AGES])
METRICS = ("jsd_bits", "wasserstein", "total_variation", "mode_accuracy", "dispersion")


class World(NamedTuple):
    """``people`` in each part answer ``items``; ``away`` is how far (logits) the better model is from the public.

    ``leaning`` is the correlation of a person's answers, ``weights`` the spread of the weights' logarithm.
    ``same``: the people's traits and weights are the same in every replicate, and only their answers are new.
    """

    items: int = 24
    people: int = 400
    away: float = 0.3
    leaning: float = 0.0
    weights: float = 0.0
    same: bool = False


WORLDS = {
    "usual": World(leaning=0.2, weights=0.4),
    "independent answers": World(),
    "many people": World(people=1500, leaning=0.2, weights=0.4),
    "few items": World(items=8, leaning=0.2, weights=0.4),
    "many items": World(items=60, leaning=0.2, weights=0.4),
    "near the floor": World(away=0.05, leaning=0.2, weights=0.4),
    "the same people": World(leaning=0.2, weights=0.4, same=True),
}


def drawn(world: World, rng: np.random.Generator) -> tuple[Survey, np.ndarray, Splits, dict[str, np.ndarray]]:
    """A survey, its weights and splits, and shares [T, I, K] of the public and two models for each pair of traits."""
    shape, k = (len(TYPES), world.items), len(TEXTS)
    sex_T, age_T = np.divmod(np.arange(len(TYPES)), len(AGES))
    base = rng.normal(0, 0.8, (1, world.items, k))
    shift = rng.normal(0, 0.4, (2, world.items, k))[sex_T] + rng.normal(0, 0.4, (3, world.items, k))[age_T]
    logits = base + shift + rng.normal(0, 0.2, (*shape, k))
    shares = {"true": softmax(logits)}
    for name, times in (("better", 1.0), ("worse", 1.3)):
        wrong = rng.normal(0, times * world.away, (1, world.items, k)) + rng.normal(0, world.away / 2, (*shape, k))
        shares[name] = softmax(logits + wrong)
    n = 2 * world.people
    asked = np.random.default_rng(0) if world.same else rng
    type_P = asked.choice(len(TYPES), n, p=SHARE_T)
    weights_P = np.exp(asked.normal(0, world.weights, n))
    leaning = np.sqrt(world.leaning) * rng.normal(size=(n, 1))
    chance_PI = ndtr(leaning + np.sqrt(1 - world.leaning) * rng.normal(size=(n, world.items)))
    answer_PI = (shares["true"].cumsum(2)[type_P][:, :, :-1] < chance_PI[:, :, None]).sum(2)
    options = tuple(Option(place, text, float(place)) for place, text in enumerate(TEXTS))
    items = tuple(Item(f"q{i:02}", f"Question {i}?", options) for i in range(world.items))
    traits = (Trait("age", "age", AGES, {a: a for a in AGES}), Trait("sex", "sex", SEXES, {s: s for s in SEXES}))
    people = pl.DataFrame(
        {
            "person": [f"{p:05}" for p in range(n)],
            "weight": np.ones(n),
            "age": [TYPES[t][1] for t in type_P],
            "sex": [TYPES[t][0] for t in type_P],
            **{item.id: pl.Series(answer_PI[:, i], dtype=pl.Int16) for i, item in enumerate(items)},
        }
    )
    trained = tuple((item.id, group) for item in items for group in (EVERYONE, *SINGLES))
    held = {("cells", "report"): tuple((item.id, group) for item in items for group in PAIRS)}
    splits = Splits(np.repeat(np.array([0, 2], dtype=np.int8), world.people), held, trained)
    return Survey(Codebook("test", "A simulation", items, traits), people), weights_P, splits, shares


def judged(world: World, bootstrap: int, seed: list[int]) -> Evaluation:
    """One replicate through the exam."""
    survey, weights_P, splits, shares = drawn(world, np.random.default_rng(seed))
    groups = (EVERYONE, *SINGLES, *PAIRS)
    exam = build_exam(survey, weights_P, groups, splits, bootstrap=bootstrap, seed=seed[-1])
    place = {item.id: i for i, item in enumerate(survey.codebook.items)}
    pair = {group: t for t, group in enumerate(PAIRS)}
    answers = {
        name: [np.log(shares_TIK[pair[group], place[item]]) for item, group in exam.asked]
        for name, shares_TIK in shares.items()
    }
    return exam.judge(answers)


def figures(world: World, replicates: int, bootstrap: int, seed: int) -> dict[str, dict[str, float]]:
    """``held`` and ``width`` of every figure, and ``floor`` of the distances."""
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for replicate in range(replicates):
        for row in judged(world, bootstrap, [seed, replicate]).rows:
            found[row.who, row.metric].append((row.estimate.value, row.estimate.low, row.estimate.high))
    drawn_R3 = {key: np.array(value) for key, value in found.items()}
    mean = {key: float(np.nanmean(value[:, 0])) for key, value in drawn_R3.items()}
    expected = dict(mean)
    for who, metric in drawn_R3:
        if metric.startswith("gain("):
            of = metric[5:-1]
            null = mean["additive", of]
            expected[who, metric] = (null - mean[who, of]) / (null - mean[FLOOR, of])
    table = {}
    for who, metric, kind in wanted():
        if (who, metric) not in drawn_R3:
            continue
        value_R, low_R, high_R = drawn_R3[who, metric].T
        held = (low_R <= expected[who, metric]) & (expected[who, metric] <= high_R)
        width = np.nanmean(high_R - low_R) / 2 / (1.96 * np.nanstd(value_R))
        table[f"{kind}: {metric}"] = {"held": float(held.mean()), "width": float(width)}
    for metric in METRICS[:3]:
        table[f"floor over perfect: {metric}"] = {"floor": mean[FLOOR, metric] / mean["true", metric]}
    return table


def wanted() -> Iterator[tuple[str, str, str]]:
    """Whose figure, in what, and what kind it is."""
    for metric in METRICS:
        yield "better", metric, "model"
        yield "worse - better", metric, "difference"
        yield "additive", metric, "null"
        yield FLOOR, metric, "noise floor"
    for metric in METRICS[:3]:
        yield "better", f"gain({metric})", "gain"


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "))
@click.option("--replicates", default=300, show_default=True, type=click.IntRange(min=10))
@click.option("--bootstrap", default=200, show_default=True, type=click.IntRange(min=20), help="as evaluate.bootstrap")
@click.option("--world", "worlds", multiple=True, type=click.Choice(list(WORLDS)), help="all, without it")
@click.option("--seed", default=7, show_default=True)
def main(replicates: int, bootstrap: int, worlds: tuple[str, ...], seed: int) -> None:
    found = {}
    for name in worlds or WORLDS:
        found[name] = figures(WORLDS[name], replicates, bootstrap, seed)
        print(f"\n{name}: {WORLDS[name]._asdict()}")
        for figure, one in found[name].items():
            shown = (
                f"held {100 * one['held']:5.1f}  width {one['width']:.2f}" if "held" in one else f"{one['floor']:.2f}"
            )
            print(f"  {figure:32} {shown}", flush=True)
    plain = {w: {f: {k: round(v, 4) for k, v in one.items()} for f, one in of.items()} for w, of in found.items()}
    print(json.dumps({"worlds": plain, "replicates": replicates, "bootstrap": bootstrap, "seed": seed}))


if __name__ == "__main__":
    main()
