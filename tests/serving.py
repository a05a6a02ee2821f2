"""A service without a model, for tests; as a script, the real server on a free port.

python tests/serving.py HOME      # prints its URL, then serves until killed
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI

from serve.api import Reply, create_app
from valuealign.errors import ModelError
from valuealign.registry import Registry, Version
from valuealign.store import Store
from valuealign.types import Cell, Message


class Echo:
    """Answers with the version's id and what was asked; scores option k with log-probability -1 - k."""

    def __init__(self) -> None:
        self.chats: list[dict[str, object]] = []
        self.cells: list[Cell] = []

    async def chat(self, version: Version, messages: Sequence[Message], **sampling: object) -> Reply:
        self.chats.append({"version": version.id, "messages": tuple(messages), **sampling})
        asked = messages[-1].content
        if asked == "too long":
            raise ModelError("the chat has 900 tokens, the model reads 512", where="messages", mend="shorten it")
        if asked == "break":
            raise RuntimeError("secret detail")
        return Reply(f"{version.id} heard {asked}", 3, 4, "length" if asked == "long" else "stop")

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


def service(home: Path, backend: Echo | None = None, **limits: Any) -> tuple[FastAPI, Store, Registry]:
    """The app over a home, which gets a champion if it has none."""
    store = Store.open(home / "valuealign.db")
    registry = Registry(home / "registry", store)
    if registry.alias("demo") is None:
        lay(registry, home / "adapter", 2)
    return create_app(store=store, registry=registry, backend=backend or Echo(), name="demo", **limits), store, registry


if __name__ == "__main__":
    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    app, _, _ = service(Path(sys.argv[1]))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
