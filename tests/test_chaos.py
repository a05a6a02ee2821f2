"""Serve's own processes are killed with SIGKILL under load: nothing acknowledged is lost, and nearly all is answered.

Killed are replicas (the models), the proxy (the ingress) and the controller, by process id. Clients retry what failed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from storm import Request, Tally, joined, storm, wait_for
from test_serve import World

KINDS = ("ServeReplica:valuealign", "ProxyActor", "ServeController")
SHARE = 0.995  # of the requests that are begun, those that succeed in the end


@dataclass(frozen=True)
class Course:
    """Kills every so many seconds, for ``seconds``; clients try for ``after`` seconds more. ``kinds``: what is killed
    in turn (empty: whatever a die says)."""

    seconds: float
    every: float
    after: float
    clients: int
    kinds: tuple[str, ...] = ()


SMALL = Course(seconds=45, every=13, after=60, clients=4, kinds=KINDS)
WHOLE = Course(seconds=180, every=20, after=60, clients=8)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("chaos"))
    made.promote(made.versions[0], None)
    yield made
    made.store.close()


def processes() -> dict[str, list[int]]:
    """The process ids of Serve's living actors on this cluster, by kind."""
    import ray
    from ray.util.state import list_actors

    here = ray.get_runtime_context().gcs_address
    alive = list_actors(address=here, filters=[("state", "=", "ALIVE")], detail=True)
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for actor in alive:
        for kind in KINDS:
            if actor.class_name.startswith(kind) and actor.pid:
                found[kind].append(int(actor.pid))
    return found


def kill(kind: str) -> str | None:
    """SIGKILL one process of this kind; which kind it was, or None where none lives now."""
    pids = processes()[kind]
    if not pids:
        return None
    os.kill(pids[0], signal.SIGKILL)
    return kind


def survive(world: World, course: Course) -> None:
    from serve.app import start, stop

    url = start(world.config, home=world.home)
    try:
        _, secret = world.store.keys.create("chaos", ["query", "feedback"], who="test")
        bearer = {"Authorization": f"Bearer {secret}"}
        ends = time.monotonic() + course.seconds
        answered: list[str] = []  # ids of chats that feedback can name

        def request(number: int) -> Request:
            if number % 3 == 2 and answered:
                body = {"response_id": answered[number % len(answered)], "correction": f"text {number}"}
                return "/v1/feedback", body, {**bearer, "Idempotency-Key": f"chaos-{number}"}
            chat = {"model": "demo", "messages": [{"role": "user", "content": f"Who sings {number}?"}], "max_tokens": 4}
            return "/v1/chat/completions", chat, bearer

        def until(number: int, tally: Tally) -> bool:
            answered[:] = [one["id"] for one in tally.acks.values() if one["object"] == "chat.completion"][:50]
            return time.monotonic() >= ends

        wait_for(lambda: httpx.get(f"{url}/readyz", timeout=30, trust_env=False).is_success, seconds=60, why="not up")
        tally, threads = storm(
            url, request, clients=course.clients, until=until, deadline=ends + course.after, timeout_s=20
        )
        killed: Counter[str] = Counter()
        dice, turns = random.Random(7), iter(course.kinds)
        with joined(threads, seconds=course.seconds + course.after + 60):
            while time.monotonic() + course.every <= ends:
                time.sleep(course.every)
                kind = next(turns, None) if course.kinds else dice.choice(KINDS)
                if kind and (done := kill(kind)):
                    killed[done] += 1
        feedback = {one["id"]: number for number, one in tally.acks.items() if one["object"] == "feedback"}
        chats = [one["id"] for one in tally.acks.values() if one["object"] == "chat.completion"]
        kept = Counter(judged.feedback.correction for judged in world.store.list_feedback())
        lost = [id for id, number in feedback.items() if world.store.feedback(id).correction != f"text {number}"]
        print(
            f"{dict(killed)} killed in {course.seconds:.0f} s: {tally.tries} tries, {len(chats)} chats and "
            f"{len(feedback)} posts acknowledged, {len(tally.lost)} given up, {len(lost)} lost; "
            f"{100 * tally.share:.2f} % succeeded in the end"
        )
        assert sum(killed.values()) >= int(course.seconds / course.every) - 1, "too little was killed"
        assert not lost and not tally.wrong, (lost[:3], tally.wrong[:3])
        for id in chats:
            world.store.response(id)  # raises where an acknowledged answer is gone
        assert kept.keys() >= {f"text {number}" for number in feedback.values()}
        assert max(kept.values(), default=1) == 1, "a post is there twice"
        assert len(feedback) >= 5 and len(chats) >= 10, "too little was asked for to tell"
        assert tally.share > SHARE
    finally:
        stop()


@pytest.mark.ray
def test_nothing_acknowledged_is_lost_when_serves_processes_die(world: World, ray_cluster: None) -> None:
    survive(world, SMALL)


@pytest.mark.prove
def test_three_minutes_of_random_kills(world: World, ray_cluster: None) -> None:
    survive(world, WHOLE)


def test_clients_give_up_at_one_moment() -> None:
    """Where nobody listens; a request that is begun after the deadline is not tried for as long again."""
    tally, threads = storm(
        "http://127.0.0.1:9", lambda number: ("/", {}, {}), clients=2, until=lambda number, tally: number >= 5,
        deadline=time.monotonic() + 2,
    )  # fmt: skip
    with joined(threads, seconds=30):
        pass
    assert sorted(tally.lost) == list(range(5)) and not tally.acks
