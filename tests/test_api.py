"""The API: its shapes, its errors, and that what it answered with 2xx outlives a kill -9."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from serving import Echo, service

from valuealign.prompts import ask, survey_messages, wordings
from valuealign.store import Store
from valuealign.types import Group, Item, Message, Option

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "What matters?"}]}
QUESTION = {"item": "People should be free.", "options": ["agree", "disagree"], "group": "a woman aged 25 to 34"}


class Service:
    def __init__(self, home: Path, **limits: Any) -> None:
        self.backend = Echo()
        self.app, self.store, self.registry = service(home, self.backend, **limits)
        self.http = TestClient(self.app, raise_server_exceptions=False)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers=headers)

    def chat(self, content: str = "What matters?", **more: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": content}], **more})

    def responses(self) -> int:
        with self.store._engine.connect() as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM responses").scalar_one()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.store.close()


def refused(answer: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["code"], body["error"]["param"]) == (code, param)
    assert body["error"]["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return body["error"]["message"]


# Answers


def test_a_chat_has_openais_shape_and_is_kept(served: Service):
    answer = served.chat(max_tokens=7, temperature=0, seed=5)
    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "chat.completion" and body["model"] == "demo@v1" and isinstance(body["created"], int)
    assert body["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "v1 heard What matters?"}, "finish_reason": "stop"}
    ]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert served.backend.chats[0] | {"messages": 0} == {
        "version": "v1", "messages": 0, "max_tokens": 7, "temperature": 0.0, "seed": 5,
    }  # fmt: skip
    kept = served.store.response(body["id"])
    assert (kept.kind, kept.version, kept.answer) == ("chat", "v1", "v1 heard What matters?")
    assert kept.messages == (Message("user", "What matters?"),)
    assert served.chat("long").json()["choices"][0]["finish_reason"] == "length"


def test_a_promotion_is_seen_by_the_next_request_and_a_rollback_too(served: Service):
    assert served.chat().json()["model"] == "demo@v1"
    served.registry.move("demo", "champion", "v2", expected="v1", who="t", why="better")
    assert [served.chat(model=m).json()["model"] for m in ("demo", "demo@champion", "demo@v1")] == [
        "demo@v2",
        "demo@v2",
        "demo@v1",
    ]
    assert served.http.get("/readyz").json() == {"status": "ok", "model": "demo@v2"}
    served.registry.rollback("demo", who="t", why="worse")
    assert served.chat().json()["model"] == "demo@v1"


def test_a_distribution_asks_as_training_does(served: Service):
    answer = served.post("/v1/distributions", {"model": "demo", **QUESTION})
    assert answer.status_code == 200
    body = answer.json()
    (one,) = body["distributions"]
    assert body["model"] == "demo@v1" and one["answer"] == "agree" and one["group"] == QUESTION["group"]
    assert one["shares"]["agree"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert sum(one["shares"].values()) == pytest.approx(1)
    assert one["raw_mass"] == pytest.approx(math.exp(-1) + math.exp(-2))
    item = Item("q", QUESTION["item"], tuple(Option(i, text) for i, text in enumerate(QUESTION["options"])))
    (cell,) = served.backend.cells
    assert cell.prompt == survey_messages(item, Group(text=QUESTION["group"])) and cell.closed
    kept = served.store.response(one["response_id"])
    assert (
        kept.kind == "distribution" and kept.messages == cell.prompt and kept.detail["options"] == QUESTION["options"]
    )


def test_a_distribution_is_asked_by_the_template_of_the_run(tmp_path: Path):
    qa = wordings().questions["qa"]
    served = Service(tmp_path, template=qa)
    assert served.post("/v1/distributions", {"model": "demo", **QUESTION}).status_code == 200
    assert served.backend.cells[0].prompt == ask(QUESTION["item"], QUESTION["options"], QUESTION["group"], qa)
    served.store.close()


def test_several_questions_come_back_in_order(served: Service):
    questions = [{**QUESTION, "item": f"q{i}", "group": None} for i in range(3)]
    body = served.post("/v1/distributions", {"model": "demo@v2", "questions": questions}).json()
    assert [one["item"] for one in body["distributions"]] == ["q0", "q1", "q2"] and body["model"] == "demo@v2"
    assert len({one["response_id"] for one in body["distributions"]}) == served.responses() == 3


# Feedback


def test_feedback_is_kept_in_quarantine_and_can_be_asked_after(served: Service):
    response = served.chat().json()["id"]
    posted = served.post("/v1/feedback", {"response_id": response, "correction": "kindness"})
    assert posted.status_code == 201 and posted.json()["status"] == "quarantined"
    served.store.review([posted.json()["id"]], "declined", who="r", reason="spam")
    status = served.http.get(f"/v1/feedback/{posted.json()['id']}").json()
    assert (status["status"], status["verdict"], status["reason"]) == ("declined", "correction", "spam")
    refused(served.http.get("/v1/feedback/fb-00"), 404, "feedback_not_found", "feedback_id")


def test_a_repeated_post_gives_the_first_answer_again(served: Service):
    body = {"response_id": served.chat().json()["id"], "verdict": "desirable"}
    first, again = (served.post("/v1/feedback", body, **{"Idempotency-Key": "k1"}) for _ in range(2))
    assert first.json() == again.json() and first.status_code == again.status_code == 201
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    other = served.post("/v1/feedback", {**body, "verdict": "undesirable"}, **{"Idempotency-Key": "k1"})
    refused(other, 422, "idempotency_key_reused", "Idempotency-Key")
    assert len(served.store.list_feedback()) == 1


def test_feedback_must_fit_its_response(served: Service):
    chat = served.chat().json()
    post = "/v1/feedback"
    refused(
        served.post(post, {"response_id": "chat-00", "verdict": "desirable"}), 404, "response_not_found", "response_id"
    )
    refused(served.post(post, {"response_id": "chat-00", "correction": "x"}), 404, "response_not_found", "response_id")
    for body in ({}, {"verdict": "desirable", "correction": "x"}):
        refused(served.post(post, {"response_id": chat["id"], **body}), 400, "invalid_parameter")
    same = chat["choices"][0]["message"]["content"]
    refused(served.post(post, {"response_id": chat["id"], "correction": same}), 400, "invalid_parameter", "correction")
    asked = served.post("/v1/distributions", {"model": "demo", **QUESTION}).json()["distributions"][0]["response_id"]
    message = refused(
        served.post(post, {"response_id": asked, "correction": "x"}), 400, "invalid_parameter", "correction"
    )
    assert "'agree', 'disagree'" in message
    assert served.post(post, {"response_id": asked, "correction": "disagree"}).status_code == 201
    assert len(served.store.list_feedback()) == 1


# What there is


def test_models_lists_every_version_and_no_path(served: Service):
    body = served.http.get("/v1/models").json()
    assert [(m["id"], m["aliases"], m["base"], m["parent"]) for m in body["data"]] == [
        ("demo@v2", [], "seed", None), ("demo@v1", ["champion"], "seed", None),
    ]  # fmt: skip


def test_readiness_follows_the_champion_and_liveness_does_not(served: Service):
    assert served.http.get("/livez").json()["status"] == "ok"
    weights = served.registry.get("demo").path / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"changed")
    message = refused(served.http.get("/readyz"), 503, "not_ready")
    assert str(weights.parent) not in message
    assert served.http.get("/livez").status_code == 200
    # A version whose files changed is not served, and the client learns no path.
    assert str(weights.parent) not in refused(served.chat(), 503, "unavailable")


# Refusals


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"stream": True}, "stream"),
        ({"top_p": 0.5}, "top_p"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages.0.name"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages.0.content"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, None),
        ({"n": 2}, "n"),
        ({"seed": -1}, "seed"),
        ({"model": "../../etc/passwd"}, "model"),
        ({"model": "demo@../v1"}, "model"),
        ({"model": None}, "model"),
    ],
)
def test_a_bad_chat_is_refused_and_leaves_nothing(served: Service, change: dict[str, Any], param: str | None):
    answer = served.chat(**change)
    refused(answer, 400, answer.json()["error"]["code"], param)
    assert served.responses() == 0 and served.backend.chats == []


def test_stream_says_that_it_is_not_supported_yet(served: Service):
    assert "not supported yet" in refused(served.chat(stream=True), 400, "unsupported", "stream")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"model": "demo", "messages": "\\ud800"}', b"[" * 5000, b"NaN"]
)
def test_a_body_that_is_no_request_is_refused(served: Service, body: bytes):
    for path in ("/v1/chat/completions", "/v1/distributions", "/v1/feedback"):
        answer = served.http.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "change",
    [
        {"options": ["agree"]}, {"options": ["agree", "agree"]}, {"item": None}, {"options": None}, {"group": ""},
        {"questions": [QUESTION]}, {"scale": 5},
    ],
)  # fmt: skip
def test_a_bad_question_is_refused(served: Service, change: dict[str, Any]):
    assert served.post("/v1/distributions", {"model": "demo", **QUESTION, **change}).status_code == 400
    assert served.responses() == 0


@pytest.mark.parametrize("model", ["other", "demo@v9", "demo@canary", "v1"])
def test_an_unknown_model_is_not_found(served: Service, model: str):
    refused(served.chat(model=model), 404, "model_not_found", "model")
    refused(served.post("/v1/distributions", {"model": model, **QUESTION}), 404, "model_not_found", "model")


def test_every_error_has_the_envelope(served: Service):
    refused(served.http.get("/nowhere"), 404, "not_found")
    refused(served.http.get("/v1/chat/completions"), 405, "method_not_allowed")
    refused(served.chat("too long"), 400, "invalid_parameter", "messages")
    assert "secret" not in refused(served.chat("break"), 500, "internal")
    assert served.responses() == 0


def test_a_long_body_is_refused_said_or_unsaid(tmp_path: Path):
    short = Service(tmp_path, max_body=2_000)
    assert short.chat("x" * 1_000).status_code == 200
    refused(short.chat("x" * 2_000), 413, "request_too_large")
    chunks = (b"x" * 500 for _ in range(10))  # no content-length
    refused(short.http.post("/v1/feedback", content=chunks), 413, "request_too_large")
    short.store.close()


def test_a_store_that_fails_is_no_success(served: Service):
    response = served.chat().json()["id"]
    with served.store._write() as connection:
        connection.exec_driver_sql("DROP TABLE idempotency")
    answer = served.post("/v1/feedback", {"response_id": response, "verdict": "desirable"}, **{"Idempotency-Key": "k"})
    refused(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1" and served.store.list_feedback() == []


# kill -9


@contextmanager
def server(home: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    script = Path(__file__).with_name("serving.py")
    process = subprocess.Popen([sys.executable, str(script), str(home)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_until_up(url: str) -> None:
    httpx.get(f"{url}/livez", timeout=30, trust_env=False).raise_for_status()


def test_feedback_answered_with_2xx_survives_kill_9(tmp_path: Path):
    """Killed at once after an answer, and amid parallel posts; each time it comes up again on the same file."""
    promised: dict[str, str] = {}
    tried = 0
    for round_ in range(4):
        with server(tmp_path) as (url, process):
            wait_until_up(url)
            asked = httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=30, trust_env=False).json()["id"]
            if round_ == 0:
                body = {"response_id": asked, "correction": "kindness"}
                answer = httpx.post(f"{url}/v1/feedback", json=body, timeout=30, trust_env=False)
                os.kill(process.pid, signal.SIGKILL)
                assert answer.status_code == 201
                promised[answer.json()["id"]] = "kindness"
                tried += 1
                continue
            enough = threading.Event()

            def hammer(
                worker: int, url: str = url, asked: str = asked, round_: int = round_, enough: Any = enough
            ) -> int:
                sent = 0
                with httpx.Client(timeout=30, trust_env=False) as client:
                    while True:
                        text = f"{round_}-{worker}-{sent}"
                        sent += 1
                        try:
                            answer = client.post(f"{url}/v1/feedback", json={"response_id": asked, "correction": text})
                        except httpx.TransportError:
                            return sent
                        assert answer.status_code == 201, answer.text
                        promised[answer.json()["id"]] = text
                        if len(promised) >= 25 * round_:
                            enough.set()

            with ThreadPoolExecutor(8) as pool:
                running = [pool.submit(hammer, worker) for worker in range(8)]
                in_time = enough.wait(60)
                os.kill(process.pid, signal.SIGKILL)  # also what ends the workers
                tried += sum(worker.result() for worker in running)
            assert in_time, "the server answered too few posts in a minute"
    store = Store.open(tmp_path / "valuealign.db")
    kept = {judged.feedback.id: judged.feedback.correction for judged in store.list_feedback()}
    store.close()
    assert len(promised) >= 75
    assert promised.items() <= kept.items()
    assert len(kept) <= tried  # at most those whose answer the kill cut off are there besides
