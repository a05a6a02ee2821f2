"""Which fields of a feedback file say what: marked answers or pairs, under the names that are in use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from valuealign.errors import SignalError
from valuealign.signals._lines import Line
from valuealign.types import Message

Kind = Literal["binary", "pairs"]
Prompt = tuple[Message, ...]

NEEDED = (
    "marked answers need prompt (or messages), completion (or response) and label, or messages that end with the "
    "answer and label; pairs need prompt (or messages), chosen and rejected, or chosen and rejected as whole chats"
)
# What any row may have besides.
OPTIONAL = ("weight", "rater", "traits")


class Form(NamedTuple):
    """The fields of a file by their part: ``prompt`` is None where whole chats bring it."""

    kind: Kind
    prompt: str | None
    answers: tuple[str, ...]
    fields: tuple[str, ...]

    def unused(self, traits: Sequence[str]) -> tuple[str, ...]:
        """The fields of the file that say nothing here, in order."""
        used = {self.prompt, *self.answers, *OPTIONAL, *traits, *(("label",) if self.kind == "binary" else ())}
        return tuple(name for name in self.fields if name not in used)


def form_of(lines: Sequence[Line], path: Path, kind: Kind | None = None) -> Form:
    """The form of a file, by the fields that any of its rows fills; ``kind`` says which of the two is expected.

    Raises SignalError, with what was found and what is needed, for a file of neither form, of both,
    or with two names for one thing.
    """
    fields = tuple(dict.fromkeys(name for line in lines for name in line.row))
    found = set(fields)
    pairs = {"chosen", "rejected"} <= found
    binary = "label" in found and bool(found & {"completion", "response", "messages"})
    listed = ", ".join(name or "(no name)" for name in fields) or "none"
    if kind is None and pairs == binary:
        what = f"the file has the fields {listed}: {'both marked answers and pairs' if pairs else 'neither form'}"
        raise SignalError(what, where=str(path), mend="keep the fields of one form" if pairs else NEEDED)
    if (kind or ("pairs" if pairs else "binary")) == "pairs":
        # Sets of pairs often keep the chosen chat as `messages` beside the prompt.
        prompt = next((name for name in ("prompt", "messages") if name in found), None)
        return Form("pairs", prompt, ("chosen", "rejected"), fields)
    for one, other in (("prompt", "messages"), ("completion", "response")):
        if {one, other} <= found:
            what, mend = f"the file has both '{one}' and '{other}'", "keep one of the two columns"
            raise SignalError(what, where=str(path), mend=mend)
    answer = next((name for name in ("completion", "response") if name in found), None)
    if answer is None and "messages" in found:
        return Form("binary", None, ("messages",), fields)
    return Form("binary", "messages" if "messages" in found else "prompt", (answer or "completion",), fields)


def mark_of(line: Line, form: Form) -> tuple[Prompt, str, bool]:
    """Prompt, answer and label of a row. Raises SignalError naming the line."""
    (name,) = form.answers
    if form.prompt is not None:
        return line.prompt(form.prompt), line.text(name), line.label()
    before, answer = line.answer(name)
    return line.asks(name, before), answer, line.label()


def pair_of(line: Line, form: Form) -> tuple[Prompt, str, str]:
    """Prompt, chosen and rejected answer of a row. Raises SignalError naming the line."""
    (before, chosen), (other, rejected) = (line.answer(name, transcripts=form.prompt is None) for name in form.answers)
    if chosen == rejected:
        raise line.error("'chosen' and 'rejected' are the same text", "leave the line out: it prefers nothing")
    if form.prompt is None:
        if before != other:
            what = "'chosen' and 'rejected' part before their last turn"
            raise line.error(what, "they must be one chat up to the answer; leave the line out")
        if not before:
            raise line.error("there is no 'prompt', and 'chosen' is an answer alone", "add the prompt, or whole chats")
        return line.asks("chosen", before), chosen, rejected
    prompt = line.prompt(form.prompt)
    for name, turns in (("chosen", before), ("rejected", other)):
        if turns and turns != prompt:
            what = f"the turns of '{name}' before its answer are not '{form.prompt}'"
            raise line.error(what, "let them be the same, or keep the answer alone")
    return prompt, chosen, rejected
