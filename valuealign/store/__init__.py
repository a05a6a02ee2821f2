"""Responses, feedback, manifests, aliases, keys, erasures and the audit, in SQLite or PostgreSQL."""

from __future__ import annotations

from valuealign.store._steps import new_id, now
from valuealign.store.database import Store
from valuealign.store.keys import Keys
from valuealign.store.records import (
    AliasState,
    Erased,
    Event,
    Feedback,
    Judged,
    Key,
    Kind,
    Manifest,
    Move,
    Page,
    Receipt,
    Response,
    Scope,
    Status,
    Verdict,
)

__all__ = [
    "AliasState",
    "Erased",
    "Event",
    "Feedback",
    "Judged",
    "Key",
    "Keys",
    "Kind",
    "Manifest",
    "Move",
    "Page",
    "Receipt",
    "Response",
    "Scope",
    "Status",
    "Store",
    "Verdict",
    "new_id",
    "now",
]
