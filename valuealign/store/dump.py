"""All rows of a database as files, and back: JSON lines, one file a table, the same for SQLite and PostgreSQL.

The database's secrets are left out: whoever gets hold of a back-up can sign nothing with it. Keys are in
it as hashes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, func, select, text

from valuealign.errors import StoreError
from valuealign.store import erasure
from valuealign.store import tables as t
from valuealign.store.connection import Database

# A table stands behind those that it refers to.
TABLES: tuple[Table, ...] = (
    t.responses,
    t.feedback,
    t.idempotency,
    t.manifests,
    t.manifest_items,
    t.aliases,
    t.alias_history,
    t.audit,
    t.keys,
    t.erasures,
)
ROWS = 1_000  # in memory at a time


class Written(NamedTuple):
    """One file of a back-up: a table's, or any other (``rows`` 0)."""

    file: str
    sha256: str
    rows: int


def save(database: Database, folder: Path) -> dict[str, Written]:
    """Write every table to ``folder``, all of one moment while others write; by the table's name."""
    with database._snapshot() as connection:
        return {table.name: _save(connection, table, folder) for table in TABLES}


def _save(connection: Connection, table: Table, folder: Path) -> Written:
    path, rows = folder / f"{table.name}.jsonl.gz", 0
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=ROWS)
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        for row in connection.execute(query):
            file.write(json.dumps(dict(row._mapping)).encode() + b"\n")
            rows += 1
        file.close()
        raw.flush()
        os.fsync(raw.fileno())
    return Written(path.name, sha256(path), rows)


class Loaded(NamedTuple):
    """What a restore brought back: rows by table, and how many people were erased again."""

    rows: dict[str, int]
    erased_again: int


def load(database: Database, folder: Path, files: Mapping[str, Written], *, force: bool = False, who: str) -> Loaded:
    """Fill an empty database from ``folder``; with ``force``, in place of what it holds. All or nothing.

    What was erased since the back-up goes again: by the tombstones of the database that is replaced
    and by the receipts beside it. Keys that it knows as revoked stay so. Raises StoreError.
    """
    receipts = erasure.read_receipts(database._receipts)
    with database._write() as connection:
        if not force:
            _refuse_rows(database, connection)
        known = [*erasure.tombstones(connection), *receipts]
        ended = dict(
            connection.execute(select(t.keys.c.id, t.keys.c.revoked).where(t.keys.c.revoked.is_not(None))).all()
        )
        # Anew and not emptied: the past of some tables cannot be deleted row by row.
        t.metadata.drop_all(connection, tables=TABLES)
        t.metadata.create_all(connection, tables=TABLES)
        rows = {table.name: _load(connection, table, folder / files[table.name].file) for table in TABLES}
        _check_counts(rows, files, folder)
        for id, revoked in ended.items():
            connection.execute(t.keys.update().where(t.keys.c.id == id).values(revoked=revoked))
        _move_counters(connection)
        again = erasure.replay(connection, [*erasure.tombstones(connection), *known], who=who)
    return Loaded(rows, again)


def check_empty(database: Database) -> None:
    """Raise StoreError if a table has a row."""
    with database._read() as connection:
        _refuse_rows(database, connection)


def _refuse_rows(database: Database, connection: Connection) -> None:
    if held := [table.name for table in TABLES if _count(connection, table)]:
        raise StoreError(
            f"the database is not empty ({', '.join(held[:3])})",
            where=str(database._where),
            mend="restore into a new one, or give --force to put the back-up in its place",
        )


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(select(table).limit(1).subquery())).scalar_one()


def _load(connection: Connection, table: Table, path: Path) -> int:
    rows = 0
    for some in _batches(path):
        connection.execute(table.insert(), some)
        rows += len(some)
    return rows


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        batch: list[dict[str, Any]] = []
        for line in file:
            batch.append(json.loads(line))
            if len(batch) == ROWS:
                yield batch
                batch = []
        if batch:
            yield batch


def _check_counts(rows: Mapping[str, int], files: Mapping[str, Written], folder: Path) -> None:
    for name, count in rows.items():
        if count != files[name].rows:
            raise StoreError(
                f"{count} rows where the back-up says {files[name].rows}",
                where=str(folder / files[name].file),
                mend="use another back-up",
            )


def _move_counters(connection: Connection) -> None:
    """PostgreSQL counts ids by itself; it has to go on behind the ones that were put in."""
    if connection.dialect.name != "postgresql":
        return
    for table in (t.audit, t.alias_history):
        highest = connection.execute(select(func.max(table.c.id))).scalar()
        if highest is not None:
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :id)"), {"table": table.name, "id": highest}
            )


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
