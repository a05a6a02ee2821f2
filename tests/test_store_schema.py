"""A database of an older release is brought up to date, its rows kept; one of a newer release is refused."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from first_schema import lay_first
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError
from storing import DATABASES, counts, respond

from valuealign.errors import KeyReused, StoreError
from valuealign.store import Store, schema
from valuealign.store import tables as t
from valuealign.types import Message


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'valuealign.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


def shape(url: str) -> dict[str, Any]:
    """All that a database says of its tables; types and conditions as text, in no order."""
    engine = create_engine(url)
    found: dict[str, Any] = {}
    with engine.connect() as connection:
        seen = inspect(connection)
        for name in seen.get_table_names():
            found[name] = {
                "columns": [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name)],
                "primary": seen.get_pk_constraint(name)["constrained_columns"],
                "foreign": [(f["constrained_columns"], f["referred_table"]) for f in seen.get_foreign_keys(name)],
                "unique": [u["column_names"] for u in seen.get_unique_constraints(name)],
                "checks": sorted((c["name"], c["sqltext"]) for c in seen.get_check_constraints(name)),
                "indexes": sorted((i["name"], i["column_names"]) for i in seen.get_indexes(name)),
            }
        triggers = {
            "sqlite": "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'",
            "postgresql": "SELECT tgname, tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger "
            "WHERE NOT tgisinternal",
        }
        found["triggers"] = sorted(map(tuple, connection.execute(text(triggers[engine.dialect.name]))))
    engine.dispose()
    return found


def test_both_roads_end_at_the_same_schema(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    lay_first(url)
    Store.open(url).close()
    if url.startswith("sqlite"):
        Store.open(tmp_path / "new.db").close()
        made = shape(f"sqlite:///{tmp_path / 'new.db'}")
    else:
        with request.getfixturevalue("postgres").database() as other:
            Store.open(other).close()
            made = shape(other)
    upgraded = shape(url)
    assert set(upgraded) == set(made) and len(made["triggers"]) == 8
    for name, table in made.items():
        assert upgraded[name] == table, name


def test_an_older_database_keeps_its_rows_and_works_on(url: str) -> None:
    lay_first(url)
    store = Store.open(url)
    found = store.feedback("fb-1")
    assert (found.verdict, found.correction, found.status, found.manifest_id) == ("correction", "no", "used", "man-1")
    assert (found.person, found.traits, found.shares, found.key_id) == (None, None, None, None)
    response = store.response("chat-1")
    assert response.messages == (Message("user", "Is it so?"),) and response.detail == {"seed": 1}
    assert [move.to_version for move in store.alias_history("demo", "champion")] == ["v2"]
    assert store.move_alias("demo", "champion", "v3", expected="v2", who="a", why="").epoch == 2
    assert [judged.feedback.id for judged in store.list_feedback(manifest="man-1")] == ["fb-1"]
    # A client that tries again after the upgrade gets what it got before.
    again = store.add_feedback("chat-1", verdict="correction", correction="no", key="old-key")
    assert again.replayed and again.id == "fb-1"
    with pytest.raises(KeyReused):
        store.add_feedback("chat-1", verdict="correction", correction="never", key="old-key")
    with pytest.raises((IntegrityError, StoreError), match="append-only"), store._write() as connection:
        connection.execute(text("DELETE FROM manifest_items"))
    store.add_feedback(respond(store, person="p"), verdict="shares", shares={"a": 1.0}, n=3, person="p")
    assert store.erase("p", who="ops").rows["feedback"] == 1
    assert counts(store, "audit")[0] >= 4
    store.close()


def test_many_openers_of_an_older_database_agree(url: str) -> None:
    lay_first(url)
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: Store.open(url), range(8)))
    assert counts(stores[0], "valuealign_revision", "feedback", "manifest_items", "idempotency") == [1, 2, 1, 1]
    for one in stores:
        one.close()


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(url: str) -> None:
    lay_first(url)
    engine = create_engine(url)
    with engine.begin() as connection:  # in the way of the revision's last step
        connection.execute(text("CREATE TABLE erasures (id INTEGER)"))
    before = shape(url)
    with pytest.raises(StoreError):
        Store.open(url)
    assert shape(url) == before
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE erasures"))
    engine.dispose()
    store = Store.open(url)
    assert store.feedback("fb-1").status == "used"
    store.close()


@pytest.mark.parametrize(("table", "version"), [("valuealign_revision", "0099"), ("valuealign_schema", "99")])
def test_a_newer_schema_is_refused(url: str, table: str, version: str) -> None:
    if table == "valuealign_schema":
        lay_first(url)
        change = f"UPDATE {table} SET version = {version}"
    else:
        Store.open(url).close()
        change = f"UPDATE {table} SET version_num = '{version}'"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(change))
    engine.dispose()
    with pytest.raises(StoreError, match="schema 0099") as caught:
        Store.open(url)
    assert t.REVISION in caught.value.what and "newer" in caught.value.mend


def test_the_constant_names_the_newest_revision() -> None:
    files = sorted(path.stem for path in (schema.MIGRATIONS / "versions").glob("r*.py"))
    assert files[0].startswith(f"r{schema.FIRST}_") and files[-1].startswith(f"r{t.REVISION}_")


def test_what_is_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    script = f"""
import sys
from valuealign.store import Store
for _ in range(2):
    Store.open({str(tmp_path / "x.db")!r}).close()
print("alembic" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
