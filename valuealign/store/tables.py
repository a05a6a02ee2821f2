"""The tables as this release has them; how an older database comes to hold them is in ``migrations/``.

Only SQLAlchemy Core is used, so that SQLite (one machine) and PostgreSQL (several) hold the same
schema. Times are UTC in ISO 8601 with milliseconds: they sort as text. What has happened is
never rewritten: ``audit``, ``alias_history``, ``manifest_items`` and ``erasures`` refuse updates and
deletes. Erasure removes rows of ``responses`` and ``feedback`` and empties those of ``idempotency``, no others:
what a manifest held stays known by its ids, and no text of a person's stands in a table that keeps the past.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    JSON,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)

REVISION = "0002"  # the newest file of migrations/versions; a test compares the two

metadata = MetaData()
_JSON = JSON(none_as_null=True)  # else nothing at all would be kept as the text "null"

revision = Table(
    "valuealign_revision",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="valuealign_revision_pkc"),  # as Alembic makes it
)

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
    Column("key_id", String(64)),
    Column("person", String(255)),
    CheckConstraint("kind IN ('chat', 'distribution')", name="response_kind"),
    Index("responses_by_person", "person"),
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
    Column("key_id", String(64)),
    Column("person", String(255)),
    Column("traits", _JSON),
    Column("campaign", String(255)),
    Column("comment", Text),
    Column("metadata", _JSON),
    Column("shares", _JSON),
    Column("n", Float),
    Column("screened", _JSON),
    CheckConstraint("verdict IN ('desirable', 'undesirable', 'correction', 'shares')", name="feedback_verdict"),
    CheckConstraint("(verdict = 'correction') = (correction IS NOT NULL)", name="feedback_correction"),
    CheckConstraint("(verdict = 'shares') = (shares IS NOT NULL AND n IS NOT NULL)", name="feedback_shares"),
    CheckConstraint("status IN ('quarantined', 'accepted', 'declined', 'used')", name="feedback_status"),
    Index("feedback_by_status", "status", "created"),
    Index("feedback_by_time", "created", "id"),
    Index("feedback_by_person", "person"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("principal", String(64), nullable=False),  # whose key it is; '' where nobody has to say who they are
    Column("key", String(255), nullable=False),
    Column("body_sha256", String(64), nullable=False),
    Column("answer", JSON, nullable=False),
    Column("subject", String(64), index=True),  # the feedback or erasure that the answer speaks of
    Column("created", String(32), nullable=False),
    PrimaryKeyConstraint("principal", "key", name="idempotency_by_principal"),
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
    Column("feedback_id", String(64), nullable=False, index=True),  # no foreign key: it outlives an erased row
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

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("per_minute", Integer),
    Column("sha256", String(64), nullable=False),  # of the whole key; the key itself is kept nowhere
    Column("created", String(32), nullable=False),
    Column("revoked", String(32)),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(64), nullable=False),  # hexadecimal
)

erasures = Table(
    "erasures",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created", String(32), nullable=False),
    Column("person_sha256", String(64), nullable=False, index=True),
    Column("rows", JSON, nullable=False),
    Column("feedback", JSON, nullable=False),
    Column("manifests", JSON, nullable=False),
)

APPEND_ONLY = (audit, alias_history, manifest_items, erasures)


def append_only(name: str, dialect: str) -> list[str]:
    """The statements that let the database itself refuse to rewrite the past of table ``name``."""
    statements = []
    for verb in ("UPDATE", "DELETE"):
        trigger = f"{name}_no_{verb.lower()}"
        if dialect == "sqlite":
            statements.append(
                f"CREATE TRIGGER {trigger} BEFORE {verb} ON {name} "
                f"BEGIN SELECT RAISE(ABORT, '{name} is append-only'); END"
            )
        else:
            statements.append(
                f"CREATE OR REPLACE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION '{name} is append-only'; END $$"
            )
            statements.append(
                f"CREATE TRIGGER {trigger} BEFORE {verb} ON {name} FOR EACH ROW EXECUTE FUNCTION {trigger}()"
            )
    return statements


def _guard(table: Table) -> None:
    for dialect in ("sqlite", "postgresql"):
        for statement in append_only(table.name, dialect):
            guard = DDL(statement)  # type: ignore[no-untyped-call]
            event.listen(table, "after_create", guard.execute_if(dialect=dialect))


for _table in APPEND_ONLY:
    _guard(_table)
