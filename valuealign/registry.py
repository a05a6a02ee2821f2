"""Immutable versions in folders, and aliases that move by compare-and-set.

A version is the folder ``<root>/<name>/v<N>``: safetensors, JSON, a ``card.json`` with the
SHA-256 of every file, and a ``README.md`` made from it. It appears by one rename and is never
changed. Aliases and their history live in the store.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from valuealign.errors import AliasMoved, ModelError, RegistryError, UnknownVersion, nearest
from valuealign.model_card import model_card
from valuealign.store import AliasState, Manifest, Move, Store

CARD = "card.json"
README = "README.md"
ERASED = "weights-erased.json"  # says that a version's weights were removed on purpose
WEIGHTS = ".safetensors"
SUFFIXES = (WEIGHTS, ".json", ".md")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_NUMBER = re.compile(r"v([1-9][0-9]{0,8})")
Signature = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True)
class Version:
    """One trained model: an adapter's folder and its card. ``parent`` is a version id of the same family."""

    name: str
    number: int
    path: Path
    parent: str | None
    card: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Such as ``v3``."""
        return f"v{self.number}"

    @property
    def ref(self) -> str:
        """Such as ``demo@v3``."""
        return f"{self.name}@{self.id}"

    @property
    def erased(self) -> bool:
        """Whether its weights were removed: what is left is its card."""
        return (self.path / ERASED).is_file()

    @property
    def quantize(self) -> str:
        """How its base is loaded, ``model.quantize``: what follows the base's hash."""
        return str(self.card.get("base_hash") or "").partition("+")[2] or "none"


def check_base(version: Version, base_hash: str, mend: str) -> None:
    """A version fits only over the base it was trained on; a same-shaped other one would give nonsense.

    Raises ModelError: another base (``mend`` is what to do then), or the same one quantized otherwise.
    """
    made_on = version.card.get("base_hash")
    if not made_on or made_on == base_hash:
        return
    what = "the version was trained on another base model"
    if made_on.partition("+")[0] == base_hash.partition("+")[0]:
        what = f"the version was trained with model.quantize: {version.quantize}"
        mend = f"set model.quantize={version.quantize}"
    raise ModelError(what, where=version.ref, mend=mend)


