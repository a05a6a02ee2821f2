"""The API: its shapes, its errors, and that what it answered with 2xx outlives a kill -9."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Visitor, process, refused

from valuealign.prompts import ask, survey_messages, wordings
from valuealign.store import Store
from valuealign.types import Group, Item, Message, Option

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "What matters?"}]}
QUESTION = {"item": "People should be free.", "options": ["agree", "disagree"], "group": "a woman aged 25 to 34"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Visitor]:
    made = Visitor(tmp_path)
    yield made
    made.store.close()


# Answers


def test_a_chat_has_openais_shape_and_is_kept(served: Visitor):
    answer = served.chat(max_tokens=7, temperature=0, seed=5)
    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "chat.completion" and body["model"] == "demo@v1" and isinstance(body["created"], int)
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "v1 heard What matters?"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert served.backend.chats[0] | {"messages": 0} == {
        "version": "v1", "messages": 0, "max_tokens": 7, "temperature": 0.0, "seed": 5, "stop": (),
        "top_logprobs": None,
    }  # fmt: skip
    kept = served.store.response(body["id"])
    assert (kept.kind, kept.version, kept.answer) == ("chat", "v1", "v1 heard What matters?")
    assert kept.messages == (Message("user", "What matters?"),)
    assert served.chat("long").json()["choices"][0]["finish_reason"] == "length"


def test_a_promotion_is_seen_by_the_next_request_and_a_rollback_too(served: Visitor):
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


def test_a_distribution_asks_as_training_does(served: Visitor):
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
    served = Visitor(tmp_path, template=qa)
    assert served.post("/v1/distributions", {"model": "demo", **QUESTION}).status_code == 200
    assert served.backend.cells[0].prompt == ask(QUESTION["item"], QUESTION["options"], QUESTION["group"], qa)
    served.store.close()


def test_several_questions_come_back_in_order(served: Visitor):
    questions = [{**QUESTION, "item": f"q{i}", "group": None} for i in range(3)]
    body = served.post("/v1/distributions", {"model": "demo@v2", "questions": questions}).json()
    assert [one["item"] for one in body["distributions"]] == ["q0", "q1", "q2"] and body["model"] == "demo@v2"
    assert len({one["response_id"] for one in body["distributions"]}) == served.responses() == 3


def test_orders_of_the_options_are_averaged_and_their_spread_is_told(served: Visitor):
    """The stand-in prefers what is listed first and nothing else: over all orders every option is alike."""
    question = {"item": "Free?", "options": ["yes", "perhaps", "no"]}
    odds = [math.exp(-k) for k in range(3)]
    first, second, third = (one / sum(odds) for one in odds)
    for orders in (3, 50):
        served.backend.cells.clear()
        (one,) = served.post("/v1/distributions", {"model": "demo", **question, "orders": orders}).json()[
            "distributions"
        ]
        assert [cell.completions for cell in served.backend.cells] == [
            ("yes", "perhaps", "no"), ("perhaps", "no", "yes"), ("no", "yes", "perhaps"),
        ]  # fmt: skip
        assert one["orders"] == 3 and list(one["shares"]) == question["options"]
        assert list(one["shares"].values()) == pytest.approx([1 / 3] * 3)
        assert list(one["order_spread"].values()) == pytest.approx([first - third] * 3)
    (two,) = served.post("/v1/distributions", {"model": "demo", **question, "orders": 2}).json()["distributions"]
    assert two["shares"]["yes"] == pytest.approx((first + third) / 2) and two["answer"] == "perhaps"
    assert two["shares"]["perhaps"] == pytest.approx((second + first) / 2)
    (alone,) = served.post("/v1/distributions", {"model": "demo", **question}).json()["distributions"]
    assert alone["orders"] == 1 and alone["order_spread"] is None and alone["shares"]["yes"] == pytest.approx(first)
    kept = served.store.response(two["response_id"])
    assert kept.detail["orders"] == 2 and kept.messages == served.backend.cells[3].prompt


def test_too_many_orders_at_once_are_refused(served: Visitor):
    questions = [{"item": f"q{i}", "options": ["a", "b", "c", "d", "e"]} for i in range(64)]
    body = {"model": "demo", "questions": questions, "orders": 5}
    assert "256" in refused(served.post("/v1/distributions", body), 400, "invalid_parameter", "orders")
    assert served.backend.cells == [] and served.responses() == 0
    assert served.post("/v1/distributions", {**body, "orders": 4}).status_code == 200


# What there is


def test_models_lists_every_version_and_no_path(served: Visitor):
    body = served.http.get("/v1/models").json()
    assert [(m["id"], m["aliases"], m["base"], m["parent"]) for m in body["data"]] == [
        ("demo@v2", [], "seed", None), ("demo@v1", ["champion"], "seed", None),
    ]  # fmt: skip


def test_readiness_follows_the_champion_and_liveness_does_not(served: Visitor):
    assert served.http.get("/livez").json()["status"] == "ok"
    weights = served.registry.get("demo").path / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"changed")
    message = refused(served.http.get("/readyz"), 503, "not_ready")
    assert str(weights.parent) not in message
    assert served.http.get("/livez").status_code == 200
    # A version whose files changed is not served, and the client learns no path.
    assert str(weights.parent) not in refused(served.chat(), 503, "unavailable")


def test_without_a_model_it_is_not_ready(served: Visitor):
    served.backend.ready = False  # the box is lent, or forwards no longer run
    answer = served.http.get("/readyz")
    refused(answer, 503, "not_ready")
    assert answer.headers["retry-after"] == "1" and served.http.get("/livez").status_code == 200
    served.backend.ready = True
    assert served.http.get("/readyz").status_code == 200


# Refusals


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"stream": "perhaps"}, "stream"),
        ({"stream_options": {"include_usage": True}}, None),
        ({"top_logprobs": 2}, None),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
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
def test_a_bad_chat_is_refused_and_leaves_nothing(served: Visitor, change: dict[str, Any], param: str | None):
    answer = served.chat(**change)
    refused(answer, 400, answer.json()["error"]["code"], param)
    assert served.responses() == 0 and served.backend.chats == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"model": "demo", "messages": "\\ud800"}', b"[" * 5000, b"NaN"]
)
def test_a_body_that_is_no_request_is_refused(served: Visitor, body: bytes):
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
def test_a_bad_question_is_refused(served: Visitor, change: dict[str, Any]):
    assert served.post("/v1/distributions", {"model": "demo", **QUESTION, **change}).status_code == 400
    assert served.responses() == 0


@pytest.mark.parametrize("model", ["other", "demo@v9", "demo@canary", "v1"])
def test_an_unknown_model_is_not_found(served: Visitor, model: str):
    refused(served.chat(model=model), 404, "model_not_found", "model")
    refused(served.post("/v1/distributions", {"model": model, **QUESTION}), 404, "model_not_found", "model")


def test_every_error_has_the_envelope(served: Visitor):
    refused(served.http.get("/nowhere"), 404, "not_found")
    refused(served.http.get("/v1/chat/completions"), 405, "method_not_allowed")
    refused(served.chat("too long"), 400, "invalid_parameter", "messages")
    assert "secret" not in refused(served.chat("break"), 500, "internal")
    assert served.responses() == 0


def test_a_long_body_is_refused_said_or_unsaid(tmp_path: Path):
    short = Visitor(tmp_path, max_body=2_000)
    assert short.chat("x" * 1_000).status_code == 200
    refused(short.chat("x" * 2_000), 413, "request_too_large")
    chunks = (b"x" * 500 for _ in range(10))  # no content-length
    refused(short.http.post("/v1/feedback", content=chunks), 413, "request_too_large")
    short.store.close()


def test_a_store_that_fails_is_no_success(served: Visitor):
    response = served.chat().json()["id"]
    with served.store._write() as connection:
        connection.exec_driver_sql("DROP TABLE idempotency")
    answer = served.judge(response, verdict="desirable")
    refused(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1" and served.store.list_feedback() == []


# kill -9


def test_feedback_answered_with_2xx_survives_kill_9(tmp_path: Path):
    """Killed at once after an answer, and amid parallel posts; each time it comes up again on the same file."""
    promised: dict[str, str] = {}
    tried = 0
    for round_ in range(4):
        with process(tmp_path) as (url, key, running):
            asked = httpx.post(
                f"{url}/v1/chat/completions", json=CHAT, headers=key, timeout=30, trust_env=False
            ).json()["id"]
            if round_ == 0:
                body = {"response_id": asked, "correction": "kindness"}
                once = {"Idempotency-Key": "first", **key}
                answer = httpx.post(f"{url}/v1/feedback", json=body, headers=once, timeout=30, trust_env=False)
                os.kill(running.pid, signal.SIGKILL)
                assert answer.status_code == 201
                promised[answer.json()["id"]] = "kindness"
                tried += 1
                continue
            enough = threading.Event()

            def hammer(
                worker: int,
                url: str = url,
                key: Any = key,
                asked: str = asked,
                round_: int = round_,
                enough: Any = enough,
            ) -> int:
                sent = 0
                with httpx.Client(timeout=30, trust_env=False, headers=key) as client:
                    while True:
                        text = f"{round_}-{worker}-{sent}"
                        sent += 1
                        try:
                            body = {"response_id": asked, "correction": text}
                            once = {"Idempotency-Key": text}
                            answer = client.post(f"{url}/v1/feedback", json=body, headers=once)
                        except httpx.TransportError:
                            return sent
                        assert answer.status_code == 201, answer.text
                        promised[answer.json()["id"]] = text
                        if len(promised) >= 25 * round_:
                            enough.set()

            with ThreadPoolExecutor(8) as pool:
                hammers = [pool.submit(hammer, worker) for worker in range(8)]
                in_time = enough.wait(60)
                os.kill(running.pid, signal.SIGKILL)  # also what ends the workers
                tried += sum(worker.result() for worker in hammers)
            assert in_time, "the server answered too few posts in a minute"
    store = Store.open(tmp_path / "valuealign.db")
    kept = {judged.feedback.id: judged.feedback.correction for judged in store.list_feedback()}
    store.close()
    assert len(promised) >= 75
    assert promised.items() <= kept.items()
    assert len(kept) <= tried  # at most those whose answer the kill cut off are there besides
