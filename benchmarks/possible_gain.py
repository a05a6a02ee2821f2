"""How much of the possible gain over the additive null a run makes, on people who took no part, over several splits.

    python benchmarks/possible_gain.py                            # the embedded population, one after the other
    python benchmarks/possible_gain.py -c examples/nonvoters_run.yaml --survey nonvoters_data.csv

For each seed: the run's data, split by that seed into people, groups and cells; the run's stage ``distribution``,
trained in this process; and the exam's ``report`` part. See docs/benchmarks.md for what the keys mean. The last line
is JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from machine import hardware

from valuealign.compare import Learner
from valuealign.config import RunConfig, load
from valuealign.dataset import build
from valuealign.errors import ValuealignError
from valuealign.evaluate import BASELINE, FLOOR, HALF, REGRESSION, Evaluation, Exam, exam_of
from valuealign.learner import plan_stages
from valuealign.metrics import METRICS, Floats, softmax
from valuealign.metrics.intervals import interval
from valuealign.prompts import train_templates
from valuealign.signals import survey_cells
from valuealign.types import Estimate

MODEL, DRAWS = "model", 2000
ASKED = ("cells", "groups")
MEASURES = ("wasserstein", "jsd_bits")
BESIDE = (MODEL, REGRESSION, "additive", "marginal", HALF, FLOOR)
GAINERS = (MODEL, REGRESSION)


def trained_answers(config: RunConfig) -> tuple[Exam, list[np.ndarray], dict[str, Any]]:
    """The exam of a run, what the model answers after stage ``distribution``, and how that went."""
    data = build(config)
    exam = exam_of(config, data.survey, data.weights.weights_P, data.groups, data.splits)
    cells = survey_cells(data.shrunk or data.train, data.splits.train, templates=train_templates(config.prompts))
    (stage,) = plan_stages(config.model_copy(update={"stages": ("distribution",)}), cells, {})
    learner, began, losses = Learner(config), time.perf_counter(), []
    for report in learner.learn(stage):
        losses.append(report.stats["distance"])
        if report.step % 100 == 0:
            print(f"seed {config.seed}: step {report.step}/{report.steps}, loss {report.loss:.4f}", flush=True)
    seconds = round(time.perf_counter() - began, 1)
    last = float(np.mean(losses[-max(1, round(len(losses) / config.distribution.epochs)) :]))
    how = {"seed": config.seed, "trained_cells": len(cells), "steps": stage.steps, "train_seconds": seconds}
    return exam, learner.score(exam.cells), {**how, "train_distance_last_pass": round(last, 5)}


def figures(judged: Evaluation, split: str) -> dict[str, Any]:
    """One split's figures of one seed: [value, low, high] in each measure; an empty mapping where it has none."""
    found: dict[str, Any] = {}
    there = {(row.who, row.metric): row.estimate for row in judged.rows if row.split == split}
    for measure in MEASURES:
        if (MODEL, measure) not in there:
            continue
        wanted = {who: (who, measure) for who in BESIDE}
        wanted |= {f"model - {who}": (f"{MODEL} - {who}", measure) for who in (BASELINE[split], REGRESSION, HALF)}
        wanted |= {"gain": (MODEL, f"gain({measure})")}
        found[measure] = {name: three(there[key]) for name, key in wanted.items() if key in there}
    return found


def three(one: Estimate) -> list[float | None]:
    """Value, low and high; null where there is none."""
    return [round(x, 5) if np.isfinite(x) else None for x in (one.value, one.low, one.high)]


def by_item(exam: Exam, logps: Sequence[np.ndarray], split: str, measure: str) -> dict[str, Floats]:
    """Sums over each item's ``report`` cells of what the null, ``GAINERS`` and a perfect model (the floor) are off."""
    sums: dict[str, Floats] = {}
    for panel in exam.panels:
        if (panel.split, panel.part) != (split, "report"):
            continue
        positions_CK = exam.positions_CK[panel.cell_C]
        width = positions_CK.shape[1]
        model_CK = softmax(np.array([np.pad(logps[c], (0, width - len(logps[c])), constant_values=np.nan)
                                     for c in panel.cell_C]))  # fmt: skip
        of = METRICS[measure].measure
        guesses = panel.nulls[BASELINE[split]], model_CK, panel.nulls[REGRESSION]
        off = [of(guess_CK, panel.truth_CK, positions_CK).top for guess_CK in guesses]
        off.append(of(panel.resampled_BCK.astype(np.float64), panel.truth_CK[None], positions_CK).top.mean(0))
        for item, *apart in zip(panel.items, *off, strict=True):
            sums[item] = sums.get(item, np.zeros(len(apart))) + np.array(apart)
    return sums


