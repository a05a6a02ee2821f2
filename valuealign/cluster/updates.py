"""The loop's trainer on a cluster: trains a candidate from a version, and scores whoever it is compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from valuealign.cluster.session import cluster
from valuealign.cluster.train import fit
from valuealign.cluster.worker import TrainRun, read_scores
from valuealign.config import RunConfig, home
from valuealign.errors import ConfigError
from valuealign.learner import Stage, update_stage
from valuealign.loop import CANDIDATE, CHAMPION, STAGE1, START, WHO, Candidate, Logps
from valuealign.models.load import fingerprint, resolve
from valuealign.prepared import Prepared
from valuealign.registry import Registry, Version, check_base
from valuealign.runs import run_folder
from valuealign.types import BASE, Cell

Scores = Mapping[str, Logps]  # by the name of a set of cells


@dataclass
class ClusterTrainer:
    """Trains a candidate on the cluster. ``folder`` is where its run lies; ``room`` is kept open while it trains."""

    config: RunConfig
    prepared: Prepared
    say: Callable[[str], None]
    say_notes: Callable[[Sequence[Stage]], None] = lambda stages: None
    folder: Path | None = None
    room: Callable[[], AbstractContextManager[None]] = nullcontext

    def __call__(
        self,
        *,
        start: Version,
        cells: Sequence[Cell],
        also: Mapping[str, Version],
        ask: Mapping[str, Sequence[Cell]],
    ) -> Candidate:
        """See ``loop.Trainer``. Raises what training raises, ModelError for another base."""
        base = resolve(self.config.model.path, progress=self.say)
        check_base(start, fingerprint(base, self.config.model.quantize), "set model.path to its base")
        wanted = hashlib.sha256("\n".join(f"{c.key}{c.desirable}{c.undesirable}" for c in cells).encode()).hexdigest()
        out, _ = run_folder(
            "update", self.config, {"data": self.prepared.data_hash, "start": start.ref, "feedback": wanted}
        )
        self.folder = out
        sets = {"exam": self.prepared.exam.cells, "feedback": tuple(cells)}
        sets |= {name: tuple(some) for name, some in ask.items()}
        run = TrainRun(
            model=self.config.model.model_copy(update={"path": str(base)}),
            train=self.config.train,
            stages=(update_stage(self.config, cells, self.prepared.survey_cells),),
            out=out,
            cache=home() / "reference",
            seed=self.config.seed,
            start=start.path,
            also={name: version.path for name, version in also.items()},
            score=sets,
        )
        self.say_notes(run.stages)
        with cluster(), self.room():
            fit(run, name="update", progress=self.say)
        read = {name: read_scores(out, name) for name in also}
        return made(run.trained("update"), read_scores(out, BASE), read_scores(out, "update"), read, tuple(ask))


def made(folder: Path, start: Scores, candidate: Scores, also: Mapping[str, Scores], ask: Sequence[str]) -> Candidate:
    """What the gate reads, of the scores of everybody. What the training started from is the champion, unless ``also``
    has one: then a rebuild started further back."""
    read = {START: start, CHAMPION: start, CANDIDATE: candidate, **also}
    return Candidate(
        folder,
        {who: read[who]["exam"] for who in WHO},
        start["feedback"],
        candidate["feedback"],
        asked={who: {name: read[who][name] for name in ask} for who in (START, *WHO)},
    )


def check_data(registry: Registry, config: RunConfig, prepared: Prepared) -> None:
    """The anchor and the gate must be of the people, and the split, that the models were aligned to.

    Raises ConfigError.
    """
    for alias in (CHAMPION, STAGE1):
        state = registry.alias(config.name, alias)
        version = registry.get(f"{config.name}@{state.version}") if state else None
        if version is not None and version.card.get("data_hash") != prepared.data_hash:
            raise ConfigError(
                f"{config.name}@{alias} ({version.id}) was trained on other data or another split",
                where="configuration",
                mend="use the configuration that it was aligned with (-c run.yaml), or run jobs/align.py first",
            )
