"""Responses, feedback, manifests, aliases and the audit, in SQLite or PostgreSQL."""

from __future__ import annotations

from valuealign.store._steps import new_id
from valuealign.store.database import Store
from valuealign.store.records import (
    AliasState,
    Event,
    Feedback,
    Judged,
    Kind,
    Manifest,
    Move,
    Receipt,
    Response,
    Status,
    Verdict,
)

__all__ = [
    "AliasState",
    "Event",
    "Feedback",
    "Judged",
    "Kind",
    "Manifest",
    "Move",
    "Receipt",
    "Response",
    "Status",
    "Store",
    "Verdict",
    "new_id",
]
