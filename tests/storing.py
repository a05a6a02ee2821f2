"""Stores for tests: every test that asks for ``store`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from valuealign.store import Response, Store, new_id
from valuealign.types import Message

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(params=DATABASES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where an empty database is."""
    if request.param == "sqlite":
        return tmp_path / "db" / "valuealign.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(address: Path | str, tmp_path: Path) -> Iterator[Store]:
    """An empty store; its receipts of erasures lie in ``tmp_path / "erasures"``."""
    opened = Store.open(address, receipts=tmp_path / "erasures")
    yield opened
    opened.close()


def respond(
    store: Store, *, name: str = "demo", answer: str = "yes", asked: str = "Is it so?", **of: str | None
) -> str:
    """Keep an answer; its id. ``of`` is its person and key_id."""
    messages = (Message("user", asked),)
    return store.add_response(Response(new_id("chat"), "chat", name, "v1", messages, answer, {"seed": 1}, **of)).id


def accepted(store: Store, n: int, *, name: str = "demo", **said: Any) -> list[str]:
    """Post and accept n times; the feedback's ids."""
    ids = [store.add_feedback(respond(store, name=name), verdict="desirable", **said).id for _ in range(n)]
    store.review(ids, "accepted", who="reviewer")
    return ids


def counts(store: Store, *tables: str) -> list[int]:
    """How many rows each table has."""
    with store._engine.connect() as connection:
        return [connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in tables]
