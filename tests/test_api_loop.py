"""What people say and what is decided of it, over HTTP: feedback, pages, reviews, moves, history, erasures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Visitor, key, refused
from storing import address as address  # a database of either kind

from valuealign.errors import StoreError

QUESTION = {"item": "People should be free.", "options": ["agree", "neither", "disagree"]}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Visitor]:
    made = Visitor(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def two(address: Path | str, tmp_path: Path) -> Iterator[tuple[Visitor, Visitor]]:
    """Two services over one database of either kind, as two replicas are; one key opens both."""
    made = Visitor(tmp_path, database=str(address)), Visitor(tmp_path, database=str(address))
    made[1].http.headers["authorization"] = made[0].http.headers["authorization"]
    with made[0].http, made[1].http:  # one event loop each, as in a server
        yield made
    for one in made:
        one.store.close()


def at_once(n: int, call: Callable[[int], httpx.Response]) -> list[httpx.Response]:
    """What n callers are answered who all begin together, each with its number."""
    start = threading.Barrier(n)

    def one(number: int) -> httpx.Response:
        start.wait(60)
        return call(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(one, range(n)))


def asked(served: Visitor, **more: Any) -> Any:
    return served.post("/v1/distributions", {"model": "demo", **QUESTION, **more}).json()["distributions"][0]


# Feedback


def test_feedback_is_kept_in_quarantine_and_can_be_asked_after(served: Visitor):
    response = served.chat().json()["id"]
    posted = served.judge(response, correction="kindness")
    assert posted.status_code == 201 and posted.json()["status"] == "quarantined"
    served.store.review([posted.json()["id"]], "declined", who="r", reason="spam")
    status = served.http.get(f"/v1/feedback/{posted.json()['id']}").json()
    assert (status["status"], status["verdict"], status["reason"]) == ("declined", "correction", "spam")
    refused(served.http.get("/v1/feedback/fb-00"), 404, "feedback_not_found", "feedback_id")


def test_all_that_comes_with_feedback_is_kept(served: Visitor):
    rater = {"id": "p-7", "traits": {"age": "25-34"}, "consent": True}
    more = {"comment": "too cold", "metadata": {"page": "home"}, "rater": rater, "campaign": "spring"}
    posted = served.judge(served.chat().json()["id"], verdict="undesirable", **more)
    kept = served.store.feedback(posted.json()["id"])
    assert (kept.comment, kept.metadata, kept.campaign) == ("too cold", {"page": "home"}, "spring")
    assert (kept.person, kept.traits) == ("p-7", {"age": "25-34"})
    assert kept.key_id == served.store.keys.list()[0].id


def test_traits_need_consent(served: Visitor):
    response = served.chat().json()["id"]
    rater = {"id": "p-7", "traits": {"age": "25-34"}}
    message = refused(served.judge(response, verdict="desirable", rater=rater), 400, "invalid_parameter", "rater")
    assert "consent" in message
    assert served.judge(response, verdict="desirable", rater={"id": "p-7"}).status_code == 201


def test_a_repeated_post_gives_the_first_answer_again(served: Visitor):
    response = served.chat().json()["id"]
    first, again = (served.judge(response, "k1", verdict="desirable") for _ in range(2))
    assert first.json() == again.json() and first.status_code == again.status_code == 201
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    refused(served.judge(response, "k1", verdict="undesirable"), 422, "idempotency_key_reused", "Idempotency-Key")
    assert len(served.store.list_feedback()) == 1


def test_idempotency_keys_are_each_callers_own(served: Visitor):
    response = served.chat().json()["id"]
    body = {"response_id": response, "verdict": "desirable"}
    mine = served.judge(response, "k1", verdict="desirable").json()["id"]
    other = served.post("/v1/feedback", body, **key(served.store, "feedback"), **{"Idempotency-Key": "k1"}).json()["id"]
    assert mine != other and len(served.store.list_feedback()) == 2


def test_an_idempotency_key_is_required(served: Visitor):
    body = {"response_id": served.chat().json()["id"], "verdict": "desirable"}
    refused(served.post("/v1/feedback", body), 400, "idempotency_key_required", "Idempotency-Key")
    refused(served.post("/v1/erasure-requests", {"person": "p"}), 400, "idempotency_key_required", "Idempotency-Key")
    for bad in ("x" * 256, "two words"):
        answer = served.post("/v1/feedback", body, **{"Idempotency-Key": bad})
        refused(answer, 400, "invalid_parameter", "idempotency-key")
    assert served.store.list_feedback() == []


def test_a_post_whose_first_is_still_being_answered_waits(served: Visitor, monkeypatch: pytest.MonkeyPatch):
    response = served.chat().json()["id"]
    begun, go_on, real = threading.Event(), threading.Event(), served.store.add_feedback

    def slow(*args: Any, **named: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(*args, **named)

    monkeypatch.setattr(served.store, "add_feedback", slow)
    with served.http, ThreadPoolExecutor(1) as pool:  # one event loop, as in a server
        first = pool.submit(served.judge, response, "k1", verdict="desirable")
        assert begun.wait(30)
        again = served.judge(response, "k1", verdict="desirable")
        go_on.set()
        assert first.result().status_code == 201
    refused(again, 409, "idempotency_key_in_use", "Idempotency-Key")
    assert again.headers["retry-after"] == "1"
    assert served.judge(response, "k1", verdict="desirable").json() == first.result().json()


def test_a_hundred_posts_of_one_key_make_one_row(two: tuple[Visitor, Visitor]):
    response = two[0].chat().json()["id"]
    said = at_once(100, lambda number: two[number % 2].judge(response, "k1", verdict="desirable"))
    assert {answer.status_code for answer in said} <= {201, 409}
    kept = [answer for answer in said if answer.status_code == 201]
    assert len({answer.json()["id"] for answer in kept}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in kept) == 1
    assert len(two[0].store.list_feedback()) == 1


def test_feedback_must_fit_its_response(served: Visitor):
    chat = served.chat().json()
    refused(served.judge("chat-00", verdict="desirable"), 404, "response_not_found", "response_id")
    refused(served.judge("chat-00", correction="x"), 404, "response_not_found", "response_id")
    for body in ({}, {"verdict": "desirable", "correction": "x"}, {"verdict": "shares"}):
        assert served.judge(chat["id"], **body).status_code == 400
    same = chat["choices"][0]["message"]["content"]
    refused(served.judge(chat["id"], correction=same), 400, "invalid_parameter", "correction")
    refused(served.judge(chat["id"], shares={"agree": 1}, n=9), 400, "invalid_parameter", "shares")
    one = asked(served)["response_id"]
    message = refused(served.judge(one, correction="x"), 400, "invalid_parameter", "correction")
    assert "'agree', 'neither', 'disagree'" in message
    assert served.judge(one, correction="disagree").status_code == 201
    assert len(served.store.list_feedback()) == 1


def test_a_distribution_is_corrected_by_shares(served: Visitor):
    one = asked(served)["response_id"]
    posted = served.judge(one, shares={"disagree": 0.599, "agree": 0.4}, n=812)
    assert posted.status_code == 201
    kept = served.store.feedback(posted.json()["id"])
    assert kept.verdict == "shares" and kept.n == 812
    assert list(kept.shares) == QUESTION["options"] and sum(kept.shares.values()) == pytest.approx(1)
    assert kept.shares["agree"] == pytest.approx(0.4 / 0.999) and kept.shares["neither"] == 0
    for bad in ({"shares": {"agree": 1.0}}, {"n": 5}, {"shares": {"agree": 0.7}, "n": 5}, {"shares": {}, "n": 5},
                {"shares": {"agree": 1.0}, "n": 0}, {"shares": {"other": 1.0}, "n": 5},
                {"shares": {"agree": 1.5, "disagree": -0.5}, "n": 5}):  # fmt: skip
        assert served.judge(one, **bad).status_code == 400, bad


def test_pages_hold_all_feedback_once_while_more_comes(served: Visitor):
    response = served.chat().json()["id"]
    made = [served.judge(response, correction=f"word {i}").json()["id"] for i in range(5)]
    seen: list[dict[str, Any]] = []
    after: str | None = None
    for _ in range(10):
        query = {"limit": 2} | ({"after": after} if after else {})
        page = served.http.get("/v1/feedback", params=query).json()
        seen += page["data"]
        after = page["next"]
        assert page["has_more"] is (after is not None)
        if len(seen) == 2:
            made.append(served.judge(response, correction="later").json()["id"])
        if after is None:
            break
    assert [one["id"] for one in seen] == made
    first = seen[0]
    assert first["correction"] == "word 0" and first["response"]["answer"] == "v1 heard What matters?"
    assert first["response"]["messages"] == [{"role": "user", "content": "What matters?"}]
    assert first["response"]["model"] == "demo@v1" and "person" not in first
    served.store.review(made[:1], "accepted", who="r")
    assert [one["id"] for one in served.http.get("/v1/feedback?status=accepted").json()["data"]] == made[:1]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limits=5", "limits"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("status=lost", "status"),
        ("after=nonsense", "after"),
        ("limit=1&limit=2", "limit"),
    ],
)
def test_a_page_that_cannot_be_is_refused(served: Visitor, query: str, param: str):
    refused(served.http.get(f"/v1/feedback?{query}"), 400, "invalid_parameter", param)


# Reviews


def test_a_review_is_the_reviewers(served: Visitor):
    made = served.judge(served.chat().json()["id"], correction="kindness").json()["id"]
    reviewer = key(served.store, "review")
    answer = served.post(f"/v1/feedback/{made}/review", {"decision": "accepted", "reason": "fair"}, **reviewer)
    assert answer.status_code == 200 and answer.json()["status"] == "accepted"
    kept = served.store.feedback(made)
    assert kept.reviewer.startswith("test (") and kept.reason == "fair"
    refused(
        served.post("/v1/feedback/fb-00/review", {"decision": "accepted"}), 404, "feedback_not_found", "feedback_id"
    )


def test_what_trains_is_not_reviewed_again(served: Visitor):
    made = served.judge(served.chat().json()["id"], correction="kindness").json()["id"]
    place, decision = f"/v1/feedback/{made}/review", {"decision": "accepted"}
    assert served.post(place, decision).status_code == 200
    manifest = served.store.claim("demo", who="t", lease_s=60)
    refused(served.post(place, {"decision": "declined"}), 409, "feedback_in_use", "feedback_id")
    served.store.consume(manifest, who="t", version="v2")
    refused(served.post(place, {"decision": "declined"}), 409, "feedback_in_use", "feedback_id")
    assert served.store.feedback(made).status == "used"


# Moves


def test_a_promotion_and_a_rollback_say_who_and_why(served: Visitor):
    moved = served.post("/v1/models/demo/promote", {"version": "v2", "expected": "v1", "why": "better on items"})
    assert moved.status_code == 200
    assert moved.json() == {"object": "alias", "name": "demo", "alias": "champion", "version": "v2", "epoch": 2}
    assert served.chat().json()["model"] == "demo@v2"
    back = served.post("/v1/models/demo/rollback", {"expected": "v2", "why": "worse"})
    assert back.json()["version"] == "v1" and served.chat().json()["model"] == "demo@v1"
    again = served.post("/v1/models/demo/rollback", {"expected": "v2", "why": "worse"})
    refused(again, 409, "alias_moved", "expected")  # a request that is sent twice goes back once
    history = served.http.get("/v1/history").json()["data"]
    assert [(m["kind"], m["from_version"], m["to_version"], m["why"]) for m in history] == [
        ("rollback", "v2", "v1", "worse"), ("move", "v1", "v2", "better on items"), ("move", None, "v1", "start"),
    ]  # fmt: skip
    assert history[0]["who"].startswith("test (")


def test_moves_that_cannot_be_are_refused(served: Visitor):
    place, move = "/v1/models/demo/promote", {"version": "v2", "expected": "v1", "why": "x"}
    refused(served.post(place, {**move, "version": "v9"}), 404, "model_not_found", "model")
    refused(served.post(place, {**move, "expected": "v2"}), 409, "alias_moved", "expected")
    refused(served.post(place, {**move, "expected": None}), 409, "alias_moved", "expected")
    refused(served.post("/v1/models/other/promote", move), 404, "model_not_found", "model")
    refused(served.post(place, {**move, "alias": "v3"}), 400, "invalid_parameter", "alias")
    refused(served.post(place, {**move, "why": " "}), 400, "invalid_parameter", "why")
    back = {"expected": "v1", "why": "x"}
    refused(served.post("/v1/models/demo/rollback", back), 404, "model_not_found", "model")  # nothing before
    refused(served.post("/v1/models/demo/rollback", {**back, "alias": "gone"}), 404, "model_not_found", "model")
    assert served.post(place, {**move, "expected": None, "alias": "canary"}).json()["epoch"] == 1


def test_one_of_many_promotions_wins_and_the_history_has_it(two: tuple[Visitor, Visitor], tmp_path: Path):
    for _ in range(4):
        two[0].registry.register(tmp_path / "adapter", name="demo", card={"base": "seed"})

    def promote(number: int) -> httpx.Response:
        move = {"version": f"v{2 + number % 5}", "expected": "v1", "why": f"racer {number}"}
        return two[number % 2].post("/v1/models/demo/promote", move)

    said = at_once(50, promote)
    assert sorted(answer.status_code for answer in said) == [200] + [409] * 49
    (winner,) = [number for number, answer in enumerate(said) if answer.status_code == 200]
    for one in two:
        history = one.http.get("/v1/history").json()["data"]
        assert [move["why"] for move in history] == [f"racer {winner}", "start"]
        assert history[0]["to_version"] == said[winner].json()["version"] == f"v{2 + winner % 5}"
        assert one.chat().json()["model"] == f"demo@v{2 + winner % 5}"


def test_history_comes_in_pages(served: Visitor):
    for to, expected in (("v2", "v1"), ("v1", "v2"), ("v2", "v1")):
        served.post("/v1/models/demo/promote", {"version": to, "expected": expected, "why": "x"})
    first = served.http.get("/v1/history?limit=3").json()
    assert [m["epoch"] for m in first["data"]] == [4, 3, 2] and first["has_more"] and first["next"] == 2
    last = served.http.get(f"/v1/history?limit=3&before={first['next']}").json()
    assert [m["epoch"] for m in last["data"]] == [1] and last["next"] is None
    assert served.http.get("/v1/history?alias=unset").json()["data"] == []


# Erasure


def test_an_erasure_names_the_versions_that_learned_from_the_person(served: Visitor):
    """Feedback reaches v3 by a manifest and v4 by descent; both are in the receipt, v1 and v2 are not."""
    response = served.chat(user="p-1").json()["id"]
    made = [
        served.judge(response, correction="kindness", rater={"id": "p-2"}).json()["id"],
        served.judge(served.chat().json()["id"], correction="patience", rater={"id": "p-1"}).json()["id"],
        served.judge(served.chat().json()["id"], correction="stays", rater={"id": "p-3"}).json()["id"],
    ]
    for one in made:
        served.post(f"/v1/feedback/{one}/review", {"decision": "accepted"})
    manifest = served.store.claim("demo", who="t", lease_s=60)
    folder = served.registry.get("demo").path.parent.parent.parent / "adapter"
    card = {"base": "seed", "manifest": {"id": manifest.id}}
    third = served.registry.register(folder, name="demo", card=card, parent="v1")
    served.registry.move("demo", "champion", third, expected="v1", who="t", why="update", consume=manifest)
    served.registry.register(folder, name="demo", card={"base": "seed"}, parent=third)
    served.post("/v1/models/demo/rollback", {"expected": "v3", "why": "worse"})

    once = {"Idempotency-Key": "e1"}
    answer = served.post("/v1/erasure-requests", {"person": "p-1"}, **once)
    assert answer.status_code == 202
    receipt = answer.json()
    assert receipt["rows"]["responses"] == 1 and receipt["rows"]["feedback"] == 2
    assert sorted(receipt["feedback"]) == sorted(made[:2]) and receipt["manifests"] == [manifest.id]
    assert (receipt["trained"], receipt["descendants"]) == (["demo@v3"], ["demo@v4"])
    history = served.registry.history("demo")
    assert receipt["served"] == [
        {"model": "demo@v3", "alias": "champion", "since": history[1].created, "until": history[2].created}
    ]
    assert "no alias" in receipt["mend"] and "p-1" not in answer.text

    refused(served.judge(response, verdict="desirable"), 404, "response_not_found", "response_id")
    refused(served.http.get(f"/v1/feedback/{made[0]}"), 404, "feedback_not_found", "feedback_id")
    assert served.store.feedback(made[2]).correction == "stays"
    again = served.post("/v1/erasure-requests", {"person": "p-1"}, **once)
    assert again.json() == receipt and again.headers["idempotent-replayed"] == "true"
    refused(
        served.post("/v1/erasure-requests", {"person": "p-9"}, **once), 422, "idempotency_key_reused", "Idempotency-Key"
    )


def test_a_running_update_that_holds_erased_feedback_cannot_promote(served: Visitor):
    made = served.judge(served.chat(user="p-1").json()["id"], correction="kindness").json()["id"]
    served.post(f"/v1/feedback/{made}/review", {"decision": "accepted"})
    manifest = served.store.claim("demo", who="t", lease_s=60)
    assert served.post("/v1/erasure-requests", {"person": "p-1"}, **{"Idempotency-Key": "e1"}).status_code == 202
    with pytest.raises(StoreError, match="lease"):
        served.registry.move("demo", "champion", "v2", expected="v1", who="t", why="update", consume=manifest)
    assert served.registry.get("demo").id == "v1"


# Canary


def test_a_canary_answers_its_share_of_the_bare_name(tmp_path: Path):
    served = Visitor(tmp_path, canary=0.5)

    def heard(model: str, n: int = 30) -> set[str]:
        return {served.chat(model=model).json()["model"] for _ in range(n)}

    assert heard("demo") == {"demo@v1"}  # none is out
    served.registry.move("demo", "canary", "v2", expected=None, who="t", why="passed")
    assert heard("demo") == {"demo@v1", "demo@v2"}
    people = [{served.chat(user=f"p-{n}").json()["model"] for _ in range(5)} for n in range(12)]
    assert all(len(one) == 1 for one in people) and len(set.union(*people)) == 2, "a person meets one model"
    assert heard("demo@champion") == {"demo@v1"} and heard("demo@canary", 1) == {"demo@v2"}
    served.registry.move("demo", "canary", "v1", expected="v2", who="t", why="called back")
    assert heard("demo") == {"demo@v1"}
    assert served.http.get("/v1/models/demo").json()["id"] == "demo@v1"
    served.store.close()
