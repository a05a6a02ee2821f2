"""Clients that do not give up: they post, retry what was not acknowledged, and remember every acknowledgement."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

PAUSE_S = 0.05  # before a retry


@dataclass
class Tally:
    """What clients sent and what came of it. ``acks`` has the answer of every request that was acknowledged."""

    acks: dict[int, dict[str, Any]] = field(default_factory=dict)
    tries: int = 0
    lost: list[int] = field(default_factory=list)  # given up
    wrong: list[str] = field(default_factory=list)  # refused for good: what a client must not meet
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def share(self) -> float:
        """Of the requests that were begun, those that succeeded in the end."""
        return len(self.acks) / max(1, len(self.acks) + len(self.lost) + len(self.wrong))


Request = tuple[str, Mapping[str, Any], Mapping[str, str]]  # path, body, headers


def storm(
    url: str,
    request: Callable[[int], Request],
    *,
    clients: int,
    until: Callable[[int, Tally], bool],
    deadline: float,
    timeout_s: float = 30.0,
) -> tuple[Tally, list[threading.Thread]]:
    """Start ``clients`` threads that send request 0, 1, 2, ... until ``until(number, tally)`` is true for the next.

    A request is retried with the same headers (so the same Idempotency-Key) while there is no connection, no answer,
    or an answer that asks for a retry: 409, 429 and 5xx. What has no answer at ``deadline`` (of ``time.monotonic``)
    is given up, whenever it was begun. Returns at once; join the threads.
    """
    tally, numbers = Tally(), iter(range(1 << 60))

    def work() -> None:
        with httpx.Client(base_url=url, timeout=timeout_s, trust_env=False) as client:
            while True:
                with tally.lock:
                    number = next(numbers)
                    if until(number, tally):
                        return
                _persist(client, number, request(number), tally, deadline)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    return tally, threads


def _persist(client: httpx.Client, number: int, request: Request, tally: Tally, deadline: float) -> None:
    path, body, headers = request
    most = client.timeout.read or 30.0
    while (left := deadline - time.monotonic()) > 0:
        with tally.lock:
            tally.tries += 1
        try:
            answer = client.post(path, json=body, headers=headers, timeout=min(most, left))
            found = answer.json()
        except (httpx.TransportError, ValueError):  # ValueError: the answer broke off
            time.sleep(PAUSE_S)
            continue
        with tally.lock:
            if answer.is_success:
                tally.acks[number] = found
                return
            if answer.status_code not in (409, 429) and answer.status_code < 500:
                tally.wrong.append(f"{answer.status_code} {answer.text[:300]}")
                return
        time.sleep(PAUSE_S)
    with tally.lock:
        tally.lost.append(number)


def wait_for(what: Callable[[], bool], *, seconds: float, why: str) -> None:
    """Return once ``what()`` holds. Fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


@contextmanager
def joined(threads: Sequence[threading.Thread], *, seconds: float) -> Iterator[None]:
    """Wait for the threads at the end, whatever happened."""
    try:
        yield
    finally:
        deadline = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "clients are still waiting for an answer"
