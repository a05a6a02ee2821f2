"""Back-up and restore: the database's rows and the registry's versions in one folder, checked by hashes.

    FOLDER/backup.json                 what the back-up holds, with the SHA-256 of every file; written last
    FOLDER/tables/<table>.jsonl.gz     the rows, JSON lines
    FOLDER/registry/<name>/v<N>/...    the versions, as the registry has them

A folder appears by one rename. Taken while a service runs, it is of one moment: rows first, then
versions, which never change and stand on disk before any row names them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valuealign.disk import writing
from valuealign.errors import StoreError
from valuealign.registry import ERASED, SUFFIXES, Registry
from valuealign.store import dump, now
from valuealign.store import tables as t

SUMMARY = "backup.json"
FORMAT = 1


@dataclass(frozen=True)
class Backup:
    """What a back-up's folder holds: rows by table, versions such as ``demo@v3``, when it was taken."""

    created: str
    rows: Mapping[str, int]
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Restored:
    """What a restore brought back: rows by table, the versions that were not there, and how many people
    were erased again because they had been since the back-up."""

    rows: Mapping[str, int]
    versions: tuple[str, ...]
    erased_again: int


def create(registry: Registry, folder: Path, *, progress: Callable[[str], None] = lambda line: None) -> Backup:
    """Back up the registry and its store to ``folder``, which is new or empty. Both may be in use.

    Raises StoreError, RegistryError for a version whose files were changed, DiskError.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError("there is something already", where=str(folder), mend="name a new folder")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            summary = _write(registry, aside, progress)
            if folder.exists():
                folder.rmdir()
            aside.rename(folder)
            _sync(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return _backup(summary)


def _write(registry: Registry, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    (folder / "tables").mkdir()
    created = now()
    tables = dump.save(registry.store, folder / "tables")
    progress(f"{sum(one.rows for one in tables.values())} rows of {len(tables)} tables")
    versions: dict[str, dict[str, str]] = {}
    for name in registry.names():
        for version in registry.versions(name):
            registry.verify(version)
            files = [path.name for path in version.path.iterdir()]
            versions[version.ref] = _copy(version.path, folder / "registry" / name / version.id, files)
            progress(f"{version.ref}: {len(versions[version.ref])} files")
    summary = {
        "format": FORMAT,
        "created": created,
        "revision": t.REVISION,
        "tables": {name: one._asdict() for name, one in tables.items()},
        "versions": versions,
    }
    with (folder / SUMMARY).open("w", encoding="utf-8") as file:
        json.dump(summary, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)
    return summary


def _copy(source: Path, target: Path, files: Iterable[str]) -> dict[str, str]:
    """Copy a version's ``files`` to disk; the SHA-256 of each as it was written."""
    target.mkdir(parents=True)
    hashes = {}
    for name in sorted(files):
        shutil.copyfile(source / name, target / name)
        (target / name).chmod(0o444)
        _sync(target / name)
        hashes[name] = dump.sha256(target / name)
    _sync(target)
    return hashes


def inspect(folder: Path) -> Backup:
    """What the back-up in ``folder`` holds, every file held against its hash. Raises StoreError."""
    return _backup(_read(Path(folder)))


def restore(
    registry: Registry,
    folder: Path,
    *,
    force: bool = False,
    who: str,
    progress: Callable[[str], None] = lambda line: None,
) -> Restored:
    """Bring back what ``folder`` holds: versions that are not there, and all rows, into an empty database or,
    with ``force``, in place of what it holds. All rows or none.

    What was erased since the back-up stays erased. Raises StoreError: not a whole back-up, of
    another schema, a database that is not empty, a version that is there with other files.
    """
    folder = Path(folder).absolute()
    summary = _read(folder)
    if not force:
        dump.check_empty(registry.store)  # before any version is brought back, and again with the rows
    placed = []
    for ref, files in summary["versions"].items():
        if _place(registry, folder, ref, files):
            placed.append(ref)
            progress(f"{ref}: brought back")
    files = {name: dump.Written(**one) for name, one in summary["tables"].items()}
    loaded = dump.load(registry.store, folder / "tables", files, force=force, who=who)
    detail = {"created": summary["created"], "rows": loaded.rows, "erased_again": loaded.erased_again}
    registry.store.note(who, "backup.restored", folder.name[:128], detail)
    return Restored(loaded.rows, tuple(placed), loaded.erased_again)


def _place(registry: Registry, folder: Path, ref: str, files: Mapping[str, str]) -> bool:
    """Put a version where the registry has it; False if it is there already. Raises StoreError."""
    name, _, id = ref.partition("@")
    target = registry.root / name / id
    if target.exists():
        if (target / ERASED).is_file():
            return False  # its weights were erased since, and stay so
        if any(not (target / file).is_file() or dump.sha256(target / file) != hash for file, hash in files.items()):
            raise StoreError(
                "the version is there already, with other files",
                where=str(target),
                mend="move it away, or restore to another VALUEALIGN_HOME",
            )
        return False
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".aside-", dir=target.parent))
        try:
            if _copy(folder / "registry" / name / id, aside / id, files) != dict(files):
                raise _damaged(folder / "registry" / name / id)
            (aside / id).rename(target)
            _sync(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return True


def _read(folder: Path) -> dict[str, Any]:
    """The summary of a back-up whose files are all there and as they were written. Raises StoreError."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        found, revision = summary["format"], summary["revision"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError("this is no back-up", where=str(folder), mend=f"name a folder with a {SUMMARY}") from None
    if (found, revision) != (FORMAT, t.REVISION):
        raise StoreError(
            f"the back-up has format {found} and schema {revision}, this release {FORMAT} and {t.REVISION}",
            where=str(folder),
            mend="restore it with the release that wrote it; this one then brings that database up to date",
        )
    hashes = {Path("tables", one["file"]): one["sha256"] for one in summary["tables"].values()}
    for ref, files in summary["versions"].items():
        name, _, id = ref.partition("@")
        hashes |= {Path("registry", name, id, file): hash for file, hash in files.items()}
    odd = [path for path in hashes if path.is_absolute() or ".." in path.parts or path.suffix not in (*SUFFIXES, ".gz")]
    if odd or {one.name for one in dump.TABLES} != set(summary["tables"]):
        raise StoreError("this is no back-up of ours", where=str(folder), mend="use another back-up")
    for path, hash in hashes.items():
        if not (folder / path).is_file() or dump.sha256(folder / path) != hash:
            raise _damaged(folder / path)
    return summary


def _damaged(path: Path) -> StoreError:
    what = "the back-up is damaged: a file is not what was written"
    return StoreError(what, where=str(path), mend="use another back-up")


def _backup(summary: Mapping[str, Any]) -> Backup:
    rows = {name: one["rows"] for name, one in summary["tables"].items()}
    return Backup(summary["created"], rows, tuple(summary["versions"]))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
