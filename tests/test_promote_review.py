"""The two jobs by which a person decides: what trains, and what serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from serving import lay
from typed import typed

from valuealign.registry import Registry
from valuealign.store import Response, Store, new_id
from valuealign.types import Message


def alone(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def store(home: Path):
    opened = Store.open(home / "valuealign.db")
    yield opened
    opened.close()


def test_promote_moves_rolls_back_and_says_why_it_cannot(home: Path, store: Store):
    registry = Registry(home / "registry", store)
    lay(registry, home / "adapter", 3)
    dry = alone("promote", "demo", "v3", "--dry-run")
    assert dry.returncode == 0 and "demo@champion: v1 -> v3" in dry.stdout
    assert registry.alias("demo").version == "v1"
    assert typed("promote", "demo", "v3", "--why", "better on items").returncode == 0
    assert registry.get("demo").id == "v3" and registry.history("demo")[-1].why == "better on items"
    listed = typed("promote", "demo").stdout
    assert "better on items" in listed and listed.count("v2") == 1
    assert typed("promote", "demo", "--rollback").returncode == 0 and registry.get("demo").id == "v1"

    named = home / "run.yaml"
    named.write_text("name: demo\n")
    for arguments in (("-c", str(named), "v2"), ("name=demo", "v2")):
        assert "demo@champion: v1 -> v2" in typed("promote", *arguments, "--dry-run").stdout

    for arguments, words in (
        (("nam=demo", "v2"), "did you mean 'name'"),
        (("demo", "v1", "v2"), "too many words"),
        (("demo", "v9"), "'demo' has: v1, v2, v3, champion"),
        (("dem", "v1"), "did you mean 'demo'"),
        (("demo", "--rollback"), "nothing to roll back to"),
        (("demo", "v1", "--rollback"), "a rollback takes no version"),
    ):
        refused = typed("promote", *arguments)
        assert refused.returncode == 2 and words in refused.stderr and "Traceback" not in refused.stderr
    assert registry.alias("demo").version == "v1" and len(registry.history("demo")) == 3


def test_review_lists_accepts_and_declines(home: Path, store: Store):
    ids = []
    for answer in ("power", "money"):
        asked = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", "What matters?"),), answer)
        response = store.add_response(asked).id
        ids.append(store.add_feedback(response, verdict="correction", correction="kindness").id)
    listed = alone("review").stdout
    assert all(words in listed for words in (*ids, "What matters?", "answered: power", "corrected to: kindness"))
    assert typed("review", "--accept", "all", "--dry-run").returncode == 0
    assert len(store.list_feedback("quarantined")) == 2
    assert typed("review", "--decline", ids[0], "--why", "spam").returncode == 0
    assert typed("review", "--accept", "all").returncode == 0
    first, second = (store.feedback(i) for i in ids)
    assert (first.status, first.reason, second.status) == ("declined", "spam", "accepted")
    for arguments, words in (
        (("--accept", "fb-00"), "no such feedback"),
        (("--accept",), "no feedback named"),
        ((ids[0],), "no decision given"),
        (("--accept", "--decline", ids[0]), "decide one at a time"),
    ):
        refused = typed("review", *arguments)
        assert refused.returncode == 2 and words in refused.stderr and "Traceback" not in refused.stderr


def test_review_writes_feedback_to_a_file(home: Path, store: Store):
    for name, decision in (("demo", "accepted"), ("demo", None), ("town", None)):
        asked = Response(new_id("chat"), "chat", name, "v1", (Message("user", "What matters?"),), "power")
        posted = store.add_feedback(store.add_response(asked).id, verdict="undesirable", principal="k-1")
        if decision:
            store.review([posted.id], decision, who="reviewer")
    path = home / "out" / "feedback.parquet"
    assert "(dry run) 3 would" in typed("review", "--export", str(path), "--dry-run").stdout and not path.exists()
    for filters, rows in (((), 3), (("--status", "accepted"), 1), (("--name", "demo"), 2)):
        assert f"{rows} written to {path}" in typed("review", "--export", str(path), *filters).stdout
        assert pq.read_table(path)["key_id"].to_pylist() == ["k-1"] * rows
    refused = typed("review", "--accept", "all", "--export", str(path))
    assert refused.returncode == 2 and "both a decision and --export" in refused.stderr


def test_review_shows_who_said_it_and_what_screening_found(home: Path, store: Store):
    for name, ask in (("demo", "What matters?"), ("demo", "what matters??"), ("town", "And here?")):
        asked = Response(new_id("chat"), "chat", name, "v1", (Message("user", ask),), "power")
        posted = store.add_feedback(
            store.add_response(asked).id, verdict="correction", correction="kindness", person="eager"
        )
        store.review([posted.id], "accepted", who="reviewer")
    asked = Response(new_id("dist"), "distribution", "demo", "v1", (Message("user", "?"),), "yes", {"options": ["yes"]})
    store.add_feedback(store.add_response(asked).id, verdict="shares", shares={"yes": 0.25}, n=40, campaign="spring")
    assert "near_duplicate" not in typed("review", "--status", "accepted").stdout
    waiting = typed("review", "--screen")
    assert "shares: yes 0.25 (n 40)" in waiting.stdout and "spring" in waiting.stdout
    told = typed("review", "--status", "accepted").stdout
    assert told.count("screening found: near_duplicate") == 1 and told.count("eager") == 3
    rules = home / "run.yaml"
    rules.write_text("update: {intake: {alike: 1.0}}\n")
    typed("review", "--screen", "-c", str(rules))
    assert "near_duplicate" in typed("review", "--status", "accepted").stdout, (
        "but for case and marks they are the same"
    )


def test_promote_ends_a_canary_and_shows_the_anchor(home: Path, store: Store):
    registry = Registry(home / "registry", store)
    lay(registry, home / "adapter", 1)
    registry.move("demo", "stage1", "v1", expected=None, who="test", why="start")
    registry.register(home / "adapter", name="demo", card={"base": "seed"}, parent="v1")
    registry.move("demo", "canary", "v2", expected=None, who="test", why="passed")
    assert "the anchor demo@v1 is 0 days old" in typed("promote", "demo").stdout
    dry = typed("promote", "demo", "--canary", "yes", "--dry-run")
    assert "of 0 answers of the canary" in dry.stdout and registry.get("demo").id == "v1"
    for version, verdict in (("v2", "undesirable"), ("v1", "desirable")):
        for _ in range(10):
            asked = Response(new_id("chat"), "chat", "demo", version, (Message("user", "?"),), "power")
            store.add_feedback(store.add_response(asked).id, verdict=verdict)
    refused = typed("promote", "demo", "--canary", "yes")
    assert refused.returncode == 2 and "people find the canary worse" in refused.stderr
    assert registry.get("demo").id == "v1"
    assert "v2 is champion" in typed("promote", "demo", "--canary", "yes", "--force", "--why", "good").stdout
    assert registry.get("demo").id == "v2" and registry.history("demo")[-1].why == "good"
    for arguments, words in (
        (("demo", "--canary", "no"), "no canary is out"),
        (("demo", "v1", "--canary", "no"), "by itself"),
    ):
        refused = typed("promote", *arguments)
        assert refused.returncode == 2 and words in refused.stderr
