"""Learn from the feedback that reviewers accepted: train from the champion, pass the gate, promote.

    python jobs/update.py -c run.yaml
    python jobs/update.py --check          # say what there is to learn, touch nothing

Use the configuration that the champion was aligned with: the survey's cells are the anchor, and its
select part is what the gate judges by. A candidate that fails the gate is kept as a version, and
the champion stays. A running service answers with the new version at the next request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from _job import open_registry, run_job, say, say_notes

from valuealign import config as configuration
from valuealign.cluster.session import cluster
from valuealign.cluster.train import fit
from valuealign.cluster.worker import TrainRun, read_scores
from valuealign.config import RunConfig
from valuealign.errors import ConfigError
from valuealign.learner import update_stage
from valuealign.loop import Candidate, Outcome, update
from valuealign.models.load import fingerprint, resolve
from valuealign.prepared import Prepared, prepare
from valuealign.registry import Registry, Version, check_base
from valuealign.runs import done, run_folder
from valuealign.types import BASE, Cell


@dataclass
class ClusterTrainer:
    """Trains a candidate on the cluster. ``folder`` is where its run lies."""

    config: RunConfig
    prepared: Prepared
    folder: Path | None = None

    def __call__(self, *, start: Version, cells: Sequence[Cell], also: Mapping[str, Version]) -> Candidate:
        base = resolve(self.config.model.path, progress=say)
        check_base(start, fingerprint(base, self.config.model.quantize), "set model.path to its base")
        wanted = hashlib.sha256("\n".join(f"{c.key}{c.desirable}{c.undesirable}" for c in cells).encode()).hexdigest()
        out, _ = run_folder(
            "update", self.config, {"data": self.prepared.data_hash, "start": start.ref, "feedback": wanted}
        )
        self.folder = out
        run = TrainRun(
            model=self.config.model.model_copy(update={"path": str(base)}),
            train=self.config.train,
            stages=(update_stage(self.config, cells, self.prepared.survey_cells),),
            out=out,
            cache=configuration.home() / "reference",
            seed=self.config.seed,
            start=start.path,
            also={name: version.path for name, version in also.items()},
            score={"exam": self.prepared.exam.cells, "feedback": tuple(cells)},
        )
        say_notes(run.stages)
        with cluster():
            fit(run, name="update", progress=say)
        before, after = read_scores(out, BASE), read_scores(out, "update")
        logps = {name: read_scores(out, name)["exam"] for name in also}
        logps |= {"champion": before["exam"], "candidate": after["exam"]}
        return Candidate(run.trained("update"), logps, before["feedback"], after["feedback"])


def learn_from_feedback(config: RunConfig, check: bool = False) -> Outcome | None:
    """One turn of the loop; returns how it ended."""
    registry = open_registry()
    if check:
        accepted = registry.store.list_feedback(status="accepted", name=config.name)
        say(f"{len(accepted)} accepted feedback items wait; an update needs {config.update.min_items}")
        return None
    prepared = prepare(config, progress=lambda _: None)
    check_data(registry, config, prepared)
    trainer = ClusterTrainer(config, prepared)
    outcome = update(
        config, store=registry.store, registry=registry, trainer=trainer, exam=prepared.exam, who="update", progress=say
    )
    say(outcome.reason)
    if trainer.folder is not None:
        done(trainer.folder, {"promoted": outcome.promoted, "reason": outcome.reason})
    return outcome


def check_data(registry: Registry, config: RunConfig, prepared: Prepared) -> None:
    """The anchor and the gate must be of the people, and the split, that the models were aligned to."""
    for alias in ("champion", "stage1"):
        state = registry.alias(config.name, alias)
        version = registry.get(f"{config.name}@{state.version}") if state else None
        if version is not None and version.card.get("data_hash") != prepared.data_hash:
            raise ConfigError(
                f"{config.name}@{alias} ({version.id}) was trained on other data or another split",
                where="configuration",
                mend="use the configuration that it was aligned with (-c run.yaml), or run jobs/align.py first",
            )


if __name__ == "__main__":
    check = click.option("--check", is_flag=True, help="say what waits, touch nothing")
    run_job(__doc__, learn_from_feedback, check, trains=True)
