"""Make the reference table of a run ahead of it; measure the noise that another way to compute them brings.

    python jobs/reference.py -c run.yaml --version stage1
    python jobs/reference.py -c run.yaml --version stage1 --verify

A stage that compares with a reference (dpo, kto) reads log-probabilities that are computed once, from the model that
it starts from. Made here is the table of the run's first such stage, which starts from --version. Every run and every
trial of a sweep finds a table that is there by its content: weights, cells as tokens, dtype, kernel. --verify scores
the same completions in the run's own way and in others (one row a completion, another attention kernel, another dtype),
and prints how far r = log pi - log pi_ref would be off if the two were mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from _job import open_registry, run_job, say

from valuealign import config as configuration
from valuealign.cluster.build import build
from valuealign.cluster.worker import identity
from valuealign.config import ModelConfig, RunConfig
from valuealign.engine import LocalEngine, score_all
from valuealign.errors import ConfigError
from valuealign.learner import plan_stages
from valuealign.models.load import fingerprint, resolve
from valuealign.prepared import prepare
from valuealign.prompts import render
from valuealign.reference import noise, reference_logps
from valuealign.registry import check_base
from valuealign.types import Cell, Rendered


def reference(config: RunConfig, version: str | None, verify: bool) -> None:
    """Make the table; with ``verify``, print the noise of each other way."""
    base = resolve(config.model.path, progress=say)
    start = None
    if version is not None:
        found = open_registry().get(version, name=config.name)
        check_base(found, fingerprint(base, config.model.quantize), "set model.path to its base")
        start = found.path
    prepared = prepare(config, progress=lambda _: None)
    stages = plan_stages(config, prepared.survey_cells, prepared.judged)
    first, *later = (stage for stage in stages if stage.referenced) or (None,)
    if first is None:
        raise ConfigError("no stage reads a reference", where="stages", mend="add dpo or kto (not reference_free)")
    if start is None and "distribution" in config.stages:
        say("note: without --version the tables are the base model's; after stage distribution a run makes others")
    before = [stage.name for stage in stages[: stages.index(first)] if stage.name != "distribution"]
    if before:
        say(
            f"note: a run's {first.name} starts from what {before[-1]} leaves; this table is for a start from --version"
        )
    asked = first.referenced
    rows, (packed, logps) = sum(len(c.completions) for c in asked), _table(config.model, start, asked, config)
    say(f"{first.name}: {rows:,} completions of {len(asked):,} cells")
    for stage in later:
        say(f"note: {stage.name} starts from what {first.name} leaves, so the run makes its table")
    for how, other in _ways(config.model, packed) if verify else ():
        off = noise(logps, _table(other, start, asked, config, how)[1])
        at_beta = f"beta r by up to {config.kto.beta * off.largest:.1e}" if first.name == "kto" else ""
        say(f"  {how:28} r is off by {off.rms:.1e} nats (rms), at most {off.largest:.1e}  {at_beta}".rstrip())


def _ways(model: ModelConfig, packed: bool) -> Iterator[tuple[str, ModelConfig]]:
    if packed:
        yield "one row a completion", model
    yield "eager attention", model
    other = "bfloat16" if model.dtype == "float32" else "float32"
    yield other, model.model_copy(update={"dtype": other})


def _table(
    model: ModelConfig, start: Path | None, cells: tuple[Cell, ...], config: RunConfig, how: str = ""
) -> tuple[bool, list[np.ndarray]]:
    """Whether the model packs, and log pi_ref [K] of each cell."""
    device = "cuda" if config.train.gpus_per_worker else "cpu"  # a table belongs to the device that makes it
    base, scored = build(model, seed=config.seed, start=start, device=device)
    if model.train == "lora" and model.dtype == "bfloat16":
        scored.bfloat16()  # the adapter too, as DeepSpeed casts it
    if how == "eager attention":
        scored.attend_by("eager")
    if how == "one row a completion":
        scored.packed = False
    pad_id = int(base.tokenizer.pad_token_id)

    def score(rows: Sequence[Rendered]) -> list[np.ndarray]:
        engine = LocalEngine(scored, pad_id=pad_id)
        return score_all(engine, rows, pad_id=pad_id, packed=scored.packed, token_budget=config.train.token_budget)

    return scored.packed, reference_logps(
        [render(c, base.tokenizer) for c in cells],
        score=score,
        identity=identity(base, scored, start),
        folder=configuration.home() / "reference",
    )


if __name__ == "__main__":
    run_job(
        __doc__,
        reference,
        click.option("--version", metavar="VERSION", help="version or alias that the stages start from; else the base"),
        click.option("--verify", is_flag=True, help="measure the noise in r of other kernels and dtypes"),
    )
