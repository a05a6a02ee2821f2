"""How a database of either kind is reached: connections, transactions, and its errors in words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from valuealign import config as configuration
from valuealign.errors import StoreError
from valuealign.store.schema import prepare

T = TypeVar("T")
BUSY_SECONDS = 30.0
CONNECT_SECONDS = "10"  # unless the address says another connect_timeout
LOG_SECONDS = 2.0
RECEIPTS = "erasures"  # the folder beside an SQLite file that keeps what was erased


class Database:
    """One database. Safe to use from several threads and, by its address, from several processes.

    ``receipts`` is a folder that keeps the erasures a second time, so that an older back-up cannot
    bring back what was erased (None: nowhere).
    """

    def __init__(self, url: URL, receipts: Path | None = None) -> None:
        self._url = url
        self._receipts = receipts
        self._where = url.database if url.get_backend_name() == "sqlite" else url.render_as_string()
        self._engine = connect(url)
        self._writer = self._engine.execution_options(writes=True)
        try:
            prepare(self._engine, str(self._where))
            self._forget(0)  # what a reader kept in the log at an earlier erasure
        except SQLAlchemyError as error:
            self.close()
            raise self._broken(error) from None
        except StoreError:
            self.close()
            raise

    @classmethod
    def open(cls, where: Path | str, *, receipts: Path | None = None) -> Self:
        """The store at a file (SQLite, made if absent) or at a database URL such as
        ``postgresql+psycopg://user@host/valuealign``; one of an older release is brought up to date.

        Receipts of erasures lie in ``receipts``: by default the folder ``erasures`` beside a file, or
        the one in VALUEALIGN_HOME for a URL. Raises StoreError if it cannot be opened, is no database,
        or comes from a newer release.
        """
        if isinstance(where, str) and "://" in where:
            return cls(_url(where), receipts or configuration.home() / RECEIPTS)
        path = Path(where).absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot make the database's folder ({error.strerror})",
                where=str(path.parent),
                mend="name another place",
            ) from None
        return cls(URL.create("sqlite", database=str(path)), receipts or path.parent / RECEIPTS)

    def __reduce__(self) -> tuple[object, ...]:
        # A copy in another process opens its own connections.
        return type(self), (self._url, self._receipts)

    def close(self) -> None:
        """Give the connections back; the store cannot be used afterwards."""
        self._engine.dispose()

    def ping(self) -> None:
        """Raise StoreError unless the database answers."""
        with self._read() as connection:
            connection.execute(text("SELECT 1"))

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        try:
            with self._writer.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    def _once_more(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` makes of a transaction; it is done again if another one committed the same key in
        between, or took away what this one refers to (not on SQLite, where writers queue)."""
        try:
            with self._write() as connection:
                return work(connection)
        except IntegrityError:
            with self._write() as connection:
                return work(connection)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        """All that is read inside is of one moment, whoever writes meanwhile (on SQLite any reading is)."""
        level = {"isolation_level": "REPEATABLE READ"} if self._engine.dialect.name == "postgresql" else {}
        try:
            with self._engine.execution_options(**level).connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    def _forget(self, wait_s: float) -> bool:
        """Let nothing that was deleted stand in SQLite's log either; False if a reader was in the way for longer
        than ``wait_s`` seconds."""
        if self._engine.dialect.name != "sqlite":
            return True  # PostgreSQL's autovacuum does it in its own time
        try:
            with closing(sqlite3.connect(str(self._url.database), timeout=wait_s)) as connection:
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:
            return False
        return not busy

    def _broken(self, error: SQLAlchemyError) -> StoreError:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        mends = {
            "not a database": "name another file, or move this one away",
            "unable to open": "check that the folder exists and may be written to",
            "readonly": "check that the file may be written to",
            "locked": "another program holds it; try again",
        }
        mend = next((mend for sign, mend in mends.items() if sign in said), "check that the database is up")
        return StoreError(f"the database failed: {said}", where=str(self._where), mend=mend)


def _url(address: str) -> URL:
    try:
        url = make_url(address)
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StoreError(
            f"cannot use this database address ({str(error).splitlines()[0]})",
            where=address.split("@")[-1],
            mend="write postgresql+psycopg://user@host/database, and install psycopg",
        ) from None
    return url


def connect(url: URL) -> Engine:
    """An engine for ``url``; it commits to disk before it answers (SQLite: WAL, synchronous FULL; PostgreSQL:
    synchronous_commit, while the server's own fsync is on)."""
    if url.get_backend_name() != "sqlite":
        bounded = url.set(query={"connect_timeout": CONNECT_SECONDS, **url.query})
        engine = create_engine(bounded, pool_pre_ping=True)
        event.listen(engine, "connect", _prepare_postgresql)
        return engine
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, pool_size=4, max_overflow=60)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    # A server, a database or a role may have it off. What is stronger than on (remote_apply) stays.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling is switched off: SQLAlchemy says BEGIN (below).
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA secure_delete = ON")  # what was erased is overwritten in the file, not only let go
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
