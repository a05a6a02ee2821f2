"""The outermost layer, driven by hand: bodies that stop half-way or come in crumbs, and those that nobody reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Visitor, refused

from serve import edge
from serve.auth import Gatekeeper
from serve.metrics import Meters


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Visitor]:
    made = Visitor(tmp_path)
    yield made
    made.store.close()


def ask(app: Any, method: str, path: str, pieces: Sequence[bytes], key: str = "", ends: bool = False) -> httpx.Response:
    """Ask with a body of these pieces; more are said to come, unless it ``ends`` with the last, but none do."""
    headers = [(b"content-type", b"application/json"), *([(b"authorization", key.encode())] if key else [])]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http", "headers": headers,
        "root_path": "",
    }  # fmt: skip
    left, heard = list(pieces), list[dict[str, Any]]()

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left) or not ends}

    async def send(event: dict[str, Any]) -> None:
        heard.append(event)

    async def talk() -> None:
        await asyncio.wait_for(app(scope, receive, send), 20)

    asyncio.run(talk())
    start, *parts = heard
    content = b"".join(part.get("body", b"") for part in parts)
    return httpx.Response(start["status"], headers=start["headers"], content=content)


@pytest.mark.parametrize("path", ["/v1/feedback", "/v1/chat/completions"])
def test_who_sends_half_a_body_is_let_go(served: Visitor, monkeypatch: pytest.MonkeyPatch, path: str):
    """A stranger too, who may post feedback for a token in the body."""
    monkeypatch.setattr(edge, "PATIENCE", 0.05)
    key = "" if path == "/v1/feedback" else served.http.headers["authorization"]
    answer = ask(served.app, "POST", path, [b'{"response_id": '], key)
    refused(answer, 408, "request_timeout")
    assert answer.headers["connection"] == "close", "else the rest would be read as the next request"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json"])
def test_what_is_open_answers_before_any_body_has_come(served: Visitor, path: str):
    assert ask(served.app, "GET", path, []).status_code == 200


def test_a_body_in_crumbs_is_handed_on_in_one_piece(served: Visitor):
    """Crumbs kept apart would hold many times their length in memory."""
    body, events = json.dumps({"text": "x" * 500}).encode(), list[dict[str, Any]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        events.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    keeper = Gatekeeper(served.store, auth=False, per_minute=None)
    whole = edge.Edge(app, gatekeeper=keeper, meters=Meters(), max_body=1_000, open_metrics=True)

    assert ask(whole, "POST", "/any", [bytes([byte]) for byte in body], ends=True).status_code == 200
    assert events == [{"type": "http.request", "body": body, "more_body": False}]
