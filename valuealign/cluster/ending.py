"""How a sweep ends: stage 1 and every trial that ran to its end, judged once on what no choice has seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from valuealign.cluster.train import Progress
from valuealign.cluster.trials import Trial, TrialPlan
from valuealign.cluster.worker import trained_folder
from valuealign.evaluate import Questions, hear
from valuealign.evaluate.gained import ORIGIN, Outcome, outcome
from valuealign.metrics import Floats
from valuealign.models.host import Host
from valuealign.prepared import Prepared

OUTCOME = "outcome.json"


def judged(plan: TrialPlan, prepared: Prepared, trials: Sequence[Trial], say: Progress) -> Outcome | None:
    """The outcome of ``trials`` (best first) on the report part; None where none ran to its end.

    It is made once and kept in the sweep's folder: asked for again, the same is read.
    """
    path: Path = plan.run.out / OUTCOME
    if path.exists():
        return Outcome.read(json.loads(path.read_text(encoding="utf-8")))
    whole = [trial for trial in trials if trial.whole]
    if not whole or plan.run.start is None:
        return None
    host = Host.of(plan.run.model)
    folders = {ORIGIN: plan.run.start, **{trial.id: trained_folder(trial.out, "kto") for trial in whole}}
    exam, marks = prepared.exam.only("report"), prepared.behaviour["report"]
    asked = {"survey": Questions(exam.cells), "behaviour": Questions(marks)}
    logps: dict[str, dict[str, Sequence[Floats]]] = {name: {} for name in asked}
    for who, folder in folders.items():
        host.load(who, folder)  # one at a time: all weights of all trials may be more than there is room for
        for name, heard in hear(host, {who: who}, asked, seed=plan.config.seed, say=say).items():
            logps[name] |= heard.logps
        host.unload(who)
    found = outcome(
        exam,
        marks,
        logps["survey"],
        logps["behaviour"],
        compared=sum(trial.feasible for trial in whole),
        seed=plan.config.seed,
    )
    aside = path.with_name(f".{OUTCOME}")
    aside.write_text(json.dumps(found.record()), encoding="utf-8")
    aside.replace(path)
    return found
