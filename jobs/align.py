"""Align a model to a population: survey -> targets -> cells -> stages -> evaluation -> registry.

    python jobs/align.py                                    # the embedded population and seed model
    python jobs/align.py -c examples/nonvoters_run.yaml     # a survey of your own
    python jobs/align.py model.path=/models/my-model kto.beta=0.2 --dry-run

Runs the configured stages under Ray Train with DeepSpeed, judges the model before and after each
on people it never saw, registers every stage as a version, points `stage1` and `champion` at
them, and writes a report. An interrupted run goes on from its last checkpoint when repeated.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from _job import open_registry, room_to_train, run_job, say, say_notes

from valuealign import config as configuration
from valuealign.cluster.session import cluster
from valuealign.cluster.train import fit
from valuealign.cluster.worker import TrainRun, read_scores
from valuealign.config import RunConfig
from valuealign.evaluate import Evaluation, Heard
from valuealign.learner import plan_stages
from valuealign.models.load import fingerprint, resolve
from valuealign.prepared import Prepared, prepare
from valuealign.report import print_sheets, print_table, write_report
from valuealign.runs import done, run_folder
from valuealign.types import BASE


def make_run(config: RunConfig, prepared: Prepared, out: Path) -> TrainRun:
    """The training run of a configuration: its stages, and the cells to score after each."""
    return TrainRun(
        model=config.model,
        train=config.train,
        stages=plan_stages(config, prepared.survey_cells, prepared.judged),
        out=out,
        cache=configuration.home() / "reference",
        seed=config.seed,
        score=prepared.examination(config).cells,
    )


def align(config: RunConfig) -> dict[str, Any]:
    """The whole run; returns what it made (folder, report, version ids)."""
    base = resolve(config.model.path, progress=say)
    prepared = prepare(config)
    out, resumed = run_folder("align", config, {"data": prepared.data_hash, "base model": fingerprint(base)})
    say(f"run: {out}" + (" (resumed)" if resumed else ""))
    run = replace(make_run(config, prepared, out), model=config.model.model_copy(update={"path": str(base)}))
    say_notes(run.stages)
    with cluster(), room_to_train(config):
        fit(run, name="align", progress=say)
    names = [BASE, *config.stages]
    read = {who: read_scores(out, who) for who in names}
    heard = {name: Heard({who: found[name] for who, found in read.items()}) for name in run.score}
    evaluation = prepared.examination(config).judge(heard)
    versions = register(config, prepared, run, evaluation, fingerprint(base, config.model.quantize))
    steps = (f"{version} ({stage})" for stage, version in versions.items())
    lineage = [f"data {prepared.data_hash[:12]}", f"base model {config.model.path}", out.name, *steps]
    report = write_report(
        out / "report",
        title=config.name,
        evaluation=evaluation,
        facts={"Whom was asked": prepared.facts},
        lineage=lineage,
        gaps=prepared.dataset.weights.gaps,
        screens=prepared.dataset.screens,
        configuration=configuration.dump(config),
    )
    say("\n" + print_table(evaluation))
    say("\n" + print_sheets(evaluation))
    say(f"\nreport: {report}")
    done(out, {"versions": versions, "report": str(report)})
    return {"out": out, "report": report, "versions": versions, "evaluation": evaluation}


def register(
    config: RunConfig, prepared: Prepared, run: TrainRun, evaluation: Evaluation, base_hash: str
) -> dict[str, str]:
    """Each stage becomes a version; `stage1` and `champion` move to the first and the last."""
    registry = open_registry()
    versions: dict[str, str] = {}
    parent = None
    for stage in config.stages:
        card = {
            "base": config.model.path,
            "base_hash": base_hash,
            "stage": stage,
            "data_hash": prepared.data_hash,
            "licence": prepared.survey.codebook.licence,
            "tier": prepared.survey.codebook.tier,
            "config": config.model_dump(mode="json"),
            "results": evaluation.results(stage),
            "all_figures": f"report/evaluation.json of the run {run.out.name}",
        }
        parent = registry.register(run.trained(stage), name=config.name, card=card, parent=parent, who="align")
        versions[stage] = parent.id
    aliases = {"stage1": versions.get("distribution"), "champion": versions[config.stages[-1]]}
    for alias, version in aliases.items():
        if version is None:
            continue
        now = registry.alias(config.name, alias)
        registry.move(
            config.name,
            alias,
            version,
            expected=now.version if now else None,
            who="align",
            why="aligned from the survey",
        )
        say(f"{config.name}@{alias} is {version}")
    return versions


if __name__ == "__main__":
    run_job(__doc__, align, trains=True)
