"""Point an alias at a version, or back at what it pointed at before. A running service follows at once.

python jobs/promote.py demo                              # what there is
python jobs/promote.py demo v3 --why "better on items"   # champion -> v3
python jobs/promote.py demo --rollback                   # champion -> the one before
python jobs/promote.py demo v1 --alias stage1 --dry-run
python jobs/promote.py demo --canary yes                 # the canary becomes champion; no: it is called back
python jobs/promote.py -c run.yaml v3                    # the run's file names the family
"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import click
from _job import open_registry, say, user_errors

from valuealign import config as configuration
from valuealign.errors import RegistryError, UnknownVersion


@click.command(help=str(__doc__).replace("\n\n", "\n\n\b\n"))  # \b: keep the lines
@click.option("--config", "-c", "path", type=click.Path(path_type=Path), help="the run's YAML file, in place of NAME")
@click.argument("words", nargs=-1, metavar="[NAME] [VERSION] [SECTION.KEY=VALUE]...")
@click.option("--alias", default="champion", show_default=True, help="the alias to move")
@click.option("--rollback", is_flag=True, help="go back to the version before")
@click.option("--canary", type=click.Choice(["yes", "no"]), help="promote the canary, or call it back")
@click.option("--force", is_flag=True, help="promote the canary even where people find it worse")
@click.option("--why", default="", help="kept in the alias's history")
@click.option("--dry-run", is_flag=True, help="say what would move and touch nothing")
def promote(
    path: Path | None,
    words: tuple[str, ...],
    alias: str,
    rollback: bool,
    canary: str | None,
    force: bool,
    why: str,
    dry_run: bool,
) -> None:
    with user_errors():
        name, version = family(path, words)
        if canary is not None:
            if version or rollback:
                raise RegistryError("a canary is promoted by itself", where="--canary", mend="leave out the rest")
            return end_canary(name, canary == "yes", force, why, dry_run)
        if version and rollback:
            raise RegistryError("a rollback takes no version", where=version, mend="leave out one of the two")
        registry = open_registry()
        if version is None and not rollback:
            show(registry, name, alias)
            return
        now = registry.alias(name, alias)
        target = registry.previous(name, alias) if rollback else registry.get(version, name=name)
        if target is None:
            raise UnknownVersion("nothing to roll back to", where=f"{name}@{alias}", mend="name a version instead")
        say(f"{name}@{alias}: {now.version if now else 'not set'} -> {target.id}")
        if dry_run:
            return
        who = getpass.getuser()
        if rollback:
            registry.rollback(name, alias, who=who, why=why or "rolled back by hand")
        else:
            expected, epoch = (now.version, now.epoch) if now else (None, None)
            why = why or "promoted by hand"
            registry.move(name, alias, target, expected=expected, epoch=epoch, who=who, why=why)


def end_canary(name: str, promoted: bool, force: bool, why: str, dry_run: bool) -> None:
    """Say what people said of it, then promote it (if it is not worse) or call it back."""
    from valuealign.loop.canary import call_back, compare, promote_canary

    registry = open_registry()
    if (found := compare(registry.store, registry, name)) is not None:
        say(str(found))
    if promoted and found is not None and not (force or dry_run):
        found.refuse_worse(name)
    if not dry_run:
        end = promote_canary if promoted else call_back
        said = "promoted" if promoted else "called back"
        done = end(registry, name, who=getpass.getuser(), why=why or f"{said} by hand")
        say(f"{name}: {done.id} " + ("is champion" if promoted else "was called back"))


def family(path: Path | None, words: tuple[str, ...]) -> tuple[str, str | None]:
    """The model family and the version that were named; the family is the configuration's, where one is given."""
    overrides, plain = [w for w in words if "=" in w], [w for w in words if "=" not in w]
    config = configuration.load(path, overrides)
    name = config.name if path or overrides or not plain else plain.pop(0)
    if len(plain) > 1:
        raise RegistryError("too many words", where=" ".join(plain), mend="write NAME VERSION, or -c FILE VERSION")
    return name, plain[0] if plain else None


def show(registry: Any, name: str, alias: str) -> None:
    """List versions with their aliases, the age of the anchor, then the alias's history."""
    from valuealign.loop.lineage import anchor

    versions = registry.versions(name)
    if not versions:
        registry.get(f"{name}@{alias}")  # raises, naming what there is
    aliases = {state.alias: state.version for state in registry.store.aliases(name)}
    for version in versions:
        names = ", ".join(one for one, where in aliases.items() if where == version.id)
        stage, created = version.card.get("stage", ""), version.card["created"]
        say(
            f"{version.id:6} from {version.parent or '-':6} {stage:14} {created}  {names}"
            + ("(weights erased)" if version.erased else "")
        )
    if (age := anchor(registry, name)) is not None:
        say(str(age))
    for move in registry.history(name, alias):
        step = f"{move.from_version or '-'} -> {move.to_version}"
        say(f"{move.created}  {alias} {step:12} {move.kind:8} {move.who}: {move.why}")


if __name__ == "__main__":
    promote()
