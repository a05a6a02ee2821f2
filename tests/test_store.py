"""The store: what was promised is on disk, nothing is counted twice, the past stays as it was."""

from __future__ import annotations

import pickle
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from storing import accepted, counts, respond
from storing import address as address
from storing import store as store

from valuealign.errors import AliasMoved, KeyReused, StoreError, UnknownFeedback, UnknownResponse
from valuealign.store import Response, Store, new_id
from valuealign.store.connection import connect
from valuealign.types import Message


def test_sqlite_is_opened_to_keep_what_it_promised(tmp_path: Path):
    store = Store.open(tmp_path / "valuealign.db")
    with store._engine.connect() as connection:
        found = [
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
        busy = connection.execute(text("PRAGMA busy_timeout")).scalar_one()
    assert found == ["wal", 2, 1]
    assert busy == 30_000
    store.close()


def test_postgresql_is_opened_to_keep_what_it_promised(postgres_url: str, tmp_path: Path):
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {engine.url.database} SET synchronous_commit = off"))
    engine.dispose()
    store = Store.open(postgres_url, receipts=tmp_path)
    with store._write() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"
        connection.rollback()
    with store._read() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"
    assert store._engine.url.query["connect_timeout"] == "10"
    assert (
        connect(make_url(postgres_url).update_query_dict({"connect_timeout": "3"})).url.query["connect_timeout"] == "3"
    )
    store.close()


def test_a_response_comes_back_as_it_was_kept(store: Store):
    kept = store.add_response(
        Response(
            new_id("dist"), "distribution", "demo", "v2", (Message("user", "ä\n- ja"),), "ja", {"shares": [0.5, 0.5]}
        )
    )
    assert store.response(kept.id) == kept
    assert kept.created.endswith("+00:00")


def test_an_answer_with_a_character_that_postgresql_lacks_is_kept(store: Store):
    id = respond(store, answer="a\0b", asked="c\0d")
    assert store.response(id).answer == "a\ufffdb" and store.response(id).messages[0].content == "c\0d"


def test_feedback_for_an_unknown_response_leaves_nothing(store: Store):
    with pytest.raises(UnknownResponse, match="no such response"):
        store.add_feedback("chat-00", verdict="desirable", key="k")
    assert counts(store, "feedback", "idempotency", "audit") == [0, 0, 0]


def test_a_key_posts_once_and_refuses_another_body(store: Store):
    response = respond(store)
    first = store.add_feedback(response, verdict="correction", correction="no", key="k")
    again = store.add_feedback(response, verdict="correction", correction="no", key="k")
    assert (again.id, again.created, again.replayed, first.replayed) == (first.id, first.created, True, False)
    with pytest.raises(KeyReused):
        store.add_feedback(response, verdict="correction", correction="never", key="k")
    assert counts(store, "feedback", "idempotency", "audit") == [1, 1, 1]


def test_parallel_posts_of_one_key_make_one_row(store: Store):
    response = respond(store)
    with ThreadPoolExecutor(20) as pool:
        receipts = list(pool.map(lambda _: store.add_feedback(response, verdict="desirable", key="k"), range(40)))
    assert len({receipt.id for receipt in receipts}) == 1
    assert sum(not receipt.replayed for receipt in receipts) == 1
    assert counts(store, "feedback", "audit") == [1, 1]


def test_review_is_all_or_none(store: Store):
    ids = [store.add_feedback(respond(store), verdict="undesirable").id for _ in range(2)]
    with pytest.raises(UnknownFeedback, match="fb-nope"):
        store.review([ids[0], "fb-nope"], "accepted", who="r")
    assert [store.feedback(i).status for i in ids] == ["quarantined", "quarantined"]
    accepted, declined = (
        store.review(ids[:1], "accepted", who="r"),
        store.review(ids[1:], "declined", who="r", reason="spam"),
    )
    assert (accepted[0].status, accepted[0].reviewer) == ("accepted", "r")
    assert (declined[0].status, declined[0].reason) == ("declined", "spam")
    assert [j.feedback.id for j in store.list_feedback("declined")] == ids[1:]


def test_a_decision_may_be_only_about_what_nobody_decided(store: Store):
    ids = [store.add_feedback(respond(store), verdict="undesirable").id for _ in range(3)]
    store.review(ids[:1], "declined", who="person")
    done = store.review([*ids, "fb-erased"], "accepted", who="r", only_from="quarantined")
    assert {one.id for one in done} == set(ids[1:])
    assert [store.feedback(id).status for id in ids] == ["declined", "accepted", "accepted"]
    assert store.feedback(ids[0]).reviewer == "person"


def test_a_manifest_holds_what_one_family_accepted(store: Store):
    ids = accepted(store, 3)
    accepted(store, 1, name="other")
    store.add_feedback(respond(store), verdict="desirable")
    manifest = store.claim("demo", who="a", lease_s=60)
    assert manifest is not None and sorted(ids) == list(manifest.ids)
    assert all(judged.response.name == "demo" for judged in manifest.items)
    assert store.claim("demo", who="b", lease_s=60) is None
    with pytest.raises(StoreError, match="held by a running update"):
        store.review(ids[:1], "declined", who="r")
    store.consume(manifest, who="a", version="v2")
    assert {store.feedback(i).status for i in ids} == {"used"}
    with pytest.raises(StoreError, match="already used"):
        store.review(ids[:1], "accepted", who="r")


def test_too_little_feedback_is_not_claimed(store: Store):
    ids = accepted(store, 2)
    assert store.claim("demo", who="a", lease_s=60, min_items=3) is None
    assert counts(store, "manifests", "manifest_items") == [0, 0]
    manifest = store.claim("demo", who="a", lease_s=60, min_items=2)
    assert manifest is not None and list(manifest.ids) == sorted(ids)


def test_parallel_claims_share_nothing(store: Store):
    ids = accepted(store, 5)
    with ThreadPoolExecutor(8) as pool:
        won = [m for m in pool.map(lambda i: store.claim("demo", who=str(i), lease_s=60), range(8)) if m]
    assert len(won) == 1 and list(won[0].ids) == sorted(ids)


def test_a_lease_that_ended_frees_the_feedback_and_fences_its_old_holder(store: Store):
    ids = accepted(store, 2)
    first = store.claim("demo", who="a", lease_s=0.05)
    assert first is not None
    time.sleep(0.1)
    second = store.claim("demo", who="b", lease_s=60)
    assert second is not None and second.ids == first.ids and second.sha256 == first.sha256
    for late in (
        lambda: store.consume(first, who="a", version="v2"),
        lambda: store.renew(first, lease_s=9),
        lambda: store.move_alias("demo", "champion", "v2", expected=None, who="a", why="", consume=first),
    ):
        with pytest.raises(StoreError, match="lease"):
            late()
    assert store.alias("demo", "champion") is None and store.alias_history("demo", "champion") == []
    assert {store.feedback(i).status for i in ids} == {"accepted"}


def test_a_renewed_lease_lasts(store: Store):
    accepted(store, 1)
    manifest = store.claim("demo", who="a", lease_s=0.05)
    assert manifest is not None
    store.renew(manifest, lease_s=60)
    time.sleep(0.1)
    assert store.claim("demo", who="b", lease_s=60) is None


def test_released_feedback_is_free_again(store: Store):
    accepted(store, 1)
    manifest = store.claim("demo", who="a", lease_s=60)
    assert manifest is not None
    store.release(manifest, who="a", why="no")
    again = store.claim("demo", who="b", lease_s=60)
    assert again is not None and again.ids == manifest.ids and again.id != manifest.id


def test_of_fifty_moves_one_wins_and_history_is_complete(store: Store):
    store.move_alias("demo", "champion", "v1", expected=None, who="a", why="first")
    start = threading.Barrier(50)

    def move(i: int) -> bool:
        start.wait()
        try:
            store.move_alias("demo", "champion", f"v{i + 2}", expected="v1", who=str(i), why="race", figures={"i": i})
        except AliasMoved:
            return False
        return True

    with ThreadPoolExecutor(50) as pool:
        won = list(pool.map(move, range(50)))
    state, history = store.alias("demo", "champion"), store.alias_history("demo", "champion")
    assert sum(won) == 1 and state is not None
    assert state.version == f"v{won.index(True) + 2}" and state.epoch == 2
    assert [(m.from_version, m.to_version, m.epoch) for m in history] == [(None, "v1", 1), ("v1", state.version, 2)]
    assert history[1].figures == {"i": won.index(True)}
    assert len(store.audit(subject="demo@champion")) == 2


def test_an_epoch_tells_apart_what_a_version_cannot(store: Store):
    for to, seen in (("v1", None), ("v2", "v1"), ("v1", "v2")):
        store.move_alias("demo", "champion", to, expected=seen, who="a", why="")
    with pytest.raises(AliasMoved):
        store.move_alias("demo", "champion", "v3", expected="v1", epoch=1, who="b", why="late")
    with pytest.raises(AliasMoved, match="exists by now"):
        store.move_alias("demo", "champion", "v3", expected=None, who="b", why="late")
    assert store.move_alias("demo", "champion", "v3", expected="v1", epoch=3, who="b", why="").epoch == 4


@pytest.mark.parametrize("table", ["audit", "alias_history", "manifest_items"])
def test_the_past_cannot_be_rewritten(store: Store, table: str):
    accepted(store, 1)
    store.claim("demo", who="a", lease_s=60)
    store.move_alias("demo", "champion", "v1", expected=None, who="a", why="")
    assert counts(store, table)[0] > 0
    column = "position" if table == "manifest_items" else "who"
    for statement in (f"UPDATE {table} SET {column} = '0'", f"DELETE FROM {table}"):
        with pytest.raises((IntegrityError, StoreError), match="append-only"), store._write() as connection:
            connection.execute(text(statement))


def test_a_copy_in_another_process_opens_the_same_database(store: Store):
    response = respond(store)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.response(response).id == response
    copy.close()


def test_many_openers_of_a_new_database_agree(address: Path | str):
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: Store.open(address), range(8)))
    assert counts(stores[0], "valuealign_revision") == [1]
    for one in stores:
        one.close()


def test_what_is_no_database_of_ours_is_refused(tmp_path: Path):
    (tmp_path / "text.db").write_text("not a database, but long enough to look like a file with a header " * 20)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    (tmp_path / "file").write_text("")
    for path, what in (
        (tmp_path / "text.db", "not a database"),
        (tmp_path / "other.db", "holds other tables"),
        (tmp_path / "file" / "x.db", "cannot make the database's folder"),
        (tmp_path, "unable to open"),
    ):
        with pytest.raises(StoreError, match=what) as caught:
            Store.open(path)
        assert caught.value.where and caught.value.mend
    with sqlite3.connect(tmp_path / "other.db") as other:
        assert other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("recipes",)]


def test_a_bad_address_is_refused_and_gives_away_no_password():
    with pytest.raises(StoreError, match="cannot use this database address") as caught:
        Store.open("nosuch://user:secret@host/db")
    assert "secret" not in str(caught.value)
