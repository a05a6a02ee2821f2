"""Sweep KTO's beta, lambda_d and lambda_u with Ray Tune, and register the best trial.

    ray job submit -- python jobs/sweep_kto.py
    python jobs/sweep_kto.py -c run.yaml sweep.trials=16 sweep.concurrent=4

Every trial starts from the stage-1 model of the same configuration (trained first if there is
none). Trials are ranked by how well held-out desirable answers are told from undesirable ones (AUC
of r) among those whose survey distance on the select part is non-inferior to stage 1's: never by
loss, and never by distance alone, which would crown the trial that moved least. An interrupted
sweep goes on where it stopped when repeated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from _job import done, open_registry, run_folder, run_job, say
from align import align as run_align
from align import make_run

from valuealign import config as configuration
from valuealign.cluster.session import cluster
from valuealign.cluster.sweep import SweepProbe, sweep, trials_table
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


def sweep_kto(config: RunConfig) -> dict[str, Any]:
    """The whole sweep; returns the trials, best first, and the version of the best."""
    if config.kto.on == "survey":
        raise ConfigError("the sweep ranks by behaviour", where="kto.on", mend="set kto.on: behaviour")
    base = resolve(config.model.path, progress=say)
    with cluster():
        registry = open_registry()
        prepared = prepare(config.model_copy(update={"stages": ("distribution", "kto")}))
        start = stage1(config, registry)
        check_base(start, fingerprint(base, config.model.quantize), "set model.path to its base, or another name")
        check_kind(config.model.train, start.path)
        check_arguments(config.model.chat_template_kwargs, start.path)
        if start.card.get("data_hash") != prepared.data_hash:
            raise ConfigError(
                f"{start.ref} was trained on other data or another split than this configuration's",
                where=f"{config.name}@stage1",
                mend="run jobs/align.py with this configuration first, or choose another name",
            )
        out, resumed = run_folder("sweep", config.name, configuration.dump(config), prepared.data_hash, start.ref)
        say(f"sweep: {out}" + (" (resumed)" if resumed else ""))
        if "auto" in (config.kto.lambda_d, config.kto.lambda_u):
            say("note: the sweep draws both lambdas (sweep.space); kto.lambda_d and kto.lambda_u are not used")
        only = config.model_copy(update={"stages": ("kto",)})
        run = make_run(only, prepared, out)
        rule = pick_lambdas(run.stages[0].terms[0].cells, config.kto)
        run = replace(
            run,
            model=config.model.model_copy(update={"path": str(base)}),
            train=config.train.model_copy(update={"workers": 1, "checkpoint_every": 10**9}),
            start=start.path,
            score={},
            probe=SweepProbe(
                prepared.exam.only("select"), prepared.behaviour["select"], config.sweep.margin, config.seed
            ),
            probes=config.sweep.reports,
        )
        trials = sweep(run, config.sweep, name="kto", progress=say)
    say("\n" + trials_table(trials, rule))
    tried = [{"trial": t.id, **t.setting, **t.figures, "error": t.error} for t in trials]
    if drawn := write_sweep(out / "sweep.svg", tried):
        say(f"picture: {drawn}")
    best = trials[0]
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
            "config": config.model_dump(mode="json"),
            "sweep": tried,
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


def stage1(config: RunConfig, registry: Registry) -> Version:
    """The stage-1 model of this configuration; aligned first where there is none."""
    try:
        return registry.get(f"{config.name}@stage1")
    except UnknownVersion:
        say("no stage-1 model yet: aligning one first")
        run_align(config.model_copy(update={"stages": ("distribution",)}))
        return registry.get(f"{config.name}@stage1")


if __name__ == "__main__":
    run_job(__doc__, sweep_kto)
