"""Feedback inside a transaction: what may be kept, an answer given twice, pages."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, Select, select, tuple_

from valuealign.errors import Gone, KeyReused, Refused
from valuealign.store import _steps as steps
from valuealign.store import tables as t
from valuealign.store.records import Page, Receipt, Status, Verdict

CHUNK = 5_000  # ids in one statement: both databases bound how many a statement may carry
ERASED = {"erased": True}  # in place of what a post was answered whose feedback was erased
_LONGEST = {"person": 255, "campaign": 255, "key": 255, "principal": 64}
_PLACE = re.compile(r"([0-9T:.+-]{20,32}) (fb-[0-9a-f]{1,60})")


def check(said: Mapping[str, Any]) -> None:
    """Refuse what contradicts itself or what no database can keep. ``said`` is a feedback's columns."""
    verdict, shares, n = said["verdict"], said["shares"], said["n"]
    if (verdict == "correction") != (said["correction"] is not None):
        raise _refused("a correction", "correction", "post the corrected text with this verdict, and only with it")
    if (verdict == "shares") != (shares is not None):
        raise _refused("a correction by shares", "shares", "post shares and n with this verdict, and only with it")
    if (shares is None) != (n is None):
        raise _refused("shares", "n", "say how many people stand behind the shares")
    if shares is not None:
        numbers = [float(share) for share in shares.values()]
        if not all(math.isfinite(share) and share >= 0 for share in numbers) or sum(numbers) <= 0:
            raise _refused("shares", "shares", "write numbers from 0, not all of them 0")
        if n is None or not math.isfinite(n) or n <= 0:
            raise _refused("n", "n", "write the number of people behind the shares")
    check_texts(said)


def check_texts(columns: Mapping[str, Any]) -> None:
    """Refuse texts that a database cannot keep: too long for an id, NUL, half of a surrogate pair."""
    for name, value in columns.items():
        longest = _LONGEST.get(name)
        if longest is not None and value is not None and len(value) > longest:
            raise _refused(name, name, f"use at most {longest} characters")
        if not all(map(steps.keepable, _texts(value))):
            what = "the text holds a character that cannot be kept"
            raise Refused(what, where=name, mend="leave out NUL and halves of surrogate pairs")


