"""What transactions are made of: functions of an open connection, and rows made into records."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from valuealign.errors import AliasMoved, StoreError, UnknownFeedback, UnknownResponse
from valuealign.store import tables as t
from valuealign.store.records import AliasState, Feedback, Judged, Manifest, Move, Response
from valuealign.types import Message


def new_id(prefix: str) -> str:
    """A fresh id that nobody can guess, such as ``fb-9f86d081884c7d65``."""
    return f"{prefix}-{secrets.token_hex(12)}"


def now(*, ahead_s: float = 0.0) -> str:
    """The time (UTC, ISO 8601 with milliseconds), ``ahead_s`` seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat(timespec="milliseconds")


def keepable(text: str) -> bool:
    """Whether both databases can hold the text: no NUL in it, and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def note(connection: Connection, who: str, event: str, subject: str, detail: Mapping[str, Any]) -> None:
    row = {"created": now(), "who": who, "event": event, "subject": subject, "detail": dict(detail)}
    connection.execute(t.audit.insert(), row)


def insert_manifest(connection: Connection, manifest: Manifest) -> None:
    connection.execute(
        t.manifests.insert().values(
            id=manifest.id,
            name=manifest.name,
            sha256=manifest.sha256,
            status="claimed",
            claimed_by=manifest.claimed_by,
            lease_until=manifest.lease_until,
            created=now(),
        )
    )
    rows = [{"manifest_id": manifest.id, "position": i, "feedback_id": id} for i, id in enumerate(manifest.ids)]
    connection.execute(t.manifest_items.insert(), rows)
    detail = {"items": len(rows), "sha256": manifest.sha256}
    note(connection, manifest.claimed_by, "manifest.claimed", manifest.id, detail)


def free_expired(connection: Connection) -> None:
    """Release the manifests whose holder has stopped renewing its lease."""
    expired = t.manifests.c.status == "claimed", t.manifests.c.lease_until < now()
    for manifest_id in connection.execute(select(t.manifests.c.id).where(*expired)).scalars().all():
        changed = connection.execute(
            t.manifests.update().where(t.manifests.c.id == manifest_id, *expired).values(status="released")
        )
        if changed.rowcount:
            free_items(connection, manifest_id)
            note(connection, "store", "manifest.expired", manifest_id, {})


def free_items(connection: Connection, manifest_id: str) -> None:
    connection.execute(t.feedback.update().where(t.feedback.c.manifest_id == manifest_id).values(manifest_id=None))


def consume(connection: Connection, manifest: Manifest, who: str, version: str) -> None:
    held = t.manifests.c.id == manifest.id, t.manifests.c.status == "claimed"
    if not connection.execute(t.manifests.update().where(*held).values(status="used")).rowcount:
        raise lease_lost(manifest)
    connection.execute(t.feedback.update().where(t.feedback.c.manifest_id == manifest.id).values(status="used"))
    note(connection, who, "manifest.used", manifest.id, {"version": f"{manifest.name}@{version}"})


def move_alias(connection: Connection, to: AliasState, expected: str | None, check_epoch: bool) -> AliasState:
    aliases = t.aliases
    if expected is None:
        last = select(func.max(t.alias_history.c.epoch)).where(
            t.alias_history.c.name == to.name, t.alias_history.c.alias == to.alias
        )
        state = replace(to, epoch=(connection.execute(last).scalar() or 0) + 1)
        connection.execute(
            aliases.insert().values(name=state.name, alias=state.alias, version=state.version, epoch=state.epoch)
        )
        return state
    here = [aliases.c.name == to.name, aliases.c.alias == to.alias, aliases.c.version == expected]
    if check_epoch:
        here.append(aliases.c.epoch == to.epoch)
    moved = connection.execute(aliases.update().where(*here).values(version=to.version, epoch=aliases.c.epoch + 1))
    if not moved.rowcount:
        raise alias_moved(to.name, to.alias, expected)
    epoch = connection.execute(
        select(aliases.c.epoch).where(aliases.c.name == to.name, aliases.c.alias == to.alias)
    ).scalar_one()
    return replace(to, epoch=epoch)


def unmoved(connection: Connection, seen: AliasState) -> None:
    """Raises AliasMoved if an alias is not as it was seen; else it stays so until the transaction ends."""
    here = t.aliases.c.name == seen.name, t.aliases.c.alias == seen.alias
    row = connection.execute(select(t.aliases).where(*here).with_for_update()).one_or_none()
    if row is None or (row.version, row.epoch) != (seen.version, seen.epoch):
        raise alias_moved(seen.name, seen.alias, seen.version)


def select_judged() -> Select[Any]:
    response = [column.label(f"response__{column.name}") for column in t.responses.c]
    return select(t.feedback, *response).join(t.responses, t.responses.c.id == t.feedback.c.response_id)


_FEEDBACK = tuple(field.name for field in fields(Feedback))
_RESPONSE = tuple(field.name for field in fields(Response))


def to_feedback(row: Row[Any]) -> Feedback:
    return Feedback(**{name: getattr(row, name) for name in _FEEDBACK})


def to_response(row: Row[Any], prefix: str = "") -> Response:
    columns = {name: getattr(row, prefix + name) for name in _RESPONSE}
    columns["messages"] = tuple(Message(role, content) for role, content in columns["messages"])
    return Response(**columns)


def to_judged(row: Row[Any]) -> Judged:
    return Judged(to_feedback(row), to_response(row, "response__"))


_MOVE = tuple(field.name for field in fields(Move))


def to_move(row: Row[Any]) -> Move:
    return Move(**{name: getattr(row, name) for name in _MOVE})


def unknown_response(response_id: str) -> UnknownResponse:
    return UnknownResponse(
        "no such response", where=response_id, mend="use the id that came with the answer you want to judge"
    )


def unknown_feedback(feedback_id: str) -> UnknownFeedback:
    return UnknownFeedback("no such feedback", where=feedback_id, mend="use an id that came back from a post")


def not_reviewable(connection: Connection, feedback_id: str) -> StoreError:
    row = connection.execute(select(t.feedback).where(t.feedback.c.id == feedback_id)).one_or_none()
    if row is None:
        return unknown_feedback(feedback_id)
    state = "was already used to train" if row.status == "used" else "is held by a running update"
    return StoreError(f"the feedback {state}", where=feedback_id, mend="leave it out")


def lease_lost(manifest: Manifest) -> StoreError:
    return StoreError(
        "the lease on the feedback ended and somebody else may hold it", where=manifest.id, mend="run the update again"
    )


def alias_moved(name: str, alias: str, expected: str | None) -> AliasMoved:
    seen = f"no longer points at {expected}" if expected else "exists by now"
    return AliasMoved(f"the alias {seen}", where=f"{name}@{alias}", mend="look at its history, then try again")
