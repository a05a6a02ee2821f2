"""What Alembic runs: the revisions on the connection it is handed, inside that connection's transaction."""

from __future__ import annotations

from alembic import context

VERSION_TABLE = "valuealign_revision"

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
