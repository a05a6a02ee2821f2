"""Streamed chats, log-probabilities and stops, in OpenAI's shape; and OpenAI's own client over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Visitor, process, refused

from serve.schemas import ChatChunk, ChatResponse

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "What matters?"}]}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Visitor]:
    made = Visitor(tmp_path)
    yield made
    made.store.close()


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream; the last of them must be [DONE]."""
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    said = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert said[-1] == "[DONE]"
    return [json.loads(line) for line in said[:-1]]


def test_a_stream_is_the_answer_in_pieces(served: Visitor):
    answer = served.chat(stream=True, stream_options={"include_usage": True})
    found = events(answer)
    chunks = [ChatChunk.model_validate(event) for event in found]
    assert [chunk.choices[0].delta.content for chunk in chunks[:-2]] == ["", "v1", " heard", " What", " matters?"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 5 + ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 7
    assert all(event["usage"] is None for event in found[:-1])
    assert {(chunk.id, chunk.model, chunk.object) for chunk in chunks} == {
        (chunks[0].id, "demo@v1", "chat.completion.chunk")
    }
    assert answer.headers["valuealign-model"] == "demo@v1"
    kept = served.store.response(chunks[0].id)
    assert kept.answer == "v1 heard What matters?" and kept.detail["finish"] == "stop"


def test_a_stream_without_usage_says_nothing_of_it(served: Visitor):
    found = events(served.chat(stream=True))
    assert all("usage" not in event and event["choices"] for event in found)


def test_what_is_refused_is_refused_with_its_status_in_a_stream_too(served: Visitor):
    refused(served.chat("too long", stream=True), 400, "invalid_parameter", "messages")
    refused(served.chat("break", stream=True), 500, "internal")
    refused(served.chat(stream=True, model="demo@v9"), 404, "model_not_found", "model")
    assert served.responses() == 0


def test_a_stream_that_breaks_off_says_so_and_is_not_kept(served: Visitor):
    answer = served.chat("break off", stream=True)
    *pieces, last = events(answer)
    assert pieces and set(last) == {"error"} and last["error"]["code"] == "internal"
    assert "secret" not in answer.text and served.responses() == 0


@pytest.mark.parametrize("stop", ["What", [" matters", "What"]])
def test_stops_reach_the_model_in_either_form(served: Visitor, stop: Any):
    body = served.chat(stop=stop).json()
    assert served.backend.chats[0]["stop"] == ((stop,) if isinstance(stop, str) else tuple(stop))
    assert "What" not in body["choices"][0]["message"]["content"]


def test_log_probabilities_have_openais_shape(served: Visitor):
    body = served.chat(logprobs=True, top_logprobs=2).json()
    ChatResponse.model_validate(body)
    content = body["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in content] == ["v1", " heard", " What", " matters?"]
    assert content[0] == {
        "token": "v1", "logprob": -0.5, "bytes": [118, 49],
        "top_logprobs": [
            {"token": "v1", "logprob": -0.5, "bytes": [118, 49]},
            {"token": "no", "logprob": -1.5, "bytes": [110, 111]},
        ],
    }  # fmt: skip
    alone = served.chat(logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert alone[0]["logprob"] == -0.5 and alone[0]["top_logprobs"] == []
    pieces = events(served.chat(stream=True, logprobs=True, top_logprobs=1))
    streamed = [one for event in pieces for one in (event["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert [one["token"] for one in streamed] == [one["token"] for one in content]
    assert all(len(one["top_logprobs"]) == 1 for one in streamed)


def test_fields_of_openais_that_change_nothing_are_tolerated(served: Visitor):
    neutral = {"top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "n": 1}
    body = served.chat(user="p-1", metadata={"page": "home"}, **neutral).json()
    kept = served.store.response(body["id"])
    assert kept.person == "p-1" and kept.detail["metadata"] == {"page": "home"}
    assert served.chat().status_code == 200
    turn = {"model": "demo", "messages": [{"role": "developer", "content": "Be brief."}, *CHAT["messages"]]}
    assert served.post("/v1/chat/completions", turn).status_code == 200
    assert served.backend.chats[-1]["messages"][0] == ("system", "Be brief.")


def test_a_reader_who_hangs_up_ends_the_work(served: Visitor):
    """The application is driven by hand: nothing else shows when it lets go of the model."""

    async def hang_up() -> None:
        body = json.dumps({**CHAT, "stream": True}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"authorization", served.http.headers["authorization"].encode()),
        ]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b"", "scheme": "http",
            "headers": headers, "root_path": "",
        }  # fmt: skip
        asked, heard = asyncio.Event(), asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not asked.is_set():
                asked.set()
                return {"type": "http.request", "body": body, "more_body": False}
            await heard.wait()
            return {"type": "http.disconnect"}

        async def send(event: dict[str, Any]) -> None:
            if b"heard" in event.get("body", b""):
                heard.set()
                await asyncio.Event().wait()  # a socket that nobody reads

        await asyncio.wait_for(served.app(scope, receive, send), 30)
        assert served.backend.left == 1  # by now, not when the loop ends

    asyncio.run(hang_up())
    assert served.responses() == 0


@pytest.fixture(scope="module")
def openai(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """OpenAI's client of a server on a real socket."""
    client = pytest.importorskip("openai")
    with process(tmp_path_factory.mktemp("openai")) as (url, key, _):
        secret = key["Authorization"].removeprefix("Bearer ")
        with client.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0, timeout=30) as made:
            yield made


def test_openais_client_reads_an_answer(openai: Any):
    made = openai.chat.completions.create(**CHAT, temperature=0, seed=1, max_tokens=8, logprobs=True, top_logprobs=1)
    assert made.choices[0].message.content == "v1 heard What matters?" and made.model == "demo@v1"
    assert made.usage.total_tokens == 7 and made._request_id.startswith("req-")
    assert made.choices[0].logprobs.content[0].top_logprobs[0].token == "v1"
    assert made.feedback_token  # fields of our own reach its users


def test_openais_client_reads_a_stream(openai: Any):
    stream = openai.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == "v1 heard What matters?" and chunks[-1].usage.completion_tokens == 4
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


def test_openais_client_raises_its_own_errors(openai: Any):
    import openai as library

    with pytest.raises(library.BadRequestError) as bad:
        openai.chat.completions.create(**CHAT, top_p=0.5)
    assert bad.value.param == "top_p" and bad.value.code == "invalid_parameter"
    with pytest.raises(library.NotFoundError) as absent:
        openai.chat.completions.create(**{**CHAT, "model": "demo@v9"})
    assert absent.value.code == "model_not_found"
    with pytest.raises(library.AuthenticationError):
        openai.with_options(api_key="va-000000000000-nobody").chat.completions.create(**CHAT)
    with pytest.raises(library.APIError) as broken:
        body = {**CHAT, "messages": [{"role": "user", "content": "break off"}]}
        list(openai.chat.completions.create(**body, stream=True))
    assert "failed" in str(broken.value)


def test_openais_client_lists_models(openai: Any):
    assert [model.id for model in openai.models.list()] == ["demo@v2", "demo@v1"]
    assert openai.models.retrieve("demo").id == "demo@v1" and openai.models.retrieve("demo@v2").id == "demo@v2"
