"""One turn of the loop: feedback -> screened -> cells -> candidate -> gate -> promote or leave.

The trainer is handed in, so that this file knows no cluster. Whatever happens, the feedback ends
either used by the version that serves (or serves a share, as canary: called back, it stays used) or
accepted and free for a later update: it is held under a lease that a crashed update stops renewing.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from valuealign.config import RunConfig
from valuealign.errors import AliasMoved, StoreError, UnknownVersion
from valuealign.loop.canary import CANARY, call_back, out
from valuealign.loop.gate import gate
from valuealign.loop.intake import Screening, take_in
from valuealign.loop.lessons import Lessons, lessons
from valuealign.loop.lineage import ancestors, fed, held_by
from valuealign.loop.raters import RaterWeights, rater_weights
from valuealign.loop.records import CHAMPION, STAGE1, Candidate, GateResult, Measured, Outcome, Trainer
from valuealign.registry import Registry, Version
from valuealign.store import AliasState, Judged, Manifest, Store
from valuealign.weighting import Margins

LEASE_S = 120.0
Say = Callable[[str], None]
RULES = {
    "signature": "ask the model to say one of several things",
    "dictated": "praise what stands in the prompt",
    "flood": "belong to a flood of one opinion",
    "near_duplicate": "repeat what the same voice said before",
    "disputed": "meet as many who disagree",
    "opinion_cap": "wait: their opinion has its share",
    "campaign_cap": "wait: their campaign has its number",
    "person_cap": "wait: their author has a share already",
    "key_cap": "wait: their key has its share",
}


def quiet(line: str) -> None:
    """Say nothing."""


def update(
    config: RunConfig,
    *,
    store: Store,
    registry: Registry,
    trainer: Trainer,
    exam: Measured,
    who: str,
    progress: Say = quiet,
    lease_s: float = LEASE_S,
    margins: Margins | None = None,
) -> Outcome:
    """Learn from what may train of the feedback on ``config.name``, and promote what passes the gate.

    ``margins`` are the population's, for raters who gave their traits. The candidate is registered, whatever the gate
    says. Raises UnknownVersion if there is no champion, GateError if the candidate cannot be judged, StoreError if the
    feedback is no longer held (some of it was erased, say), and what the trainer raises; then there is no new version
    and the feedback is free again, as it is after a rejection.
    """
    turn = _Turn(config, store, registry, trainer, exam, who, progress, margins)
    seen, champion = turn.champion()
    before = registry.alias(config.name, CANARY)
    if canary := out(registry, config.name):
        return Outcome(False, f"a canary is out ({canary.ref}): promote it or call it back first (jobs/promote.py)")
    screened = take_in(store, config.name, config.update.intake)
    turn.say_screened(screened)
    manifest = store.claim(
        config.name, who=who, lease_s=lease_s, min_items=config.update.min_items, only=screened.taken
    )
    if manifest is None:
        few = f"fewer than {config.update.min_items} accepted feedback items are free"
        return Outcome(False, f"nothing to learn: {few}")
    progress(f"{len(manifest.items)} accepted items held as {manifest.id}; learning from {champion.ref}")
    with _held(store, manifest, who, lease_s):
        facts = {"id": manifest.id, "sha256": manifest.sha256, "feedback": list(manifest.ids)}
        outcome = turn.learn(
            manifest.items, champion, champion, facts, recheck=lambda: store.renew(manifest, lease_s=lease_s)
        )
        assert outcome.version is not None and outcome.gate is not None
        if not outcome.gate.passed:
            return _left(
                store, manifest, who, outcome, f"the gate refused {outcome.version.ref}: {outcome.gate.failed}"
            )
        why = f"learned from {len(manifest.items)} items of {manifest.id}"
        moved = (CANARY, before) if config.update.canary else (CHAMPION, seen)
        if not turn.promote(*moved, outcome, why, consume=manifest, beside=seen):
            reason = f"somebody moved {config.name}@{CHAMPION} during the update"
            reason += ", or sent out a canary" if config.update.canary else ""
            return _left(store, manifest, who, outcome, reason)
    serves = "serves" if not config.update.canary else f"serves {config.update.canary:.0%} of the requests as canary"
    return replace(outcome, promoted=True, reason=f"{outcome.version.ref} passed the gate and {serves}")


def rebuild(
    config: RunConfig,
    *,
    store: Store,
    registry: Registry,
    trainer: Trainer,
    exam: Measured,
    who: str,
    progress: Say = quiet,
    margins: Margins | None = None,
) -> Outcome:
    """Train anew, without what was erased, from the champion's last ancestor that nothing erased went into.

    It learns all used feedback that is still there and not in that ancestor: after an erasure, what else its
    descendants had learned; after a new alignment (a new survey wave), all corrections. Held against the champion by
    the same gate, and promoted if it passes. Raises as ``update``: StoreError if somebody was erased meanwhile.
    """
    turn = _Turn(config, store, registry, trainer, exam, who, progress, margins)
    seen, champion = turn.champion()
    gone = _erased(store)
    if (canary := out(registry, config.name)) is not None and fed(registry, canary) & gone:
        call_back(registry, config.name, who=who, why="it had learned from what was erased")
        progress(f"{canary.ref} was canary and had learned from what was erased: called back")
    line = [champion, *ancestors(registry, champion)]
    start = next((one for one in line if not one.erased and not fed(registry, one) & gone), None)
    if start is None:
        raise UnknownVersion("no version is without what was erased", where=champion.ref, mend="run jobs/align.py anew")
    rows = [row for row in store.list_feedback("used", name=config.name) if row.feedback.id not in fed(registry, start)]
    if not rows and start.id == champion.id:
        return Outcome(False, f"nothing to rebuild: {champion.ref} holds all that was used and nothing that was erased")
    if not rows:
        registry.move(
            config.name, CHAMPION, start, expected=champion, epoch=seen.epoch, who=who,
            why=f"nothing is left of what {champion.id} learned after {start.id}",
        )  # fmt: skip
        return Outcome(True, f"{start.ref} serves: nothing is left of what was learned after it", version=start)
    progress(f"{len(rows)} used items are still there; learning them anew from {start.ref}, not {champion.ref}")
    ids = sorted(row.feedback.id for row in rows)
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    facts = {"id": f"rebuilt-{digest[:16]}", "sha256": digest, "feedback": ids, "in place of": champion.id}

    def recheck() -> None:
        if _erased(store) & set(ids):  # no manifest holds these rows, so that nothing else would tell
            raise StoreError("somebody was erased during the rebuild", where=config.name, mend="run it again")

    outcome = turn.learn(rows, start, champion, facts, recheck=recheck)
    assert outcome.version is not None and outcome.gate is not None
    if not outcome.gate.passed:
        mend = f"{champion.ref} still serves; jobs/promote.py {config.name} {start.id} serves the version before"
        return replace(outcome, reason=f"the gate refused {outcome.version.ref}: {outcome.gate.failed}. {mend}")
    recheck()
    if not turn.promote(CHAMPION, seen, outcome, f"learned anew from {start.id} without what was erased"):
        return replace(outcome, reason=f"somebody moved {config.name}@{CHAMPION} during the rebuild")
    return replace(outcome, promoted=True, reason=f"{outcome.version.ref} passed the gate and serves")


def _erased(store: Store) -> set[str]:
    return {id for erased in store.erasures() for id in erased.feedback}


class _Turn:
    """What an update and a rebuild have in common."""

    def __init__(
        self,
        config: RunConfig,
        store: Store,
        registry: Registry,
        trainer: Trainer,
        exam: Measured,
        who: str,
        progress: Say,
        margins: Margins | None,
    ) -> None:
        self.config, self.store, self.registry, self.trainer = config, store, registry, trainer
        self.exam, self.who, self.progress, self.margins = exam, who, progress, margins

    def champion(self) -> tuple[AliasState, Version]:
        seen = self.registry.alias(self.config.name, CHAMPION)
        if seen is None:
            raise UnknownVersion(
                "there is no champion to learn from", where=self.config.name, mend="run jobs/align.py first"
            )
        return seen, self.registry.get(f"{self.config.name}@{seen.version}")

    def say_screened(self, screened: Screening) -> None:
        if screened.agreed:
            self.progress(f"{len(screened.agreed)} items accepted: independent raters say the same")
        for rule, count in screened.counts.items():
            self.progress(f"{count} items {RULES.get(rule, rule)} ({rule})")

    def learn(
        self,
        rows: Sequence[Judged],
        start: Version,
        champion: Version,
        facts: Mapping[str, Any],
        recheck: Callable[[], None],
    ) -> Outcome:
        """Train from ``start``, hold against ``champion``, register; nothing is promoted. ``recheck`` raises if the
        ``rows`` may no longer be learned from: then no version is made."""
        stage1 = self.registry.get(f"{self.config.name}@{STAGE1}")
        known = fed(self.registry, start)
        used = [one for one in self.store.list_feedback("used", name=self.config.name) if one.feedback.id in known]
        weights = rater_weights(rows, self.margins, trim=self.config.update.rater_trim)
        held = None
        if start.id != champion.id:  # a rebuild keeps out what the champion has not learned either
            held = held_by(self.registry, champion) & {row.feedback.id for row in rows}
        before = held_by(self.registry, start)
        taught = lessons(self.config, rows, weights=weights.by_id, used=used, used_held=before, held=held)
        for note in weights.notes:
            self.progress(f"  {note}")
        also = {STAGE1: stage1} | ({} if start.id == champion.id else {CHAMPION: champion})
        candidate = self.trainer(start=start, cells=taught.cells, also=also, ask=taught.ask)
        verdict = gate(candidate, taught, self.exam, rules=self.config.gate, seed=self.config.seed)
        for check in verdict.checks:
            self.progress(f"  {check}")
        for note in verdict.notes:
            self.progress(f"  {note}")
        card = _card(self.config, start, facts, candidate, verdict, taught, weights)
        recheck()
        version = self.registry.register(candidate.folder, name=self.config.name, card=card, parent=start, who=self.who)
        event = "gate.passed" if verdict.passed else "gate.failed"
        self.store.note(self.who, event, version.ref, {"checks": verdict.figures()})
        return Outcome(False, "", len(rows), str(facts["id"]), version, verdict)

    def promote(
        self,
        alias: str,
        now: AliasState | None,
        outcome: Outcome,
        why: str,
        consume: Manifest | None = None,
        beside: AliasState | None = None,
    ) -> bool:
        """Move the alias from where it was ``now``; False if somebody else moved it, or what is ``beside`` it."""
        assert outcome.version is not None and outcome.gate is not None
        expected, epoch = (now.version, now.epoch) if now else (None, None)
        try:
            self.registry.move(
                self.config.name,
                alias,
                outcome.version,
                expected=expected,
                epoch=epoch,
                who=self.who,
                why=why,
                figures={"gate": outcome.gate.figures()},
                consume=consume,
                beside=beside,
            )
        except AliasMoved:
            return False
        self.progress(f"{self.config.name}@{alias} is {outcome.version.id}, was {expected or 'not set'}")
        return True


@contextmanager
def _held(store: Store, manifest: Manifest, who: str, lease_s: float) -> Iterator[None]:
    """Renew the lease while the body runs; give the feedback back if the body fails."""
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(lease_s / 4):
            try:
                store.renew(manifest, lease_s=lease_s)
            except StoreError:
                # Lost or out of reach: the promotion itself checks the lease and refuses.
                continue

    beat = threading.Thread(target=renew, name=f"lease-{manifest.id}", daemon=True)
    beat.start()
    try:
        yield
    except BaseException as error:
        # Not the message: it may quote texts, and no erasure reaches the audit.
        store.release(manifest, who=who, why=f"the update failed: {type(error).__name__}")
        raise
    finally:
        stop.set()
        beat.join()


def _left(store: Store, manifest: Manifest, who: str, outcome: Outcome, reason: str) -> Outcome:
    store.release(manifest, who=who, why=reason)
    return replace(outcome, promoted=False, reason=reason)


def _card(
    config: RunConfig,
    start: Version,
    facts: Mapping[str, Any],
    candidate: Candidate,
    verdict: GateResult,
    taught: Lessons,
    weights: RaterWeights,
) -> dict[str, Any]:
    inherited = ("base", "base_hash", "data_hash", "licence", "tier")
    return {
        **{key: start.card[key] for key in inherited if key in start.card},
        "stage": "update",
        "manifest": {**facts, "held_out": list(taught.held_ids)},
        "raters": list(weights.notes),
        "gate": verdict.figures(),
        "gate_notes": list(verdict.notes),
        "results": candidate.results,
        "config": config.model_dump(mode="json"),
    }
