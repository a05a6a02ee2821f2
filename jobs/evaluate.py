"""Judge registered versions against people who took no part in training, beside nulls and floor.

    python jobs/evaluate.py                                # the champion
    python jobs/evaluate.py --version v1 --version v2      # several, side by side
    python jobs/evaluate.py --compare v1 champion          # two, and what changed from the first to the second
    python jobs/evaluate.py -c run.yaml --version champion
    python jobs/evaluate.py -c run.yaml --on other.yaml    # on another survey's people and questions

Use the configuration that the versions were aligned with, so that the same people are held out. It
runs in this process, without a cluster, prints the table and writes the report. --on takes another
run's survey, weights and groups; people who are in both stay in their part.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click
from _job import open_registry, run_job, say
from prepare import prepare

from valuealign import config as configuration
from valuealign.config import RunConfig
from valuealign.dataset import weighted
from valuealign.errors import ConfigError, RegistryError
from valuealign.evaluate import Exam, Heard, Questions, behaviour_by_stage, exam_of, hear, read_out, readouts
from valuealign.models.host import Host
from valuealign.models.load import fingerprint, resolve
from valuealign.registry import Registry, Version, check_base
from valuealign.report import print_table, write_report
from valuealign.splits import other_survey
from valuealign.weighting import Gap

BASE = "base"


def evaluate(
    config: RunConfig, version: tuple[str, ...] = (), compare: tuple[str, str] | None = None, on: Path | None = None
) -> dict[str, Any]:
    """Score, judge, print and report; returns the evaluation and the report's path."""
    registry = open_registry()
    versions = [_get(registry, ref, config.name) for ref in _chosen(version, compare)]
    base_hash = fingerprint(resolve(config.model.path, progress=say), config.model.quantize)
    for one in versions:
        check_base(one, base_hash, "set model.path to its base")
    prepared = prepare(config)
    for one in versions:
        if one.card.get("data_hash") not in (None, prepared.data_hash):
            say(f"note: {one.ref} was trained on other data or another split than this configuration's")
    exam, marks, people = prepared.exam, prepared.behaviour["report"], prepared.facts
    gaps = prepared.dataset.weights.gaps
    if on is not None:
        (exam, people, gaps), marks = _elsewhere(config, on), ()
    ways = readouts(exam, config)
    asked = {"exam": Questions(exam.cells), "behaviour": Questions(marks), **{way.how: way.asked for way in ways}}
    heard = _ask(config, versions, asked)
    logps, texts = ({name: getattr(one, kind) for name, one in heard.items()} for kind in ("logps", "texts"))
    reworded, rows = read_out(ways, logps, texts)
    evaluation = exam.judge(logps["exam"], part="report", reworded=reworded).joined(rows)
    behaviour = behaviour_by_stage(logps["behaviour"], marks, base=BASE)
    say("\n" + print_table(evaluation.with_behaviour(behaviour)))
    key = hashlib.sha256("\n".join([*(v.ref for v in versions), str(on or "")]).encode()).hexdigest()[:8]
    folder = configuration.home() / "runs" / config.name / f"evaluate-{key}"
    lineage = [f"data {prepared.data_hash[:12]}", f"base model {config.model.path}", *(v.ref for v in versions)]
    report = write_report(
        folder,
        title=" and ".join(v.ref for v in versions),
        evaluation=evaluation,
        facts={"Whom was asked": people},
        behaviour=behaviour,
        lineage=lineage,
        gaps=gaps,
        screens=prepared.dataset.screens if on is None else None,
    )
    say(f"\nreport: {report}")
    return {"evaluation": evaluation, "behaviour": behaviour, "report": report}


def _elsewhere(config: RunConfig, on: Path) -> tuple[Exam, dict[str, str], tuple[Gap, ...]]:
    """The exam of another survey, which training never saw, whom that one asked, and its margins."""
    survey, weights, groups = weighted(configuration.load(on))
    asked = {"survey": survey.codebook.title, "everyone": weights.everyone}
    asked |= {f"note {number}": note for number, note in enumerate((*survey.notes, *weights.notes), start=1)}
    if survey.codebook.label_only:
        asked["items with a label only (no question wording)"] = ", ".join(survey.codebook.label_only)
    for name, fact in asked.items():
        say(f"judged on {name}: {fact}")
    splits = other_survey(survey, weights.weights_P, groups, config.splits, seed=config.seed)
    return exam_of(config, survey, weights.weights_P, groups, splits), asked, weights.gaps


def _get(registry: Registry, ref: str, name: str) -> Version:
    version = registry.get(ref, name=name)
    if version.name != name:
        raise RegistryError(
            f"{version.ref} is of another family", where="--version", mend=f"run with name={version.name}"
        )
    registry.verify(version)
    return version


def _chosen(version: tuple[str, ...], compare: tuple[str, str] | None) -> tuple[str, ...]:
    if version and compare:
        raise ConfigError("one or the other, not both", where="--version, --compare", mend="give several --version")
    return compare or version or ("champion",)


def _ask(config: RunConfig, versions: list[Version], asked: dict[str, Questions]) -> dict[str, Heard]:
    """What the base and every version answer, by set."""
    host = Host.of(config.model)
    for one in versions:
        host.load(one.id, one.path)
    return hear(host, {BASE: None, **{one.id: one.id for one in versions}}, asked, seed=config.seed, say=say)


if __name__ == "__main__":
    run_job(
        __doc__,
        evaluate,
        click.option("--version", multiple=True, help="a version or alias (v3, champion, demo@v3); may be repeated"),
        click.option("--compare", nargs=2, metavar="V1 V2", help="two versions, and what changed between them"),
        click.option("--on", type=click.Path(path_type=Path), help="the YAML of a run whose survey is the judge"),
    )
