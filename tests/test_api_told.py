"""What the service tells of itself: metrics, request ids, a log without personal data, a documented API."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from prometheus_client.parser import text_string_to_metric_families
from serving import Visitor, key, refused

from serve import metrics as meters
from serve.logs import Lines, log_to

QUESTION = {"item": "People should be free.", "options": ["agree", "disagree"]}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Visitor]:
    made = Visitor(tmp_path)
    yield made
    made.store.close()


def metrics(served: Visitor) -> dict[tuple[str, ...], float]:
    """Every sample: (name, values of its labels by their names, less the replica...) -> value."""
    found = {}
    for family in text_string_to_metric_families(served.http.get("/metrics").text):
        for sample in family.samples:
            labels = (value for name, value in sorted(sample.labels.items()) if name != "replica")
            found[(sample.name, *labels)] = sample.value
    return found


def test_metrics_count_what_was_done(served: Visitor):
    response = served.chat().json()["id"]
    served.chat("break")
    served.http.get("/nowhere/p-1")
    served.post("/v1/distributions", {"model": "demo", **QUESTION})
    for once in ("k1", "k1", "k2"):
        served.judge(response, once, verdict="desirable")
    served.backend.waiting = 3
    found = metrics(served)
    chats = ("valuealign_requests_total", "POST", "/v1/chat/completions")
    assert found[(*chats, "200")] == 1 and found[(*chats, "500")] == 1
    assert found[("valuealign_requests_total", "GET", "none", "404")] == 1
    assert found[("valuealign_request_seconds_count", "/v1/chat/completions")] == 2
    assert found[("valuealign_tokens_total", "prompt")] == 3 and found[("valuealign_tokens_total", "completion")] == 4
    assert found[("valuealign_questions_total",)] == 1
    assert found[("valuealign_feedback_posted_total", "desirable")] == 2  # a replay is no second one
    assert found[("valuealign_waiting_requests",)] == 3
    assert found[("valuealign_feedback", "quarantined")] == 2
    assert found[("valuealign_alias_epoch", "champion")] == 1 and found[("valuealign_alias_version", "champion")] == 1


def test_metrics_show_the_loop_and_the_age_of_its_anchor(served: Visitor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meters, "KEPT_S", 0.0)
    assert ("valuealign_anchor_age_seconds",) not in metrics(served)
    served.registry.move("demo", "stage1", "v1", expected=None, who="t", why="t")
    served.registry.move("demo", "champion", "v2", expected="v1", who="t", why="t")
    found = metrics(served)
    assert 0 <= found[("valuealign_anchor_age_seconds",)] < 2 * 86_400
    assert found[("valuealign_alias_epoch", "champion")] == 2 and found[("valuealign_alias_version", "champion")] == 2


def test_what_is_a_replicas_own_says_whose_it_is(served: Visitor):
    """Two replicas over one database: no figure of the one can be taken for the other's."""
    other = Visitor(served.registry.root.parent)
    served.judge(served.chat().json()["id"], verdict="desirable")
    other.chat()
    scraped = [list(text_string_to_metric_families(one.http.get("/metrics").text)) for one in (served, other)]
    marks, shared = [], []
    for families in scraped:
        samples = [sample for family in families for sample in family.samples]
        marks.append({sample.labels["replica"] for sample in samples if "replica" in sample.labels})
        shared.append({(s.name, *s.labels.values()): s.value for s in samples if "replica" not in s.labels})
    assert len(marks[0]) == len(marks[1]) == 1 and marks[0] != marks[1]
    assert shared[0] == shared[1]
    assert {name for name, *_ in shared[0]} == {
        "valuealign_alias_epoch", "valuealign_alias_version", "valuealign_feedback",
    }  # fmt: skip
    other.store.close()


