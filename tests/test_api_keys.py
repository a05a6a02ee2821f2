"""Who may come in: keys, their scopes and limits, the tokens of browsers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from itsdangerous import TimestampSigner
from pydantic import ValidationError
from serving import Visitor, key, refused

from serve import auth
from valuealign.config import load
from valuealign.config.schema import ServeConfig
from valuealign.errors import ConfigError

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "What matters?"}]}
OPEN = {"/livez", "/readyz", "/metrics", "/openapi.json"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Visitor]:
    made = Visitor(tmp_path)
    yield made
    made.store.close()


def operations(served: Visitor) -> list[tuple[str, str, dict[str, Any]]]:
    paths = served.app.openapi()["paths"]
    return [(method.upper(), path, found) for path, methods in paths.items() for method, found in methods.items()]


def test_without_a_key_nothing_but_health_answers(served: Visitor):
    asked = [(method, path) for method, path, _ in operations(served)] + [("GET", "/nowhere"), ("PUT", "/v1/models")]
    for method, path in asked:
        answer = served.stranger.request(method, path.replace("{", "").replace("}", ""))
        if path in OPEN:
            assert answer.status_code == 200, path
        elif (method, path) == ("POST", "/v1/feedback"):
            refused(answer, 400, "invalid_parameter")  # a token in the body would do
        else:
            refused(answer, 401, "missing_api_key")
            assert answer.headers["www-authenticate"] == 'Bearer realm="valuealign"'
    assert served.stranger.get("/openapi.json").status_code == 200
    refused(anonymous(served, response_id="chat-00", verdict="desirable"), 401, "missing_api_key")


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "va-0", "Bearer va-0", "Bearer \xff"])
def test_what_is_no_key_is_refused(served: Visitor, value: str):
    answer = served.http.get("/v1/models", headers={"Authorization": value.encode("latin-1")})
    assert answer.status_code == 401 and answer.json()["error"]["code"] in ("missing_api_key", "invalid_api_key")
    if value.startswith("Bearer v"):
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_while_there_is_no_key_the_answer_says_how_to_make_one(tmp_path: Path):
    from fastapi.testclient import TestClient
    from serving import service

    app, store, _ = service(tmp_path)
    http = TestClient(app)
    assert "jobs/keys.py create" in refused(http.get("/v1/models"), 401, "missing_api_key")
    made = key(store)
    assert "jobs/keys.py" not in refused(http.get("/v1/models"), 401, "missing_api_key")
    assert http.get("/v1/models", headers=made).status_code == 200
    store.close()


def test_each_scope_opens_its_own_routes(served: Visitor):
    """Every operation names a scope, and a key with every other one is refused there."""
    scoped = [(method, path, found["x-scope"]) for method, path, found in operations(served) if "x-scope" in found]
    assert {path for _, path, _ in operations(served)} - {path for _, path, _ in scoped} == OPEN - {"/openapi.json"}
    assert {scope for _, _, scope in scoped} == {"query", "feedback", "review", "admin"}
    for method, path, scope in scoped:
        others = key(served.store, *({"query", "feedback", "review"} - {scope}))
        body = {"json": BODIES[path]} if method == "POST" else {}
        place = path.format(feedback_id="fb-00", name="demo", model="demo")
        headers = {"Idempotency-Key": "k"}
        answer = served.http.request(method, place, headers={**others, **headers}, **body)
        assert scope in refused(answer, 403, "insufficient_scope")
        mine = served.http.request(method, place, headers={**key(served.store, scope), **headers}, **body)
        assert mine.status_code not in (401, 403), (method, path)


BODIES: dict[str, Any] = {
    "/v1/chat/completions": CHAT,
    "/v1/distributions": {"model": "demo", "item": "Rain?", "options": ["yes", "no"]},
    "/v1/feedback": {"response_id": "chat-00", "verdict": "desirable"},
    "/v1/feedback/{feedback_id}/review": {"decision": "accepted"},
    "/v1/models/{name}/promote": {"version": "v9", "expected": "v1", "why": "test"},
    "/v1/models/{name}/rollback": {"expected": "v9", "why": "test"},
    "/v1/erasure-requests": {"person": "p-1"},
}


def test_a_revoked_key_ends_within_seconds(served: Visitor, monkeypatch: pytest.MonkeyPatch):
    made, text = served.store.keys.create("gone", ("query",), who="test")
    headers = {"Authorization": f"Bearer {text}"}
    assert served.http.get("/v1/models", headers=headers).status_code == 200
    served.store.keys.revoke(made.id, who="test")
    assert auth.KNOWN_FOR <= 2
    later = time.monotonic() + auth.KNOWN_FOR + 0.01
    monkeypatch.setattr(auth.time, "monotonic", lambda: later)
    refused(served.http.get("/v1/models", headers=headers), 401, "invalid_api_key")


def test_a_key_is_looked_up_once_while_it_is_believed(served: Visitor, monkeypatch: pytest.MonkeyPatch):
    moment = time.monotonic()
    monkeypatch.setattr(auth.time, "monotonic", lambda: moment)
    looked: list[str] = []
    real = type(served.store.keys).find
    monkeypatch.setattr(type(served.store.keys), "find", lambda self, text: looked.append(text) or real(self, text))
    for _ in range(3):
        assert served.http.get("/v1/models").status_code == 200
    assert len(looked) == 1


def test_a_key_may_ask_so_often_a_minute(served: Visitor):
    few, many = key(served.store, "query", per_minute=2), key(served.store, "query")
    said = [served.http.get("/v1/models", headers=few) for _ in range(4)]
    assert [answer.status_code for answer in said] == [200, 200, 429, 429]
    message = refused(said[2], 429, "rate_limit_exceeded")
    assert "2 times a minute" in message and 1 <= int(said[2].headers["retry-after"]) <= 60
    assert all(served.http.get("/v1/models", headers=many).status_code == 200 for _ in range(4))


def test_the_services_own_limit_is_for_keys_without_one(tmp_path: Path):
    served = Visitor(tmp_path, per_minute=1)
    assert [served.http.get("/v1/models").status_code for _ in range(2)] == [200, 429]
    roomy = key(served.store, "query", per_minute=3)
    assert [served.http.get("/v1/models", headers=roomy).status_code for _ in range(3)] == [200] * 3
    served.store.close()


# Tokens


def anonymous(served: Visitor, **body: Any) -> Any:
    return served.stranger.post("/v1/feedback", json=body)


def test_a_token_judges_its_answer_once_without_a_key(served: Visitor):
    answer = served.chat().json()
    body = {"response_id": answer["id"], "verdict": "desirable", "token": answer["feedback_token"]}
    first, again = anonymous(served, **body), anonymous(served, **body)
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    refused(anonymous(served, **{**body, "verdict": "undesirable"}), 409, "token_used", "token")
    (kept,) = served.store.list_feedback()
    assert kept.feedback.verdict == "desirable"


def test_a_token_names_no_rater(served: Visitor):
    """Else whoever was answered could be as many raters as there are answers."""
    answer = served.chat(user="p-1").json()
    body = {"response_id": answer["id"], "verdict": "desirable", "token": answer["feedback_token"]}
    refused(anonymous(served, **body, rater={"id": "p-2"}), 400, "invalid_parameter", "rater")
    assert served.store.list_feedback() == [] and anonymous(served, **body).status_code == 201


def test_what_was_erased_is_not_posted_again(served: Visitor):
    mine, theirs = served.chat(user="p-1").json(), served.chat(user="p-2").json()
    token = {"response_id": mine["id"], "verdict": "desirable", "token": mine["feedback_token"]}
    said = {"verdict": "desirable", "rater": {"id": "p-1"}}
    assert anonymous(served, **token).status_code == served.judge(theirs["id"], "k1", **said).status_code == 201
    erased = served.post("/v1/erasure-requests", {"person": "p-1"}, **{"Idempotency-Key": "e1"})
    assert erased.json()["rows"]["feedback"] == 2
    for again in (anonymous(served, **token), served.judge(theirs["id"], "k1", **said)):
        assert "erased" in refused(again, 410, "erased")
    assert served.store.list_feedback() == []


def test_who_decided_is_known_by_the_keys_id_however_long_its_name(served: Visitor):
    made, text = served.store.keys.create("n" * 128, ("review",), who="test")
    posted = served.judge(served.chat().json()["id"], verdict="desirable").json()["id"]
    place, mine = f"/v1/feedback/{posted}/review", {"Authorization": f"Bearer {text}"}
    assert served.post(place, {"decision": "accepted"}, **mine).status_code == 200
    reviewer = served.store.feedback(posted).reviewer
    assert reviewer is not None and reviewer.endswith(f"n ({made.id})") and len(reviewer) == 128


def test_every_kind_of_answer_brings_a_token(served: Visitor):
    streamed = served.chat(stream=True)
    assert streamed.text.count('"feedback_token"') == 1
    asked = {"model": "demo", "questions": [{"item": f"q{i}", "options": ["yes", "no"]} for i in range(2)]}
    for one in served.post("/v1/distributions", asked).json()["distributions"]:
        body = {"response_id": one["response_id"], "correction": "no", "token": one["feedback_token"]}
        assert anonymous(served, **body).status_code == 201


def test_a_token_of_another_answer_or_another_secret_is_refused(served: Visitor):
    one, other = served.chat().json(), served.chat().json()
    body = {"response_id": one["id"], "verdict": "desirable"}
    forged = TimestampSigner("guess", salt="feedback-token").sign(one["id"]).decode()
    for token in (other["feedback_token"], forged, "x", one["feedback_token"][:-1]):
        refused(anonymous(served, **body, token=token), 401, "invalid_token")
    assert served.store.list_feedback() == []


def test_a_token_ends(served: Visitor, monkeypatch: pytest.MonkeyPatch):
    answer = served.chat().json()
    later = int(time.time()) + 24 * 3600 + 1
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda self: later)
    body = {"response_id": answer["id"], "verdict": "desirable", "token": answer["feedback_token"]}
    refused(anonymous(served, **body), 401, "invalid_token")


def test_only_named_pages_may_read_answers_in_a_browser(tmp_path: Path):
    served = Visitor(tmp_path, origins=("https://good.example",))
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for origin, allowed in (("https://good.example", True), ("https://bad.example", False)):
        answer = served.http.options("/v1/feedback", headers={"Origin": origin, **ask})
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        assert answer.headers["x-request-id"].startswith("req-")
        if allowed:
            assert answer.status_code == 200
        else:
            assert "origin" in refused(answer, 400, "invalid_request")
            assert "Origin" in answer.headers["vary"], "no cache gives it to another page"
    served.store.close()


# Without keys


def test_without_auth_anybody_may_do_anything(tmp_path: Path):
    served = Visitor(tmp_path, auth=False)
    assert served.stranger.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert "security" not in served.app.openapi()["paths"]["/v1/models"]["get"]
    move = {"version": "v2", "expected": "v1", "why": "test"}
    moved = served.stranger.post("/v1/models/demo/promote", json=move)
    assert moved.status_code == 200
    served.store.close()


def test_auth_is_only_switched_off_on_loopback():
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert ServeConfig(host=host, auth=False).auth is False
    for host in ("0.0.0.0", "192.168.0.7", "::", "localhost.example.org"):
        assert ServeConfig(host=host).auth is True
        with pytest.raises(ValidationError, match="anybody"):
            ServeConfig(host=host, auth=False)
    with pytest.raises(ConfigError, match="anybody"):
        load(None, ["serve.host=0.0.0.0", "serve.auth=false"])
