"""Back up the database and the registry's versions to a folder, and bring them back.

    python jobs/backup.py create /backups/monday               # while the service runs
    python jobs/backup.py show /backups/monday                 # check every hash, say what it holds
    python jobs/backup.py restore /backups/monday              # into an empty home or database
    python jobs/backup.py restore /backups/monday --force      # in place of what is there

A back-up fits SQLite and PostgreSQL alike, so it is also the way from one to the other: restore it with
VALUEALIGN_DB naming the new database. Who was erased since the back-up stays erased. It holds what
people wrote: keep it as you keep the database. API keys are in it as hashes only.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path

import click
from _job import keep_lines, open_registry, say, user_errors

from valuealign import backup

FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@click.group(help=keep_lines(__doc__), context_settings={"max_content_width": 120})
def main() -> None:
    pass


@main.command()
@FOLDER
@click.option("--dry-run", is_flag=True, help="say what would be backed up and write nothing")
def create(folder: Path, dry_run: bool) -> None:
    """Back up to FOLDER, which is new or empty."""
    with user_errors():
        registry = open_registry()
        if dry_run:
            versions = sum(len(registry.versions(name)) for name in registry.names())
            say(f"(dry run) the database and {versions} versions would go to {folder}")
            return
        made = backup.create(registry, folder, progress=lambda line: say(f"  {line}"))
        say(f"{told(made.rows)}; {len(made.versions)} versions: {folder}")


@main.command()
@FOLDER
def show(folder: Path) -> None:
    """Hold every file of FOLDER against its hash, and say what it holds."""
    with user_errors():
        found = backup.inspect(folder)
        say(f"taken {found.created}: {told(found.rows)}; versions {', '.join(found.versions) or 'none'}")


@main.command()
@FOLDER
@click.option("--force", is_flag=True, help="put the back-up in the place of what the database holds")
@click.option("--dry-run", is_flag=True, help="check the back-up, say what it would bring back, touch nothing")
def restore(folder: Path, force: bool, dry_run: bool) -> None:
    """Bring back what FOLDER holds. Stop the service before, and start it after."""
    with user_errors():
        if dry_run:
            found = backup.inspect(folder)
            say(f"(dry run) would bring back {told(found.rows)}; versions {', '.join(found.versions) or 'none'}")
            return
        registry = open_registry()
        done = backup.restore(
            registry, folder, force=force, who=getpass.getuser(), progress=lambda line: say(f"  {line}")
        )
        say(f"brought back {told(done.rows)}; {len(done.versions)} versions that were not there")
        if done.erased_again:
            say(f"{done.erased_again} people had been erased since the back-up, and were erased again")


def told(rows: Mapping[str, int]) -> str:
    """Rows by table, in words."""
    return ", ".join(f"{count} {name}" for name, count in rows.items() if count) or "no rows"


if __name__ == "__main__":
    main()
