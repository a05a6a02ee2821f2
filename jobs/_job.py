"""What every job shares: the command line, errors in words with exit status 2, the cluster, the stores."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from valuealign import config as configuration
from valuealign.cluster.env import prepare_environment
from valuealign.cluster.tracking import check_trackers
from valuealign.errors import ValuealignError

prepare_environment(token_file=False)  # before ray, transformers or torch are imported anywhere


def say(text: str) -> None:
    """A line of progress, at once."""
    print(text, flush=True)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """A user's mistake, or a file that cannot be read or written, ends the job with a message and status 2."""
    try:
        yield
    except (ValuealignError, OSError) as error:
        if isinstance(error, OSError):
            if error.filename is None:  # not a place that the user chose
                raise
            mend = "look at VALUEALIGN_HOME and at the paths of this run"
            error = ValuealignError(str(error.strerror), where=str(error.filename), mend=mend)
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


@contextlib.contextmanager
def room_to_train(config: Any) -> Iterator[None]:
    """While the block runs, a service on this cluster leaves the GPUs that training needs, and comes back after it."""
    with contextlib.ExitStack() as stack:
        if gpus := config.train.workers * config.train.gpus_per_worker:
            from serve.app import lent

            stack.enter_context(lent(gpus))
        yield


def typed(*more: str) -> str:
    """The command that was typed, with ``more`` behind it."""
    return shlex.join(["python", *(word for word in sys.argv if word not in more), *more])


def keep_lines(docstring: str | None) -> str:
    """A job's docstring as --help shows it: click would join the example commands into one paragraph."""
    parts = (docstring or "").split("\n\n")
    return "\n\n".join(("\b\n" if part.startswith("    ") else "") + part for part in parts)


def run_job(
    docstring: str | None, body: Callable[..., Any], *options: Callable[[Any], Any], trains: bool = False
) -> None:
    """Run ``body(config, **options)`` as a command that takes a YAML file and overrides.

    One that ``trains`` first asks whether whoever is to keep its curves is there.
    """

    @click.command(
        help=keep_lines(docstring),
        epilog="\b\nKeys and defaults:\n" + configuration.describe(),
        context_settings={"max_content_width": 120},
    )
    @click.option(
        "--config", "-c", "path", type=click.Path(path_type=Path), help="the run's YAML file; without it, the defaults"
    )
    @click.option("--dry-run", is_flag=True, help="print the resolved run and touch nothing")
    @click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
    def command(path: Path | None, dry_run: bool, overrides: tuple[str, ...], **rest: Any) -> None:
        with user_errors():
            config = configuration.load(path, overrides)
            if dry_run:
                click.echo(configuration.dump(config), nl=False)
                return
            if trains:
                check_trackers(config.train.log_to)
            body(config, **rest)

    for option in reversed(options):
        command = option(command)
    command()


def open_store(home: Path | None = None) -> Any:
    """The feedback store of this home."""
    from valuealign.store import Store

    home = home or configuration.home()
    home.mkdir(parents=True, exist_ok=True)
    return Store.open(os.environ.get("VALUEALIGN_DB") or home / "valuealign.db")


def open_registry(home: Path | None = None) -> Any:
    """The registry of this home, over its store."""
    from valuealign.registry import Registry

    home = home or configuration.home()
    return Registry(home / "registry", open_store(home))


def say_notes(stages: Sequence[Any]) -> None:
    """What whoever configured the stages should know."""
    for stage in stages:
        for note in (note for term in stage.terms for note in term.notes):
            say(f"  {stage.name}: {note}")
