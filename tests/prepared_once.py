"""Runs that are prepared once a process: tests of several jobs read them, and none changes them."""

from __future__ import annotations

from collections.abc import Callable

from valuealign.config import RunConfig
from valuealign.prepared import Prepared, prepare, tell

_made: dict[str, Prepared] = {}


def prepare_once(config: RunConfig, progress: Callable[[str], None] = tell) -> Prepared:
    """As ``prepare``. What is asked beside the exam plays no part in it, so such runs share what is prepared."""
    exam_alone = config.evaluate.model_copy(update={"sheets": (), "samples": 0})
    plain = config.model_copy(update={"evaluate": exam_alone})
    key = plain.model_dump_json()
    if key not in _made:
        _made[key] = prepare(plain, lambda _: None)
    for name, fact in _made[key].facts.items():
        progress(f"{name}: {fact}")
    return _made[key]
