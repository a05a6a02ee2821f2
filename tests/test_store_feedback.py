"""What is kept with feedback: who said it, shares with an n, what screening found; pages and files of it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from storing import accepted, counts, respond
from storing import address as address
from storing import store as store

from valuealign.errors import DiskError, KeyReused, Refused, UnknownFeedback, UnknownResponse
from valuealign.store import Response, Store, new_id
from valuealign.types import Message

SAID = {
    "verdict": "shares",
    "shares": {"ja": 0.25, "nein": 0.75},
    "n": 40.5,
    "comment": "from our own poll ✓",
    "metadata": {"page": 3, "tags": ["a"]},
    "person": "p-1",
    "traits": {"sex": "f", "age": "25-34"},
    "campaign": "spring",
}


def test_all_that_was_said_comes_back(store: Store) -> None:
    response = respond(store, person="p-0", key_id="k-0")
    receipt = store.add_feedback(response, **SAID, principal="k-1", key="a")
    found = store.feedback(receipt.id)
    assert {name: getattr(found, name) for name in SAID} == SAID
    assert (found.key_id, found.status, found.screened, found.manifest_id) == ("k-1", "quarantined", None, None)
    (judged,) = store.list_feedback()
    assert judged.feedback == found and judged.response == store.response(response)
    assert (judged.response.person, judged.response.key_id) == ("p-0", "k-0")
    (event,) = store.audit(subject=receipt.id)
    assert "p-1" not in json.dumps(vars(event)), "the audit is for ever, so it names no person"


def test_what_was_not_said_is_nothing_and_no_json_null(store: Store) -> None:
    id = store.add_feedback(respond(store), verdict="desirable").id
    with store._engine.connect() as connection:
        query = text("SELECT count(*) FROM feedback WHERE traits IS NULL AND shares IS NULL AND metadata IS NULL")
        assert connection.execute(query).scalar_one() == 1
    found = store.feedback(id)
    assert (found.traits, found.shares, found.n, found.key_id, found.person) == (None, None, None, None, None)


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({"verdict": "correction"}, "correction"),
        ({"verdict": "desirable", "correction": "no"}, "correction"),
        ({"verdict": "shares"}, "shares"),
        ({"verdict": "desirable", "shares": {"a": 1.0}, "n": 3}, "shares"),
        ({"verdict": "shares", "shares": {"a": 1.0}}, "n"),
        ({"verdict": "shares", "shares": {"a": 1.0}, "n": 0}, "n"),
        ({"verdict": "shares", "shares": {"a": 1.0}, "n": float("nan")}, "n"),
        ({"verdict": "shares", "shares": {"a": -1.0, "b": 2.0}, "n": 3}, "shares"),
        ({"verdict": "shares", "shares": {"a": 0.0}, "n": 3}, "shares"),
        ({"verdict": "shares", "shares": {}, "n": 3}, "shares"),
        ({"verdict": "correction", "correction": "a\0b"}, "correction"),
        ({"verdict": "desirable", "comment": "half \ud83d"}, "comment"),
        ({"verdict": "desirable", "metadata": {"deep": [{"x": "\0"}]}}, "metadata"),
        ({"verdict": "desirable", "person": "p" * 256}, "person"),
        ({"verdict": "desirable", "key": "k" * 256}, "key"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(store: Store, said: dict, where: str) -> None:
    with pytest.raises(Refused) as caught:
        store.add_feedback(respond(store), **said)
    assert caught.value.where == where and caught.value.mend
    assert counts(store, "feedback", "idempotency", "audit") == [0, 0, 0]


def test_the_database_itself_refuses_shares_without_an_n(store: Store) -> None:
    id = store.add_feedback(respond(store), **SAID).id
    for column in ("shares", "n"):
        with pytest.raises(IntegrityError), store._write() as connection:
            connection.execute(text(f"UPDATE feedback SET {column} = NULL WHERE id = '{id}'"))


def test_an_id_that_no_database_could_hold_is_an_unknown_one(store: Store) -> None:
    for odd in ("\0", "fb-\0", "half \ud83d"):
        with pytest.raises(UnknownFeedback):
            store.feedback(odd)
        with pytest.raises(UnknownFeedback):
            store.review([odd], "accepted", who="r")
        with pytest.raises(UnknownResponse):
            store.response(odd)
        with pytest.raises(UnknownResponse):
            store.add_feedback(odd, verdict="desirable")
        with pytest.raises(Refused):
            store.page_feedback(person=odd)


def test_an_idempotency_key_is_its_principals_own(store: Store) -> None:
    response = respond(store)
    one = store.add_feedback(response, verdict="desirable", principal="k-1", key="same")
    other = store.add_feedback(response, verdict="undesirable", principal="k-2", key="same")
    assert one.id != other.id and not other.replayed
    again = store.add_feedback(response, verdict="desirable", principal="k-1", key="same")
    assert (again.id, again.replayed) == (one.id, True)
    with pytest.raises(KeyReused):
        store.add_feedback(response, verdict="desirable", comment="more", principal="k-1", key="same")
    assert counts(store, "feedback", "idempotency") == [2, 2]


def test_every_field_is_of_the_body_that_a_key_stands_for(store: Store) -> None:
    response = respond(store)
    store.add_feedback(response, **SAID, key="k")
    assert store.add_feedback(response, **dict(reversed(SAID.items())), key="k").replayed, "the order is no matter"
    other = {"shares": {"ja": 0.5, "nein": 0.5}, "n": 41, "comment": "x", "metadata": {}, "person": "p-2"}
    for name, value in {**other, "traits": {"sex": "m"}, "campaign": "autumn"}.items():
        with pytest.raises(KeyReused):
            store.add_feedback(response, **{**SAID, name: value}, key="k")


def pages(store: Store, limit: int, **of: str) -> list[list[str]]:
    found, after = [], None
    while True:
        page = store.page_feedback(limit=limit, after=after, **of)
        found.append([judged.feedback.id for judged in page.items])
        after = page.next
        if after is None:
            return found


def test_pages_hold_each_item_once_while_rows_come_and_go(store: Store) -> None:
    ids = [store.add_feedback(respond(store), verdict="desirable").id for _ in range(7)]
    ids.sort(key=lambda id: (store.feedback(id).created, id))
    assert pages(store, 3) == [ids[:3], ids[3:6], ids[6:]]
    assert pages(store, 7) == [ids], "no empty page behind the last"
    first = store.page_feedback(limit=3)
    with store._write() as connection:  # the item that the cursor stands on goes
        connection.execute(text(f"DELETE FROM feedback WHERE id = '{ids[2]}'"))
    late = store.add_feedback(respond(store), verdict="desirable").id
    second = store.page_feedback(limit=50, after=first.next)
    assert [judged.feedback.id for judged in second.items] == [*ids[3:], late] and second.next is None


def test_pages_of_a_status_a_family_and_a_person(store: Store) -> None:
    mine = accepted(store, 2, person="p-1")
    store.add_feedback(respond(store), verdict="desirable", person="p-1")
    other = accepted(store, 1, name="other", person="p-1") + accepted(store, 1, person="p-2")
    found = sum(pages(store, 1, status="accepted", name="demo", person="p-1"), [])
    assert sorted(found) == sorted(mine) and not set(found) & set(other)


@pytest.mark.parametrize("cursor", ["", "nonsense", "AAAA", "Zm9v", "ÿ", "\ud800"])
def test_what_is_no_cursor_is_refused(tmp_path: Path, cursor: str) -> None:
    store = Store.open(tmp_path / "x.db")
    with pytest.raises(Refused, match="cursor"):
        store.page_feedback(after=cursor)
    with pytest.raises(Refused, match="at least one"):
        store.page_feedback(limit=0)
    store.close()


def test_feedback_goes_to_a_file_whose_columns_are_the_same_without_rows(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "out" / "feedback.parquet"
    assert store.export_feedback(path) == 0
    empty = pq.read_table(path)
    dist = Response(new_id("dist"), "distribution", "demo", "v1", (Message("user", "ä?"),), "ja", {"options": ["ja"]})
    store.add_response(dist)
    full = store.add_feedback(dist.id, **SAID).id
    store.add_feedback(respond(store), verdict="correction", correction="no")
    assert store.export_feedback(path) == 2
    table = pq.read_table(path)
    assert table.schema == empty.schema and empty.num_rows == 0
    (row,) = [row for row in table.to_pylist(maps_as_pydicts="strict") if row["id"] == full]
    assert row["shares"] == SAID["shares"] and row["n"] == 40.5 and row["correction"] is None
    assert json.loads(row["traits"]) == SAID["traits"] and json.loads(row["response__detail"]) == dict(dist.detail)
    assert row["response__messages"] == [{"role": "user", "content": "ä?"}]
    assert store.export_feedback(path, status="accepted") == 0 and store.export_feedback(path, name="demo") == 2
    assert [one.name for one in path.parent.iterdir()] == [path.name], "nothing is left beside it"


def test_a_file_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "x.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        store.export_feedback(tmp_path / "file" / "x.parquet")
    store.close()


def test_a_manifest_holds_only_what_was_asked_for(store: Store) -> None:
    ids = accepted(store, 4)
    assert store.claim("demo", who="a", lease_s=60, only=[]) is None
    assert store.claim("demo", who="a", lease_s=60, only=ids[:1], min_items=2) is None
    waiting = store.add_feedback(respond(store), verdict="desirable").id
    manifest = store.claim("demo", who="a", lease_s=60, only=[*ids[:2], waiting, "fb-nope"])
    assert manifest is not None and list(manifest.ids) == sorted(ids[:2])
    assert [judged.feedback.manifest_id for judged in store.list_feedback(manifest=manifest.id)] == [manifest.id] * 2
    rest = store.claim("demo", who="b", lease_s=60)
    assert rest is not None and list(rest.ids) == sorted(ids[2:])


def test_what_a_screen_found_is_kept_and_told_once(store: Store) -> None:
    early = store.add_feedback(respond(store), verdict="desirable", person="p-1", principal="k-1", campaign="c").id
    late = store.add_feedback(respond(store, asked="Other?"), verdict="correction", correction="no").id
    found = {row.feedback.id: row.feedback for row in store.list_feedback()}
    assert (found[early].person, found[early].key_id, found[early].campaign) == ("p-1", "k-1", "c")
    store.screen({early: {"flood": "3 keys say the same"}}, who="screen")
    assert store.feedback(early).screened == {"flood": "3 keys say the same"}
    store.screen({"fb-erased": {}, late: {"x": "y"}}, who="screen")
    assert store.feedback(late).screened == {"x": "y"} and not store.audit(subject="fb-erased")
    assert [event.event for event in store.audit(subject=early)] == ["feedback.posted", "feedback.screened"]
