"""API keys and the database's own secrets. Of a key only its SHA-256 is kept.

A key has 256 random bits, so a plain hash is enough: there is no list of likely ones to try.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Any, get_args

from sqlalchemy import Row, select
from sqlalchemy.exc import IntegrityError

from valuealign.errors import Refused, StoreError, nearest
from valuealign.store import _feedback as posts
from valuealign.store import _steps as steps
from valuealign.store import tables as t
from valuealign.store.connection import Database
from valuealign.store.records import Key, Scope

_TEXT = re.compile(r"va-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")
_NOBODY = "0" * 64  # compared with where no such key exists, so that both take as long
_LONGEST_NAME = 128


class Keys:
    """The keys of one database. A change is one transaction with its line in the audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, scopes: Sequence[Scope], *, per_minute: int | None = None, who: str) -> tuple[Key, str]:
        """A new key, and its text ``va-<id>-<secret>``, which cannot be shown again.

        Raises Refused for no name, no scope or an unknown one, or a limit under 1.
        """
        _check(name, scopes, per_minute)
        id = secrets.token_hex(6)
        text = f"va-{id}-{secrets.token_urlsafe(32)}"
        ordered = tuple(scope for scope in get_args(Scope) if scope in scopes)
        key = Key(id, name, ordered, per_minute, steps.now())
        with self._database._write() as connection:
            row = {**vars(key), "scopes": list(key.scopes), "sha256": _sha256(text)}
            connection.execute(t.keys.insert().values(**row))
            detail = {"name": name, "scopes": list(key.scopes), "per_minute": per_minute}
            steps.note(connection, who, "key.created", key.id, detail)
        return key, text

    def find(self, text: str) -> Key | None:
        """The key with this text; ``None`` if there is none, or it was revoked."""
        parts = _TEXT.fullmatch(text)
        if parts is None:
            return None
        with self._database._read() as connection:
            row = connection.execute(select(t.keys).where(t.keys.c.id == parts[1])).one_or_none()
        right = hmac.compare_digest(_sha256(text), row.sha256 if row is not None else _NOBODY)
        return _to_key(row) if row is not None and right and row.revoked is None else None

    def revoke(self, id: str, *, who: str) -> Key:
        """End a key for good; one that has ended stays as it is. Raises StoreError for an unknown id."""
        with self._database._write() as connection:
            ended = connection.execute(
                t.keys.update().where(t.keys.c.id == id, t.keys.c.revoked.is_(None)).values(revoked=steps.now())
            )
            row = connection.execute(select(t.keys).where(t.keys.c.id == id)).one_or_none()
            if row is None:
                raise StoreError("no such key", where=id, mend="python jobs/keys.py list shows the ids")
            if ended.rowcount:
                steps.note(connection, who, "key.revoked", id, {"name": row.name})
        return _to_key(row)

    def list(self) -> list[Key]:
        """Every key, revoked ones too, oldest first."""
        query = select(t.keys).order_by(t.keys.c.created, t.keys.c.id)
        with self._database._read() as connection:
            return [_to_key(row) for row in connection.execute(query)]


def secret(database: Database, name: str) -> bytes:
    """32 random bytes, drawn when they are first asked for and the same ever after."""
    query = select(t.secrets.c.value).where(t.secrets.c.name == name)
    with database._read() as connection:
        value = connection.execute(query).scalar_one_or_none()
    if value is None:
        try:
            with database._write() as connection:
                connection.execute(t.secrets.insert().values(name=name, value=secrets.token_hex(32)))
        except IntegrityError:
            pass  # somebody else drew it first
        with database._read() as connection:
            value = connection.execute(query).scalar_one()
    return bytes.fromhex(value)


def _check(name: str, scopes: Sequence[Scope], per_minute: int | None) -> None:
    if not name.strip() or len(name) > _LONGEST_NAME:
        raise Refused("a key needs a name", where="name", mend=f"say whose it is, in at most {_LONGEST_NAME} letters")
    posts.check_texts({"name": name})
    if not scopes:
        raise Refused("a key needs a scope", where=name, mend=f"give some of {', '.join(get_args(Scope))}")
    for scope in scopes:
        if scope not in get_args(Scope):
            raise Refused(f"there is no scope '{scope}'", where=name, mend=nearest(scope, get_args(Scope)))
    if per_minute is not None and per_minute < 1:
        raise Refused("a key that may ask nothing", where=name, mend="allow at least 1 request a minute")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _to_key(row: Row[Any]) -> Key:
    return Key(row.id, row.name, tuple(row.scopes), row.per_minute, row.created, row.revoked)
