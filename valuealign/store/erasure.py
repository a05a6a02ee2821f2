"""Erasure: what a person asked, was answered and said goes; that it went stays known, and how much.

An Idempotency-Key that feedback came with stays, without what it was answered: a client that tries again after
the erasure must not post a second time.

A tombstone keeps the SHA-256 of the person's id, without a secret of the database's: it has to be
recognised by another database, where an older back-up is restored. Whoever holds the tombstone
and can guess the id can therefore confirm the guess, which is why ids should be random.

An erasure takes all rows that there are. When it is applied again after a restore, times decide what belongs to
whom: who was erased and came back later is a new person, and only rows from before the erasure go.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Table, select, text

from valuealign.errors import StoreError
from valuealign.store import _feedback as posts
from valuealign.store import _steps as steps
from valuealign.store import tables as t
from valuealign.store.records import Erased

Tombstone = Mapping[str, Any]  # a row of the table
TRACED = ".models.json"  # behind a tombstone's id: the file beside its own that says which versions had learned of it


def person_sha256(person: str) -> str:
    """What stays of a person's id."""
    return hashlib.sha256(f"valuealign erasure\n{person}".encode()).hexdigest()


def erase(
    connection: Connection, person: str, *, who: str, principal: str, key: str | None, receipts: Path | None
) -> Erased:
    """Remove the person's rows and keep the receipt, in this transaction. Raises KeyReused, StoreError."""
    posts.check_texts({"person": person, "key": key, "principal": principal})
    if connection.dialect.name == "postgresql":  # on SQLite writers queue
        connection.execute(text("LOCK TABLE responses, feedback IN SHARE ROW EXCLUSIVE MODE"))
    sha256 = person_sha256(person)
    if key is not None and (answer := posts.saved(connection, principal, key, sha256)):
        row = connection.execute(select(t.erasures).where(t.erasures.c.id == answer["id"])).one()
        return to_erased(row, replayed=True)
    created = steps.now()
    rows, feedback, manifests = remove(connection, person, before=None, who=who)
    tombstone = {
        "id": steps.new_id("er"),
        "created": created,
        "person_sha256": sha256,
        "rows": rows,
        "feedback": list(feedback),
        "manifests": list(manifests),
    }
    connection.execute(t.erasures.insert().values(**tombstone))
    if key is not None:
        posts.save(
            connection, principal, key, sha256, {"id": tombstone["id"]}, subject=str(tombstone["id"]), at=created
        )
    detail = {"rows": rows, "manifests": list(manifests)}
    steps.note(connection, who, "person.erased", str(tombstone["id"]), detail)
    if receipts is not None:
        # Before the commit: a receipt without its erasure asks for nothing that the person did not.
        write_receipt(receipts, tombstone)
    return Erased(str(tombstone["id"]), created, rows, tuple(feedback), tuple(manifests))


def remove(
    connection: Connection, person: str, *, before: str | None, who: str
) -> tuple[dict[str, int], Sequence[str], Sequence[str]]:
    """Delete the person's rows, or those up to the time ``before``: how many of each table, which feedback, and
    the manifests that held it. A running update that holds any of it loses its hold."""

    def of_person(table: Table) -> Sequence[str]:
        until = [] if before is None else [table.c.created <= before]
        return connection.execute(select(table.c.id).where(table.c.person == person, *until)).scalars().all()

    mine, found = of_person(t.responses), set(of_person(t.feedback))
    for some in posts.chunks(mine):
        on_mine = select(t.feedback.c.id).where(t.feedback.c.response_id.in_(some))
        found |= set(connection.execute(on_mine).scalars())
    ids = sorted(found)
    manifests = _held(connection, ids)
    _break_holds(connection, manifests, who)
    rows = {
        "feedback": _delete(connection, t.feedback, ids),
        "idempotency": _empty(connection, ids),
        "responses": _delete(connection, t.responses, mine),
    }
    return rows, ids, manifests


