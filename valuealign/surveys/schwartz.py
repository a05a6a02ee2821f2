"""Schwartz's questionnaires: the Value Survey (SVS, 57 items), the PVQ-40 and the PVQ-RR (57 items).

Answers are read in the original coding: SVS -1 (opposed to one's values), 0 (not important) to 7
(of supreme importance); PVQ 1 (not like me at all) to 6 (very much like me). The published keys
(``THEORIES``) say which value an item measures; the SVS has 11 items that measure none, and they
count in a person's mean rating (MRAT). Items are known by number only: their wordings are
copyrighted and come from the user's YAML.

Schwartz's instructions leave out persons who skipped many items or gave nearly all of them one
answer, with cuts that differ by questionnaire and edition. Nobody is left out here: that is for the
screens to do, in the open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError
from valuealign.surveys import files, generic
from valuealign.surveys.codebook import Codebook
from valuealign.surveys.instruments import data_file, laid_over, numbered, placed
from valuealign.surveys.table import Survey
from valuealign.values import THEORIES

IMPORTANCE = {
    "-1": "-1 (opposed to my values)",
    "0": "0 (not important)",
    **{str(code): str(code) for code in range(1, 7)},
    "7": "7 (of supreme importance)",
}
LIKENESS = {
    "1": "1 (not like me at all)",
    **{str(code): str(code) for code in range(2, 6)},
    "6": "6 (very much like me)",
}


@dataclass(frozen=True)
class Questionnaire:
    """``stem`` begins the ids of the items; ``stems`` are its spellings in files (patterns)."""

    title: str
    theory: str
    instrument: str
    stem: str
    stems: tuple[str, ...]
    scale: Mapping[str, str]
    source: str

    @property
    def items(self) -> dict[int, str]:
        """Item number -> item id."""
        count = THEORIES[self.theory].lengths[self.instrument]
        return {number: f"{self.stem}{number}" for number in range(1, count + 1)}


SVS = Questionnaire(
    "Schwartz Value Survey", "schwartz10", "SVS-57", "svs", ("svs", r"svs[\s_.-]*57"), IMPORTANCE,
    "Schwartz 1992, Advances in Experimental Social Psychology 25",
)  # fmt: skip
PVQ40 = Questionnaire(
    "Portrait Values Questionnaire, 40 items", "schwartz10", "PVQ-40", "pvq", ("pvq", r"pvq[\s_.-]*40"), LIKENESS,
    "Schwartz et al. 2001, Journal of Cross-Cultural Psychology 32(5)",
)  # fmt: skip
PVQRR = Questionnaire(
    "Portrait Values Questionnaire, refined values", "schwartz19", "PVQ-RR", "pvq",
    ("pvq", r"pvq[\s_.-]*rr?", r"pvq[\s_.-]*57"), LIKENESS,
    "Schwartz et al. 2012, JPSP 103(4); Schwartz and Cieciuch 2022, Assessment 29(5)",
)  # fmt: skip


def base(questionnaire: Questionnaire) -> dict[str, Any]:
    """The questionnaire as a codebook in the shape of its YAML: items ``svs1`` ... with label, scale and values."""
    key = THEORIES[questionnaire.theory].instruments[questionnaire.instrument]
    items = {}
    for number, name in questionnaire.items.items():
        values = [value for value, numbers in key.items() if number in numbers]
        label = f"{questionnaire.instrument} item {number}"
        items[name] = {"label": label, "scale": questionnaire.stem, "values": values}
    return {
        "name": questionnaire.instrument.lower().replace("-", ""),
        "title": questionnaire.title,
        "source": questionnaire.source,
        "scales": {questionnaire.stem: [{code: text} for code, text in questionnaire.scale.items()]},
        "items": items,
    }


def reader(questionnaire: Questionnaire) -> Callable[[SurveyConfig, int], Survey]:
    """A reader of files with that questionnaire in them, every item once (``svs1``, ``SVS_01``, ...).

    ``config.codebook`` may be a YAML with the person, the weight, traits, missing codes, wordings and
    other items; it is laid over the questionnaire's own (instruments.py). The reader raises
    SurveyError without a file, CodebookError for the YAML, and AnswerError for the data, with the
    numbers of the items that the file lacks.
    """

    def read(config: SurveyConfig, seed: int) -> Survey:
        path = data_file(config)
        book = laid_over(base(questionnaire), config.codebook)
        _check_length(questionnaire, book, path)
        book = placed(book, path, (questionnaire.items,), (questionnaire.stems,))
        # The mean rating runs over the whole questionnaire, keyed or not, and over nothing else.
        book = replace(book, centred_on=tuple(questionnaire.items.values()))
        return generic.read_survey(path, book, config, prune=True)

    return read


def _check_length(questionnaire: Questionnaire, book: Codebook, path: Path) -> None:
    """The two PVQ number their items alike and key them otherwise: how many there are tells them apart.

    Raises AnswerError where the file's numbers are those of the other one.
    """
    others = {"PVQ-40": ("pvqrr", PVQRR), "PVQ-RR": ("pvq40", PVQ40)}
    if questionnaire.instrument not in others:
        return
    reader_of, other = others[questionnaire.instrument]
    named = {book.columns[key].name for key in book.own if key in book.columns}
    columns = [name for name in files.layout(path, separator=book.separator).names if name not in named]
    mine, theirs = set(questionnaire.items), set(other.items)
    for stem in questionnaire.stems:
        found = numbered(columns, mine | theirs, stem)
        own = {number for number in mine - theirs if questionnaire.items[number] in book.own}
        if set(found) - mine or (set(found) == theirs and theirs < mine and not own):
            last = min(found[max(found)])
            raise AnswerError(
                f"the items run to '{last}': the file holds the {other.instrument}, not the {questionnaire.instrument}",
                where=str(path),
                mend=f"set survey.reader={reader_of}; or, if those columns are something else, rename them",
            )


svs = reader(SVS)
pvq40 = reader(PVQ40)
pvqrr = reader(PVQRR)
