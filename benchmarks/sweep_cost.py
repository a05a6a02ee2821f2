"""What a sweep over KTO's beta and lambdas costs, beside one training, sixteen of them, and sixteen by TRL.

    python benchmarks/sweep_cost.py --quick                          # 4 short trials, under 4 minutes on 2 cores
    python benchmarks/sweep_cost.py                                  # 16 trials, about 20 minutes
    python benchmarks/sweep_cost.py -c run.yaml sweep.reduction=3    # another survey, other settings

One sweep with early stopping and one without, over the same settings, on a Ray cluster of this machine; one run of
ours by itself; one by TRL's KTOTrainer in its default form. Progress goes to stderr. See docs/benchmarks.md for what
the keys mean. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from machine import hardware, rounded

from valuealign.cluster.env import prepare_environment
from valuealign.config import RunConfig, load
from valuealign.errors import ValuealignError

if TYPE_CHECKING:
    from sweep_sides import Measured, Swept

CORES = len(os.sched_getaffinity(0))
# Both sweeps try the same settings, whatever their trials report: only then is a difference between their winners
# what early stopping cost.
ALWAYS = ("stages=[distribution, kto]", "sweep.sampler=random")


@dataclass(frozen=True)
class Size:
    """Overrides of the run, how often one run of ours is measured, and for how many seconds one of TRL's."""

    overrides: tuple[str, ...]
    own: int
    trl: float


SIZES = {
    "quick": Size(
        ("survey.people=2000", "distribution.epochs=2", "kto.epochs=8", "kto.cells_per_step=16",
         "evaluate.bootstrap=50", "groups.crossings=1", "sweep.trials=4", "sweep.reports=2", "sweep.reduction=2"),
        own=1, trl=5.0,
    ),
    "whole": Size(("sweep.trials=16", "sweep.reports=8", "sweep.reduction=2"), own=2, trl=30.0),
}  # fmt: skip


def ratios(one: Measured, own: Sequence[Measured], trl: Measured, trials: int) -> dict[str, float]:
    """A sweep of so many ``trials`` over one training, and over as many runs of ours (a mean) and of TRL's."""

    def mean(name: str) -> float:
        return sum(getattr(run, name) for run in own) / len(own)

    return {
        f"cost_of_{trials}_trials_over_1": one.training_seconds / mean("training_seconds"),
        f"cpu_cost_of_{trials}_trials_over_1": one.training_cpu_seconds / mean("training_cpu_seconds"),
        f"steps_of_{trials}_trials_over_1": one.steps / mean("steps"),
        f"ratio_vs_{trials}_own_runs": one.seconds / (trials * mean("seconds")),
        f"cpu_ratio_vs_{trials}_own_runs": one.cpu_seconds / (trials * mean("cpu_seconds")),
        f"ratio_vs_{trials}_trl_runs_estimated": one.seconds / (trials * trl.seconds),
        f"cpu_ratio_vs_{trials}_trl_runs_estimated": one.cpu_seconds / (trials * trl.cpu_seconds),
        f"training_ratio_vs_{trials}_trl_runs_estimated": one.training_seconds / (trials * trl.training_seconds),
    }


def figures(swept: Mapping[str, Swept], own: Sequence[Measured], trl: Measured) -> dict[str, Any]:
    """The sweep with early stopping at the top, the one without it under ``without_early_stopping``."""
    early, full = swept["early"], swept["full"]
    trials = len(early.trials)
    return {
        **ratios(early.measured, own, trl, trials),
        "startup_seconds": early.measured.startup_seconds,
        "trial_start_seconds": _mean(early.starts),
        "peak_rss_gib": early.measured.peak_rss_gib,
        "peak_pss_gib": early.measured.peak_pss_gib,
        "without_early_stopping": ratios(full.measured, own, trl, trials)
        | {"trial_start_seconds": _mean(full.starts), "startup_seconds": full.measured.startup_seconds},
        "stopped_early": sum(not trial.whole for trial in early.trials),
    }


def _mean(seconds: Sequence[float]) -> float | None:
    return sum(seconds) / len(seconds) if seconds else None


def compare(size: Size, early: RunConfig, full: RunConfig, folder: Path) -> dict[str, Any]:
    """All figures; ``full`` is ``early`` without early stopping. A Ray cluster is started here and ended."""
    import sweep_sides as sides

    from valuealign.cluster.session import cluster
    from valuealign.models.load import resolve
    from valuealign.prepared import prepare

    base = resolve(early.model.path, progress=sides.tell)
    prepared = prepare(early, progress=sides.tell)
    sides.tell("stage 1, which is not measured")
    start = sides.stage1(early, prepared, base, folder)
    swept: dict[str, Any] = {}
    own = []
    with cluster(num_cpus=CORES):
        for name, config in ((sides.EARLY, early), (sides.FULL, full)):
            plan = sides.trial_plan(config, prepared, base=base, start=start, out=folder / name)
            swept[name] = sides.measure_sweep(plan, name)
            if len(own) < size.own:
                own.append(sides.measure_own(plan, swept[sides.EARLY].trials[0], f"own-{name}"))
    trl = sides.measure_trl(early, prepared.judged["kto"], base, folder / "trl", seconds=size.trl)
    return (
        figures(swept, own, trl.estimate)
        | sides.winners(early, prepared, base, start, swept)
        | {name: asdict(one.measured) for name, one in swept.items()}
        | {"own": [asdict(one) for one in own], "trl": asdict(trl.estimate)}
        | {"own_runs_measured": len(own), "trl_steps_measured": trl.measured_steps, "trl_rows_of_a_step": trl.rows}
        | {"trials": len(swept[sides.EARLY].trials), "sweep": early.sweep.model_dump(mode="json")}
        | {"kto": early.kto.model_dump(mode="json"), "model": early.model.path, "cores": CORES}
    )


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    "), context_settings={"max_content_width": 110})
@click.option("--quick", "size", flag_value="quick", help="4 short trials")
@click.option("--whole", "size", flag_value="whole", default=True, help="the default: 16 trials")
@click.option("-c", "--config", type=click.Path(exists=True, dir_okay=False), help="a run's YAML; none: the defaults")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
def main(size: str, config: str | None, overrides: tuple[str, ...]) -> None:
    if os.environ.get("RAY_ADDRESS"):
        raise click.UsageError("RAY_ADDRESS names a cluster: what is measured is one that is started here, so unset it")
    prepare_environment(token_file=False)  # before ray and transformers are imported
    given = [f"sweep.concurrent={CORES}", *SIZES[size].overrides, *overrides, *ALWAYS]
    try:
        early, full = (load(config, [*given, f"sweep.scheduler={kind}"]) for kind in ("asha", "none"))
        with tempfile.TemporaryDirectory() as name:
            found = compare(SIZES[size], early, full, Path(name))
    except ValuealignError as error:
        raise click.ClickException(str(error)) from None
    print(json.dumps(rounded(found) | {"size": size, "hardware": hardware()}))


if __name__ == "__main__":
    main()
