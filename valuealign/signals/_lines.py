"""One row of a feedback file: its fields, checked, with errors that name the place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from valuealign.errors import SignalError, nearest
from valuealign.types import Message

ROLES = ("system", "user", "assistant")
# A transcript as a text: turns parted by an empty line, each with its speaker.
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
# How much of a wrong value a message shows, in characters.
SHOWN = 60
# The largest weight: its square, and the sum of many, must stay finite.
HEAVIEST = 1e12


class Line:
    """A row, its missing values (null, an empty field of a CSV) left out; ``place`` says where it stands."""

    def __init__(self, row: dict[str, Any], place: Callable[[], str]) -> None:
        self.row = {name: value for name, value in row.items() if value is not None}
        self._place = place

    @property
    def where(self) -> str:
        """File and line, or row."""
        return self._place()

    def error(self, what: str, mend: str) -> SignalError:
        """An error of this line."""
        return SignalError(what, where=self.where, mend=mend)

    def field(self, name: str) -> Any:
        """The value of a field that must be there."""
        if name not in self.row:
            hint = nearest(name, self.row) if self.row else f'add "{name}": ...'
            raise self.error(f"the field '{name}' is missing", hint)
        return self.row[name]

    def text(self, name: str) -> str:
        """A field that holds one answer: a string, or a chat of exactly one assistant turn."""
        before, answer = self.answer(name)
        if before:
            raise self.error(f"'{name}' must be one assistant turn", "move the turns before it to 'prompt'")
        return answer

    def answer(self, name: str, *, transcripts: bool = False) -> tuple[tuple[Message, ...], str]:
        """The turns before the answer that a field holds (none, or a whole chat's), and the answer.

        ``transcripts``: a text of the form ``Human: ... Assistant: ...`` is a chat too.
        """
        value = self.field(name)
        if transcripts and isinstance(value, str) and TURN.match(value.strip()):
            _, *parts = TURN.split(value.strip())
            said = zip(parts[::2], parts[1::2], strict=True)
            value = [{"role": SPEAKERS[who], "content": text.strip()} for who, text in said]
        if isinstance(value, list):
            turns = self._chat(name, value)
            if not turns or turns[-1].role != "assistant":
                what = f"'{name}' must be, or end with, one assistant turn"
                raise self.error(what, "end it with the answer, or write the answer as text")
            return turns[:-1], turns[-1].content
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"'{name}' must be text and not empty", "write the answer, or leave the line out")
        return (), value

    def prompt(self, name: str = "prompt") -> tuple[Message, ...]:
        """A field that holds a prompt: a string (one user turn) or a chat that does not end with the assistant."""
        value = self.field(name)
        if isinstance(value, list):
            return self.asks(name, self._chat(name, value))
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"'{name}' must be text or a chat, and not empty", "write what the user asked")
        return (Message("user", value),)

    def asks(self, name: str, turns: tuple[Message, ...]) -> tuple[Message, ...]:
        """The turns, which must be a prompt: some, and the last of them not the assistant's."""
        if not turns or turns[-1].role == "assistant":
            mend = "move the assistant's last turn to 'completion'"
            raise self.error(f"'{name}' must end with the user's turn before the answer", mend)
        return turns

    def label(self, name: str = "label") -> bool:
        """A field that is true or false, nothing else."""
        value = self.field(name)
        if not isinstance(value, bool):
            which = " (desirable)" if name == "label" else ""
            raise self.error(f"'{name}' is {_shown(value)}, not true or false", f"write true{which} or false")
        return value

    def weight(self) -> float:
        """The optional field ``weight``: a number from 0 to 1e12; 1 where it is missing."""
        value = self.row.get("weight", 1.0)
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits or not 0 <= value <= HEAVIEST:
            what = f"'weight' is {_shown(value)}, not a number >= 0 (and at most {HEAVIEST:.0e})"
            raise self.error(what, "write a weight such as 1.0, or leave it out")
        return float(value)

    def rater(self) -> str | None:
        """The optional field ``rater``, a text or a whole number that names a person."""
        if "rater" not in self.row:
            return None
        return self._name("rater", self.row["rater"], "the rater's id")

    def traits(self, columns: Sequence[str] = ()) -> dict[str, str]:
        """Trait -> level of the row's rater: the optional field ``traits``, and the named columns."""
        value = self.row.get("traits", {})
        if not isinstance(value, dict):
            raise self.error(f"'traits' is {_shown(value)}, no object", 'write {"age": "18-34", ...}')
        found = {name: level for name, level in value.items() if level is not None}
        for name in columns:
            if name in self.row:
                if found.get(name, self.row[name]) != self.row[name]:
                    raise self.error(f"'traits' and the column '{name}' disagree", "keep one of the two")
                found[name] = self.row[name]
        return {name: self._name(name, level, "a level") for name, level in found.items()}

    def _name(self, field: str, value: Any, what: str) -> str:
        """A name or a number that is one: 3, and 3.0 where an empty row made the column one of floats."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise self.error(f"'{field}' is {_shown(value)}", f"write {what} as text or a whole number")
        return str(value).strip()

    def _chat(self, name: str, value: list[Any]) -> tuple[Message, ...]:
        turns = []
        for turn in value:
            fits = isinstance(turn, dict) and isinstance(turn.get("content"), str) and turn["content"].strip()
            if not fits or turn.get("role") not in ROLES:
                mend = 'write {"role": "user" | "assistant" | "system", "content": "..."}'
                raise self.error(f"a turn of '{name}' is malformed or empty", mend)
            turns.append(Message(turn["role"], turn["content"]))
        return tuple(turns)


def _shown(value: Any) -> str:
    try:
        shown = json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, TypeError, ValueError):
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
