"""Feedback -> cells -> candidate -> gate -> promote or leave.

The trainer is handed in, so that this file knows no cluster. Whatever happens, the feedback ends
either used by the version that serves or accepted and free for a later update: it is held under a
lease that a crashed update stops renewing.

Shape letters: ``C`` exam cells of the select part, ``F`` feedback cells, ``K`` completions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from valuealign.config import RunConfig
from valuealign.errors import AliasMoved, GateError, StoreError, UnknownVersion
from valuealign.metrics.distances import Parts
from valuealign.metrics.intervals import interval, ratio_draws
from valuealign.registry import Registry, Version
from valuealign.signals.feedback import feedback_cells
from valuealign.store import Manifest, Store
from valuealign.types import Cell, Estimate

Floats = NDArray[np.float64]
Logps = Sequence[Floats]
CHAMPION, STAGE1, CANDIDATE = "champion", "stage1", "candidate"
LEASE_S = 120.0
DRAWS = 1000


@dataclass(frozen=True)
class Candidate:
    """What a trainer made of the feedback.

    ``folder`` holds the adapter's files. ``logps`` has, for "champion", "stage1" and "candidate",
    raw log-probabilities [K] of each cell of ``exam.cells``; ``before`` and ``after`` are the
    champion's and the candidate's of each feedback cell. ``results`` goes on the card.
    """

    folder: Path
    logps: Mapping[str, Logps]
    before: Logps
    after: Logps
    results: Any = None


class Trainer(Protocol):
    """Trains from ``start`` on feedback cells, and scores ``also`` beside what it made."""

    def __call__(self, *, start: Version, cells: Sequence[Cell], also: Mapping[str, Version]) -> Candidate: ...


class Measured(Protocol):
    """The part of ``evaluate.Exam`` that a gate reads."""

    def distances(
        self, logps: Sequence[Sequence[float] | Floats], part: Literal["select", "report"] = "select"
    ) -> tuple[Floats, tuple[tuple[str, str, str], ...]]:
        """Per-cell divergence (bits), and (split, item id, group name) of each."""
        ...


@dataclass(frozen=True)
class Check:
    """One question of the gate: a figure with its interval, held against a limit."""

    name: str
    figure: Estimate
    rule: str
    limit: float
    passed: bool

    def __str__(self) -> str:
        figure, verdict = self.figure, "passed" if self.passed else "FAILED"
        spread = f" [{figure.low:.4f}, {figure.high:.4f}]" if np.isfinite(figure.low) else ""
        return f"{verdict}: {self.name} {figure.value:.4f}{spread}, {self.rule} {self.limit:.4f}"


@dataclass(frozen=True)
class GateResult:
    """All checks of a candidate; it passes if every one does."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may serve."""
        return all(check.passed for check in self.checks)

    def figures(self) -> list[dict[str, Any]]:
        """The checks as flat mappings, for the card and the alias's history (no NaN in them)."""
        return [
            {
                "check": check.name,
                **{key: value if np.isfinite(value) else None for key, value in asdict(check.figure).items()},
                "rule": check.rule,
                "limit": check.limit,
                "passed": check.passed,
            }
            for check in self.checks
        ]


@dataclass(frozen=True)
class Outcome:
    """How an update ended. ``version`` is the registered candidate (``None``: nothing to learn)."""

    promoted: bool
    reason: str
    feedback: int = 0
    manifest: str | None = None
    version: Version | None = None
    gate: GateResult | None = None


