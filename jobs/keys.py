"""Make, list and revoke the API keys of the service. A key is shown once; only its hash is kept.

    python jobs/keys.py create --name admin --scope admin                       # the first one
    python jobs/keys.py create --name website --scope query --scope feedback --per-minute 600
    python jobs/keys.py list
    python jobs/keys.py revoke 3f9a0c1b2d4e

Scopes: query (ask for answers), feedback (post it), review (read it, accept or decline it, see the
models' history), admin (all of these, erasure, promotion and rollback). A running service knows a new key
at once and a revoked one within seconds.
"""

from __future__ import annotations

import getpass
from typing import Any, get_args

import click
from _job import keep_lines, open_store, say, user_errors

from valuealign.store import Key, Scope


@click.group(help=keep_lines(__doc__), context_settings={"max_content_width": 120})
def main() -> None:
    pass


@main.command()
@click.option("--name", required=True, help="whose key it is; kept with it")
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(get_args(Scope)), help="may repeat")
@click.option("--per-minute", type=click.IntRange(min=1), help="at most so many requests a minute")
@click.option("--dry-run", is_flag=True, help="say what would be made and touch nothing")
def create(name: str, scopes: Any, per_minute: int | None, dry_run: bool) -> None:
    """Make a key and show it, once."""
    with user_errors():
        if dry_run:
            say(f"(dry run) a key '{name}' for {', '.join(scopes)} would be made")
            return
        key, text = open_store().keys.create(name, scopes, per_minute=per_minute, who=getpass.getuser())
        say(told(key))
        say("the key, shown this once (Authorization: Bearer ...):")
        say(text)


@main.command(name="list")
def list_() -> None:
    """Every key, oldest first: id, scopes, limit, name."""
    with user_errors():
        found = open_store().keys.list()
        for key in found:
            say(told(key))
        if not found:
            say("no key yet; make the first with: python jobs/keys.py create --name admin --scope admin")


@main.command()
@click.argument("id")
@click.option("--dry-run", is_flag=True, help="say which key would end and touch nothing")
def revoke(id: str, dry_run: bool) -> None:
    """End the key of that ID for good."""
    with user_errors():
        store = open_store()
        if dry_run:
            known = [told(key) for key in store.keys.list() if key.id == id]
            say(f"(dry run) {known[0]} would end" if known else f"(dry run) there is no key {id}")
            return
        say(told(store.keys.revoke(id, who=getpass.getuser())))


def told(key: Key) -> str:
    """A key in one line; never its text."""
    limit = f"{key.per_minute}/min" if key.per_minute else "no limit of its own"
    ended = f"  revoked {key.revoked}" if key.revoked else ""
    return f"{key.id}  {key.created}  {','.join(key.scopes)}  {limit}  {key.name}{ended}"


if __name__ == "__main__":
    main()
