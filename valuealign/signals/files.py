"""Feedback from files: marked answers and preference pairs, told apart by their fields, become cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from valuealign.errors import SignalError, nearest
from valuealign.signals._files import read_lines
from valuealign.signals._forms import Kind, form_of, mark_of, pair_of
from valuealign.signals._lines import Line
from valuealign.signals.binary import Mark, collapse
from valuealign.signals.pairs import Pair, pair_cells
from valuealign.signals.raters import Panel, Votes, rake_raters
from valuealign.types import Cell, Message

WORDS = {"binary": "marked answers", "pairs": "pairs"}


class Voice(NamedTuple):
    """What a row weighs, and whose it is."""

    weight: float
    rater: str | None


class Feedback(NamedTuple):
    """Cells of a file, and what one should know of it, a line each."""

    cells: list[Cell]
    facts: dict[str, str]


def read_flagged(path: Path | str, flag: str) -> list[tuple[tuple[Message, ...], bool]]:
    """The prompts of a file (JSON lines, a JSON array, Parquet or CSV), each with its ``flag``: true or false.

    A field ``prompt`` holds a text or a chat. Raises SignalError naming file and line.
    """
    return [(line.prompt(), line.label(flag)) for line in read_lines(path)]


def read_feedback(
    path: Path | str,
    *,
    kind: Kind | None = None,
    traits: Sequence[str] = (),
    margins: Path | None = None,
    trim: float | None = 5.0,
) -> Feedback:
    """The cells of a file of marked answers (``collapse``) or pairs (``pair_cells``).

    JSON lines, a JSON array, Parquet or CSV; docs/feedback-files.md has the forms. With ``margins``
    (CSV trait,level,share) the raters are raked to the population, none above ``trim`` times the
    mean, and a row weighs its own ``weight`` times its rater's.

    Args:
        path: the file.
        kind: ``binary`` or ``pairs`` where it must be one of them; None: the fields tell.
        traits: columns that hold traits of the rater, beside the field ``traits``.
        margins: the population's shares of those traits.
        trim: the largest weight of a rater over the mean; None: no trimming.

    Raises SignalError naming file and line, and WeightingError for margins that the raters cannot meet.
    """
    path = Path(path)
    lines = read_lines(path)
    form = form_of(lines, path, kind)
    for name in traits:
        if name not in form.fields:
            what = f"no row has the column '{name}', named as a trait of the raters"
            raise SignalError(what, where=str(path), mend=nearest(name, form.fields))
    panel = rake_raters(lines, Path(margins), traits=traits, trim=trim) if margins else Panel({}, {})
    voices = [_voice(line, panel) for line in lines]
    source = f"{form.kind}:{path.name}"  # no path: it would differ from machine to machine
    said = list(zip(lines, voices, strict=True))
    if form.kind == "pairs":
        cells = pair_cells([Pair(*pair_of(line, form), *voice) for line, voice in said], source=source)
    else:
        cells = collapse([Mark(*mark_of(line, form), *voice) for line, voice in said], source=source)
    facts = _facts(form.kind, cells, voices) | panel.notes
    if unused := form.unused(traits):
        facts["feedback fields not used"] = ", ".join(name or "(no name)" for name in unused)
    return Feedback(cells, facts)


def _voice(line: Line, panel: Panel) -> Voice:
    """A row's weight, its rater's included, and the rater."""
    rater = line.rater()
    return Voice(line.weight() * (1.0 if rater is None else panel.factor.get(rater, 1.0)), rater)


def _facts(kind: Kind, cells: Sequence[Cell], voices: Sequence[Voice]) -> dict[str, str]:
    heard = Votes()
    for voice in voices:
        heard.add(voice.rater, voice.weight)
    named = len({voice.rater for voice in voices if voice.rater is not None})
    nameless = sum(voice.rater is None for voice in voices)
    who = f"{named:,}" if named else "not named"
    apart = f"{f'; {nameless:,} rows without one' if named else ''}, each row by itself" if nameless else ""
    n_d, n_u = sum(sum(c.desirable) for c in cells), sum(sum(c.undesirable) for c in cells)
    worth = heard.kish()
    return {
        "feedback": f"{len(voices):,} {WORDS[kind]} to {len({c.prompt for c in cells}):,} prompts; "
        f"weighted n_d {n_d:,.6g}, n_u {n_u:,.6g}",
        "feedback raters": f"{who}{apart}; design effect {worth.design_effect:.3f}, so worth {worth.n_eff:,.1f}",
    }


def read_binary(path: Path | str) -> list[Cell]:
    """The cells of a file of marked answers: ``prompt``, ``completion``, ``label`` and, optionally, ``weight``.

    Raises SignalError naming file and line.
    """
    return read_feedback(path, kind="binary").cells


def read_pairs(path: Path | str) -> list[Cell]:
    """The cells of a file of preference pairs: ``prompt``, ``chosen``, ``rejected`` and, optionally, ``weight``.

    Raises SignalError naming file and line.
    """
    return read_feedback(path, kind="pairs").cells
