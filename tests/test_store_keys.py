"""API keys: shown once, kept as a hash, ended for good; and the database's own secrets."""

from __future__ import annotations

import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from storing import address as address
from storing import counts
from storing import store as store

from valuealign.errors import Refused, StoreError
from valuealign.store import Key, Store


def test_a_key_is_found_by_its_text_and_its_text_is_kept_nowhere(store: Store) -> None:
    key, shown = store.keys.create("website", ["feedback", "query"], per_minute=60, who="ops")
    assert re.fullmatch(r"va-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", shown) and shown[3:15] == key.id
    assert (key.name, key.scopes, key.per_minute, key.revoked) == ("website", ("query", "feedback"), 60, None)
    assert store.keys.find(shown) == key and store.keys.list() == [key]
    with store._engine.connect() as connection:
        rows = [str(row) for table in ("keys", "audit") for row in connection.execute(text(f"SELECT * FROM {table}"))]
    assert len(rows) == 2 and not any(shown in row or shown[16:] in row for row in rows)


def test_what_is_not_the_whole_text_is_no_key(store: Store) -> None:
    _, shown = store.keys.create("a", ["query"], who="ops")
    wrong = shown[:16] + secrets.token_urlsafe(32)
    unknown = f"va-{'0' * 12}-{shown[16:]}"
    for text_ in ("", "va-", shown[:-1], shown + "A", shown.upper(), f" {shown}", wrong, unknown, "\ud800"):
        assert store.keys.find(text_) is None, text_


def test_a_revoked_key_is_ended_for_good(store: Store) -> None:
    one, shown = store.keys.create("a", ["query"], who="ops")
    _, other = store.keys.create("b", ["query"], who="ops")
    ended = store.keys.revoke(one.id, who="ops")
    assert store.keys.find(shown) is None and store.keys.find(other) is not None
    assert ended.revoked and not ended.may("query")
    assert store.keys.revoke(one.id, who="ops") == ended, "when it ended does not change"
    assert [event.event for event in store.audit(subject=one.id)] == ["key.created", "key.revoked"]
    with pytest.raises(StoreError, match="no such key"):
        store.keys.revoke("nope", who="ops")


def test_an_administrators_key_is_for_everything() -> None:
    def may(*scopes) -> list[bool]:
        key = Key("id", "x", scopes, None, "")
        return [key.may(scope) for scope in ("query", "feedback", "review", "admin")]

    assert may("admin") == [True] * 4
    assert may("query", "review") == [True, False, True, False]


@pytest.mark.parametrize(
    ("name", "scopes", "per_minute", "what"),
    [
        ("", ["query"], None, "needs a name"),
        ("n" * 129, ["query"], None, "needs a name"),
        ("a\0", ["query"], None, "cannot be kept"),
        ("a", [], None, "needs a scope"),
        ("a", ["qery"], None, "no scope 'qery'"),
        ("a", ["query"], 0, "may ask nothing"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(tmp_path: Path, name, scopes, per_minute, what: str) -> None:
    store = Store.open(tmp_path / "x.db")
    with pytest.raises(Refused, match=what):
        store.keys.create(name, scopes, per_minute=per_minute, who="ops")
    assert counts(store, "keys", "audit") == [0, 0]
    store.close()


def test_a_secret_is_drawn_once(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        drawn = set(pool.map(lambda _: store.secret("tokens"), range(16)))
    assert len(drawn) == 1 and len(drawn.pop()) == 32
    assert store.secret("tokens") != store.secret("other")
    assert counts(store, "secrets") == [2]
