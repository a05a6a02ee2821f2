"""A person asks to be forgotten: rows go, and a receipt says where their feedback had been.

The weights of a version that learned from it cannot be taken back by deleting rows: the receipt names those versions,
what was trained from them in turn, and when aliases pointed at any of them. ``update.rebuild`` trains anew without.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from valuealign.disk import writing
from valuealign.errors import StoreError
from valuealign.loop.lineage import ancestors, own_feedback
from valuealign.registry import Registry, Version
from valuealign.store import Erased, Store
from valuealign.store.erasure import TRACED


@dataclass(frozen=True)
class Served:
    """An alias pointed at a version from ``start`` to ``end`` (None: it still does)."""

    name: str
    alias: str
    version: str
    start: str
    end: str | None


@dataclass(frozen=True)
class Receipt:
    """What an erasure did and where the feedback had been. It names no person.

    ``rows`` deleted by table, ``feedback`` ids, the ``manifests`` that held them; ``trained`` are the versions made
    with any of it, ``descendants`` those trained from them, ``served`` when an alias pointed at one of either;
    ``serving`` are those that one points at now. ``mend`` says what to do about them.
    """

    id: str
    created: str
    rows: dict[str, int]
    feedback: tuple[str, ...]
    manifests: tuple[str, ...]
    trained: tuple[str, ...]
    descendants: tuple[str, ...]
    served: tuple[Served, ...]
    serving: tuple[str, ...]
    replayed: bool = False
    mend: str = ""

    def record(self) -> dict[str, Any]:
        """The receipt as plain data."""
        return asdict(self)


def erase(
    person: str, *, store: Store, registry: Registry, who: str, key: str | None = None, principal: str = ""
) -> Receipt:
    """Remove all of ``person`` and say which versions had learned from it; a repeated ``key`` says it again.

    The receipt is kept beside the registry, as ``erasures/<id>.models.json``, which is never written anew. Raises as
    ``Store.erase``, and DiskError.
    """
    erased = store.erase(person, who=who, key=key, principal=principal)
    if (kept := _kept(erased.id, registry)) is not None:
        return replace(kept, replayed=True)
    receipt = trace(erased, registry)
    _keep(receipt, _file(erased.id, registry))
    if not erased.replayed:
        found = {"trained": list(receipt.trained), "descendants": list(receipt.descendants)}
        store.note(who, "erasure.traced", erased.id, found | {"serving": list(receipt.serving)})
    return receipt


def trace(erased: Erased, registry: Registry) -> Receipt:
    """Where the erased feedback had been, as the registry stands now; a version that the kept receipt names stays
    named after its folder was removed. Raises StoreError for a receipt that cannot be read."""
    kept = _kept(erased.id, registry)
    versions = [version for name in registry.names() for version in registry.versions(name)]
    gone, manifests = set(erased.feedback), set(erased.manifests)
    found = [one.ref for one in versions if own_feedback(one) & gone or _manifest(one) in manifests]
    trained = list(dict.fromkeys([*(kept.trained if kept else ()), *found]))
    after = list(kept.descendants if kept else ())
    reached = {*trained, *after}
    for one in versions:
        if one.ref not in reached and any(ancestor.ref in reached for ancestor in ancestors(registry, one)):
            after.append(one.ref)
    served = _served([*trained, *after], registry)
    serving = tuple(sorted({f"{one.name}@{one.alias}" for one in served if one.end is None}))
    return Receipt(
        id=erased.id,
        created=erased.created,
        rows=dict(erased.rows),
        feedback=tuple(erased.feedback),
        manifests=tuple(erased.manifests),
        trained=tuple(trained),
        descendants=tuple(after),
        served=tuple(served),
        serving=serving,
        replayed=erased.replayed,
        mend=_mend(serving, bool(trained)),
    )


def _mend(serving: Sequence[str], trained: bool) -> str:
    if serving:
        return (
            f"{', '.join(serving)} still answer with what was learned: jobs/update.py --rebuild trains anew without it"
        )
    return "no alias points at a version that learned from it" if trained else "no version had learned from it"


def _manifest(version: Version) -> str | None:
    return (version.card.get("manifest") or {}).get("id")


def _served(refs: Sequence[str], registry: Registry) -> list[Served]:
    found = []
    for name in dict.fromkeys(ref.partition("@")[0] for ref in refs):
        for state in registry.store.aliases(name):
            moves = registry.history(name, state.alias)
            ends = [*(move.created for move in moves[1:]), None]
            found += [
                Served(name, state.alias, move.to_version, move.created, end)
                for move, end in zip(moves, ends, strict=True)
                if f"{name}@{move.to_version}" in refs
            ]
    return found


def _file(id: str, registry: Registry) -> Path:
    return registry.root.parent / "erasures" / f"{id}{TRACED}"


def _kept(id: str, registry: Registry) -> Receipt | None:
    path = _file(id, registry)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(found[name]) for name in ("feedback", "manifests", "trained", "descendants", "serving")}
        return Receipt(**{**found, **lists, "served": tuple(Served(**one) for one in found["served"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError("the receipt cannot be read", where=str(path), mend="restore it or move it away") from None


def _keep(receipt: Receipt, path: Path) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}")
        aside.write_text(json.dumps(receipt.record(), indent=2) + "\n", encoding="utf-8")
        aside.replace(path)
