"""What an update learns, and what the gate asks of it afterwards: cells made of feedback, old and new.

From a manifest's feedback come the cells that train, and a share of the corrections that don't: whole prompts, with
all that are near-duplicates of them, chosen by ids that nobody can choose. Beside them the gate asks the corrections of
earlier updates, the new ones in other words, and prompts that must get no worse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from valuealign.config import GateConfig, RunConfig
from valuealign.errors import ConfigError
from valuealign.evaluate.paid.sheets import built_in_requests, questions
from valuealign.loop.texts import clusters, of_prompt
from valuealign.signals import feedback_cells, read_feedback
from valuealign.store import Judged
from valuealign.types import Cell, Message

HELD, EARLIER, PARAPHRASES, REGRESSION = "held out", "earlier", "paraphrases", "regression"
# With fewer corrected prompts than these none is kept out: each is needed, and one or two held out would say nothing.
FEWEST_PROMPTS = 10
# The largest number of cells that the gate asks of each kind; more are drawn by hash.
MOST = 200


@dataclass(frozen=True)
class Lessons:
    """``cells`` train. The gate asks the other sets too: ``held`` corrections that did not train (of this update and
    earlier ones), ``earlier`` ones that did, ``paraphrases`` of this update's, and ``regression`` prompts.
    ``held_ids`` names this update's held-out feedback; ``notes`` say what is not asked, and why."""

    cells: tuple[Cell, ...]
    held: tuple[Cell, ...] = ()
    earlier: tuple[Cell, ...] = ()
    paraphrases: tuple[Cell, ...] = ()
    regression: tuple[Cell, ...] = ()
    held_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ask(self) -> dict[str, tuple[Cell, ...]]:
        """The sets beside ``cells`` that everybody is scored on, by name; empty ones are left out."""
        sets = {
            HELD: self.held, EARLIER: self.earlier, PARAPHRASES: self.paraphrases, REGRESSION: self.regression
        }  # fmt: skip
        return {name: cells for name, cells in sets.items() if cells}


def lessons(
    config: RunConfig,
    rows: Sequence[Judged],
    *,
    weights: Mapping[str, float] | None = None,
    used: Sequence[Judged] = (),
    used_held: Collection[str] = (),
    held: Collection[str] | None = None,
) -> Lessons:
    """What feedback ``rows`` teach, and what is asked besides.

    ``weights`` are by feedback id (absent: 1). ``used`` is feedback of earlier updates, of which ``used_held`` (ids)
    was held out. ``held`` are the ids that are kept out of training now (None: they are drawn). Raises ConfigError
    and SignalError for ``gate.regression``.
    """
    alike = config.update.intake.alike
    held_ids = (
        held_out(rows, share=config.update.held_out, alike=alike, seed=config.seed) if held is None else frozenset(held)
    )
    cap = config.update.shares_cap
    train = [row for row in rows if row.feedback.id not in held_ids]
    cells = tuple(feedback_cells(train, weights=weights, cap=cap))
    anew = {of_prompt(row) for row in rows}
    before = [row for row in used if row.feedback.verdict == "correction" and of_prompt(row) not in anew]
    kept_out = [row for row in before if row.feedback.id in used_held]
    kept_out += [row for row in rows if row.feedback.id in held_ids]
    trained = [row for row in before if row.feedback.id not in used_held]
    notes = []
    if not held_ids:
        why = f"that takes {FEWEST_PROMPTS} corrected prompts or more" if held is None else "none was before"
        notes.append(f"no correction was kept out of training: {why}")
    return Lessons(
        cells=cells,
        held=_some(feedback_cells(kept_out)),
        earlier=_some(feedback_cells(trained)),
        paraphrases=_some(paraphrased(cells)),
        regression=regression_cells(config.gate),
        held_ids=tuple(sorted(held_ids)),
        notes=tuple(notes),
    )


def held_out(rows: Sequence[Judged], *, share: float, alike: float, seed: int = 0) -> frozenset[str]:
    """Ids of the corrections that are kept out of training: whole clusters of prompts that are alike.

    A cluster is chosen by a hash of its first id, which the store made: who posts cannot choose it.
    """
    corrections = [row for row in rows if row.feedback.verdict == "correction"]
    together = clusters([of_prompt(row) for row in corrections], alike)
    members: dict[int, list[str]] = {}
    for row, cluster in zip(corrections, together, strict=True):
        members.setdefault(cluster, []).append(row.feedback.id)
    if len(members) < FEWEST_PROMPTS or not share:
        return frozenset()
    order = sorted(members.values(), key=lambda ids: hashlib.sha256(f"{seed}:{min(ids)}".encode()).hexdigest())
    return frozenset(id for ids in order[: max(1, round(share * len(order)))] for id in ids)


@cache
def templates() -> tuple[str, ...]:
    """The other words of ``paraphrases.yaml``."""
    text = Path(__file__).with_name("paraphrases.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text)["templates"])


def paraphrased(cells: Sequence[Cell]) -> list[Cell]:
    """Each open correction with what the user said last put in other words, by every template."""
    found = []
    for cell in cells:
        if cell.closed or len(cell.completions) < 2 or cell.prompt[-1].role != "user":
            continue
        for template in templates():
            last = Message("user", template.replace("{prompt}", cell.prompt[-1].content))
            found.append(replace(cell, prompt=(*cell.prompt[:-1], last), source=f"paraphrase:{cell.key}"))
    return found


def regression_cells(rules: GateConfig) -> tuple[Cell, ...]:
    """Prompts with wanted and unwanted answers: the built-in requests (harmful ones to be refused, harmless ones that
    look alike not), or those of a file. Raises ConfigError for a file without such a prompt, SignalError for others.
    """
    if rules.regression_margin is None:
        return ()
    if rules.regression is not None:
        cells = read_feedback(rules.regression).cells
        both = tuple(
            cell for cell in cells if sum(cell.desirable) and sum(cell.undesirable) and len(cell.desirable) > 1
        )
        if not both:
            raise ConfigError(
                "no prompt has both a wanted and an unwanted answer",
                where=str(rules.regression),
                mend="give pairs (prompt, chosen, rejected), or marked answers of both kinds to a prompt",
            )
        return _some(both)
    refusing, complying = questions()["refusing"], questions()["complying"]
    texts = (*refusing, *complying)
    refuse = (*(1.0 for _ in refusing), *(0.0 for _ in complying))
    comply = tuple(1.0 - mass for mass in refuse)
    return tuple(
        Cell(one.chat, texts, *((refuse, comply) if one.harmful else (comply, refuse)), source="regression:built-in")
        for one in built_in_requests()
    )


def _some(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """At most ``MOST`` of them, drawn by hash, in their order."""
    if len(cells) <= MOST:
        return tuple(cells)
    kept = {cell.key for cell in sorted(cells, key=lambda cell: cell.key)[:MOST]}
    return tuple(cell for cell in cells if cell.key in kept)
