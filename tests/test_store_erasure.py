"""Erasure: what was a person's is gone from every table, what remains is ids, and the receipt is complete."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from storing import accepted, counts, respond
from storing import address as address
from storing import store as store

from valuealign.errors import Gone, KeyReused, Refused, StoreError, UnknownFeedback, UnknownResponse
from valuealign.store import Response, Store, _feedback, database, dump, erasure, new_id, now, tables
from valuealign.types import Message

WORDS = (
    "who-was-here",
    "my question",
    "my correction",
    "my comment",
    "my street",
    "a neighbour's view",
    "what I quote",
)


def everything(store: Store) -> str:
    """Every row of every table, as text."""
    with store._engine.connect() as connection:
        rows = [row for table in dump.TABLES for row in connection.execute(table.select())]
    return json.dumps([list(row) for row in rows], ensure_ascii=False)


def history(store: Store) -> dict[str, str]:
    """A person's rows of every kind, and somebody else's beside them."""
    mine = respond(store, asked="my question", person="who-was-here")
    theirs = respond(store, person="somebody-else")
    said = {"comment": "my comment", "person": "who-was-here", "traits": {"street": "my street"}}
    ids = {
        "mine": mine,
        "theirs": theirs,
        "mine on mine": store.add_feedback(mine, verdict="desirable", key="a", **said).id,
        "mine on theirs": store.add_feedback(theirs, verdict="correction", correction="my correction", **said).id,
        "theirs on mine": store.add_feedback(mine, verdict="correction", correction="a neighbour's view", key="b").id,
        "theirs on theirs": store.add_feedback(theirs, verdict="undesirable", person="somebody-else", key="c").id,
    }
    store.review([ids["mine on theirs"]], "declined", who="reviewer", reason="what I quote")
    return ids


def test_nothing_of_the_person_is_left_and_nothing_of_others_goes(store: Store, tmp_path: Path) -> None:
    ids = history(store)
    gone = sorted(ids[name] for name in ("mine on mine", "mine on theirs", "theirs on mine"))
    assert all(word in everything(store) for word in WORDS)
    receipt = store.erase("who-was-here", who="ops")
    assert not [word for word in WORDS if word in everything(store)]
    assert receipt.rows == {"feedback": 3, "idempotency": 2, "responses": 1}
    assert receipt.feedback == tuple(gone) and receipt.manifests == () and not receipt.replayed
    assert [judged.feedback.id for judged in store.list_feedback()] == [ids["theirs on theirs"]]
    for id in gone:
        with pytest.raises(UnknownFeedback):
            store.feedback(id)
    with pytest.raises(UnknownResponse):
        store.response(ids["mine"])
    assert store.add_feedback(ids["theirs"], verdict="undesirable", person="somebody-else", key="c").replayed
    (file,) = (tmp_path / "erasures").iterdir()
    assert file.stem == receipt.id and not [word for word in WORDS if word in file.read_text()]
    assert store.erasures() == [receipt]


def test_sqlite_keeps_no_trace_of_it_in_its_files(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db" / "x.db")
    history(store)

    def on_disk() -> list[str]:
        held = b"".join(path.read_bytes() for path in (tmp_path / "db").iterdir() if path.is_file())
        return [word for word in WORDS if word.encode() in held]

    assert on_disk() == list(WORDS)
    store.erase("who-was-here", who="ops")
    assert on_disk() == []
    store.close()


def test_what_a_reader_keeps_in_sqlites_log_goes_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "LOG_SECONDS", 0.05)
    path = tmp_path / "db" / "x.db"
    store = Store.open(path)

    def on_disk() -> list[str]:
        held = b"".join(path.read_bytes() for path in (tmp_path / "db").iterdir() if path.is_file())
        return [word for word in WORDS if word.encode() in held]

    history(store)
    with store._engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM feedback"))
        receipt = store.erase("who-was-here", who="ops")
        assert on_disk() == list(WORDS) and receipt.id in caplog.text
    Store.open(path).close()
    assert on_disk() == []
    store.close()


def test_a_post_sent_again_after_the_erasure_brings_nothing_back(store: Store) -> None:
    theirs = respond(store, person="somebody-else")
    said = {"verdict": "desirable", "person": "who-was-here", "principal": "k-1"}
    store.add_feedback(theirs, **said, key="once")
    store.erase("who-was-here", who="ops")
    for again in (said, {**said, "verdict": "undesirable"}):
        with pytest.raises(Gone, match="erased"):
            store.add_feedback(theirs, **again, key="once")
    assert counts(store, "feedback") == [0]
    assert not store.add_feedback(theirs, **said, key="another").replayed, "who comes back is a new person"


def test_an_erasure_takes_what_another_machines_clock_has_from_later(store: Store) -> None:
    later = "2999-01-01T00:00:00.000+00:00"
    mine = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", "?"),), "yes", created=later, person="p-1")
    store.add_response(mine)
    said = store.add_feedback(respond(store), verdict="desirable", person="p-1").id
    with store._write() as connection:
        connection.execute(text(f"UPDATE feedback SET created = '{later}' WHERE id = '{said}'"))
    assert store.erase("p-1", who="ops").rows == {"feedback": 1, "idempotency": 0, "responses": 1}


def test_an_erasure_waits_for_what_is_being_written(store: Store) -> None:
    row = {"id": "chat-1", "kind": "chat", "name": "demo", "version": "v1", "messages": [], "answer": "", "detail": {}}
    with ThreadPoolExecutor(1) as pool:
        with store._write() as connection:
            connection.execute(tables.responses.insert(), {**row, "created": now(), "person": "p-1"})
            erased = pool.submit(store.erase, "p-1", who="ops")
            time.sleep(0.5)  # by now it would be through, if it did not wait
        assert erased.result().rows["responses"] == 1
    assert counts(store, "responses") == [0]


def test_a_manifest_keeps_the_ids_and_the_receipt_names_it(store: Store) -> None:
    mine, others = accepted(store, 2, person="p-1"), accepted(store, 1, person="p-2")
    used = store.claim("demo", who="a", lease_s=60)
    assert used is not None
    store.consume(used, who="a", version="v2")
    receipt = store.erase("p-1", who="ops")
    assert receipt.manifests == (used.id,) and receipt.feedback == tuple(sorted(mine))
    with store._engine.connect() as connection:
        kept = connection.execute(text("SELECT feedback_id FROM manifest_items ORDER BY position")).scalars().all()
    assert kept == list(used.ids)
    assert [judged.feedback.id for judged in store.list_feedback(manifest=used.id)] == others, "what can train anew"


def test_an_update_that_holds_erased_feedback_may_not_promote(store: Store) -> None:
    accepted(store, 1, person="p-1")
    free = accepted(store, 1, person="p-2")
    manifest = store.claim("demo", who="a", lease_s=60)
    assert manifest is not None
    store.move_alias("demo", "champion", "v1", expected=None, who="a", why="")
    assert store.erase("p-1", who="ops").manifests == (manifest.id,)
    with pytest.raises(StoreError, match="lease"):
        store.move_alias("demo", "champion", "v2", expected="v1", who="a", why="", consume=manifest)
    state, again = store.alias("demo", "champion"), store.claim("demo", who="b", lease_s=60)
    assert state is not None and state.version == "v1" and again is not None and list(again.ids) == free


def test_a_request_given_again_gets_the_first_receipt(store: Store) -> None:
    history(store)
    first = store.erase("who-was-here", who="ops", key="k", principal="k-1")
    again = store.erase("who-was-here", who="ops", key="k", principal="k-1")
    assert again.replayed and (again.id, again.rows, again.feedback) == (first.id, first.rows, first.feedback)
    with pytest.raises(KeyReused):
        store.erase("somebody-else", who="ops", key="k", principal="k-1")
    assert not store.erased("somebody-else") and counts(store, "erasures") == [1]
    assert store.erase("who-was-here", who="ops", key="k", principal="k-2").rows["feedback"] == 0


def test_of_many_requests_with_one_key_one_erases(store: Store) -> None:
    history(store)
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda _: store.erase("who-was-here", who="ops", key="k"), range(16)))
    assert len({receipt.id for receipt in receipts}) == 1 and sum(not one.replayed for one in receipts) == 1
    assert counts(store, "erasures") == [1]


def test_posts_and_an_erasure_at_once_leave_no_feedback_without_its_response(store: Store) -> None:
    responses = [respond(store, person="p-1") for _ in range(20)]

    def post(response: str) -> bool:
        try:
            store.add_feedback(response, verdict="desirable")
        except UnknownResponse:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        posts = [pool.submit(post, response) for response in responses]
        erased = pool.submit(store.erase, "p-1", who="ops")
        posts += [pool.submit(post, response) for response in responses]
        kept = sum(future.result() for future in posts)
    assert counts(store, "responses", "feedback") == [0, 0]
    assert erased.result().rows["feedback"] == kept


def test_what_fits_no_single_statement_goes_all_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_feedback, "CHUNK", 2)
    carried: list[int] = []

    def look(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and " IN (" in statement:
            carried.append(len(parameters))

    event.listen(store._engine, "before_cursor_execute", look)
    ids = accepted(store, 5, person="p-1")
    manifest = store.claim("demo", who="a", lease_s=60, only=ids)
    assert manifest is not None and list(manifest.ids) == sorted(ids)
    for response in [respond(store, person="p-1") for _ in range(5)]:
        store.add_feedback(response, verdict="undesirable", key=response)
    receipt = store.erase("p-1", who="ops")
    assert receipt.rows == {"feedback": 10, "idempotency": 5, "responses": 5} and receipt.manifests == (manifest.id,)
    assert max(carried) == 2


def test_who_comes_back_is_a_new_person(store: Store) -> None:
    assert not store.erased("p-1")
    accepted(store, 1, person="p-1")
    store.erase("p-1", who="ops")
    assert store.erased("p-1") and not store.erased("p-2")
    time.sleep(0.01)
    (late,) = accepted(store, 1, person="p-1")
    with store._write() as connection:
        assert erasure.replay(connection, erasure.tombstones(connection), who="ops") == 0
    assert store.feedback(late).person == "p-1", "what came after the erasure is not what was erased"


def test_without_its_receipt_on_disk_nothing_is_erased(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store.open(tmp_path / "x.db", receipts=tmp_path / "file" / "erasures")
    accepted(store, 1, person="p-1")
    with pytest.raises(StoreError, match="cannot be written.*") as caught:
        store.erase("p-1", who="ops")
    assert "nothing was erased" in caught.value.mend
    assert counts(store, "feedback", "erasures") == [1, 0]
    with pytest.raises(Refused):
        store.erase("p\0", who="ops")
    store.close()


def test_receipts_lie_beside_a_file(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "x.db")
    receipt = store.erase("p-1", who="ops")
    (found,) = erasure.read_receipts(tmp_path / "erasures")
    assert found["id"] == receipt.id
    store.close()
    (tmp_path / "erasures" / "er-1.json").write_text("{}")
    with pytest.raises(StoreError, match="no receipt"):
        erasure.read_receipts(tmp_path / "erasures")


def test_receipts_of_a_database_server_lie_in_the_home(postgres_url: str, home: Path) -> None:
    store = Store.open(postgres_url)
    receipt = store.erase("p-1", who="ops")
    assert [path.name for path in (home / "erasures").iterdir()] == [f"{receipt.id}.json"]
    store.close()
