"""Which values a text speaks for, by a list of words: crude, free of any model, the same tomorrow.

Shape letters: ``T`` texts, ``V`` values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from valuealign.errors import nearest
from valuealign.evaluate.probes.file import as_config_error, theory_of
from valuealign.surveys._yaml import Node, read

BUILT_IN = Path(__file__).with_name("value_words.yaml")


@dataclass(frozen=True)
class ValueWords:
    """What each value means, and the pattern of its words."""

    means: Mapping[str, str]
    patterns: Mapping[str, re.Pattern[str]]

    @property
    def values(self) -> tuple[str, ...]:
        """The values in the file's order."""
        return tuple(self.means)

    def expressed(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Whether a text has a word of a value [T, V]. "Not safe" counts as safe: negation is not seen."""
        found = [[bool(pattern.search(text)) for pattern in self.patterns.values()] for text in texts]
        return np.array(found, dtype=bool).reshape(len(texts), len(self.patterns))


@cache
def read_value_words(file: Path | None = None) -> ValueWords:
    """The words of a file (None: the built-in ones).

    Raises ConfigError naming file and line: for what is no YAML of this form, an unknown key or value, and a
    word that stands under two values.
    """
    with as_config_error():
        root = read(file or BUILT_IN, "the file of value words", "add values; docs/probes.md shows the form")
        given = root.fields(("theory", "values"), ("values",))
        theory = theory_of(given.get("theory"))
        means, patterns, seen = {}, {}, dict[str, str]()
        for value, node in given["values"].pairs():
            if value not in (*theory.values, *theory.higher):
                mend = nearest(value, (*theory.values, *theory.higher))
                raise node.fail(f"{theory.title} have no '{value}'", mend)
            entry = node.fields(("means", "words"), ("means", "words"))
            words = [_word(one, value, seen) for one in entry["words"].entries()]
            means[value] = entry["means"].text()
            patterns[value] = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)
        return ValueWords(means, patterns)


def _word(node: Node, value: str, seen: dict[str, str]) -> str:
    """A word as a pattern."""
    word = " ".join(node.text().lower().split())
    if word in seen:
        raise node.fail(f"'{word}' stands under '{seen[word]}' too", "keep it where it says most")
    if not re.match(r"\w", word):
        raise node.fail(f"'{word}' is no word", "begin it with a letter")
    seen[word] = value
    stem = r"\s+".join(re.escape(part) for part in word.removesuffix("*").split())
    return stem + (r"\w*" if word.endswith("*") else "")


def kappa(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """Cohen's (1960) kappa of two yes-or-no judgements [T]; NaN where both always say the same one thing."""
    agree = float(np.mean(ours == theirs))
    by_chance = float(np.mean(ours) * np.mean(theirs) + np.mean(~ours) * np.mean(~theirs))
    return (agree - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")
