"""The queries. Each public method is one transaction: when it returns, it is on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from valuealign.errors import StoreError
from valuealign.store import _steps as steps
from valuealign.store import tables as t
from valuealign.store.records import (
    AliasState,
    Event,
    Feedback,
    Judged,
    Manifest,
    Move,
    Receipt,
    Response,
    Status,
    Verdict,
)


class Store:
    """One database. Safe to use from several threads and, by its address, from several processes."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._where = url.database if url.get_backend_name() == "sqlite" else url.render_as_string()
        self._engine = t.connect(url)
        self._writer = self._engine.execution_options(writes=True)
        try:
            t.prepare(self._engine, str(self._where))
        except SQLAlchemyError as error:
            self.close()
            raise self._broken(error) from None
        except StoreError:
            self.close()
            raise

    @classmethod
    def open(cls, where: Path | str) -> Store:
        """The store at a file (SQLite, made if absent) or at a database URL such as
        ``postgresql+psycopg://user@host/valuealign``.

        Raises StoreError if it cannot be opened, is no database, or comes from a newer release.
        """
        if isinstance(where, str) and "://" in where:
            return cls(_url(where))
        path = Path(where).absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot make the database's folder ({error.strerror})",
                where=str(path.parent),
                mend="name another place",
            ) from None
        return cls(URL.create("sqlite", database=str(path)))

    def __reduce__(self) -> tuple[object, ...]:
        # A copy in another process opens its own connections.
        return Store, (self._url,)

    def close(self) -> None:
        """Give the connections back; the store cannot be used afterwards."""
        self._engine.dispose()

    def ping(self) -> None:
        """Raise StoreError unless the database answers."""
        with self._read() as connection:
            connection.execute(text("SELECT 1"))

    # Responses and feedback

    def add_response(self, response: Response) -> Response:
        """Keep a served answer, so that feedback can name it. ``created`` is filled in."""
        return self.add_responses([response])[0]

    def add_responses(self, responses: Sequence[Response]) -> list[Response]:
        """Keep several, all or none."""
        made = [replace(response, created=response.created or steps.now()) for response in responses]
        rows = [
            {**vars(one), "messages": [list(message) for message in one.messages], "detail": dict(one.detail)}
            for one in made
        ]
        with self._write() as connection:
            connection.execute(t.responses.insert(), rows)
        return made

    def response(self, response_id: str) -> Response:
        """The response of that id. Raises UnknownResponse."""
        with self._read() as connection:
            row = connection.execute(select(t.responses).where(t.responses.c.id == response_id)).one_or_none()
        if row is None:
            raise steps.unknown_response(response_id)
        return steps.to_response(row)

    def add_feedback(
        self,
        response_id: str,
        *,
        verdict: Verdict,
        correction: str | None = None,
        who: str = "api",
        key: str | None = None,
    ) -> Receipt:
        """Keep feedback, quarantined until a person has reviewed it.

        Feedback, idempotency key and audit are one transaction. The same ``key`` with the same
        body gives the first answer again. Raises UnknownResponse, KeyReused (same key, other
        body).
        """
        body = hashlib.sha256(json.dumps([response_id, verdict, correction]).encode()).hexdigest()
        try:
            return self._add_feedback(response_id, verdict, correction, who, key, body)
        except IntegrityError:
            # Somebody else committed the same key in between (not on SQLite, where writers queue).
            return self._add_feedback(response_id, verdict, correction, who, key, body)

    def _add_feedback(
        self, response_id: str, verdict: Verdict, correction: str | None, who: str, key: str | None, body: str
    ) -> Receipt:
        with self._write() as connection:
            if key is not None and (saved := steps.replay(connection, key, body)):
                return saved
            if (
                connection.execute(select(t.responses.c.id).where(t.responses.c.id == response_id)).one_or_none()
                is None
            ):
                raise steps.unknown_response(response_id)
            receipt = Receipt(id=steps.new_id("fb"), response_id=response_id, status="quarantined", created=steps.now())
            connection.execute(
                t.feedback.insert().values(
                    id=receipt.id,
                    response_id=response_id,
                    verdict=verdict,
                    correction=correction,
                    status=receipt.status,
                    created=receipt.created,
                )
            )
            if key is not None:
                answer = {
                    "id": receipt.id,
                    "response_id": response_id,
                    "status": receipt.status,
                    "created": receipt.created,
                }
                connection.execute(
                    t.idempotency.insert().values(key=key, body_sha256=body, answer=answer, created=receipt.created)
                )
            steps.note(connection, who, "feedback.posted", receipt.id, {"response": response_id, "verdict": verdict})
        return receipt

    def feedback(self, feedback_id: str) -> Feedback:
        """The feedback of that id. Raises UnknownFeedback."""
        with self._read() as connection:
            row = connection.execute(select(t.feedback).where(t.feedback.c.id == feedback_id)).one_or_none()
        if row is None:
            raise steps.unknown_feedback(feedback_id)
        return steps.to_feedback(row)

    def list_feedback(
        self, status: Status | None = None, *, name: str | None = None, limit: int | None = None
    ) -> list[Judged]:
        """Feedback with its response, oldest first; of one status, one model family, or all."""
        query = steps.select_judged().order_by(t.feedback.c.created, t.feedback.c.id).limit(limit)
        if status is not None:
            query = query.where(t.feedback.c.status == status)
        if name is not None:
            query = query.where(t.responses.c.name == name)
        with self._read() as connection:
            return [steps.to_judged(row) for row in connection.execute(query)]

    def review(
        self, ids: Sequence[str], decision: Literal["accepted", "declined"], *, who: str, reason: str = ""
    ) -> list[Feedback]:
        """Accept or decline feedback that nobody holds for training and that was not used; all or none.

        Raises StoreError naming the first id that is unknown, in training, or used.
        """
        with self._write() as connection:
            steps.free_expired(connection)
            for feedback_id in ids:
                changed = connection.execute(
                    t.feedback.update()
                    .where(
                        t.feedback.c.id == feedback_id,
                        t.feedback.c.manifest_id.is_(None),
                        t.feedback.c.status != "used",
                    )
                    .values(status=decision, reviewer=who, reason=reason or None, reviewed=steps.now())
                )
                if not changed.rowcount:
                    raise steps.not_reviewable(connection, feedback_id)
                steps.note(connection, who, f"feedback.{decision}", feedback_id, {"reason": reason})
            rows = connection.execute(select(t.feedback).where(t.feedback.c.id.in_(ids))).all()
        found = {row.id: steps.to_feedback(row) for row in rows}
        return [found[feedback_id] for feedback_id in ids]

    # Manifests: what one update learns from

    def claim(self, name: str, *, who: str, lease_s: float, min_items: int = 1) -> Manifest | None:
        """Take all accepted feedback on model family ``name`` that nobody holds, or ``None`` if
        there are fewer than ``min_items``.

        The manifest is held until ``consume`` or ``release``, or until its lease ends without
        ``renew``: then the feedback is free again.
        """
        with self._write() as connection:
            steps.free_expired(connection)
            manifest_id, of_name = steps.new_id("man"), select(t.responses.c.id).where(t.responses.c.name == name)
            taken = connection.execute(
                t.feedback.update()
                .where(
                    t.feedback.c.status == "accepted",
                    t.feedback.c.manifest_id.is_(None),
                    t.feedback.c.response_id.in_(of_name),
                )
                .values(manifest_id=manifest_id)
            )
            if taken.rowcount < max(min_items, 1):
                connection.rollback()
                return None
            query = steps.select_judged().where(t.feedback.c.manifest_id == manifest_id).order_by(t.feedback.c.id)
            items = tuple(steps.to_judged(row) for row in connection.execute(query))
            ids = [judged.feedback.id for judged in items]
            manifest = Manifest(
                id=manifest_id,
                name=name,
                items=items,
                sha256=hashlib.sha256("\n".join(ids).encode()).hexdigest(),
                claimed_by=who,
                lease_until=steps.now(ahead_s=lease_s),
            )
            steps.insert_manifest(connection, manifest)
        return manifest

    def renew(self, manifest: Manifest, *, lease_s: float) -> None:
        """Hold the manifest for ``lease_s`` more seconds. Raises StoreError if it was lost."""
        with self._write() as connection:
            changed = connection.execute(
                t.manifests.update()
                .where(t.manifests.c.id == manifest.id, t.manifests.c.status == "claimed")
                .values(lease_until=steps.now(ahead_s=lease_s))
            )
            if not changed.rowcount:
                raise steps.lease_lost(manifest)

    def consume(self, manifest: Manifest, *, who: str, version: str) -> None:
        """The feedback has been used to make ``version``. Raises StoreError if the lease was lost."""
        with self._write() as connection:
            steps.consume(connection, manifest, who, version)

    def release(self, manifest: Manifest, *, who: str, why: str) -> None:
        """Give the feedback back: it stays accepted, for a later update. Does nothing if it was lost."""
        with self._write() as connection:
            held = t.manifests.c.id == manifest.id, t.manifests.c.status == "claimed"
            if connection.execute(t.manifests.update().where(*held).values(status="released")).rowcount:
                steps.free_items(connection, manifest.id)
                steps.note(connection, who, "manifest.released", manifest.id, {"why": why})

    # Aliases

    def alias(self, name: str, alias: str) -> AliasState | None:
        """Where the alias points now, or ``None``."""
        query = select(t.aliases).where(t.aliases.c.name == name, t.aliases.c.alias == alias)
        with self._read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else AliasState(row.name, row.alias, row.version, row.epoch)

    def aliases(self, name: str) -> list[AliasState]:
        """All aliases of a model family, by alias."""
        query = select(t.aliases).where(t.aliases.c.name == name).order_by(t.aliases.c.alias)
        with self._read() as connection:
            return [AliasState(row.name, row.alias, row.version, row.epoch) for row in connection.execute(query)]

    def move_alias(
        self,
        name: str,
        alias: str,
        to: str,
        *,
        expected: str | None,
        epoch: int | None = None,
        who: str,
        why: str,
        figures: Mapping[str, Any] | None = None,
        kind: Literal["move", "rollback"] = "move",
        consume: Manifest | None = None,
    ) -> AliasState:
        """Point the alias at version ``to`` if it still points at ``expected`` (``None``: is new),
        and, where given, is still in ``epoch``.

        Move, history, audit and, where given, the use of a manifest's feedback are one
        transaction. Raises AliasMoved if somebody was first, StoreError if the manifest was lost.
        """
        try:
            with self._write() as connection:
                state = steps.move_alias(
                    connection, AliasState(name, alias, to, epoch or 0), expected, epoch is not None
                )
                connection.execute(
                    t.alias_history.insert().values(
                        name=name,
                        alias=alias,
                        kind=kind,
                        from_version=expected,
                        to_version=to,
                        epoch=state.epoch,
                        who=who,
                        why=why,
                        figures=dict(figures or {}),
                        created=steps.now(),
                    )
                )
                steps.note(
                    connection, who, f"alias.{kind}", f"{name}@{alias}", {"from": expected, "to": to, "why": why}
                )
                if consume is not None:
                    steps.consume(connection, consume, who, to)
        except IntegrityError:
            raise steps.alias_moved(name, alias, expected) from None
        return state

    def alias_history(self, name: str, alias: str) -> list[Move]:
        """Every move of the alias, oldest first."""
        history = t.alias_history
        query = select(history).where(history.c.name == name, history.c.alias == alias).order_by(history.c.epoch)
        with self._read() as connection:
            rows = connection.execute(query).all()
        return [
            Move(r.name, r.alias, r.kind, r.from_version, r.to_version, r.epoch, r.who, r.why, r.figures, r.created)
            for r in rows
        ]

    # Audit

    def note(self, who: str, event: str, subject: str, detail: Mapping[str, Any] | None = None) -> None:
        """Append to the audit."""
        with self._write() as connection:
            steps.note(connection, who, event, subject, detail or {})

    def audit(self, *, subject: str | None = None) -> list[Event]:
        """The audit, oldest first; of one subject, or all."""
        query = select(t.audit).order_by(t.audit.c.id)
        if subject is not None:
            query = query.where(t.audit.c.subject == subject)
        with self._read() as connection:
            return [Event(r.id, r.created, r.who, r.event, r.subject, r.detail) for r in connection.execute(query)]

    # Transactions

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        try:
            with self._writer.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    def _broken(self, error: SQLAlchemyError) -> StoreError:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        mends = {
            "not a database": "name another file, or move this one away",
            "unable to open": "check that the folder exists and may be written to",
            "readonly": "check that the file may be written to",
            "locked": "another program holds it; try again",
        }
        mend = next((mend for sign, mend in mends.items() if sign in said), "check that the database is up")
        return StoreError(f"the database failed: {said}", where=str(self._where), mend=mend)


def _url(address: str) -> URL:
    try:
        url = make_url(address)
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StoreError(
            f"cannot use this database address ({str(error).splitlines()[0]})",
            where=address.split("@")[-1],
            mend="write postgresql+psycopg://user@host/database, and install psycopg",
        ) from None
    return url
