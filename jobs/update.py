"""Learn from the feedback that may train: train from the champion, pass the gate, promote.

    python jobs/update.py -c run.yaml
    python jobs/update.py --check               # say what there is to learn, touch nothing
    python jobs/update.py -c run.yaml --every 6h --at 100    # and so on, until stopped: whichever is first
    python jobs/update.py -c run.yaml --rebuild              # anew, without what was erased

Use the configuration that the champion was aligned with: the survey's cells are the anchor, and its
select part is what the gate judges by. A candidate that fails the gate is kept as a version, and
the champion stays. A running service answers with the new version at the next request.
docs/loop.md has every rule by which feedback trains and a candidate is held back.
"""

from __future__ import annotations

import click
from _job import open_registry, room_to_train, run_job, say, say_notes

from valuealign.cluster.updates import ClusterTrainer, check_data
from valuealign.config import RunConfig
from valuealign.errors import ConfigError, ValuealignError
from valuealign.loop import Due, Outcome, anchor, known_margins, rebuild, screen, seconds, turns, update
from valuealign.prepared import Prepared, prepare
from valuealign.registry import Registry
from valuealign.runs import done


def learn_from_feedback(
    config: RunConfig,
    check: bool = False,
    rebuilding: bool = False,
    every: str | None = None,
    at: int | None = None,
) -> Outcome | None:
    """One turn of the loop, or turn after turn; returns how the last one ended."""
    registry = open_registry()
    if age := anchor(registry, config.name):
        say(str(age))
    if check:
        look(registry, config)
        return None
    if rebuilding and (every or at):
        raise ConfigError("a rebuild is done once", where="--rebuild", mend="leave out --every and --at")
    due, ended = Due(seconds(every) if every else None, at), None
    prepared = prepare(config, progress=lambda _: None)
    if every is None and at is None:
        return turn(registry, config, prepared, rebuilding)
    say(f"a turn every {every or '(never)'}, or at {at or 'any number of'} new items; Ctrl-C stops")
    for why in turns(due, registry.store, config.name, waiting=lambda: waiting(registry, config), who="update"):
        say(f"a turn: {why}")
        try:
            ended = turn(registry, config, prepared, False)
        except ValuealignError as error:  # the feedback is free again; the next turn may do better
            say(f"the turn failed: {error}")
    return ended


def turn(registry: Registry, config: RunConfig, prepared: Prepared, rebuilding: bool) -> Outcome:
    """Train, judge, promote or leave."""
    check_data(registry, config, prepared)
    trainer = ClusterTrainer(config, prepared, say, say_notes, room=lambda: room_to_train(config))
    outcome = (rebuild if rebuilding else update)(
        config,
        store=registry.store,
        registry=registry,
        trainer=trainer,
        exam=prepared.exam,
        who="update",
        progress=say,
        margins=known_margins(config, prepared.survey),
    )
    say(outcome.reason)
    if trainer.folder is not None:
        done(trainer.folder, {"promoted": outcome.promoted, "reason": outcome.reason})
    return outcome


def look(registry: Registry, config: RunConfig) -> None:
    """What waits, and what would keep it from training."""
    accepted = registry.store.list_feedback(status="accepted", name=config.name)
    say(f"{len(accepted)} accepted feedback items wait; an update needs {config.update.min_items}")
    found = screen(
        [*registry.store.list_feedback("quarantined", name=config.name), *accepted],
        registry.store.list_feedback("used", name=config.name),
        config.update.intake,
    )
    for rule, count in found.counts.items():
        say(f"  {rule}: {count}")
    say(f"{len(found.taken)} would train, {len(found.agreed)} of them because raters agree")


def waiting(registry: Registry, config: RunConfig) -> set[str]:
    """Ids of the items that a turn could be about: the accepted ones, and the posted ones where raters may agree."""
    statuses = ("accepted", "quarantined") if config.update.intake.agreement else ("accepted",)
    store = registry.store
    return {row.feedback.id for status in statuses for row in store.list_feedback(status, name=config.name)}


if __name__ == "__main__":
    run_job(
        __doc__,
        learn_from_feedback,
        click.option("--check", is_flag=True, help="say what waits, touch nothing"),
        click.option("--rebuild", "rebuilding", is_flag=True, help="learn anew, without what was erased"),
        click.option("--every", metavar="SPAN", help="go on: a turn every 90s, 30m, 6h or 2d"),
        click.option("--at", type=click.IntRange(min=1), help="go on: a turn at so many new items"),
        trains=True,
    )
