"""The service on Ray Serve: real models, a real proxy, promotions without a restart."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from valuealign.config import load
from valuealign.errors import ConfigError, RegistryError, UnknownVersion
from valuealign.registry import Registry, Version
from valuealign.store import Store
from valuealign.types import Message

pytestmark = pytest.mark.ray

QUESTION = {"item": "Is rain good?", "options": ["not at all", "a bit", "very much"], "group": "a farmer"}
ASK = "Who sings?"


def adapter(base: Path, folder: Path, *, seed: int) -> Path:
    """An adapter that changes every layer, so that each version answers in its own way."""
    import torch
    from peft import get_peft_model_state_dict

    from valuealign.models.adapters import add_adapter, write_adapter
    from valuealign.models.load import load_base

    model = add_adapter(load_base(str(base)).model, r=4, alpha=8.0, seed=seed)
    state = get_peft_model_state_dict(model)
    generator = torch.Generator().manual_seed(seed)
    state = {key: torch.randn(value.shape, generator=generator) * 0.5 for key, value in state.items()}
    write_adapter(state, model.peft_config["default"], folder, base="tiny")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class World:
    def __init__(self, home: Path) -> None:
        from tiny import make_tiny

        from valuealign.models.load import fingerprint

        self.home, self.base = home, make_tiny(home / "base")
        self.store = Store.open(home / "valuealign.db")
        self.registry = Registry(home / "registry", self.store)
        card = {"base": str(self.base), "base_hash": fingerprint(self.base)}
        self.versions = [
            self.registry.register(adapter(self.base, home / f"adapter{seed}", seed=seed), name="demo", card=card)
            for seed in (1, 2)
        ]
        self.config = load(None, ["name=demo", f"serve.port={free_port()}", "serve.max_tokens=8", "serve.auth=false"])

    def promote(self, version: Version, expected: Version | None) -> None:
        self.registry.move("demo", "champion", version, expected=expected, who="test", why="test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("serving"))
    made.promote(made.versions[0], None)
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def url(world: World, ray_cluster: None) -> Iterator[str]:
    from serve.app import start, stop

    yield start(world.config, home=world.home)
    stop()


def ask(url: str, model: str = "demo") -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": ASK}], "temperature": 0}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def replicas() -> set[str]:
    import ray
    from ray.util.state import list_actors

    # By address: other clusters may run on this machine.
    here = ray.get_runtime_context().gcs_address
    alive = list_actors(address=here, filters=[("state", "=", "ALIVE")])
    return {actor.actor_id for actor in alive if actor.class_name.startswith("ServeReplica:valuealign")}


def test_the_served_answer_comes_from_the_promoted_version_without_a_restart(world: World, url: str):
    from valuealign.models.host import Host

    host = Host(str(world.base))
    said = []
    for version in world.versions:
        host.load(version.id, version.path)
        said.append(host.generate(version.id, [Message("user", ASK)], max_tokens=8).text)
    assert said[0] != said[1], "the two versions must be told apart"

    before = replicas()
    first = ask(url)
    assert (first["model"], first["choices"][0]["message"]["content"]) == ("demo@v1", said[0])
    world.promote(world.versions[1], world.versions[0])
    second = ask(url)
    assert (second["model"], second["choices"][0]["message"]["content"]) == ("demo@v2", said[1])
    assert ask(url, "demo@v1")["choices"][0]["message"]["content"] == said[0]
    world.registry.rollback("demo", who="test", why="test")
    assert ask(url)["choices"][0]["message"]["content"] == said[0]
    assert len(before) == 1 and replicas() == before


def test_a_distribution_is_what_the_model_scores(world: World, url: str):
    from serve.api import closed_cell
    from serve.schemas import Question
    from valuealign.models.host import Host

    answer = httpx.post(f"{url}/v1/distributions", json={"model": "demo@v2", **QUESTION}, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()["distributions"]
    host = Host(str(world.base))
    host.load("v2", world.versions[1].path)
    (logp_K,) = host.score("v2", [closed_cell(Question.model_validate(QUESTION))])
    assert list(one["shares"].values()) == pytest.approx(np.exp(logp_K) / np.exp(logp_K).sum(), abs=1e-5)
    assert one["raw_mass"] == pytest.approx(np.exp(logp_K).sum(), rel=1e-4)


def test_feedback_over_http_is_in_the_store(world: World, url: str):
    body = {"response_id": ask(url)["id"], "correction": "Birds do."}
    once = {"Idempotency-Key": "k1"}
    posted = httpx.post(f"{url}/v1/feedback", json=body, headers=once, timeout=60, trust_env=False)
    assert posted.status_code == 201
    kept = world.store.feedback(posted.json()["id"])
    assert (kept.status, kept.correction) == ("quarantined", "Birds do.")
    body = {**body, "response_id": "chat-00"}
    once = {"Idempotency-Key": "k2"}
    refused = httpx.post(f"{url}/v1/feedback", json=body, headers=once, timeout=60, trust_env=False)
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "response_not_found"
    assert httpx.get(f"{url}/readyz", timeout=60, trust_env=False).json()["status"] == "ok"


def test_a_question_longer_than_the_model_reads_is_refused(url: str):
    body = {"model": "demo", "item": "why " * 200, "options": ["yes", "no"]}
    answer = httpx.post(f"{url}/v1/distributions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "item"
    assert "the model reads 512" in answer.json()["error"]["message"]


def test_a_version_over_another_base_is_not_served(world: World, url: str):
    source = world.home / "adapter1"
    other = world.registry.register(source, name="demo", card={"base": "other", "base_hash": "0" * 32})
    body = {"model": other.ref, "messages": [{"role": "user", "content": ASK}]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "unavailable"
    assert ask(url)["model"] == "demo@v1"


def test_what_cannot_be_served_is_said_at_the_start(world: World, ray_cluster: None, tmp_path: Path):
    from serve.app import start

    with pytest.raises(UnknownVersion, match="no model"):
        start(world.config, home=tmp_path)


def test_a_taken_port_is_said_at_the_start(world: World, ray_cluster: None):
    from serve.app import _check_port

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(ConfigError, match="cannot listen on"):
            _check_port(*holder.getsockname())


def test_a_replica_keeps_few_adapters(world: World):
    from serve.app import HostBackend
    from valuealign.models.host import Host

    host = Host(str(world.base))
    backend = HostBackend(host, base_hash=None, keep=2)
    third = world.registry.register(world.home / "adapter2", name="demo", card={})
    for version in (*world.versions, third, world.versions[0]):
        backend.attach(version)
    assert set(host.loaded()) == {third.id, "v1"}
    broken = Version("demo", 99, world.home, None, {})
    with pytest.raises(RegistryError, match="the adapter has no"):
        backend.attach(broken)