def _texts(value: Any) -> Iterator[str]:
    """Every text in what becomes JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*_texts(key), *_texts(inner))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _refused(what: str, where: str, mend: str) -> Refused:
    return Refused(f"{what} cannot be kept as posted", where=where, mend=mend)


def fingerprint(response_id: str, said: Mapping[str, Any]) -> str:
    """SHA-256 of a post: what an Idempotency-Key may come with again."""
    content: list[Any] = [response_id, said["verdict"], said["correction"]]
    more = {name: value for name, value in said.items() if name not in ("verdict", "correction") and value is not None}
    if more:  # without, the same as earlier releases kept
        content.append(more)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=dict).encode()).hexdigest()


def saved(connection: Connection, principal: str, key: str, body: str) -> Mapping[str, Any] | None:
    """The answer that a post with this key got before. Raises KeyReused if it had another body, Gone if what it
    brought was erased since."""
    mine = t.idempotency.c.principal == principal, t.idempotency.c.key == key
    row = connection.execute(select(t.idempotency).where(*mine)).one_or_none()
    if row is None:
        return None
    if row.answer == ERASED:
        raise Gone("what was posted with this was erased since", where=key, mend="do not post it again")
    if row.body_sha256 != body:
        raise KeyReused(
            "this Idempotency-Key came with another body before", where=key, mend="use a new key for a new post"
        )
    answer: Mapping[str, Any] = row.answer
    return answer


def save(
    connection: Connection, principal: str, key: str, body: str, answer: Mapping[str, Any], *, subject: str, at: str
) -> None:
    """Keep an answer, to be given again to the same key."""
    row = {
        "principal": principal,
        "key": key,
        "body_sha256": body,
        "answer": dict(answer),
        "subject": subject,
        "created": at,
    }
    connection.execute(t.idempotency.insert(), row)


def insert(
    connection: Connection,
    response_id: str,
    said: Mapping[str, Any],
    *,
    who: str,
    principal: str,
    key: str | None,
) -> Receipt:
    """Feedback, idempotency key and audit. Raises UnknownResponse, KeyReused, Gone."""
    body = fingerprint(response_id, said)
    if key is not None and (answer := saved(connection, principal, key, body)):
        return Receipt(**answer, replayed=True)
    of_it = select(t.responses.c.id).where(t.responses.c.id == response_id)
    if connection.execute(of_it).one_or_none() is None:
        raise steps.unknown_response(response_id)
    receipt = Receipt(id=steps.new_id("fb"), response_id=response_id, status="quarantined", created=steps.now())
    answer = {name: value for name, value in asdict(receipt).items() if name != "replayed"}
    connection.execute(t.feedback.insert(), {**answer, **said, "key_id": principal or None})
    if key is not None:
        save(connection, principal, key, body, answer, subject=receipt.id, at=receipt.created)
    steps.note(connection, who, "feedback.posted", receipt.id, {"response": response_id, "verdict": said["verdict"]})
    return receipt


def columns(
    verdict: Verdict,
    correction: str | None,
    shares: Mapping[str, float] | None,
    n: float | None,
    comment: str | None,
    metadata: Mapping[str, Any] | None,
    person: str | None,
    traits: Mapping[str, Any] | None,
    campaign: str | None,
) -> dict[str, Any]:
    """What was said, as columns of the table. Raises Refused."""
    said = {
        "verdict": verdict,
        "correction": correction,
        "shares": None if shares is None else dict(shares),
        "n": n,
        "comment": comment,
        "metadata": None if metadata is None else dict(metadata),
        "person": person,
        "traits": None if traits is None else dict(traits),
        "campaign": campaign,
    }
    check(said)
    return said


def chosen(
    query: Select[Any],
    status: Status | None,
    name: str | None,
    *,
    person: str | None = None,
    manifest: str | None = None,
) -> Select[Any]:
    """``query`` (over feedback joined to its responses) narrowed to what was asked for, oldest first."""
    wanted = {
        t.feedback.c.status: status,
        t.responses.c.name: name,
        t.feedback.c.person: person,
        t.feedback.c.manifest_id: manifest,
    }
    query = query.where(*(column == value for column, value in wanted.items() if value is not None))
    return query.order_by(t.feedback.c.created, t.feedback.c.id)


def page(connection: Connection, query: Select[Any], limit: int, after: str | None) -> Page:
    """The first ``limit`` rows behind ``after``."""
    if limit < 1:
        raise Refused("a page holds at least one item", where="limit", mend="ask for 1 or more")
    if after is not None:
        query = query.where(tuple_(t.feedback.c.created, t.feedback.c.id) > tuple_(*_place(after)))
    rows = connection.execute(query.limit(limit + 1)).all()
    more = len(rows) > limit
    return Page(tuple(map(steps.to_judged, rows[:limit])), _cursor(rows[limit - 1]) if more else None)


def _cursor(row: Row[Any]) -> str:
    # The place and not the row's id alone: the row may be erased before the next page is asked for.
    return base64.urlsafe_b64encode(f"{row.created} {row.id}".encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[str, str]:
    try:
        place = _PLACE.fullmatch(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode())
    except (binascii.Error, ValueError):
        place = None
    if place is None:
        raise Refused("this is no page's cursor", where="after", mend="use the one that came with a page")
    return place[1], place[2]


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """``ids`` in pieces that fit one statement."""
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]


def of_status(connection: Connection, ids: Sequence[str], status: Status) -> Sequence[str]:
    """Those of ``ids`` that have the status, locked until the transaction ends."""
    mine = select(t.feedback.c.id).where(t.feedback.c.id.in_(ids), t.feedback.c.status == status)
    return connection.execute(mine.order_by(t.feedback.c.id).with_for_update()).scalars().all()
