"""A check, what became of it, and the table of all: a check that raises has failed, whatever it raises."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from valuealign.errors import ValuealignError

Progress = Callable[[str], None]


class Check(NamedTuple):
    """``look`` returns what it saw, or raises: Skip, or an error. ``asks`` says what is checked.

    ``mend`` is what to do about an error that brings none of its own. A check is skipped where one that it
    ``needs`` has failed.
    """

    asks: str
    mend: str
    look: Callable[[Any], str]
    needs: tuple[str, ...] = ()


class Skip(Exception):
    """Raised by a check that does not apply here; says why."""


class Outcome(NamedTuple):
    """What became of a check: what was seen, what went wrong, or why it was skipped; ``mend`` where it failed."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    said: str
    mend: str
    seconds: float


def examine(checks: Mapping[str, Check], site: object, *, progress: Progress = print) -> list[Outcome]:
    """Make every check, in order, and go on after those that fail. A line of progress before and after each."""
    found: list[Outcome] = []
    for number, (name, check) in enumerate(checks.items(), start=1):
        progress(f"{number}/{len(checks)} {name}: {check.asks}")
        failed = next((o.name for o in found if o.name in check.needs and o.status == "failed"), None)
        outcome = (
            Outcome(name, "skipped", f"needs '{failed}', which failed", "", 0.0) if failed else _make(name, check, site)
        )
        progress(f"  {outcome.status}  {outcome.said}")
        found.append(outcome)
    return found


def _make(name: str, check: Check, site: object) -> Outcome:
    began = time.perf_counter()

    def ended(status: Literal["passed", "failed", "skipped"], said: str, mend: str = "") -> Outcome:
        return Outcome(name, status, said, mend, time.perf_counter() - began)

    try:
        return ended("passed", check.look(site))
    except Skip as why:
        return ended("skipped", str(why))
    except ValuealignError as error:
        where = f"{error.where}: " if error.where else ""
        return ended("failed", where + error.what, error.mend or check.mend)
    except Exception as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        return ended("failed", f"{type(error).__name__}: {said}", check.mend)


def failed(outcomes: Iterable[Outcome]) -> bool:
    """Whether any check failed."""
    return any(outcome.status == "failed" for outcome in outcomes)


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """The outcomes as lines: one a check, its mend below it where it failed, and the sum of them last."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines: list[str] = []
    for o in outcomes:
        lines.append(f"{o.name:<{width}}  {o.status:<7}  {o.seconds:5.1f} s  {o.said}")
        if o.mend:
            lines.append(f"{'':<{width}}  mend: {o.mend}")
    counts = [(status, sum(o.status == status for o in outcomes)) for status in ("passed", "failed", "skipped")]
    told = ", ".join(f"{count} {status}" for status, count in counts if count)
    return [*lines, f"{told} in {sum(o.seconds for o in outcomes):.0f} s"]


def record(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The outcomes for JSON: whether all is well, and each check's own keys (seconds of wall time)."""
    return {"passed": not failed(outcomes), "checks": [outcome._asdict() for outcome in outcomes]}
