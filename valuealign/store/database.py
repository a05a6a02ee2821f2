"""The queries. Each public method is one transaction: when it returns, it is on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from valuealign.store import _feedback as posts
from valuealign.store import _steps as steps
from valuealign.store import erasure, export
from valuealign.store import keys as api_keys
from valuealign.store import tables as t
from valuealign.store.connection import LOG_SECONDS, Database
from valuealign.store.records import (
    AliasState,
    Erased,
    Event,
    Feedback,
    Judged,
    Manifest,
    Move,
    Page,
    Receipt,
    Response,
    Status,
    Verdict,
)

log = logging.getLogger(__name__)


class Store(Database):
    """One database. Safe to use from several threads and, by its address, from several processes."""

    # Responses and feedback

    def add_response(self, response: Response) -> Response:
        """Keep a served answer, so that feedback can name it. ``created`` is filled in."""
        return self.add_responses([response])[0]

    def add_responses(self, responses: Sequence[Response]) -> list[Response]:
        """Keep several, all or none; NUL in an answer becomes U+FFFD. Raises Refused for an id that cannot be kept."""
        made = []
        for one in responses:
            posts.check_texts({"person": one.person, "key_id": one.key_id})
            answer = one.answer.replace("\0", "\N{REPLACEMENT CHARACTER}")
            made.append(replace(one, answer=answer, created=one.created or steps.now()))
        rows = [
            {**vars(one), "messages": [list(message) for message in one.messages], "detail": dict(one.detail)}
            for one in made
        ]
        with self._write() as connection:
            connection.execute(t.responses.insert(), rows)
        return made

    def response(self, response_id: str) -> Response:
        """The response of that id. Raises UnknownResponse."""
        if not steps.keepable(response_id):
            raise steps.unknown_response(response_id)
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
        shares: Mapping[str, float] | None = None,
        n: float | None = None,
        comment: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        person: str | None = None,
        traits: Mapping[str, Any] | None = None,
        campaign: str | None = None,
        who: str = "api",
        principal: str = "",
        key: str | None = None,
    ) -> Receipt:
        """Keep feedback, quarantined until it has been reviewed.

        A ``correction`` is a text, for the verdict of that name; ``shares`` (option -> share) with
        ``n`` people behind them are for the verdict of that name. ``person`` says it, with ``traits``
        that may be used, as part of ``campaign``. ``who`` goes to the audit, so it is no person;
        ``principal`` is the id of the API key.

        Feedback, idempotency key and audit are one transaction. The same ``key`` of the same
        principal with the same body gives the first answer again. Raises UnknownResponse,
        KeyReused (same key, other body), Gone (it was kept and erased since), Refused (it contradicts itself,
        or cannot be kept).
        """
        said = posts.columns(verdict, correction, shares, n, comment, metadata, person, traits, campaign)
        posts.check_texts({"principal": principal, "key": key})
        if not steps.keepable(response_id):
            raise steps.unknown_response(response_id)
        return self._once_more(
            partial(posts.insert, response_id=response_id, said=said, who=who, principal=principal, key=key)
        )

    def feedback(self, feedback_id: str) -> Feedback:
        """The feedback of that id. Raises UnknownFeedback."""
        if not steps.keepable(feedback_id):
            raise steps.unknown_feedback(feedback_id)
        with self._read() as connection:
            row = connection.execute(select(t.feedback).where(t.feedback.c.id == feedback_id)).one_or_none()
        if row is None:
            raise steps.unknown_feedback(feedback_id)
        return steps.to_feedback(row)

    def list_feedback(
        self,
        status: Status | None = None,
        *,
        name: str | None = None,
        limit: int | None = None,
        manifest: str | None = None,
    ) -> list[Judged]:
        """Feedback with its response, oldest first; of one status, one model family, what one manifest
        holds or was used by, or all."""
        query = posts.chosen(steps.select_judged(), status, name, manifest=manifest).limit(limit)
        with self._read() as connection:
            return [steps.to_judged(row) for row in connection.execute(query)]

    def count_feedback(self, name: str) -> dict[Status, int]:
        """How much feedback on model family ``name`` there is of each status (those with none are left out)."""
        query = (
            select(t.feedback.c.status, func.count().label("n"))
            .join(t.responses, t.responses.c.id == t.feedback.c.response_id)
            .where(t.responses.c.name == name)
            .group_by(t.feedback.c.status)
        )
        with self._read() as connection:
            return {row.status: row.n for row in connection.execute(query)}

    def page_feedback(
        self,
        *,
        status: Status | None = None,
        name: str | None = None,
        person: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """``limit`` items, oldest first, behind the cursor ``after`` that came with the page before.

        What is added meanwhile comes last, so nothing is seen twice; on SQLite nothing is left out either, while
        on PostgreSQL a post that commits late may fall behind a walk that has passed its time. Raises Refused
        for what is no cursor.
        """
        posts.check_texts({"name": name, "person": person})
        query = posts.chosen(steps.select_judged(), status, name, person=person)
        with self._read() as connection:
            return posts.page(connection, query, limit, after)

    def export_feedback(self, path: Path, *, status: Status | None = None, name: str | None = None) -> int:
        """Write feedback with its responses to a Parquet file, which appears whole or not at all.

        Returns the number of rows. Columns and their types are the same whatever there is. Raises
        DiskError.
        """
        query = posts.chosen(steps.select_judged(), status, name)
        with self._snapshot() as connection:
            return export.write(Path(path), connection, query)

    def screen(self, found: Mapping[str, Mapping[str, Any]], *, who: str) -> None:
        """Keep what screening found about feedback, by id; what was found before is replaced.

        Feedback that was erased meanwhile is left out.
        """
        with self._write() as connection:
            for feedback_id, what in found.items():
                this = t.feedback.update().where(t.feedback.c.id == feedback_id)
                if connection.execute(this.values(screened=dict(what))).rowcount:
                    steps.note(connection, who, "feedback.screened", feedback_id, what)

    def review(
        self,
        ids: Sequence[str],
        decision: Literal["accepted", "declined"],
        *,
        who: str,
        reason: str = "",
        only_from: Status | None = None,
    ) -> list[Feedback]:
        """Accept or decline feedback that nobody holds for training and that was not used; all or none.

        Where given, only what has status ``only_from`` by now; what was decided or erased meanwhile is left out.
        Raises StoreError naming the first id that is unknown, in training, or used.
        """
        with self._write() as connection:
            steps.free_expired(connection)
            if only_from is not None:
                ids = [id for some in posts.chunks(ids) for id in posts.of_status(connection, some, only_from)]
            for feedback_id in ids:
                if not steps.keepable(feedback_id):
                    raise steps.unknown_feedback(feedback_id)
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
                # Not the reason: no erasure would reach what it may quote.
                steps.note(connection, who, f"feedback.{decision}", feedback_id, {})
            found = {
                row.id: steps.to_feedback(row)
                for some in posts.chunks(ids)
                for row in connection.execute(select(t.feedback).where(t.feedback.c.id.in_(some)))
            }
        return [found[feedback_id] for feedback_id in ids]

    # Manifests: what one update learns from

    def claim(
        self, name: str, *, who: str, lease_s: float, min_items: int = 1, only: Collection[str] | None = None
    ) -> Manifest | None:
        """Take all accepted feedback on model family ``name`` that nobody holds (of the ids ``only``,
        where given), or ``None`` if there are fewer than ``min_items``.

        The manifest is held until ``consume`` or ``release``, or until its lease ends without
        ``renew``: then the feedback is free again.
        """
        with self._write() as connection:
            steps.free_expired(connection)
            manifest_id, of_name = steps.new_id("man"), select(t.responses.c.id).where(t.responses.c.name == name)
            free = (
                t.feedback.c.status == "accepted",
                t.feedback.c.manifest_id.is_(None),
                t.feedback.c.response_id.in_(of_name),
            )
            wanted = [()] if only is None else [(t.feedback.c.id.in_(ids),) for ids in posts.chunks(sorted(only))]
            taken = sum(
                connection.execute(t.feedback.update().where(*free, *these).values(manifest_id=manifest_id)).rowcount
                for these in wanted
            )
            if taken < max(min_items, 1):
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
        beside: AliasState | None = None,
    ) -> AliasState:
        """Point the alias at version ``to`` if it still points at ``expected`` (``None``: is new),
        and, where given, is still in ``epoch``, and another alias is still as ``beside`` has it.

        Move, history, audit and, where given, the use of a manifest's feedback are one
        transaction. Raises AliasMoved if somebody was first, StoreError if the manifest was lost.
        """
        try:
            with self._write() as connection:
                if beside is not None:
                    steps.unmoved(connection, beside)
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
            return [steps.to_move(row) for row in connection.execute(query)]

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

    # Keys and secrets

    @property
    def keys(self) -> api_keys.Keys:
        """The API keys."""
        return api_keys.Keys(self)

    def secret(self, name: str) -> bytes:
        """32 random bytes of this database's own under that name, the same ever after; no back-up holds them."""
        return api_keys.secret(self, name)

    # Erasure

    def erase(self, person: str, *, who: str, key: str | None = None, principal: str = "") -> Erased:
        """Remove all that ``person`` asked, was answered and said, and what others said of those answers.

        One transaction; a receipt without the person's id stays. A running update that holds
        any of it loses its hold. The same ``key`` of the same principal gives the first receipt
        again. Raises KeyReused (same key, another person), StoreError (the receipt's file cannot
        be written).
        """
        work = partial(erasure.erase, person=person, who=who, principal=principal, key=key, receipts=self._receipts)
        receipt = self._once_more(work)
        if not self._forget(LOG_SECONDS):
            log.warning("%s: deleted; SQLite's log still holds rows until its readers are done", receipt.id)
        return receipt

    def erased(self, person: str) -> bool:
        """Whether the person was ever erased (and may have come back since)."""
        mine = t.erasures.c.person_sha256 == erasure.person_sha256(person)
        with self._read() as connection:
            return connection.execute(select(t.erasures.c.id).where(mine).limit(1)).one_or_none() is not None

    def erasures(self) -> list[Erased]:
        """Every receipt, oldest first."""
        with self._read() as connection:
            rows = connection.execute(select(t.erasures).order_by(t.erasures.c.created, t.erasures.c.id)).all()
        return [erasure.to_erased(row) for row in rows]
