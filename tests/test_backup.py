"""Back-up and restore: whole or not at all, from either database to either, and what was erased stays so."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from storing import DATABASES, accepted, counts, respond
from storing import address as address
from storing import store as store

from valuealign import backup, loop
from valuealign.errors import Gone, RegistryError, StoreError
from valuealign.registry import Registry
from valuealign.store import Store, dump


@pytest.fixture
def registry(store: Store, tmp_path: Path) -> Registry:
    """A registry with two versions of "demo", and rows in every table."""
    registry = Registry(tmp_path / "registry", store)
    files = tmp_path / "files"
    files.mkdir()
    (files / "adapter_model.safetensors").write_bytes(b"weights")
    (files / "adapter_config.json").write_text("{}")
    for _ in range(2):
        registry.register(files, name="demo", card={"base": "seed"})
    registry.move("demo", "champion", "v1", expected=None, who="a", why="")
    registry.move("demo", "champion", "v2", expected="v1", who="a", why="", figures={"share": 0.1 + 0.2})
    response = respond(store, person="p-1", asked="how ä?")
    store.add_feedback(response, verdict="shares", shares={"ja": 0.1 + 0.2}, n=2.5, person="p-1", key="k-1")
    accepted(store, 2, person="p-2", traits={"sex": "f"})
    store.claim("demo", who="a", lease_s=600)
    store.keys.create("admin", ["admin"], who="ops")
    store.erase("p-0", who="ops")
    return registry


@pytest.fixture(params=DATABASES)
def other(request: pytest.FixtureRequest, tmp_path: Path, postgres) -> Iterator[Registry]:
    """An empty registry over an empty database elsewhere."""
    if request.param == "sqlite":
        opened = Store.open(tmp_path / "other" / "x.db")
        yield Registry(tmp_path / "other" / "registry", opened)
        opened.close()
        return
    with postgres.database() as url:
        opened = Store.open(url, receipts=tmp_path / "other" / "erasures")
        yield Registry(tmp_path / "other" / "registry", opened)
        opened.close()


def rows(store: Store) -> dict[str, list[tuple]]:
    """Every row of every table."""
    with store._engine.connect() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(table.select().order_by(*table.primary_key.columns))]
            for table in dump.TABLES
        }


def test_what_comes_back_is_what_was_there(registry: Registry, other: Registry, tmp_path: Path) -> None:
    before = rows(registry.store)
    assert all(before.values()), "a table without rows would prove nothing"
    made = backup.create(registry, tmp_path / "backup")
    assert backup.inspect(tmp_path / "backup") == made
    assert made.versions == ("demo@v1", "demo@v2")
    done = backup.restore(other, tmp_path / "backup", who="ops")
    after = rows(other.store)
    restored = after["audit"].pop()
    assert after == before and restored[3] == "backup.restored"
    assert done.rows == made.rows == {name: len(found) for name, found in before.items()}
    assert done.versions == made.versions and done.erased_again == 0
    assert other.get("demo").ref == "demo@v2" and other.previous("demo").ref == "demo@v1"


def test_a_restored_store_works_on(registry: Registry, other: Registry, tmp_path: Path) -> None:
    backup.create(registry, tmp_path / "backup")
    backup.restore(other, tmp_path / "backup", who="ops")
    assert other.store.add_feedback(
        registry.store.list_feedback()[0].response.id,
        verdict="shares",
        shares={"ja": 0.1 + 0.2},
        n=2.5,
        person="p-1",
        key="k-1",
    ).replayed, "who tries again after a restore gets the first answer"
    assert other.move("demo", "champion", "v1", expected="v2", who="a", why="").epoch == 3
    ids = [event.id for event in other.store.audit()]
    assert ids == sorted(set(ids)), "the database goes on counting behind what was put in"
    with pytest.raises(Exception, match="append-only"), other.store._write() as connection:
        connection.exec_driver_sql("DELETE FROM audit")


def test_no_secret_is_in_a_backup(registry: Registry, tmp_path: Path) -> None:
    drawn = registry.store.secret("tokens").hex()
    _, shown = registry.store.keys.create("x", ["query"], who="ops")
    backup.create(registry, tmp_path / "backup")
    texts = [gzip.open(path, "rt").read() for path in (tmp_path / "backup" / "tables").iterdir()]
    assert any("champion" in one for one in texts)
    assert not any(drawn in one or shown in one or shown[16:] in one for one in texts)


def test_a_backup_under_load_is_of_one_moment(store: Store, tmp_path: Path) -> None:
    registry, stop = Registry(tmp_path / "registry", store), threading.Event()

    def post() -> None:
        while not stop.is_set():
            store.add_feedback(respond(store), verdict="desirable", key=f"k-{time.monotonic_ns()}")

    writers = [threading.Thread(target=post) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        found = []
        while len(found) < 3 or found[-1].rows["feedback"] < 20:
            found.append(backup.create(registry, tmp_path / f"backup-{len(found)}"))
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    for one in found:
        # Each post is one row of feedback, of idempotency and of the audit, behind one response.
        assert one.rows["feedback"] == one.rows["idempotency"] == one.rows["audit"] <= one.rows["responses"]


def test_what_was_erased_since_stays_erased(registry: Registry, tmp_path: Path) -> None:
    store = registry.store
    backup.create(registry, tmp_path / "backup")
    about = store.page_feedback(person="p-1").items[0].response.id
    receipt = loop.erase("p-1", store=store, registry=registry, who="ops")
    assert receipt.rows["feedback"] == 1
    done = backup.restore(registry, tmp_path / "backup", force=True, who="ops")
    assert done.erased_again == 1 and "p-1" not in json.dumps(rows(store))
    assert receipt.id in [erased.id for erased in store.erasures()] and store.erased("p-1")
    assert len(store.list_feedback()) == 2, "p-2 is still there"
    with pytest.raises(Gone):  # who tries again after the restore
        store.add_feedback(about, verdict="shares", shares={"ja": 0.1 + 0.2}, n=2.5, person="p-1", key="k-1")


def test_receipts_beside_the_database_erase_again_where_it_was_lost(
    registry: Registry, tmp_path: Path, other: Registry
) -> None:
    backup.create(registry, tmp_path / "backup")
    loop.erase("p-1", store=registry.store, registry=registry, who="ops")
    receipts = tmp_path / "other" / "erasures"
    receipts.mkdir(parents=True)
    for path in (tmp_path / "erasures").iterdir():
        (receipts / path.name).write_bytes(path.read_bytes())
    done = backup.restore(other, tmp_path / "backup", who="ops")
    assert done.erased_again == 1 and "p-1" not in json.dumps(rows(other.store)) and other.store.erased("p-1")


def test_a_database_that_is_not_empty_is_kept(registry: Registry, other: Registry, tmp_path: Path) -> None:
    backup.create(registry, tmp_path / "backup")
    accepted(other.store, 1, name="theirs")
    before = rows(other.store)
    with pytest.raises(StoreError, match="not empty") as caught:
        backup.restore(other, tmp_path / "backup", who="ops")
    assert "--force" in caught.value.mend and rows(other.store) == before and not other.root.exists()
    _, shown = other.store.keys.create("theirs", ["query"], who="ops")
    backup.restore(other, tmp_path / "backup", force=True, who="ops")
    assert other.store.list_feedback(name="theirs") == [] and other.store.keys.find(shown) is None


def test_a_key_that_was_revoked_since_stays_so(registry: Registry, tmp_path: Path) -> None:
    key, shown = registry.store.keys.create("leaked", ["query"], who="ops")
    drawn = registry.store.secret("tokens")
    backup.create(registry, tmp_path / "backup")
    registry.store.keys.revoke(key.id, who="ops")
    backup.restore(registry, tmp_path / "backup", force=True, who="ops")
    assert registry.store.keys.find(shown) is None
    assert registry.store.secret("tokens") == drawn, "tokens given out before hold"


def test_a_damaged_backup_touches_nothing(registry: Registry, other: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    backup.create(registry, folder)
    for path in ("tables/feedback.jsonl.gz", "registry/demo/v1/adapter_model.safetensors"):
        whole = (folder / path).read_bytes()
        (folder / path).chmod(0o644)
        (folder / path).write_bytes(whole[:-1] + b"X")
        with pytest.raises(StoreError, match="damaged") as caught:
            backup.restore(other, folder, who="ops")
        assert caught.value.where.endswith(path)
        (folder / path).unlink()
        with pytest.raises(StoreError, match="damaged"):
            backup.inspect(folder)
        (folder / path).write_bytes(whole)
    backup.inspect(folder)
    summary = json.loads((folder / "backup.json").read_text())
    for change, what in (({"revision": "0001"}, "schema 0001"), ({"format": 9}, "format 9"), ({"tables": {}}, "ours")):
        (folder / "backup.json").write_text(json.dumps({**summary, **change}))
        with pytest.raises(StoreError, match=what):
            backup.restore(other, folder, who="ops")
    outside = {"../../etc@v1": {"x.json": "0" * 64}}
    (folder / "backup.json").write_text(json.dumps({**summary, "versions": outside}))
    with pytest.raises(StoreError, match="ours"):
        backup.restore(other, folder, who="ops")
    assert counts(other.store, "feedback", "audit") == [0, 0] and not other.root.exists()


def test_what_a_backup_does_not_name_is_not_brought_back(
    registry: Registry, other: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backup"
    backup.create(registry, folder)
    (folder / "registry" / "demo" / "v1" / "notes.txt").write_text("laid there later")
    (folder / "registry" / "demo" / "v1" / "more").mkdir()
    backup.restore(other, folder, who="ops")
    files = [sorted(path.name for path in (one.root / "demo" / "v1").iterdir()) for one in (registry, other)]
    assert files[0] == files[1]
    # A file that is changed between the check and the copy.
    summary = backup._read(folder)
    monkeypatch.setattr(backup, "_read", lambda _: summary)
    weights = folder / "registry" / "demo" / "v1" / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"changed")
    elsewhere = Registry(tmp_path / "third" / "registry", Store.open(tmp_path / "third" / "x.db"))
    with pytest.raises(StoreError, match="damaged"):
        backup.restore(elsewhere, folder, who="ops")
    assert elsewhere.versions("demo") == [] and counts(elsewhere.store, "feedback") == [0]
    elsewhere.store.close()


def test_what_is_no_place_for_a_backup_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(StoreError, match="something already"):
        backup.create(registry, tmp_path / "full")
    with pytest.raises(StoreError, match="no back-up"):
        backup.inspect(tmp_path / "full")
    weights = registry.root / "demo" / "v1" / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"changed")
    with pytest.raises(RegistryError, match="not what was registered"):
        backup.create(registry, tmp_path / "new")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new-*"))


def test_versions_that_are_there_are_left_and_others_refused(
    registry: Registry, other: Registry, tmp_path: Path
) -> None:
    backup.create(registry, tmp_path / "backup")
    files = tmp_path / "files"
    (files / "adapter_model.safetensors").write_bytes(b"other weights")
    other.register(files, name="demo", card={"base": "seed"})
    with pytest.raises(StoreError, match="with other files"):
        backup.restore(other, tmp_path / "backup", force=True, who="ops")
    again = backup.restore(registry, tmp_path / "backup", force=True, who="ops")
    assert again.versions == ()


def test_weights_that_were_erased_since_stay_so(registry: Registry, tmp_path: Path) -> None:
    backup.create(registry, tmp_path / "backup")
    registry.erase_weights("demo@v1", who="ops")
    backup.restore(registry, tmp_path / "backup", force=True, who="ops")
    assert registry.versions("demo")[0].erased
    assert backup.create(registry, tmp_path / "later").versions == ("demo@v1", "demo@v2"), "and what is left is kept"
