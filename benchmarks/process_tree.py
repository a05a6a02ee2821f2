"""What a process and all that it started use: CPU seconds and memory, read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from machine import GIB

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


class Process(NamedTuple):
    """``start`` (ticks since boot) tells a process from a later one of the same id."""

    pid: int
    start: int
    parent: int
    cpu_seconds: float  # its own, user and system; those of children that it waited for are not in it
    rss: int  # bytes


def processes() -> dict[int, Process]:
    """Every process there is now, by its id."""
    found = {}
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                # The name, in brackets, may hold anything; what follows it is numbers.
                rest = (PROC / entry.name / "stat").read_text().rpartition(")")[2].split()
                pid, cpu = int(entry.name), (int(rest[11]) + int(rest[12])) / TICKS
                found[pid] = Process(pid, int(rest[19]), int(rest[1]), cpu, int(rest[21]) * PAGE)
    return found


def tree(there: Mapping[int, Process], roots: Iterable[int]) -> list[Process]:
    """The processes of ``roots`` that are there, and all below them."""
    children: dict[int, list[int]] = {}
    for one in there.values():
        children.setdefault(one.parent, []).append(one.pid)
    found, ahead = dict[int, Process](), [pid for pid in roots if pid in there]
    while ahead:
        pid = ahead.pop()
        if pid not in found:
            found[pid] = there[pid]
            ahead += children.get(pid, [])
    return list(found.values())


def pss(pid: int) -> int:
    """Bytes of a process in memory, pages that it shares divided among those who share them; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Meter:
    """CPU seconds and memory of this process and of all that it starts while the block runs.

    They are looked at every ``every`` seconds. A process that ends counts up to the last look, one that outlives its
    parent stays in, and one that is gone between two looks is missed. What looking costs itself is taken off.
    """

    def __init__(self, *, every: float = 0.1, pss_every: float = 5.0) -> None:
        self.peak_rss_gib = self.peak_pss_gib = 0.0
        self._every, self._pss_every = every, pss_every
        self._times, self._totals = list[float](), list[float]()
        self._spent: dict[tuple[int, int], float] = {}
        self._before: dict[tuple[int, int], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._before = {(one.pid, one.start): one.cpu_seconds for one in self._tree()}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def cpu_seconds(self, start: float, end: float) -> float:
        """Burned between two times (``time.time()``) within the block."""
        early, late = np.interp([start, end], self._times, self._totals)
        return float(late - early)

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last look."""
        return self._times[0], self._times[-1]

    def _tree(self) -> list[Process]:
        there = processes()
        # Whoever was seen once is followed, though its parent may have ended and left it to another.
        known = [pid for pid, start in self._spent if pid in there and there[pid].start == start]
        return tree(there, [os.getpid(), *known])

    def _run(self) -> None:
        began, looked = time.thread_time(), -self._pss_every
        while True:
            last = self._stop.is_set()
            alive = self._tree()
            self._spent |= {(one.pid, one.start): one.cpu_seconds for one in alive}
            total = sum(cpu - self._before.get(key, 0.0) for key, cpu in self._spent.items())
            self._times.append(time.time())
            self._totals.append(total - (time.thread_time() - began))
            self.peak_rss_gib = max(self.peak_rss_gib, sum(one.rss for one in alive) / GIB)
            if last or time.monotonic() - looked >= self._pss_every:
                looked = time.monotonic()
                self.peak_pss_gib = max(self.peak_pss_gib, sum(pss(one.pid) for one in alive) / GIB)
            if last:
                return
            self._stop.wait(self._every)
