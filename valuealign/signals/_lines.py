"""JSON lines with errors that name the line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from valuealign.errors import SignalError, nearest
from valuealign.types import Message

ROLES = ("system", "user", "assistant")


class Line:
    """One row of a file: its fields, and where it stands."""

    def __init__(self, row: dict[str, Any], where: str) -> None:
        self.row, self.where = row, where

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
        value = self.field(name)
        if isinstance(value, list):
            turns = self._chat(name, value)
            if len(turns) != 1 or turns[0].role != "assistant":
                raise self.error(f"'{name}' must be one assistant turn", "move the turns before it to 'prompt'")
            return turns[0].content
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"'{name}' must be text and not empty", "write the answer, or leave the line out")
        return value

    def prompt(self) -> tuple[Message, ...]:
        """The field ``prompt``: a string (one user turn) or a chat that does not end with the assistant."""
        value = self.field("prompt")
        if isinstance(value, list):
            turns = self._chat("prompt", value)
            if not turns or turns[-1].role == "assistant":
                raise self.error(
                    "'prompt' must end with the user's turn", "move the assistant's last turn to 'completion'"
                )
            return turns
        if not isinstance(value, str) or not value.strip():
            raise self.error("'prompt' must be text or a chat, and not empty", "write what the user asked")
        return (Message("user", value),)

    def label(self, name: str = "label") -> bool:
        """A field that is true or false, nothing else."""
        value = self.field(name)
        if not isinstance(value, bool):
            raise self.error(f"'{name}' is {json.dumps(value)}, not true or false", "write true (desirable) or false")
        return value

    def weight(self) -> float:
        """The optional field ``weight``: a finite number >= 0; 1 where it is missing."""
        value = self.row.get("weight", 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise self.error(
                f"'weight' is {json.dumps(value)}, not a number >= 0", "write a weight such as 1.0, or leave it out"
            )
        return float(value)

    def _chat(self, name: str, value: list[Any]) -> tuple[Message, ...]:
        turns = []
        for turn in value:
            fits = isinstance(turn, dict) and isinstance(turn.get("content"), str) and turn["content"].strip()
            if not fits or turn.get("role") not in ROLES:
                mend = 'write {"role": "user" | "assistant" | "system", "content": "..."}'
                raise self.error(f"a turn of '{name}' is malformed or empty", mend)
            turns.append(Message(turn["role"], turn["content"]))
        return tuple(turns)


def read_lines(path: Path | str) -> Iterator[Line]:
    """The rows of a JSON lines file; blank lines are skipped. SignalError names file and line."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SignalError(
            f"cannot read the file ({error.strerror})", where=str(path), mend="name an existing JSON lines file"
        ) from None
    except UnicodeDecodeError:
        raise SignalError("the file is not UTF-8 text", where=str(path), mend="save it as UTF-8") from None
    rows = 0
    # Only a line feed ends a row: texts may hold other separators, which str.splitlines would cut at.
    for number, raw in enumerate(text.split("\n"), start=1):
        if raw.strip():
            rows += 1
            yield Line(_row(raw, f"{path}, line {number}"), f"{path}, line {number}")
    if rows == 0:
        raise SignalError("the file holds no rows", where=str(path), mend="write one JSON object a line")


def _row(raw: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except json.JSONDecodeError as error:
        raise SignalError(
            f"not valid JSON: {error.msg} (column {error.colno})", where=where, mend="write one JSON object a line"
        ) from None
    if not isinstance(row, dict):
        raise SignalError("the row is no JSON object", where=where, mend='write {"prompt": ..., ...}')
    return row
