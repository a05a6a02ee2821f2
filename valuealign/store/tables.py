"""The tables, and how a database of either kind is opened.

Only SQLAlchemy Core is used, so that SQLite (one machine) and PostgreSQL (several) hold the same
schema. Times are UTC in ISO 8601 with milliseconds: they sort as text. What has happened is
never rewritten: ``audit``, ``alias_history`` and ``manifest_items`` refuse updates and deletes.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy.engine import URL

from valuealign.errors import StoreError

SCHEMA = 1
BUSY_SECONDS = 30.0

metadata = MetaData()

schema = Table("valuealign_schema", metadata, Column("version", Integer, nullable=False))

responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(128), nullable=False),
    Column("version", String(16), nullable=False),
    Column("messages", JSON, nullable=False),
    Column("answer", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("created", String(32), nullable=False),
    CheckConstraint("kind IN ('chat', 'distribution')", name="response_kind"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("response_id", ForeignKey("responses.id"), nullable=False, index=True),
    Column("verdict", String(16), nullable=False),
    Column("correction", Text),
    Column("status", String(16), nullable=False),
    Column("reviewer", String(128)),
    Column("reason", Text),
    Column("created", String(32), nullable=False),
    Column("reviewed", String(32)),
    Column("manifest_id", String(64), index=True),  # who holds or used it; null: free
    CheckConstraint("verdict IN ('desirable', 'undesirable', 'correction')", name="feedback_verdict"),
    CheckConstraint("(verdict = 'correction') = (correction IS NOT NULL)", name="feedback_correction"),
    CheckConstraint("status IN ('quarantined', 'accepted', 'declined', 'used')", name="feedback_status"),
    Index("feedback_by_status", "status", "created"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("answer", JSON, nullable=False),
    Column("created", String(32), nullable=False),
)

manifests = Table(
    "manifests",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("claimed_by", String(128), nullable=False),
    Column("lease_until", String(32), nullable=False),
    Column("created", String(32), nullable=False),
    CheckConstraint("status IN ('claimed', 'used', 'released')", name="manifest_status"),
)

manifest_items = Table(
    "manifest_items",
    metadata,
    Column("manifest_id", ForeignKey("manifests.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("feedback_id", ForeignKey("feedback.id"), nullable=False, index=True),
    UniqueConstraint("manifest_id", "feedback_id"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("alias", String(128), primary_key=True),
    Column("version", String(16), nullable=False),
    Column("epoch", Integer, nullable=False),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(128), nullable=False),
    Column("alias", String(128), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("from_version", String(16)),
    Column("to_version", String(16), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("who", String(128), nullable=False),
    Column("why", Text, nullable=False),
    Column("figures", JSON, nullable=False),
    Column("created", String(32), nullable=False),
    CheckConstraint("kind IN ('move', 'rollback')", name="history_kind"),
    UniqueConstraint("name", "alias", "epoch"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("created", String(32), nullable=False),
    Column("who", String(128), nullable=False),
    Column("event", String(64), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("detail", JSON, nullable=False),
)


def _append_only(table: Table) -> None:
    """Let the database itself refuse to rewrite ``table``'s past."""
    for verb in ("UPDATE", "DELETE"):
        name = f"{table.name}_no_{verb.lower()}"
        sqlite = DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER {name} BEFORE {verb} ON {table.name} "
            f"BEGIN SELECT RAISE(ABORT, '{table.name} is append-only'); END"
        )
        postgresql = DDL(  # type: ignore[no-untyped-call]
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table.name} is append-only'; END $$; "
            f"CREATE TRIGGER {name} BEFORE {verb} ON {table.name} FOR EACH ROW EXECUTE FUNCTION {name}()"
        )
        event.listen(table, "after_create", sqlite.execute_if(dialect="sqlite"))
        event.listen(table, "after_create", postgresql.execute_if(dialect="postgresql"))


for _table in (audit, alias_history, manifest_items):
    _append_only(_table)


def connect(url: URL) -> Engine:
    """An engine for ``url``; a SQLite one commits to disk before it answers (WAL, synchronous FULL)."""
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, pool_size=4, max_overflow=60)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling is switched off: SQLAlchemy says BEGIN (below).
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    """Turn WAL on; SQLite does not wait its busy timeout for this when another opener does the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: upgrading a read lock later fails without waiting.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def prepare(engine: Engine, where: str) -> None:
    """Make the tables of an empty database; refuse a foreign one or one from a newer release.

    Raises StoreError.
    """
    with engine.execution_options(writes=True).begin() as connection:
        present = set(inspect(connection).get_table_names())
        if schema.name not in present:
            if engine.dialect.name == "sqlite" and present:
                raise StoreError(
                    f"the database holds other tables ({', '.join(sorted(present)[:3])})",
                    where=where,
                    mend="name a new file, or one that valuealign made",
                )
            metadata.create_all(connection)
            connection.execute(schema.insert().values(version=SCHEMA))
            return
        version = connection.execute(select(schema.c.version)).scalar_one()
    if version > SCHEMA:
        raise StoreError(
            f"the database has schema {version}, this release knows up to {SCHEMA}",
            where=where,
            mend="use the valuealign release that wrote it, or a newer one",
        )
