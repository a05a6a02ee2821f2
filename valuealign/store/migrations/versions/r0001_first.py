"""The first schema. No database goes through this: it says what the next revision starts from."""

from __future__ import annotations

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Nothing: a database with this schema is told by its table ``valuealign_schema``."""
