"""The service's log: JSON lines with what happened, by whose key and how long it took, never what was said."""

from __future__ import annotations

import json
import logging
import os
import socket
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
LARGEST, KEPT = 16 * 2**20, 4  # bytes of a file, and how many older ones stay


class Lines(logging.Formatter):
    """One JSON object a record; ``extra={"facts": {...}}`` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. An exception's own text is left out: it may quote what was asked."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "request_id": REQUEST_ID.get(),
            **getattr(record, "facts", {}),
        }
        return json.dumps({name: value for name, value in line.items() if value is not None})


def log_to(folder: Path) -> Path:
    """Write this process's log into a file of its own below ``folder``; returns which."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{socket.gethostname()}-{os.getpid()}.jsonl"
    handler = RotatingFileHandler(path, maxBytes=LARGEST, backupCount=KEPT, encoding="utf-8", delay=True)
    handler.setFormatter(Lines())
    ours = logging.getLogger("valuealign")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    return path
