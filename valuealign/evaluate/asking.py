"""Models are asked: whatever a judge needs scored or answered, of the base and of versions, in one pass each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from valuealign.evaluate.paid.kl import Drawn, open_chats, sampled_cells
from valuealign.evaluate.sheet import Heard
from valuealign.metrics import Floats
from valuealign.types import Cell, Message

if TYPE_CHECKING:
    from valuealign.models.host import Host

Say = Callable[[str], None]
EVERY = 200  # answers between two lines of progress
LONGEST = 128  # tokens of an answer that is drawn


@dataclass(frozen=True)
class Questions:
    """Cells to score and chats to answer: each chat once and greedily, or ``samples`` times at temperature 1."""

    cells: tuple[Cell, ...] = ()
    chats: tuple[tuple[Message, ...], ...] = ()
    samples: int = 0
    max_tokens: int = 64


def hear(
    host: Host, who: Mapping[str, str | None], asked: Mapping[str, Questions], *, seed: int, say: Say
) -> dict[str, Heard]:
    """What everybody of ``who`` (name -> version that the host has loaded; None: the base) answers to each set.

    A sampled answer is fixed by ``seed`` and its place.
    """
    logps: dict[str, dict[str, Sequence[Floats]]] = {name: {} for name in asked}
    texts: dict[str, dict[str, list[str]]] = {name: {} for name in asked}
    for name, version in who.items():
        cells = sum(len(one.cells) for one in asked.values())
        written = sum(len(one.chats) * max(1, one.samples) for one in asked.values())
        say(f"asking {name}: {cells:,} cells" + (f", {written:,} written answers" if written else ""))
        for key, one in asked.items():
            if one.cells:
                logps[key][name] = host.score(version, one.cells)
            if one.chats:
                texts[key][name] = _written(host, version, one, f"{name}, {key}", seed, say)
    return {key: Heard(logps[key], texts[key]) for key in asked}


def drawn(host: Host, who: Mapping[str, str], *, samples: int, seed: int, say: Say) -> dict[str, Drawn]:
    """Answers that each version draws of the open prompts, scored by itself and by the base (``kl_rows``)."""
    chats = [chat for chat in open_chats() for _ in range(samples)]
    found = {}
    for name, version in who.items():
        say(f"drawing {len(chats):,} answers of {name}")
        answers = [
            host.generate(version, chat, max_tokens=LONGEST, temperature=1.0, seed=seed + n)
            for n, chat in enumerate(chats)
        ]
        ended = [one.text if one.finish == "stop" else None for one in answers]
        cells = sampled_cells(chats, ended)
        found[name] = Drawn(cells, host.score(version, cells), host.score(None, cells), ended.count(None))
    return found


def _written(host: Host, version: str | None, one: Questions, title: str, seed: int, say: Say) -> list[str]:
    found: list[str] = []
    total = len(one.chats) * max(1, one.samples)
    for chat in one.chats:
        for _ in range(max(1, one.samples)):
            answer = host.generate(
                version,
                chat,
                max_tokens=one.max_tokens,
                temperature=1.0 if one.samples else 0.0,
                seed=seed + len(found) if one.samples else None,
            )
            found.append(answer.text)
            if len(found) % EVERY == 0:
                say(f"  {title}: {len(found):,} of {total:,} answers written")
    return found
