"""Which schema a database holds: made where there is none, brought up to date where it is older.

A new database is made from ``tables`` as they stand; an older one goes through ``migrations/``, and
a test holds that both roads end at the same schema. Alembic is loaded only for the second.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, text

from valuealign.errors import StoreError
from valuealign.store import tables as t

FIRST = "0001"  # what a database of the first release holds, which named its schema in a table of its own
FIRST_TABLE = "valuealign_schema"
MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 0x76616C7565  # one opener at a time makes or changes the tables of a PostgreSQL database


def prepare(engine: Engine, where: str) -> None:
    """See to it that the database holds this release's schema. Many openers at once agree.

    Raises StoreError for a database of somebody else, or of a newer release.
    """
    with engine.connect() as connection:
        if _revision(connection) == t.REVISION:
            return
    with engine.execution_options(writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        found = _revision(connection)
        if found is None:
            _make(connection, set(inspect(connection).get_table_names()), where)
        elif found != t.REVISION:
            _upgrade(connection, found, where)


def make(connection: Connection) -> None:
    """Make the tables, which are not there, and say which schema they are."""
    t.metadata.create_all(connection)
    connection.execute(t.revision.insert().values(version_num=t.REVISION))


def _revision(connection: Connection) -> str | None:
    """The revision that the database says it holds; ``None`` where it holds no tables of ours."""
    inspector = inspect(connection)
    if inspector.has_table(t.revision.name):
        return str(connection.execute(select(t.revision.c.version_num)).scalar_one())
    if inspector.has_table(FIRST_TABLE):
        return f"{connection.execute(text(f'SELECT version FROM {FIRST_TABLE}')).scalar_one():04}"
    return None


def _make(connection: Connection, present: Collection[str], where: str) -> None:
    if connection.dialect.name == "sqlite" and present:
        raise StoreError(
            f"the database holds other tables ({', '.join(sorted(present)[:3])})",
            where=where,
            mend="name a new file, or one that valuealign made",
        )
    make(connection)


def _upgrade(connection: Connection, found: str, where: str) -> None:
    known = sorted(path.stem[1:5] for path in (MIGRATIONS / "versions").glob("r[0-9]*.py"))
    if found not in known:
        raise StoreError(
            f"the database has schema {found}, this release knows up to {t.REVISION}",
            where=where,
            mend="use the valuealign release that wrote it, or a newer one",
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if not inspect(connection).has_table(t.revision.name):
        command.stamp(config, found)
    command.upgrade(config, t.REVISION)
