"""API keys, who said what, corrections by shares, idempotency by whose key it is, erasure.

SQLite cannot change a constraint: there a table is made anew under another name, filled, and renamed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"

_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Keep every row; what was not asked before is empty in them."""
    _responses()
    _manifest_items()  # before the table that it refers to is made anew
    _feedback()
    _idempotency()
    _new_tables()
    op.drop_table("valuealign_schema")


def _responses() -> None:
    op.add_column("responses", sa.Column("key_id", sa.String(64)))
    op.add_column("responses", sa.Column("person", sa.String(255)))
    op.create_index("responses_by_person", "responses", ["person"])


def _manifest_items() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("manifest_items_feedback_id_fkey", "manifest_items", type_="foreignkey")
        return
    op.create_table(
        "manifest_items_anew",
        sa.Column("manifest_id", sa.String(64), sa.ForeignKey("manifests.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("feedback_id", sa.String(64), nullable=False),
        sa.UniqueConstraint("manifest_id", "feedback_id"),
    )
    _put_anew("manifest_items", ("manifest_id", "position", "feedback_id"))
    op.create_index("ix_manifest_items_feedback_id", "manifest_items", ["feedback_id"])
    _append_only("manifest_items")  # its triggers went with the table


_VERDICT = "verdict IN ('desirable', 'undesirable', 'correction', 'shares')"
_SHARES = "(verdict = 'shares') = (shares IS NOT NULL AND n IS NOT NULL)"


def _feedback() -> None:
    new = (
        sa.Column("key_id", sa.String(64)),
        sa.Column("person", sa.String(255)),
        sa.Column("traits", _JSON),
        sa.Column("campaign", sa.String(255)),
        sa.Column("comment", sa.Text),
        sa.Column("metadata", _JSON),
        sa.Column("shares", _JSON),
        sa.Column("n", sa.Float),
        sa.Column("screened", _JSON),
    )
    if op.get_bind().dialect.name == "postgresql":
        for column in new:
            op.add_column("feedback", column)
        op.drop_constraint("feedback_verdict", "feedback", type_="check")
        op.create_check_constraint("feedback_verdict", "feedback", _VERDICT)
        op.create_check_constraint("feedback_shares", "feedback", _SHARES)
    else:
        old = (
            sa.Column("id", sa.String(64), primary_key=True),
            sa.Column("response_id", sa.String(64), sa.ForeignKey("responses.id"), nullable=False),
            sa.Column("verdict", sa.String(16), nullable=False),
            sa.Column("correction", sa.Text),
            sa.Column("status", sa.String(16), nullable=False),
            sa.Column("reviewer", sa.String(128)),
            sa.Column("reason", sa.Text),
            sa.Column("created", sa.String(32), nullable=False),
            sa.Column("reviewed", sa.String(32)),
            sa.Column("manifest_id", sa.String(64)),
        )
        op.create_table(
            "feedback_anew",
            *old,
            *new,
            sa.CheckConstraint(_VERDICT, name="feedback_verdict"),
            sa.CheckConstraint("(verdict = 'correction') = (correction IS NOT NULL)", name="feedback_correction"),
            sa.CheckConstraint(_SHARES, name="feedback_shares"),
            sa.CheckConstraint("status IN ('quarantined', 'accepted', 'declined', 'used')", name="feedback_status"),
        )
        _put_anew("feedback", [column.name for column in old])
        op.create_index("ix_feedback_response_id", "feedback", ["response_id"])
        op.create_index("ix_feedback_manifest_id", "feedback", ["manifest_id"])
        op.create_index("feedback_by_status", "feedback", ["status", "created"])
    op.create_index("feedback_by_time", "feedback", ["created", "id"])
    op.create_index("feedback_by_person", "feedback", ["person"])


def _idempotency() -> None:
    op.create_table(
        "idempotency_anew",
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("answer", sa.JSON, nullable=False),
        sa.Column("subject", sa.String(64)),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("principal", "key", name="idempotency_by_principal"),
    )
    kept = ("key", "body_sha256", "answer", "created")
    # Nobody had to say who they were; the answer's id is the feedback's.
    op.execute(
        f"INSERT INTO idempotency_anew (principal, subject, {', '.join(kept)}) "
        f"SELECT '', answer ->> 'id', {', '.join(kept)} FROM idempotency"
    )
    op.drop_table("idempotency")
    op.rename_table("idempotency_anew", "idempotency")
    op.create_index("ix_idempotency_subject", "idempotency", ["subject"])


def _new_tables() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("per_minute", sa.Integer),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("revoked", sa.String(32)),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(64), nullable=False),
    )
    op.create_table(
        "erasures",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("person_sha256", sa.String(64), nullable=False),
        sa.Column("rows", sa.JSON, nullable=False),
        sa.Column("feedback", sa.JSON, nullable=False),
        sa.Column("manifests", sa.JSON, nullable=False),
    )
    op.create_index("ix_erasures_person_sha256", "erasures", ["person_sha256"])
    _append_only("erasures")


def _put_anew(table: str, columns: list[str] | tuple[str, ...]) -> None:
    """Move the rows of ``table`` to the one made anew, and give that one the name."""
    names = ", ".join(columns)
    op.execute(f"INSERT INTO {table}_anew ({names}) SELECT {names} FROM {table}")
    op.drop_table(table)
    op.rename_table(f"{table}_anew", table)


def _append_only(table: str) -> None:
    for verb in ("UPDATE", "DELETE"):
        name = f"{table}_no_{verb.lower()}"
        if op.get_bind().dialect.name == "sqlite":
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        else:
            op.execute(
                f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
            )
            op.execute(f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()")
