"""What was acknowledged is kept once, whoever kills the service meanwhile: posts with retries, on both databases."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving import free_port, key, lay, process
from storing import address as address  # a database of either kind
from storing import respond

from valuealign.registry import Registry
from valuealign.store import Store

PATIENCE = 60.0  # seconds in which a post must be acknowledged


class Storm:
    """Clients that post one piece of feedback after the other, each until it is acknowledged."""

    def __init__(self, url: str, headers: dict[str, str], response: str, posts: int) -> None:
        self.url, self.headers, self.response, self.posts = url, headers, response, posts
        self.promised: dict[int, str] = {}
        self.again: Counter[str] = Counter()  # why posts were sent again
        self._next = itertools.count()

    def client(self, _: int) -> None:
        with httpx.Client(timeout=30, trust_env=False, headers=self.headers) as http:
            while (number := next(self._next)) < self.posts:
                self.promised[number] = self._post(http, number)

    def _post(self, http: httpx.Client, number: int) -> str:
        body = {"response_id": self.response, "correction": f"text {number}"}
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                answer = http.post(f"{self.url}/v1/feedback", json=body, headers={"Idempotency-Key": f"post-{number}"})
            except httpx.TransportError as error:
                self.again[type(error).__name__] += 1
                time.sleep(0.2)
                continue
            if answer.status_code == 201:
                if "idempotent-replayed" in answer.headers:
                    self.again["kept, but not acknowledged before"] += 1
                return str(answer.json()["id"])
            assert answer.status_code in (409, 503), answer.text
            self.again[str(answer.status_code)] += 1
            time.sleep(0.2)
        raise AssertionError(f"post {number} was never acknowledged")


def weather(address: Path | str, home: Path, *, posts: int, clients: int, kills: int) -> Storm:
    """Let the storm go over a server that is killed so many times, and check what is left."""
    database = str(address) if isinstance(address, str) else ""
    store = Store.open(address)
    registry = Registry(home / "registry", store)
    lay(registry, home / "adapter", 1)
    port = free_port()
    storm = Storm(f"http://127.0.0.1:{port}", key(store, "feedback"), respond(store), posts)
    with ThreadPoolExecutor(clients) as pool:
        running: list[Future[None]] = []
        for kill in range(kills + 1):
            with process(home, port, database) as (_, _, server):
                if not running:
                    running = [pool.submit(storm.client, worker) for worker in range(clients)]
                if kill == kills:
                    for worker in running:
                        worker.result()
                    break
                until = time.monotonic() + 300
                while len(storm.promised) < posts * (kill + 1) // (kills + 1) and time.monotonic() < until:
                    threading.Event().wait(0.01)
                os.kill(server.pid, signal.SIGKILL)
    kept = store.list_feedback()
    store.close()
    assert len(storm.promised) == len(kept) == posts
    assert len({judged.feedback.id for judged in kept}) == posts
    found = {judged.feedback.id: judged.feedback.correction for judged in kept}
    assert found == {id: f"text {number}" for number, id in storm.promised.items()}
    return storm


@pytest.mark.ray
def test_acknowledged_posts_are_kept_once_through_kills(address: Path | str, tmp_path: Path):
    home = address.parent if isinstance(address, Path) else tmp_path
    storm = weather(address, home, posts=240, clients=8, kills=3)
    assert sum(storm.again.values()) >= 3, "no kill was felt: nothing was shown"


@pytest.mark.prove
def test_ten_thousand_posts_survive_twenty_kills(address: Path | str, tmp_path: Path):
    home = address.parent if isinstance(address, Path) else tmp_path
    storm = weather(address, home, posts=10_000, clients=32, kills=20)
    print(dict(storm.again))
    assert sum(storm.again.values()) >= 20
