"""The service on Ray Serve: real models, a real proxy, promotions without a restart and under load."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import free_port

from valuealign.config import load
from valuealign.errors import ConfigError, UnknownVersion
from valuealign.registry import Registry, Version
from valuealign.store import Store
from valuealign.types import Message

pytestmark = pytest.mark.ray

QUESTION = {"item": "Is rain good?", "options": ["not at all", "a bit", "very much"], "group": "a farmer"}
ASK = "Who sings?"


class World:
    def __init__(self, home: Path) -> None:
        from tiny import make_tiny, random_adapter

        from valuealign.models.load import fingerprint

        self.home, self.base = home, make_tiny(home / "base")
        self.store = Store.open(home / "valuealign.db")
        self.registry = Registry(home / "registry", self.store)
        card = {"base": str(self.base), "base_hash": fingerprint(self.base)}
        self.versions = [
            self.registry.register(
                random_adapter(self.base, home / f"adapter{seed}", seed=seed), name="demo", card=card
            )
            for seed in (1, 2)
        ]
        self.config = load(None, ["name=demo", f"serve.port={free_port()}", "serve.max_tokens=8"])
        _, self.key = self.store.keys.create("tests", ["admin"], who="test")

    def promote(self, version: Version, expected: Version | None) -> None:
        self.registry.move("demo", "champion", version, expected=expected, who="test", why="test")

    def said(self) -> list[str]:
        """What each version answers to ASK, by itself."""
        from valuealign.models.host import Host

        host, said = Host(str(self.base)), []
        for version in self.versions:
            host.load(version.id, version.path)
            said.append(host.generate(version.id, [Message("user", ASK)], max_tokens=8).text)
        return said

    def shares(self) -> list[list[float]]:
        """Each version's shares of QUESTION, by itself."""
        from serve.api import closed_cell
        from serve.schemas import Question
        from valuealign.models.host import Host

        host, found = Host(str(self.base)), []
        for version in self.versions:
            host.load(version.id, version.path)
            (logp_K,) = host.score(version.id, [closed_cell(Question.model_validate(QUESTION))])
            found.append((np.exp(logp_K) / np.exp(logp_K).sum()).tolist())
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("serving"))
    made.promote(made.versions[0], None)
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def client(world: World, ray_cluster: None) -> Iterator[httpx.Client]:
    from serve.app import start, stop

    url = start(world.config, home=world.home)
    with connected(url, world.key) as made:
        yield made
    stop()


