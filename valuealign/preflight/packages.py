"""The installed packages against the versions that pyproject.toml pins."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from valuealign.errors import ConfigError

SETUP = "run `make setup` in the repository"


def read_pins(pyproject: Path) -> dict[str, Version]:
    """Package -> the version that the project pins for it, of what a run imports.

    Raises ConfigError where the file is missing or pins nothing.
    """
    mend = "run the job from a whole copy of the repository"
    try:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(pyproject), mend=mend) from None
    pins = {
        required.name: Version(one.version)
        for required in map(Requirement, project.get("dependencies", ()))
        for one in required.specifier
        if one.operator == "=="
    }
    if not pins:
        raise ConfigError("no package is pinned", where=str(pyproject), mend=mend)
    return pins


def installed(names: Mapping[str, Version]) -> dict[str, Version]:
    """Package -> installed version, without those that are not there."""
    found: dict[str, Version] = {}
    for name in names:
        try:
            found[name] = Version(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return found


def compare(pins: Mapping[str, Version], found: Mapping[str, Version]) -> str:
    """Words on packages that are as pinned or newer. Raises ConfigError naming those that are older or missing.

    What stands behind a ``+`` (``2.13.0+cu130``) says how a version was built, and is not compared.
    """
    public = {name: Version(version.public) for name, version in found.items()}
    missing = [name for name in pins if name not in public]
    older = [f"{name} {public[name]} < {pin}" for name, pin in pins.items() if name in public and public[name] < pin]
    if missing or older:
        what = "; ".join([*(f"{name} is missing" for name in missing), *older])
        raise ConfigError(what, where="packages", mend=SETUP)
    newer = [f"{name} {public[name]} (pinned: {pin})" for name, pin in pins.items() if public[name] > pin]
    return f"{len(pins)} as pinned or newer" + (f"; newer: {', '.join(newer)}" if newer else "")