def test_scrapes_ask_the_database_once_in_a_while(served: Visitor, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    real = served.store.count_feedback
    monkeypatch.setattr(served.store, "count_feedback", lambda name: asked.append(name) or real(name))
    waiting = ("valuealign_waiting_requests",)
    assert metrics(served)[waiting] == 0
    served.backend.waiting = 3
    assert metrics(served)[waiting] == 3 and asked == ["demo"], "what costs nothing is of now"
    monkeypatch.setattr(meters, "KEPT_S", 0.0)
    metrics(served)
    assert asked == ["demo"] * 2


def test_metrics_may_ask_for_a_key(tmp_path: Path):
    served = Visitor(tmp_path, open_metrics=False)
    refused(served.stranger.get("/metrics"), 401, "missing_api_key")
    refused(served.http.get("/metrics", headers=key(served.store, "query")), 403, "insufficient_scope")
    assert served.http.get("/metrics", headers=key(served.store, "review")).status_code == 200
    served.store.close()


def test_every_answer_has_an_id_of_its_own(served: Visitor):
    ids = [served.http.get(path).headers["x-request-id"] for path in ("/livez", "/v1/models", "/nowhere", "/livez")]
    ids.append(served.stranger.get("/v1/models", headers={"X-Request-Id": "p-1"}).headers["x-request-id"])
    assert len(set(ids)) == len(ids) and all(re.fullmatch("req-[0-9a-f]{24}", one) for one in ids)


SECRETS = ("prompt-words", "answer-words", "p-alice", "better-words", "a-comment", "female", "idem-key", "spring")


def test_the_log_holds_no_personal_data(served: Visitor, caplog: pytest.LogCaptureFixture):
    """Every kind of request with telling words in every place; failures and refusals too."""
    caplog.set_level(logging.DEBUG)
    response = served.chat("prompt-words", user="p-alice").json()["id"]
    served.chat("prompt-words", stream=True, user="p-alice")
    served.post("/v1/distributions", {"model": "demo", "item": "prompt-words", "options": ["answer-words", "no"]})
    said = {
        "correction": "better-words", "comment": "a-comment", "campaign": "spring",
        "rater": {"id": "p-alice", "traits": {"sex": "female"}, "consent": True},
    }  # fmt: skip
    served.judge(response, "idem-key", **said)
    served.judge(response, "idem-key", verdict="desirable")
    served.judge(response, "idem-key", **{**said, "campaign": "prompt-words\0"})
    served.http.get("/v1/feedback/p-alice", params={"person": "p-alice"})
    served.http.get("/prompt-words/p-alice")
    served.chat(f"prompt-words {'x' * 20_000}")

    async def fail(*_: Any) -> Any:
        raise RuntimeError("cannot score prompt-words of p-alice")

    served.backend.score = fail  # type: ignore[method-assign]
    asked = {"model": "demo", "item": "prompt-words", "options": ["answer-words", "no"]}
    refused(served.post("/v1/distributions", asked), 500, "internal")
    with served.store._write() as connection:
        connection.exec_driver_sql("DROP TABLE idempotency")
    refused(served.judge(response, "idem-key", **said), 503, "unavailable")
    served.post("/v1/erasure-requests", {"person": "p-alice"}, **{"Idempotency-Key": "idem-key"})
    ours = [record for record in caplog.records if record.name.startswith(("valuealign", "serve"))]
    lines = [Lines().format(record) for record in ours]
    assert sum('"event": "answered"' in line for line in lines) == 12
    secret = served.http.headers["authorization"].removeprefix("Bearer ")
    for word in (*SECRETS, secret):
        assert not [line for line in lines if word in line], word


def test_a_line_of_the_log_says_who_what_and_how_long(served: Visitor, tmp_path: Path):
    ours = logging.getLogger("valuealign")
    before, level = list(ours.handlers), ours.level
    path = log_to(tmp_path / "logs")
    try:
        answer = served.chat()
        served.http.get("/nowhere")
    finally:
        for handler in set(ours.handlers) - set(before):
            ours.removeHandler(handler)
            handler.close()
        ours.setLevel(level)
    chat, lost = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert chat["request_id"] == answer.headers["x-request-id"] and chat["key"] == served.store.keys.list()[0].id
    assert (chat["method"], chat["route"], chat["status"]) == ("POST", "/v1/chat/completions", 200)
    assert chat["model"] == "demo@v1" and chat["prompt_tokens"] == 3 and chat["ms"] > 0
    assert (lost["route"], lost["status"]) == ("none", 404)


# The document


DOCUMENT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PLAIN = re.sub(r"\{\w+\}", "{id}", DOCUMENT)  # a parameter's name is the code's affair


def test_every_operation_is_documented_with_its_scope(served: Visitor):
    for path, methods in served.app.openapi()["paths"].items():
        for method, operation in methods.items():
            plain = re.sub(r"\{\w+\}", "{id}", path)
            title = re.compile(rf"^\| `{method.upper()} {re.escape(plain)}` \| ([^|]+) \|", re.MULTILINE)
            found = title.search(PLAIN)
            assert found, f"docs/api.md does not list {method.upper()} {plain}"
            assert found[1].strip() == operation.get("x-scope", "open"), path


def test_every_field_and_header_is_documented(served: Visitor):
    document = served.app.openapi()
    fields = {name for schema in document["components"]["schemas"].values() for name in schema.get("properties", {})}
    parameters = {
        parameter["name"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
        if parameter["in"] != "path"
    }
    assert "feedback_token" in fields and "idempotency-key" in parameters
    shown = " ".join(re.findall(r"`[^`\n]+`|^    .*$", DOCUMENT, flags=re.MULTILINE)).lower()
    missing = sorted((fields | parameters) - set(re.findall(r"[a-z_]+(?:-[a-z_]+)*", shown)))
    assert not missing, f"docs/api.md does not name {missing}"


def test_every_code_of_an_error_is_documented():
    codes = set()
    for path in (ROOT / "serve").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for form in (r'code="([a-z_]+)"', r'unauthorized\([^()]*, "([a-z_]+)"', r'\d{3}[:,] "([a-z_]+)"'):
            codes |= set(re.findall(form, text))
    assert len(codes) > 15
    assert not sorted(code for code in codes if f"`{code}`" not in DOCUMENT)


def test_the_document_says_how_to_come_in(served: Visitor):
    document = served.app.openapi()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/v1/feedback"]["post"]["security"] == [{"key": []}, {}]
    assert "security" not in document["paths"]["/livez"]["get"]
