"""Judge registered versions against people who took no part in training, beside nulls and floor.

    python jobs/evaluate.py                                # the champion
    python jobs/evaluate.py --version v1 --version v2      # several, side by side
    python jobs/evaluate.py --compare v1 champion          # two, and what changed from the first to the second
    python jobs/evaluate.py -c run.yaml --on other.yaml    # on another survey's people and questions
    python jobs/evaluate.py --benchmark globalopinionqa --file data.csv      # docs/benchmarks-published.md
    python jobs/evaluate.py 'evaluate.sheets=[generations]' --ballots blind  # people compare, blind: docs/probes.md

Use the configuration that the versions were aligned with: the same people are then held out. --on takes another
run's survey (who is in both stays in his part); of it and of a benchmark's file what was trained is left out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click
from _job import run_job, say
from _models import hosted, say_other_data

from valuealign import config as configuration
from valuealign.config import RunConfig
from valuealign.errors import ConfigError
from valuealign.evaluate import Questions, alone, drawn, hear
from valuealign.evaluate.benchmarks import BENCHMARKS, read_benchmark
from valuealign.evaluate.examination import FREE
from valuealign.evaluate.paid.capability import LM_EVAL, read_lm_eval
from valuealign.evaluate.paid.kl import kl_rows
from valuealign.prepared import elsewhere, prepare
from valuealign.report import print_sheets, print_table, write_report


def evaluate(
    config: RunConfig,
    version: tuple[str, ...] = (),
    compare: tuple[str, str] | None = None,
    on: Path | None = None,
    benchmark: str | None = None,
    file: Path | None = None,
    ballots: Path | None = None,
    lm_eval: tuple[tuple[str, str], ...] = (),
) -> dict[str, Any]:
    """Score, judge, print and report; returns the evaluation and the report's path."""
    _check(version=version, compare=compare, benchmark=benchmark, on=on, file=file, ballots=ballots)
    if ballots and FREE not in config.evaluate.sheets:
        raise ConfigError("there are no free answers to compare", where="--ballots", mend=f"add evaluate.sheets {FREE}")
    able = read_lm_eval(lm_eval) if lm_eval else []
    prepared = prepare(config, say)
    brought = read_benchmark(benchmark, file, prepared.trained(config)) if benchmark and file else None
    host, versions, who = hosted(config, compare or version or ("champion",))
    say_other_data(versions, prepared.data_hash)
    lineage = [f"data {prepared.data_hash[:12]}", f"base model {config.model.path}", *(one.ref for one in versions)]
    people, gaps = prepared.facts, prepared.dataset.weights.gaps
    if brought is not None:
        sheet, people, gaps = brought.sheet, brought.facts, ()
        say("\n".join(f"judged on {name}: {fact}" for name, fact in people.items()))
        heard = hear(host, who, {sheet.name: Questions(sheet.cells)}, seed=config.seed, say=say)
        evaluation = alone(sheet, heard[sheet.name])
    else:
        asked = prepared.examination(config, host.tokenizer(None))
        if on is not None:
            there = elsewhere(config, configuration.load(on), prepared, say, host.tokenizer(None))
            asked, people, gaps = there.examination, there.facts, there.gaps
        heard = hear(host, who, asked.questions, seed=config.seed, say=say)
        evaluation = asked.judge(heard)
        if config.evaluate.samples:
            made = {one.id: one.id for one in versions}
            answers = drawn(host, made, samples=config.evaluate.samples, seed=config.seed, say=say)
            evaluation = evaluation.joined(kl_rows(answers, seed=config.seed))
        if ballots is not None:
            evaluation = evaluation.joined(asked.blind(ballots, heard, say))
    if compare:
        evaluation = evaluation.joined((), before=versions[0].id)
    if lm_eval:
        evaluation = evaluation.joined(able, sheets=evaluation.facts["sheets"] | LM_EVAL)
    for table in (print_table(evaluation), print_sheets(evaluation)):
        say("\n" + table if table else "")
    key = hashlib.sha256(repr(([v.ref for v in versions], on, benchmark, file)).encode()).hexdigest()[:8]
    report = write_report(
        configuration.home() / "runs" / config.name / f"evaluate-{key}",
        title=" and ".join(v.ref for v in versions) + (f": {brought.sheet.title}" if brought else ""),
        evaluation=evaluation,
        facts={"Whom was asked": people},
        lineage=lineage,
        gaps=gaps,
        screens=None if on or brought else prepared.dataset.screens,
        sweep=versions[-1].card.get("sweep", ()),
        swept=versions[-1].card.get("sweep_outcome"),
        configuration=configuration.dump(config),
    )
    say(f"\nreport: {report}")
    return {"evaluation": evaluation, "report": report}


def _check(**given: Any) -> None:
    """Options that do not go together, or not alone, are said before anything is asked."""
    for one, other in (("version", "compare"), ("benchmark", "on"), ("benchmark", "ballots")):
        if given[one] and given[other]:
            what = f"--{one} and --{other} do not go together"
            raise ConfigError(what, where="command line", mend="do one after the other")
    if bool(given["benchmark"]) != bool(given["file"]):
        mend = "see docs/benchmarks-published.md for what file to bring"
        raise ConfigError("--benchmark NAME and --file PATH go together", where="command line", mend=mend)


if __name__ == "__main__":
    run_job(
        __doc__,
        evaluate,
        click.option("--version", multiple=True, help="a version or alias (v3, champion, demo@v3); may be repeated"),
        click.option("--compare", nargs=2, metavar="V1 V2", help="two versions, and what changed between them"),
        click.option("--on", type=click.Path(path_type=Path), help="the YAML of a run whose survey is the judge"),
        click.option("--benchmark", metavar="NAME", help=", ".join(BENCHMARKS)),
        click.option("--file", type=click.Path(path_type=Path), help="the benchmark's file or folder"),
        click.option("--ballots", type=click.Path(path_type=Path), help="folder: blind ballots are written or read"),
        click.option("--lm-eval", nargs=2, multiple=True, metavar="WHO PATH", help="results of lm_eval (docs/paid.md)"),
    )
