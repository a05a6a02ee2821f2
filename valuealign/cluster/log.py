"""What a run tells as it goes: a line of JSON for each event in ``log.jsonl``, and its curves. It knows no Ray."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from valuealign.cluster.tracking import Tracked, Tracker, Value
from valuealign.disk import writing
from valuealign.errors import DiskError
from valuealign.types import StepReport


class Stopped(Exception):
    """Whoever hears a run's reports wants no more of it: it ends, and has not failed."""


class RunLog:
    """The log of the run in ``out``, from which progress is read, and its ``trackers``; rank 0 writes."""

    def __init__(self, out: Path, rank: int, *, trackers: Sequence[str], hyper: Mapping[str, Value]) -> None:
        self._path = out / "log.jsonl" if rank == 0 else None
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            if self._path is not None and self._path.exists():
                _end_whole(self._path)
        tracked = Tracked(out, hyper, reached(self._path) if self._path else {})
        self._tracker = Tracker(trackers if rank == 0 else (), tracked, say=self._untracked)
        self._whole = False  # whether the last step was its stage's last: a sweep stops a trial after that one too

    def step(self, report: StepReport) -> None:
        """An optimizer step."""
        self.event({"event": "step", **{k: v if k != "stats" else dict(report.stats) for k, v in vars(report).items()}})
        figures = {
            "loss": report.loss,
            **report.stats,
            "learning_rate": report.learning_rate,
            "grad_norm": report.grad_norm,
            "tokens_per_second": report.tokens / max(report.seconds, 1e-9),
        }
        self._tracker.scalars(report.stage, report.step, figures)
        self._whole = report.step == report.steps

    def probe(self, report: StepReport, figures: Mapping[str, float]) -> None:
        """What a probe found after that step."""
        self.event({"event": "probe", "stage": report.stage, "step": report.step, "figures": dict(figures)})
        # A scheduler may end the run at this report.
        self._tracker.scalars(f"{report.stage}/probe", report.step, figures, at_once=True)

    def event(self, record: Mapping[str, Any]) -> None:
        """Anything else: ``record`` has an ``event``, its kind."""
        if self._path is not None:
            with writing(self._path), self._path.open("a") as stream:
                stream.write(json.dumps({"time": time.time(), **record}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None or (issubclass(kind, Stopped) and self._whole):
            self._tracker.close("finished")
        else:
            self._tracker.close("stopped" if issubclass(kind, Stopped) else "failed")

    def _untracked(self, tracker: str, why: str) -> None:
        with contextlib.suppress(DiskError):  # the disk may be full for both
            self.event({"event": "untracked", "tracker": tracker, "why": why})


def _end_whole(path: Path) -> None:
    """Drop the half line that a disk which filled up left at a log's end."""
    lines = path.read_bytes()
    if not lines.endswith(b"\n"):
        os.truncate(path, lines.rfind(b"\n") + 1)


def probed(out: Path, figure: str) -> list[float]:
    """What the reports of the run in ``out`` said of a figure, in their order; one that was repeated counts once."""
    log, found = out / "log.jsonl", dict[tuple[str, int], float]()
    for record in _records(log):
        if record["event"] == "probe" and figure in record["figures"]:
            found[record["stage"], record["step"]] = record["figures"][figure]
    return list(found.values())


def reached(log: Path) -> dict[str, int]:
    """The last step of each series that a run's log has: of a stage (``kto``), and of its probe (``kto/probe``)."""
    found: dict[str, int] = {}
    for record in _records(log):
        if record["event"] in ("step", "probe"):
            series = record["stage"] + ("/probe" if record["event"] == "probe" else "")
            found[series] = max(found.get(series, 0), record["step"])
    return found


def _records(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_bytes().splitlines() if log.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):  # a line cut off by a kill
            yield json.loads(line)
