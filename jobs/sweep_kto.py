"""Sweep KTO's beta, lambda_d, lambda_u and any other key of it with Ray Tune, and register the best trial.

    ray job submit -- python jobs/sweep_kto.py
    python jobs/sweep_kto.py -c run.yaml sweep.trials=16
    python jobs/sweep_kto.py -c run.yaml sweep.trials=16 --resume     # docs/sweep.md

Every trial starts from the stage-1 model of the same configuration (trained first if there is none). Trials are
ranked by how well held-out desirable answers are told from undesirable ones (AUC of r) among those whose survey
distance on the select part is non-inferior to stage 1's: never by loss, and never by distance alone, which would
crown the trial that moved least. An interrupted sweep (Ctrl-C, `ray job stop`, a machine that failed) goes on where
it stopped when repeated; --resume refuses to begin another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from _job import open_registry, run_job, say, typed
from align import align as run_align

from valuealign.cluster.ending import judged
from valuealign.cluster.session import cluster
from valuealign.cluster.sweep import SweepStopped, sweep
from valuealign.cluster.trials import check_objective, plan_trials, trials_table
from valuealign.cluster.worker import trained_folder
from valuealign.config import RunConfig
from valuealign.errors import ConfigError, UnknownVersion
from valuealign.learner import pick_lambdas
from valuealign.models.chat import check_arguments
from valuealign.models.load import fingerprint, resolve
from valuealign.models.trained import check_kind
from valuealign.prepared import prepare
from valuealign.registry import Registry, Version, check_base
from valuealign.report import write_sweep
from valuealign.report.gained import kept_outcome, write_outcome
from valuealign.runs import done, run_folder


def sweep_kto(config: RunConfig, resume: bool = False) -> dict[str, Any]:
    """The whole sweep; returns the trials, best first, and the version of the best."""
    if config.kto.on == "survey":
        raise ConfigError("the sweep ranks by behaviour", where="kto.on", mend="set kto.on: behaviour")
    base = resolve(config.model.path, progress=say)
    with cluster():
        registry = open_registry()
        prepared = prepare(config.model_copy(update={"stages": ("distribution", "kto")}))
        check_objective(prepared.behaviour["select"], config.sweep)
        start = stage1(config, registry, base, prepared.data_hash)
        out, resumed = run_folder("sweep", config, {"data": prepared.data_hash, "start": start.ref}, resume=resume)
        say(f"sweep: {out}" + (" (resumed)" if resumed else ""))
        if "auto" in (config.kto.lambda_d, config.kto.lambda_u):
            say("note: the sweep draws both lambdas (sweep.space); kto.lambda_d and kto.lambda_u are not used")
        plan = plan_trials(config, prepared, base=base, start=start.path, out=out)
        go_on = f"Go on with\n  {typed('--resume') if __name__ == '__main__' else typed()}"
        try:
            trials = sweep(plan, name="kto", progress=say, go_on=go_on)
        except (SweepStopped, KeyboardInterrupt) as stopped:
            say(f"{stopped or 'the sweep was stopped'}. {go_on}")
            raise SystemExit(130) from None
    rule, tried = pick_lambdas(prepared.judged["kto"], config.kto), [trial.record() for trial in trials]
    say("\n" + trials_table(trials, rule))
    if drawn := write_sweep(out / "sweep.svg", tried):
        say(f"picture: {drawn}")
    best, ending = trials[0], None
    if found := judged(plan, prepared, trials, say):
        ending = kept_outcome(found, tried, config.sweep.margin)
        paths = write_outcome(out, found, tried, config.sweep.margin)
        say(f"\n{ending['sentence']}\noutcome: {', '.join(str(path) for path in paths.values())}")
    if not best.rule(rule).holds:
        say(f"the best trial: {str(best.rule(rule)).partition(', and auto')[0]}")
    version = None
    if best.feasible and best.whole:
        card = {
            "base": config.model.path,
            "base_hash": fingerprint(base, config.model.quantize),
            "stage": "kto",
            "data_hash": prepared.data_hash,
            "licence": prepared.survey.codebook.licence,
            "tier": prepared.survey.codebook.tier,
            "config": plan.configuration(best.setting).model_dump(mode="json"),
            "sweep": tried,
            "sweep_outcome": ending,
            "results": [{"split": "select", "metric": name, "value": best.figures[name]} for name in ("auc", "change")],
        }
        version = registry.register(
            trained_folder(best.out, "kto"), name=config.name, card=card, parent=start, who="sweep"
        )
        say(f"registered the best trial as {version.ref}")
        say(f"  `python jobs/promote.py {config.name} {version.id}` makes it the champion")
    else:
        say("no trial gained behaviour without losing the people: nothing is registered")
    done(out, {"best": best.id, "version": version.id if version else None})
    return {"trials": trials, "version": version, "out": out}


def stage1(config: RunConfig, registry: Registry, base: Path, data_hash: str) -> Version:
    """The stage-1 model of this configuration; aligned first where there is none. Raises what keeps it from use."""
    try:
        start = registry.get(f"{config.name}@stage1")
    except UnknownVersion:
        say("no stage-1 model yet: aligning one first")
        run_align(config.model_copy(update={"stages": ("distribution",)}))
        start = registry.get(f"{config.name}@stage1")
    check_base(start, fingerprint(base, config.model.quantize), "set model.path to its base, or another name")
    check_kind(config.model.train, start.path)
    check_arguments(config.model.chat_template_kwargs, start.path)
    if start.card.get("data_hash") != data_hash:
        raise ConfigError(
            f"{start.ref} was trained on other data or another split than this configuration's",
            where=f"{config.name}@stage1",
            mend="run jobs/align.py with this configuration first, or choose another name",
        )
    return start


if __name__ == "__main__":
    resume = click.option("--resume", is_flag=True, help="go on with the interrupted sweep; refuse to begin another")
    run_job(__doc__, sweep_kto, resume, trains=True)