def pooled(seeds: Sequence[Mapping[str, Floats]]) -> dict[str, list[float | None]]:
    """The gain of each of ``GAINERS`` over all seeds: sum of (null - it) over sum of (null - floor), 95 % intervals.

    An item is drawn with its cells of every seed, so that the same question counts once; widened for few items.
    """
    items = sorted({item for one in seeds for item in one})
    off_IW = np.array([np.sum([one[item] for one in seeds if item in one], axis=0) for item in items])
    rng = np.random.default_rng(0)
    picks_BI = rng.multinomial(len(items), np.full(len(items), 1 / len(items)), size=DRAWS)
    off_BW, (null, *_, floor) = picks_BI @ off_IW, off_IW.sum(0)
    if null <= floor:
        return dict.fromkeys(GAINERS, [None, None, None])
    found = {}
    for w, who in enumerate(GAINERS, start=1):
        gains_B = (off_BW[:, 0] - off_BW[:, w]) / (off_BW[:, 0] - off_BW[:, -1])
        gain = (null - off_IW[:, w].sum()) / (null - floor)
        found[who] = three(interval(gain, gains_B, n=len(seeds), clusters=len(items)))
    return found


def summary(seeds: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Floats]], split: str, m: str) -> Any:
    """Means over the seeds, the pooled gain, and in how many seeds the model is surely nearer than the others."""
    mine = [one[split][m] for one in seeds]
    means = {who: round(float(np.mean([one[who][0] for one in mine])), 5) for who in BESIDE if who in mine[0]}
    apart = [name for name in mine[0] if name.startswith("model - ")]
    return {
        "mean": means,
        "gain_pooled": pooled(items),
        "gain_by_seed": [one["gain"][0] for one in mine],
        "surely_nearer": {name.removeprefix("model - "): sum(one[name][2] < 0 for one in mine) for name in apart},
    }


@click.command(help=__doc__, context_settings={"max_content_width": 110})
@click.option("-c", "--config", type=click.Path(exists=True, dir_okay=False), help="a run's YAML; none: the defaults")
@click.option("--survey", type=click.Path(exists=True, dir_okay=False), help="the survey's data file")
@click.option("--codebook", type=click.Path(exists=True, dir_okay=False), help="its codebook, if the run names none")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="splits 0, 1, 2, ...")
@click.argument("overrides", nargs=-1)
def main(config: str | None, survey: str | None, codebook: str | None, seeds: int, overrides: tuple[str, ...]) -> None:
    given = [f"survey.file={survey}"] if survey else []
    given += ["survey.reader=generic", f"survey.codebook={codebook}"] if codebook else []
    began, runs, items = time.perf_counter(), [], {(split, m): [] for split in ASKED for m in MEASURES}
    try:
        for seed in range(seeds):
            run = load(config, [*given, *overrides, f"seed={seed}"])
            exam, logps, how = trained_answers(run)
            judged = exam.judge({MODEL: logps}, part="report")
            runs.append({**how, **{split: figures(judged, split) for split in ASKED}})
            for (split, measure), found in items.items():
                found.append(by_item(exam, logps, split, measure))
            print(json.dumps(runs[-1]), flush=True)
    except ValuealignError as error:
        raise click.ClickException(str(error)) from None
    over = {split: {m: summary(runs, items[split, m], split, m) for m in runs[0][split]} for split in ASKED}
    settings = {"model": run.model.model_dump(mode="json"), "distribution": run.distribution.model_dump(mode="json")}
    settings |= {"shrink": run.groups.shrink, "weight_decay": run.train.weight_decay, "templates": run.prompts.train}
    facts = {"survey": run.survey.reader if config is None else Path(config).stem, "settings": settings}
    facts |= {"seconds": round(time.perf_counter() - began), "threads": torch.get_num_threads(), "hardware": hardware()}
    print(json.dumps({**over, "seeds": runs, **facts}))


if __name__ == "__main__":
    main()