class Registry:
    """The versions under ``root``; aliases, their history and the audit are kept in ``store``."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root = Path(root).absolute()
        self.store = store
        self._verified: dict[Path, Signature] = {}
        self._known: dict[Path, Version] = {}  # as they were when they were verified

    def register(
        self,
        folder: Path,
        *,
        name: str,
        card: Mapping[str, Any],
        parent: Version | str | None = None,
        who: str = "registry",
    ) -> Version:
        """Copy the files of ``folder`` to a new version of ``name`` and make it last.

        ``card`` says what the model is (``base``, ``config``, ``data``, ``results``, ...);
        ``parent``, ``created`` and the files' hashes are added. Raises RegistryError for a folder
        with anything but safetensors, JSON and Markdown, or without safetensors.
        """
        _check_name(name, "model family")
        sources = _sources(Path(folder))
        parent_id = self.get(_id(parent), name=name).id if parent is not None else None
        family = self.root / name
        family.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".aside-", dir=family))
        try:
            full = {
                **card,
                "name": name,
                "parent": parent_id,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "files": {source.name: _copy(source, aside / source.name) for source in sources},
            }
            _write(aside / CARD, json.dumps(full, indent=2, ensure_ascii=False, default=str) + "\n")
            _write(aside / README, model_card(full))
            _sync(aside)
            version = self._place(aside, name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self.store.note(who, "version.registered", version.ref, {"parent": parent_id, "files": dict(full["files"])})
        return version

    def _place(self, aside: Path, name: str) -> Version:
        aside.chmod(0o755)
        # A number that an alias has had is not given again, even if somebody removed its folder.
        moves = [move for state in self.store.aliases(name) for move in self.history(name, state.alias)]
        served = [int(move.to_version[1:]) for move in moves]
        number = max([*served, *(v.number for v in self.versions(name))], default=0) + 1
        while True:
            try:
                # Renaming onto a folder that holds files fails: whoever is first has the number.
                aside.rename(self.root / name / f"v{number}")
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                number += 1
        _sync(self.root / name)
        return _read(self.root / name / f"v{number}")

    def names(self) -> list[str]:
        """The model families that have a version."""
        if not self.root.is_dir():
            return []
        return sorted(
            folder.name for folder in self.root.iterdir() if _NAME.fullmatch(folder.name) and _numbers(folder)
        )

    def versions(self, name: str) -> list[Version]:
        """Every version of a model family, oldest first (an unknown family has none)."""
        if not _NAME.fullmatch(name):
            return []
        family = self.root / name
        return [_read(family / f"v{number}") for number in _numbers(family)]

    def get(self, ref: str, *, name: str | None = None) -> Version:
        """The version that ``ref`` names now, its files checked against their hashes.

        ``demo@v3``, ``demo@champion`` or ``demo`` (its champion). A bare ``v3`` or ``champion``
        belongs to family ``name`` or, without one, to the only family there is. Raises
        UnknownVersion (one whose weights were erased too), and RegistryError if a file was changed.
        """
        family, which = self._parse(ref, name)
        if not _NUMBER.fullmatch(which):
            state = self.store.alias(family, which)
            if state is None:
                raise self._unknown(family, which)
            which = state.version
        path = self.root / family / which
        if not (path / CARD).is_file():
            raise self._unknown(family, which)
        if path in self._known and self._verified.get(path) == _signature(path):
            return self._known[path]  # not read again for each request
        version = _read(path)
        if version.erased:
            mend = "name another version; its card and what was trained from it are still there"
            raise UnknownVersion("the weights of this version were erased", where=version.ref, mend=mend)
        self.verify(version)
        self._known[path] = version
        return version

    def _parse(self, ref: str, name: str | None) -> tuple[str, str]:
        family, at, which = ref.partition("@")
        if not at:
            names = self.names()
            if name is not None and ref != name:
                family, which = name, ref
            elif ref == name or ref in names:
                family, which = ref, "champion"
            elif len(names) == 1:
                family, which = names[0], ref
            else:
                known = nearest(ref, names) if names else "no model is registered yet; run jobs/align.py"
                raise UnknownVersion(f"no model '{ref}'", where=str(ref), mend=known)
        if not (_NAME.fullmatch(family) and _NAME.fullmatch(which)):
            raise UnknownVersion("this is no model's name", where=ref, mend="write name, name@alias or name@v3")
        return family, which

    def _unknown(self, family: str, which: str) -> UnknownVersion:
        versions = [v.id for v in self.versions(family)]
        if not versions:
            names = self.names()
            mend = nearest(family, names) if names else "no model is registered yet; run jobs/align.py"
            return UnknownVersion(f"no model '{family}'", where=f"{family}@{which}", mend=mend)
        known = [*versions, *(state.alias for state in self.store.aliases(family))]
        kind = "version" if _NUMBER.fullmatch(which) else "alias"
        mend = f"'{family}' has: {', '.join(known)}"
        return UnknownVersion(f"no {kind} '{which}' of '{family}'", where=f"{family}@{which}", mend=mend)

    def verify(self, version: Version) -> None:
        """Check every file that was not erased against the card. Raises RegistryError naming the file that differs."""
        signature = _signature(version.path)
        files: Mapping[str, str] = version.card.get("files", {})
        if version.erased:
            files = {name: hash for name, hash in files.items() if not name.endswith(WEIGHTS)}
        present = {name for name, *_ in signature} - {CARD, README, ERASED}
        for name in sorted(present ^ set(files)):
            what = "is missing" if name in files else "was added after registration"
            raise RegistryError(
                f"a file {what}", where=str(version.path / name), mend="restore the folder, or roll back"
            )
        for name, expected in files.items():
            if (version.path / name).is_symlink() or _sha256(version.path / name) != expected:
                raise RegistryError(
                    "the file is not what was registered",
                    where=str(version.path / name),
                    mend="restore it, or roll back",
                )
        self._verified[version.path] = signature

    def erase_weights(self, ref: str, *, who: str, name: str | None = None) -> Version:
        """Remove a version's weights. Its card stays: by it, what learned what can still be traced.

        Raises UnknownVersion, and RegistryError while an alias points at the version.
        """
        family, which = self._parse(ref, name)
        path = self.root / family / which
        if not (_NUMBER.fullmatch(which) and (path / CARD).is_file()):
            raise self._unknown(family, which)
        version = _read(path)
        if pointing := [state.alias for state in self.store.aliases(family) if state.version == version.id]:
            raise RegistryError(
                f"the alias {', '.join(pointing)} points at it",
                where=version.ref,
                mend="train anew (jobs/update.py --rebuild), or point the alias elsewhere (jobs/promote.py --alias)",
            )
        if not version.erased:
            _write(path / ERASED, json.dumps({"created": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")
            _sync(path)
        for weights in path.glob(f"*{WEIGHTS}"):
            weights.unlink()
        _sync(path)
        self.store.note(who, "version.erased", version.ref, {})
        return version

    # Aliases

    def alias(self, name: str, alias: str = "champion") -> AliasState | None:
        """Where the alias points, and its epoch; ``None`` if it was never set."""
        return self.store.alias(name, alias)

    def move(
        self,
        name: str,
        alias: str,
        to: Version | str,
        *,
        expected: Version | str | None,
        epoch: int | None = None,
        who: str,
        why: str,
        figures: Mapping[str, Any] | None = None,
        consume: Manifest | None = None,
        beside: AliasState | None = None,
    ) -> AliasState:
        """Point ``alias`` at ``to`` if it still points at ``expected`` (``None``: is not set yet),
        and, where given, has not moved since ``epoch``, nor another alias since it was as ``beside`` has it.

        Where given, the feedback of manifest ``consume`` becomes used in the same transaction.
        Raises UnknownVersion, AliasMoved (somebody was first), RegistryError (changed files).
        """
        _check_name(alias, "alias")
        if _NUMBER.fullmatch(alias):
            raise RegistryError("an alias cannot look like a version", where=f"{name}@{alias}", mend="use a word")
        target = self.get(f"{name}@{_id(to)}")
        seen = None if expected is None else _id(expected)
        return self.store.move_alias(
            name,
            alias,
            target.id,
            expected=seen,
            epoch=epoch,
            who=who,
            why=why,
            figures=figures,
            consume=consume,
            beside=beside,
        )

    def previous(self, name: str, alias: str = "champion") -> Version | None:
        """Where a rollback would go: what the alias pointed at before and was not erased; ``None`` if there is none."""
        stack = self._stack(name, alias)
        return self.get(f"{name}@{stack[-2]}") if len(stack) > 1 else None

    def rollback(
        self, name: str, alias: str = "champion", *, expected: Version | str | None = None, who: str, why: str
    ) -> AliasState:
        """Point the alias at what it pointed at before; again, at what came before that.

        Where ``expected`` is given, only if it still points there: a repeated request goes back once.
        Raises UnknownVersion if there is nothing before, AliasMoved if somebody else moved it.
        """
        state = self.store.alias(name, alias)
        if state is None:
            raise self._unknown(name, alias)
        if expected is not None and state.version != _id(expected):
            raise AliasMoved(
                f"the alias points at {state.version}, not at {_id(expected)}",
                where=f"{name}@{alias}",
                mend="look at its history, then try again",
            )
        before = self.previous(name, alias)
        if before is None:
            raise UnknownVersion(
                "nothing to roll back to", where=f"{name}@{alias}", mend=f"it has only ever been {state.version}"
            )
        return self.store.move_alias(
            name, alias, before.id, expected=state.version, epoch=state.epoch, who=who, why=why, kind="rollback"
        )

    def history(self, name: str, alias: str = "champion") -> list[Move]:
        """Every move of the alias, oldest first."""
        return self.store.alias_history(name, alias)

    def _stack(self, name: str, alias: str) -> list[str]:
        """The versions that moves put on top of each other, less those rolled back or erased."""
        stack: list[str] = []
        for move in self.history(name, alias):
            if move.kind == "rollback" and len(stack) > 1:
                stack.pop()
                while len(stack) > 1 and stack[-1] != move.to_version:  # over what was erased
                    stack.pop()
            elif not stack or stack[-1] != move.to_version:
                stack.append(move.to_version)
        left = [id for id in stack if not (self.root / name / id / ERASED).is_file()]
        return [id for n, id in enumerate(left) if n == 0 or id != left[n - 1]]


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise RegistryError(f"'{name}' cannot name a {what}", mend="use letters, digits, '_', '.', '-'")


def _id(version: Version | str) -> str:
    return version.id if isinstance(version, Version) else version.rpartition("@")[2]


def _numbers(family: Path) -> list[int]:
    if not family.is_dir():
        return []
    matches = (_NUMBER.fullmatch(folder.name) for folder in family.iterdir() if (folder / CARD).is_file())
    return sorted(int(match[1]) for match in matches if match)


def _sources(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RegistryError("no such folder", where=str(folder), mend="name the folder with the adapter's files")
    sources = sorted(folder.iterdir())
    for source in sources:
        if source.is_symlink() or not source.is_file() or source.suffix not in SUFFIXES:
            raise RegistryError(
                "a version holds only plain .safetensors, .json and .md files",
                where=str(source),
                mend="convert weights to safetensors; remove the rest",
            )
    if not any(source.suffix == WEIGHTS for source in sources):
        raise RegistryError("no .safetensors file here", where=str(folder), mend="save the adapter as safetensors")
    return [source for source in sources if source.name not in (CARD, README)]


def _read(path: Path) -> Version:
    try:
        card = json.loads((path / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RegistryError(
            "the version's card cannot be read", where=str(path / CARD), mend="restore the folder"
        ) from None
    return Version(path.parent.name, int(path.name[1:]), path, card.get("parent"), card)


def _copy(source: Path, target: Path) -> str:
    """Copy to disk, read-only; returns the SHA-256 of what was written."""
    shutil.copyfile(source, target)
    _sync(target)
    target.chmod(0o444)
    return _sha256(target)


def _write(target: Path, text: str) -> None:
    target.write_text(text, encoding="utf-8")
    _sync(target)
    target.chmod(0o444)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _signature(path: Path) -> Signature:
    """What changes with a file, cheap to look at before each request: its size, its times and its inode. Whoever
    changes a file can set ``mtime``, but not ``ctime``."""
    stats = ((entry.name, entry.stat(follow_symlinks=False)) for entry in os.scandir(path))
    return tuple(sorted((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats))
