"""When the next turn of the loop is due: every so often, at so many new items, or whichever is first.

The time of the last turn is in the store's audit, so that a loop that was stopped goes on by the same clock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from valuealign.errors import ConfigError
from valuealign.store import Store

TURN = "update.turn"
LOOK_S = 30.0  # seconds between two looks at what waits
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Due:
    """``every`` seconds (None: not by time), or at ``items`` new accepted items (None: not by number)."""

    every: float | None = None
    items: int | None = None

    def why(self, *, since_s: float | None, waiting: int) -> str:
        """Why a turn is due, ``since_s`` seconds after the last one (None: there was none); empty where it isn't."""
        if self.items is not None and waiting >= self.items:
            return f"{waiting} items wait"
        if self.every is not None and (since_s is None or since_s >= self.every):
            return "it is time"
        return ""


def seconds(text: str) -> float:
    """``90s``, ``30m``, ``6h``, ``2d`` in seconds. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"'{text}' is no span of time", where="--every", mend="write 90s, 30m, 6h or 2d")
    return float(match[1]) * _UNITS[match[2]]


def turns(
    due: Due,
    store: Store,
    name: str,
    *,
    waiting: Callable[[], Collection[str]],
    who: str,
    look_s: float = LOOK_S,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[str]:
    """Yields why, each time a turn is due, for ever. ``waiting`` gives ids of items.

    What a turn found waiting and left is not new again; what came while it ran is.
    """
    known: set[str] = set()
    while True:
        now = set(waiting())
        why = due.why(since_s=since_last(store, name), waiting=len(now - known))
        if not why:
            sleep(look_s)
            continue
        store.note(who, TURN, name, {"why": why})
        yield why
        known = now


def since_last(store: Store, name: str) -> float | None:
    """Seconds since the last scheduled turn; None if there was none."""
    times = [event.created for event in store.audit(subject=name) if event.event == TURN]
    if not times:
        return None
    return (datetime.now(UTC) - datetime.fromisoformat(times[-1])).total_seconds()