@contextmanager
def connected(url: str, key: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as made:
        yield made


def chat(model: str = "demo", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": ASK}], "temperature": 0, **more}


def ask(client: httpx.Client, model: str = "demo") -> tuple[str, str, str]:
    """The answer's id, its version and its text."""
    answer = client.post("/v1/chat/completions", json=chat(model))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found["id"], found["model"], found["choices"][0]["message"]["content"]


def replicas() -> set[str]:
    import ray
    from ray.util.state import list_actors

    # By address: other clusters may run on this machine.
    here = ray.get_runtime_context().gcs_address
    alive = list_actors(address=here, filters=[("state", "=", "ALIVE")])
    return {actor.actor_id for actor in alive if actor.class_name.startswith("ServeReplica:valuealign")}


def test_the_served_answer_comes_from_the_promoted_version_without_a_restart(world: World, client: httpx.Client):
    said = world.said()
    assert said[0] != said[1], "the two versions must be told apart"
    before = replicas()
    assert ask(client)[1:] == ("demo@v1", said[0])
    world.promote(world.versions[1], world.versions[0])
    assert ask(client)[1:] == ("demo@v2", said[1])
    assert ask(client, "demo@v1")[2] == said[0]
    world.registry.rollback("demo", who="test", why="test")
    assert ask(client)[1:] == ("demo@v1", said[0])
    assert len(before) == 1 and replicas() == before


def test_a_distribution_is_what_the_model_scores(world: World, client: httpx.Client):
    answer = client.post("/v1/distributions", json={"model": "demo@v2", **QUESTION})
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()["distributions"]
    assert list(one["shares"].values()) == pytest.approx(world.shares()[1], abs=1e-5)
    assert 0 < one["raw_mass"] <= 1


def test_feedback_over_http_is_in_the_store(world: World, client: httpx.Client):
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"response_id": ask(client)[0], "correction": "Birds do."}
    posted = client.post("/v1/feedback", json=body, headers=headers)
    assert posted.status_code == 201, posted.text
    kept = world.store.feedback(posted.json()["id"])
    assert (kept.status, kept.correction) == ("quarantined", "Birds do.")
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    refused = client.post("/v1/feedback", json={**body, "response_id": "chat-00"}, headers=headers)
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "response_not_found"
    assert client.get("/readyz").json()["status"] == "ok"


def test_a_question_longer_than_the_model_reads_is_refused(client: httpx.Client):
    answer = client.post("/v1/distributions", json={"model": "demo", "item": "why " * 200, "options": ["yes", "no"]})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "item"
    assert "the model reads 512" in answer.json()["error"]["message"]


class Load:
    """Clients that ask without a pause, each in its own way, and check each answer against its version's own."""

    def __init__(self, world: World, url: str) -> None:
        self.said = {v.ref: text for v, text in zip(world.versions, world.said(), strict=True)}
        self.shares = {v.ref: shares for v, shares in zip(world.versions, world.shares(), strict=True)}
        self._url, self._key, self._over = url, world.key, threading.Event()
        self.failed: list[str] = []
        self.answered = {way.__name__: dict.fromkeys(self.said, 0) for way in (self.whole, self.stream, self.spread)}

    @contextmanager
    def on(self) -> Iterator[None]:
        ways = [self.whole, self.stream, self.spread] * 2
        threads = [threading.Thread(target=self._work, args=(way,)) for way in ways]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _work(self, way: Callable[[httpx.Client], str]) -> None:
        with connected(self._url, self._key) as client:
            while not self._over.is_set():
                try:
                    self.answered[way.__name__][way(client)] += 1
                except Exception as error:
                    self.failed.append(f"{way.__name__}: {error!r}")

    def whole(self, client: httpx.Client) -> str:
        _, model, text = ask(client)
        assert text == self.said[model], f"{model} said {text!r}"
        return model

    def stream(self, client: httpx.Client) -> str:
        text, models = "", set()
        with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer:
            assert answer.status_code == 200, answer.read()
            lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        assert lines.pop() == "[DONE]"
        for chunk in map(json.loads, lines):
            models.add(chunk["model"])
            text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        (model,) = models
        assert text == self.said[model], f"{model} said {text!r} in pieces"
        return model

    def spread(self, client: httpx.Client) -> str:
        answer = client.post("/v1/distributions", json={"model": "demo", **QUESTION})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        (one,) = found["distributions"]
        assert list(one["shares"].values()) == pytest.approx(self.shares[found["model"]], abs=1e-4)
        return str(found["model"])


def test_promotion_and_rollback_under_load_fail_nobody_and_mix_nothing(world: World, client: httpx.Client):
    """Over HTTP, as an operator does it; what is asked after a call has returned is answered by its version."""
    load, rounds, slowest = Load(world, str(client.base_url)), 4, 0.0
    before = replicas()
    with load.on():
        for _ in range(rounds):
            time.sleep(0.7)
            body = {"version": "v2", "expected": "v1", "why": "test"}
            assert client.post("/v1/models/demo/promote", json=body).status_code == 200
            assert {ask(client)[1] for _ in range(3)} == {"demo@v2"}
            time.sleep(0.7)
            began = time.perf_counter()
            assert client.post("/v1/models/demo/rollback", json={"expected": "v2", "why": "test"}).status_code == 200
            assert {ask(client)[1] for _ in range(5)} == {"demo@v1"}
            slowest = max(slowest, time.perf_counter() - began)
        # A version that no replica has seen: it is promoted in the moment that it is registered.
        source, card = world.home / "adapter2", world.versions[1].card
        new = world.registry.register(source, name="demo", card={key: card[key] for key in ("base", "base_hash")})
        load.said[new.ref], load.shares[new.ref] = load.said["demo@v2"], load.shares["demo@v2"]
        for counts in load.answered.values():
            counts[new.ref] = 0
        body = {"version": new.id, "expected": "v1", "why": "test"}
        assert client.post("/v1/models/demo/promote", json=body).status_code == 200
        assert {ask(client)[1] for _ in range(5)} == {new.ref}
        time.sleep(0.7)
        assert client.post("/v1/models/demo/rollback", json={"expected": new.id, "why": "test"}).status_code == 200
        assert ask(client)[1] == "demo@v1"
    print(f"rollback and five answers after it, at most: {slowest:.2f} s; answered: {load.answered}")
    assert not load.failed
    assert all(count > 0 for counts in load.answered.values() for count in counts.values()), "all versions, all ways"
    assert slowest < 5, "the limit that the service promises: seconds for a rollback, with five answers after it"
    assert replicas() == before


def test_who_finds_no_room_is_told_when_to_come_back(world: World, client: httpx.Client):
    """One client more than are answered and may wait: all are answered, or told to come back."""
    statuses: list[tuple[int, str | None]] = []

    def work() -> None:
        with connected(str(client.base_url), world.key) as own:
            answer = own.post("/v1/chat/completions", json=chat())
            statuses.append((answer.status_code, answer.headers.get("Retry-After")))

    from serve.app import start

    small = world.config.model_copy(
        update={"serve": world.config.serve.model_copy(update={"queue": 1, "max_batch": 1})}
    )
    start(small, home=world.home)
    try:
        threads = [threading.Thread(target=work) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        start(world.config, home=world.home)
    assert set(statuses) == {(200, None), (503, "1")}
    assert ask(client)[1] == "demo@v1"


def test_a_version_over_another_base_is_not_served(world: World, client: httpx.Client):
    source = world.home / "adapter1"
    other = world.registry.register(source, name="demo", card={"base": "other", "base_hash": "0" * 32})
    answer = client.post("/v1/chat/completions", json=chat(other.ref))
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "unavailable"
    assert ask(client)[1] == "demo@v1"


def test_what_cannot_be_served_is_said_at_the_start(world: World, ray_cluster: None, tmp_path: Path):
    from serve.app import start

    with pytest.raises(UnknownVersion, match="no model"):
        start(world.config, home=tmp_path)


def test_replicas_come_and_go_by_load_if_they_may(world: World):
    from ray import serve

    from serve.app import Replica, _scale

    fixed = load(None, ["serve.replicas=2", "serve.queue=10", "serve.max_batch=4"]).serve
    free = load(None, ["serve.max_replicas=3", "serve.max_batch=4"]).serve
    assert _scale(fixed, lent=False)["num_replicas"] == 2
    for lent in (False, True):
        scale = _scale(fixed, lent=lent)
        assert scale["max_ongoing_requests"] > 10 + 4, "our own queue refuses first, and says why"
        serve.deployment(serve.ingress()(Replica), name="any", **scale)
        assert 0 < scale["max_queued_requests"] < 100, "what waits for a replica is bounded"
        assert scale["backpressure_config"] == {"retry_after_s": 1}
    made = serve.deployment(serve.ingress()(Replica), name="any", **_scale(free, lent=False))
    scaling = made._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 3, 4)
    for wrong in (["serve.gpus=1.5"], ["serve.replicas=2", "serve.max_replicas=1"]):
        with pytest.raises(ConfigError):
            load(None, wrong)


def test_a_taken_port_is_said_at_the_start(world: World, ray_cluster: None):
    from serve.app import _check_port

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(ConfigError, match="cannot listen on"):
            _check_port(*holder.getsockname())
