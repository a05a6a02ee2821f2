"""What the parts of the loop hand each other: the trainer and its candidate, checks, outcomes.

Shape letters: ``C`` exam cells, ``F`` feedback cells, ``K`` completions of a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from valuealign.metrics import Floats
from valuealign.registry import Version
from valuealign.types import Cell, Estimate

Logps = Sequence[Floats]
Part = Literal["select", "report"]
Keys = tuple[tuple[str, str, str], ...]
CHAMPION, STAGE1, CANDIDATE = "champion", "stage1", "candidate"
WHO = (CHAMPION, STAGE1, CANDIDATE)
# What the training began from: the champion, or in a rebuild an ancestor of it.
START = "start"


@dataclass(frozen=True)
class Candidate:
    """What a trainer made of the feedback.

    ``folder`` holds the adapter's files. ``logps`` has, for "champion", "stage1" and "candidate",
    raw log-probabilities [K] of each cell of ``exam.cells``; ``before`` and ``after`` are those of each feedback
    cell by what the training started from and by the candidate; ``asked[who][name]`` are everybody's, "start"'s too,
    of the further sets that the trainer was given (``Trainer``'s ``ask``). ``results`` goes on the card.
    """

    folder: Path
    logps: Mapping[str, Logps]
    before: Logps
    after: Logps
    results: Any = None
    asked: Mapping[str, Mapping[str, Logps]] = field(default_factory=dict)


class Trainer(Protocol):
    """Trains from ``start`` on feedback cells; scores ``also`` beside what it made, and the cells of ``ask`` too."""

    def __call__(
        self,
        *,
        start: Version,
        cells: Sequence[Cell],
        also: Mapping[str, Version],
        ask: Mapping[str, Sequence[Cell]],
    ) -> Candidate: ...


class Distances(Protocol):
    """The part of ``evaluate.Exam`` that one non-inferiority check reads."""

    def distances(self, logps: Sequence[Sequence[float] | Floats], part: Part = "select") -> tuple[Floats, Keys]:
        """Per-cell divergence (bits), and (split, item id, group name) of each."""
        ...


class Measured(Distances, Protocol):
    """The part of ``evaluate.Exam`` that a gate reads."""

    def shares(self, logps: Sequence[Sequence[float] | Floats], part: Part = "select") -> tuple[Floats, Keys]:
        """Shares [C, K] of each cell's options (NaN beyond its own), and the keys."""
        ...


@dataclass(frozen=True)
class Check:
    """One question of the gate: a figure with its interval, held against a limit. ``means`` says it in words."""

    name: str
    figure: Estimate
    rule: str
    limit: float
    passed: bool
    means: str = ""

    def __str__(self) -> str:
        figure, verdict = self.figure, "passed" if self.passed else "FAILED"
        spread = f" [{figure.low:.4f}, {figure.high:.4f}]" if np.isfinite(figure.low) else ""
        return f"{verdict}: {self.name} {figure.value:.4f}{spread}, {self.rule} {self.limit:.4f}"


@dataclass(frozen=True)
class GateResult:
    """All checks of a candidate; it passes if every one does. ``notes`` say what could not be asked."""

    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the candidate may serve."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> str:
        """The checks that were not passed, by name."""
        return ", ".join(check.name for check in self.checks if not check.passed)

    def figures(self) -> list[dict[str, Any]]:
        """The checks as flat mappings, for the card and the alias's history (no NaN in them)."""
        return [
            {
                "check": check.name,
                **{key: value if np.isfinite(value) else None for key, value in asdict(check.figure).items()},
                "rule": check.rule,
                "limit": check.limit,
                "passed": check.passed,
                "means": check.means,
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
