"""A service without a model, for tests; as a script, the real server on a free port.

python tests/serving.py HOME [PORT]      # prints its URL and a key, then serves until killed
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serve.api import create_app
from serve.backend import Piece, Reply, Sampling, Scored
from valuealign.errors import ModelError
from valuealign.registry import Registry, Version
from valuealign.store import Scope, Store
from valuealign.types import Cell, Message


class Echo:
    """Answers with the version's id and what was asked, a word at a time; scores option k with
    log-probability -1 - k. Some words make it fail."""

    ready, waiting = True, 0

    def __init__(self) -> None:
        self.chats: list[dict[str, object]] = []
        self.cells: list[Cell] = []
        self.left = 0  # answers that were not read to their end

    async def chat(
        self, version: Version, messages: Sequence[Message], sampling: Sampling, *, stream: bool = True
    ) -> AsyncGenerator[Piece | Reply, None]:
        self.chats.append({"version": version.id, "messages": tuple(messages), **sampling._asdict()})
        asked = messages[-1].content
        if asked == "too long":
            raise ModelError("the chat has 900 tokens, the model reads 512", where="messages", mend="shorten it")
        if asked == "break":
            raise RuntimeError("secret detail")
        text = f"{version.id} heard {asked}"
        for stop in sampling.stop:
            text = text.partition(stop)[0]
        words = [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]
        scored = [Scored(word, -0.5, ((word, -0.5), ("no", -1.5))[: sampling.top_logprobs]) for word in words]
        tokens = tuple(scored) if sampling.top_logprobs is not None else ()
        try:
            for i, word in enumerate(words):
                if asked == "break off" and i == 2:
                    raise RuntimeError("secret detail")
                yield Piece(word, tokens[i : i + 1])
            yield Reply(text, 3, len(words), "length" if asked == "long" else "stop", tokens)
        except GeneratorExit:
            self.left += 1
            raise

    async def score(self, version: Version, cells: Sequence[Cell]) -> list[np.ndarray]:
        self.cells.extend(cells)
        return [-1.0 - np.arange(len(cell.completions)) for cell in cells]


def lay(registry: Registry, folder: Path, n: int = 1) -> None:
    """Register n versions of "demo"; the first becomes champion."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    for _ in range(n):
        registry.register(folder, name="demo", card={"base": "/models/somewhere/seed"})
    registry.move("demo", "champion", "v1", expected=None, who="test", why="start")


def service(home: Path, backend: Any = None, database: str = "", **settings: Any) -> tuple[FastAPI, Store, Registry]:
    """The app over a home, which gets a champion if it has none."""
    store = Store.open(database or os.environ.get("VALUEALIGN_DB") or home / "valuealign.db")
    registry = Registry(home / "registry", store)
    if registry.alias("demo") is None:
        lay(registry, home / "adapter", 2)
    app = create_app(store=store, registry=registry, backend=backend or Echo(), name="demo", **settings)
    return app, store, registry


def key(store: Store, *scopes: Scope, per_minute: int | None = None) -> dict[str, str]:
    """The header of a new key, an administrator's unless scopes are named."""
    _, text = store.keys.create("test", scopes or ("admin",), per_minute=per_minute, who="test")
    return {"Authorization": f"Bearer {text}"}


class Visitor:
    """A client of a service over a home, with an administrator's key."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.backend = Echo()
        self.app, self.store, self.registry = service(home, self.backend, **settings)
        self.http = TestClient(self.app, raise_server_exceptions=False, headers=key(self.store))
        self.stranger = TestClient(self.app, raise_server_exceptions=False)  # without a key

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers=headers)

    def chat(self, content: str = "What matters?", **more: Any) -> httpx.Response:
        body = {"model": "demo", "messages": [{"role": "user", "content": content}], **more}
        return self.post("/v1/chat/completions", body)

    def judge(self, response_id: str, once: str | None = None, **said: Any) -> httpx.Response:
        """Post feedback, under an idempotency key of its own unless one is given."""
        body = {"response_id": response_id, **said}
        return self.post("/v1/feedback", body, **{"Idempotency-Key": once or secrets.token_hex(8)})

    def responses(self) -> int:
        with self.store._engine.connect() as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM responses").scalar_one()


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(answer: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """Check that an answer is that refusal, in the envelope; its message."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["code"], body["error"]["param"]) == (code, param)
    assert body["error"]["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert answer.headers["x-request-id"].startswith("req-")
    return body["error"]["message"]


@contextmanager
def process(
    home: Path, port: int = 0, database: str = ""
) -> Iterator[tuple[str, dict[str, str], subprocess.Popen[str]]]:
    """The real server over a home, in a process of its own: its URL, the header of a key, the process."""
    command = [sys.executable, __file__, str(home), str(port)]
    environment = os.environ | {"VALUEALIGN_DB": database}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert started.stdout is not None
        url, secret = started.stdout.readline().split()
        httpx.get(f"{url}/livez", timeout=30, trust_env=False).raise_for_status()
        yield url, {"Authorization": f"Bearer {secret}"}, started
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


if __name__ == "__main__":
    import uvicorn

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0))
    listener.listen(64)
    app, store, _ = service(Path(sys.argv[1]))
    secret = key(store)["Authorization"].removeprefix("Bearer ")
    print(f"http://127.0.0.1:{listener.getsockname()[1]} {secret}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
