"""Where runs lie: a folder for each configuration and data, gone on with until it is done."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from valuealign.config import RunConfig, differences, dump, dump_identity, home
from valuealign.errors import ConfigError

CONFIGURATION, FACTS, DONE = "run.yaml", "facts.json", "done.json"


class RunFolder(NamedTuple):
    """A run's folder, and whether an interrupted run is in it, to be gone on with."""

    path: Path
    resumed: bool


def run_folder(job: str, config: RunConfig, facts: Mapping[str, str], *, resume: bool = False) -> RunFolder:
    """Where a run lives: the same configuration and ``facts`` (data, models) give the same folder until it is done.

    The folder keeps both; what only says how a run is watched (``train.log_to``) makes no other folder. With
    ``resume`` there must be an interrupted run to go on with: raises ConfigError where there is none, or only one
    of another configuration or other facts, saying what differs.
    """
    runs = home() / "runs" / config.name
    key = hashlib.sha256("\n".join((dump_identity(config), *facts.values())).encode()).hexdigest()[:10]
    for attempt in itertools.count(1):
        folder = runs / (f"{job}-{key}" if attempt == 1 else f"{job}-{key}-{attempt}")
        if not (folder / DONE).exists():
            break
    if resume and not _interrupted(folder):
        raise _nothing_to_resume(runs, job, config, facts)
    found = _interrupted(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / CONFIGURATION, dump(config))
    _write(folder / FACTS, json.dumps(dict(facts), indent=2))
    return RunFolder(folder, found)


def done(folder: Path, facts: Mapping[str, Any]) -> None:
    """Mark a run as finished, with what it made."""
    _write(folder / DONE, json.dumps(dict(facts), indent=2, default=str))


def _interrupted(folder: Path) -> bool:
    begun = (folder / "log.jsonl").exists() or (folder / "tune").exists()
    return begun and not (folder / DONE).exists()


def _nothing_to_resume(runs: Path, job: str, config: RunConfig, facts: Mapping[str, str]) -> ConfigError:
    """What keeps the newest interrupted run from being gone on with."""
    there = [one for one in runs.glob(f"{job}-*") if _interrupted(one) and (one / CONFIGURATION).exists()]
    if not there:
        return ConfigError(
            f"there is no interrupted {job} of '{config.name}' to resume",
            where=str(runs),
            mend="leave --resume away to begin one",
        )
    newest = max(there, key=lambda one: (one / CONFIGURATION).stat().st_mtime)
    apart = differences((newest / CONFIGURATION).read_text(encoding="utf-8"), dump(config))
    known = json.loads((newest / FACTS).read_text(encoding="utf-8"))
    apart += [f"{name}: {known.get(name)} there, {now} now" for name, now in facts.items() if known.get(name) != now]
    return ConfigError(
        f"the interrupted {job} has another configuration or other data: {'; '.join(apart)}",
        where=str(newest),
        mend=f"resume with `-c {newest / CONFIGURATION}` and no other key, or leave --resume away to begin another",
    )


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