def update(
    config: RunConfig,
    *,
    store: Store,
    registry: Registry,
    trainer: Trainer,
    exam: Measured,
    who: str,
    progress: Callable[[str], None] = lambda line: None,
    lease_s: float = LEASE_S,
) -> Outcome:
    """Learn from all accepted feedback on ``config.name``, and promote what passes the gate.

    The candidate is registered in any case. Raises UnknownVersion if there is no champion,
    GateError if the candidate cannot be judged, and what the trainer raises; then the feedback is
    free again, as it is after a rejection.
    """
    name = config.name
    seen = registry.alias(name, CHAMPION)
    if seen is None:
        raise UnknownVersion("there is no champion to learn from", where=name, mend="run jobs/align.py first")
    champion = registry.get(f"{name}@{seen.version}")
    stage1 = registry.get(f"{name}@{STAGE1}")
    manifest = store.claim(name, who=who, lease_s=lease_s, min_items=config.update.min_items)
    if manifest is None:
        few = f"fewer than {config.update.min_items} accepted feedback items are free"
        return Outcome(False, f"nothing to learn: {few}")
    progress(f"{len(manifest.items)} accepted items held as {manifest.id}; learning from {champion.ref}")
    with _held(store, manifest, who, lease_s):
        cells = feedback_cells(manifest.items)
        candidate = trainer(start=champion, cells=cells, also={STAGE1: stage1})
        verdict = gate(candidate, cells, exam, margin=config.gate.margin, seed=config.seed)
        for check in verdict.checks:
            progress(f"  {check}")
        card = _card(config, champion, manifest, candidate, verdict)
        version = registry.register(candidate.folder, name=name, card=card, parent=champion, who=who)
        store.note(who, "gate.passed" if verdict.passed else "gate.failed", version.ref, {"checks": verdict.figures()})
        outcome = Outcome(verdict.passed, "", len(manifest.items), manifest.id, version, verdict)
        if not verdict.passed:
            failed = ", ".join(check.name for check in verdict.checks if not check.passed)
            return _left(store, manifest, who, outcome, f"the gate refused {version.ref}: {failed}")
        try:
            registry.move(
                name,
                CHAMPION,
                version,
                expected=champion,
                epoch=seen.epoch,
                who=who,
                why=f"learned from {len(manifest.items)} items of {manifest.id}",
                figures={"gate": verdict.figures()},
                consume=manifest,
            )
        except AliasMoved:
            return _left(store, manifest, who, outcome, f"somebody moved {name}@{CHAMPION} during the update")
    progress(f"{name}@{CHAMPION} is {version.id}, was {champion.id}")
    return _ended(outcome, True, f"{version.ref} passed the gate and serves")


def gate(
    candidate: Candidate, cells: Sequence[Cell], exam: Measured, *, margin: float, seed: int = 0, draws: int = DRAWS
) -> GateResult:
    """Hold the candidate against the champion, the stage-1 model, and what it was corrected for.

    Survey distance (select part) may grow by less than ``margin`` bits over either: the upper end
    of the 95 % interval (bootstrap over items) of the mean paired difference decides. Against the
    stage-1 model too, so that small losses do not add up. And the corrected behaviour must have
    moved the right way. Raises GateError if that cannot be told.
    """
    missing = {CHAMPION, STAGE1, CANDIDATE} - set(candidate.logps)
    if missing:
        raise GateError(f"no scores of {', '.join(sorted(missing))}", mend="let the trainer score all three models")
    rng = np.random.default_rng(seed)
    checks = [
        non_inferior(candidate.logps[CANDIDATE], candidate.logps[than], than, exam, margin=margin, draws=draws, rng=rng)
        for than in (CHAMPION, STAGE1)
    ]
    return GateResult((*checks, *_learned(candidate, cells, draws=draws, rng=rng)))


def non_inferior(
    new: Logps, old: Logps, than: str, exam: Measured, *, margin: float, draws: int, rng: np.random.Generator
) -> Check:
    """Whether survey distance on the select part grew by less than ``margin`` bits.

    The upper end of the 95 % interval (bootstrap over items) of the mean paired difference decides.
    Raises GateError where nothing bounds it.
    """
    new_C, keys = exam.distances(new, part="select")
    old_C, old_keys = exam.distances(old, part="select")
    worse_C = np.asarray(new_C) - np.asarray(old_C)
    if keys != old_keys or len(worse_C) != len(keys) or not np.isfinite(worse_C).all():
        raise GateError(f"the candidate and {than} were not scored on the same cells", mend="score both on exam.cells")
    names, item_C = np.unique([item for _, item, _ in keys], return_inverse=True)
    if len(names) < 2:
        raise GateError(
            "the select part asks fewer than two items, so nothing bounds a loss of survey distance",
            where="splits",
            mend="use a survey with more items",
        )
    picks_BI = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(np.float64)
    draws_B = ratio_draws(Parts(worse_C, np.ones(len(worse_C))), item_C, picks_BI)
    figure = interval(float(worse_C.mean()), draws_B, n=len(worse_C), clusters=len(names))
    passed = bool(np.isfinite(figure.high) and figure.high <= margin)
    return Check(f"survey distance lost to {than} (JSD, bits)", figure, "upper bound at most", margin, passed)