def _held(connection: Connection, ids: Sequence[str]) -> list[str]:
    items = t.manifest_items
    found: set[str] = set()
    for some in posts.chunks(ids):
        found |= set(connection.execute(select(items.c.manifest_id).where(items.c.feedback_id.in_(some))).scalars())
    return sorted(found)


def _break_holds(connection: Connection, manifests: Sequence[str], who: str) -> None:
    """What a running update has read it cannot unread: it may not promote what it makes of it."""
    for manifest_id in manifests:
        held = t.manifests.c.id == manifest_id, t.manifests.c.status == "claimed"
        if connection.execute(t.manifests.update().where(*held).values(status="released")).rowcount:
            steps.free_items(connection, manifest_id)
            steps.note(connection, who, "manifest.released", manifest_id, {"why": "feedback in it was erased"})


def _delete(connection: Connection, table: Table, ids: Sequence[str]) -> int:
    return sum(connection.execute(table.delete().where(table.c.id.in_(some))).rowcount for some in posts.chunks(ids))


def _empty(connection: Connection, feedback: Sequence[str]) -> int:
    """Take what posts were answered from their Idempotency-Keys."""
    emptied = t.idempotency.update().values(answer=posts.ERASED, body_sha256="")
    return sum(
        connection.execute(emptied.where(t.idempotency.c.subject.in_(some))).rowcount for some in posts.chunks(feedback)
    )


def to_erased(row: Row[Any], *, replayed: bool = False) -> Erased:
    """The receipt that a row of the table is."""
    return Erased(row.id, row.created, row.rows, tuple(row.feedback), tuple(row.manifests), replayed)


# After a restore


def replay(connection: Connection, tombstones: Iterable[Tombstone], *, who: str) -> int:
    """Apply erasures to what a back-up brought back, and keep those that the database does not know.

    Returns how many people went again.
    """
    known = set(connection.execute(select(t.erasures.c.id)).scalars())
    until: dict[str, str] = {}
    for one in tombstones:
        until[one["person_sha256"]] = max(one["created"], until.get(one["person_sha256"], ""))
        if one["id"] not in known:
            known.add(one["id"])
            connection.execute(t.erasures.insert().values(**{column.name: one[column.name] for column in t.erasures.c}))
    again = 0
    for person in _people(connection) if until else ():
        before = until.get(person_sha256(person))
        if before is None:
            continue
        rows, _, manifests = remove(connection, person, before=before, who=who)
        if any(rows.values()):
            again += 1
            steps.note(connection, who, "person.erased", "restore", {"rows": rows, "manifests": list(manifests)})
    return again


def _people(connection: Connection) -> set[str]:
    return {
        person
        for column in (t.responses.c.person, t.feedback.c.person)
        for person in connection.execute(select(column).where(column.is_not(None)).distinct()).scalars()
    }


def tombstones(connection: Connection) -> list[Tombstone]:
    """Every erasure that the database knows."""
    return [dict(row._mapping) for row in connection.execute(select(t.erasures).order_by(t.erasures.c.created))]


# Receipts as files


def write_receipt(folder: Path, tombstone: Tombstone) -> None:
    """Keep a tombstone as a file, on disk when this returns. Raises StoreError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{tombstone['id']}.json"
        with aside.open("w", encoding="utf-8") as file:
            json.dump(dict(tombstone), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(folder / f"{tombstone['id']}.json")
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise StoreError(
            f"the receipt of an erasure cannot be written ({error.strerror})",
            where=str(folder),
            mend="make room or let this user write there, and ask again: nothing was erased",
        ) from None


def read_receipts(folder: Path | None) -> list[Tombstone]:
    """The tombstones of a folder. Raises StoreError for a file that is none."""
    found: list[Tombstone] = []
    for path in sorted(folder.glob("er-*.json")) if folder is not None else ():
        if path.name.endswith(TRACED):
            continue
        try:
            one = json.loads(path.read_text(encoding="utf-8"))
            found.append({column.name: one[column.name] for column in t.erasures.c})
        except (OSError, ValueError, KeyError, TypeError):
            raise StoreError("this is no receipt of an erasure", where=str(path), mend="move it away") from None
    return found