def _learned(candidate: Candidate, cells: Sequence[Cell], *, draws: int, rng: np.random.Generator) -> list[Check]:
    """Whether feedback moved the model: log-ratios (nats), and which corrections it now prefers."""
    if not cells or len(candidate.before) != len(cells) or len(candidate.after) != len(cells):
        raise GateError(
            "the feedback cells were not scored before and after", mend="let the trainer score each of them"
        )
    before = [np.asarray(logp_K, dtype=np.float64) for logp_K in candidate.before]
    after = [np.asarray(logp_K, dtype=np.float64) for logp_K in candidate.after]
    moved_F = np.array([_moved(new - old, cell) for new, old, cell in zip(after, before, cells, strict=True)])
    if not np.isfinite(moved_F).all():
        raise GateError("a feedback cell's log-probability is not finite", mend="lower update.learning_rate")
    figure = _mean(moved_F, draws=draws, rng=rng)
    checks = [Check("feedback learned (log-ratio, nats)", figure, "above", 0.0, figure.value > 0)]
    corrected = [i for i, cell in enumerate(cells) if len(cell.completions) > 1]
    if corrected:
        was = float(np.mean([_prefers(before[i], cells[i]) for i in corrected]))
        now_F = np.array([_prefers(after[i], cells[i]) for i in corrected], dtype=np.float64)
        share = _mean(now_F, draws=draws, rng=rng, bounds=(0.0, 1.0))
        checks.append(
            Check("corrections preferred (share)", share, "not below the champion's", was, share.value >= was)
        )
    return checks


def _mean(
    values_F: Floats, *, draws: int, rng: np.random.Generator, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    n = len(values_F)
    drawn_B = values_F[rng.integers(0, n, size=(draws, n))].mean(axis=1) if n > 1 else np.zeros(0)
    return interval(float(values_F.mean()), drawn_B, n=n, clusters=n, bounds=bounds)


def _sides(values_K: Floats, cell: Cell) -> tuple[float, float]:
    """Mass-weighted mean over the desirable and over the undesirable completions (0 where none)."""
    wanted_K, unwanted_K = np.array(cell.desirable), np.array(cell.undesirable)
    wanted = float(wanted_K @ values_K / wanted_K.sum()) if wanted_K.sum() > 0 else 0.0
    unwanted = float(unwanted_K @ values_K / unwanted_K.sum()) if unwanted_K.sum() > 0 else 0.0
    return wanted, unwanted


def _moved(ratio_K: Floats, cell: Cell) -> float:
    wanted, unwanted = _sides(ratio_K, cell)
    return wanted - unwanted


def _prefers(logp_K: Floats, cell: Cell) -> bool:
    wanted, unwanted = _sides(logp_K, cell)
    return wanted > unwanted


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
        store.release(manifest, who=who, why=f"the update failed: {type(error).__name__}: {error}")
        raise
    finally:
        stop.set()
        beat.join()


def _left(store: Store, manifest: Manifest, who: str, outcome: Outcome, reason: str) -> Outcome:
    store.release(manifest, who=who, why=reason)
    return _ended(outcome, False, reason)


def _ended(outcome: Outcome, promoted: bool, reason: str) -> Outcome:
    return Outcome(promoted, reason, outcome.feedback, outcome.manifest, outcome.version, outcome.gate)


def _card(
    config: RunConfig, champion: Version, manifest: Manifest, candidate: Candidate, verdict: GateResult
) -> dict[str, Any]:
    inherited = ("base", "base_hash", "data_hash", "licence", "tier")
    return {
        **{key: champion.card[key] for key in inherited if key in champion.card},
        "stage": "update",
        "manifest": {"id": manifest.id, "sha256": manifest.sha256, "feedback": list(manifest.ids)},
        "gate": verdict.figures(),
        "results": candidate.results,
        "config": config.model_dump(mode="json"),
    }
