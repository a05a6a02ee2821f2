"""YAML as nodes that know their line, so that a mistake in a codebook is named where it stands.

Scalars stay the text that was written: an answer ``No`` is no truth value here, and a code ``01``
is no number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from valuealign.errors import CodebookError, nearest
from valuealign.surveys.codebook import plain_number

# The parser in C is many times faster, where PyYAML was built with it; the lines are the same.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Node:
    """One YAML value of the file ``path``."""

    path: Path
    raw: yaml.Node

    @property
    def where(self) -> str:
        """``file, line n``."""
        return f"{self.path}, line {self.raw.start_mark.line + 1}"

    def fail(self, what: str, mend: str) -> CodebookError:
        """The error to raise about this value."""
        return CodebookError(what, where=self.where, mend=mend)

    @property
    def empty(self) -> bool:
        """Whether nothing is written (``key:`` alone, or ``~``)."""
        return isinstance(self.raw, yaml.ScalarNode) and self.raw.tag.endswith(":null")

    @property
    def is_text(self) -> bool:
        return isinstance(self.raw, yaml.ScalarNode) and not self.empty

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.raw, yaml.MappingNode)

    def text(self) -> str:
        """The scalar as written."""
        if not self.is_text or not str(self.raw.value).strip():
            raise self.fail("a text is wanted here", "write a single value")
        return str(self.raw.value).strip()

    def number(self) -> float:
        """The scalar as a finite number."""
        number = plain_number(self.text())
        if number is None:
            raise self.fail(f"'{self.text()}' is not a number", "write a number")
        return number

    def flag(self) -> bool:
        answers = {"true": True, "yes": True, "false": False, "no": False}
        word = self.text().lower()
        if word not in answers:
            raise self.fail(f"'{word}' is neither true nor false", "write true or false")
        return answers[word]

    def entries(self) -> Iterator[Node]:
        """The values of a list; a single value is a list of one."""
        if isinstance(self.raw, yaml.SequenceNode):
            for child in self.raw.value:
                yield Node(self.path, child)
        elif not self.empty:
            yield self

    def pairs(self) -> list[tuple[str, Node]]:
        """The keys and values of a mapping, in order; a key that is empty, no text or stands twice is refused."""
        if self.empty:
            return []
        if not isinstance(self.raw, yaml.MappingNode):
            raise self.fail("'key: value' lines are wanted here", "indent them below the name")
        found: dict[str, Node] = {}
        for key, value in self.raw.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Node(self.path, key).fail(
                    "a list or a mapping stands as a name", "write a single word before ':'"
                )
            name = str(key.value).strip()
            if not name:
                raise Node(self.path, key).fail("a name is empty", "write a name before ':'")
            if name in found:
                raise Node(self.path, key).fail(f"'{name}' stands here a second time", "keep one of them")
            found[name] = Node(self.path, value)
        return list(found.items())

    def fields(self, known: Iterable[str], required: Iterable[str] = ()) -> dict[str, Node]:
        """The pairs of a mapping whose keys are all known; the required ones are there."""
        known = list(known)
        pairs = self.pairs()
        for name, _ in pairs:
            if name not in known:
                key = next(key for key, _ in self.raw.value if str(key.value).strip() == name)
                raise Node(self.path, key).fail(f"unknown key '{name}'", nearest(name, known))
        found = {name: value for name, value in pairs if not value.empty}
        for name in required:
            if name not in found:
                raise self.fail(f"'{name}' is missing", f"add a line '{name}: ...'")
        return found


def read(path: Path, what: str = "the codebook", mend: str = "add items; docs/surveys.md shows how") -> Node:
    """The root of a YAML file, which is ``what``. Raises CodebookError where it cannot be read."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=LOADER)
    except OSError as error:
        raise CodebookError(
            f"cannot read {what} ({error.strerror})", where=str(path), mend="name an existing YAML file"
        ) from None
    except UnicodeDecodeError:
        raise CodebookError(f"{what} is not UTF-8 text", where=str(path), mend="save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "a strange character"
        raise CodebookError(
            f"not valid YAML: {problem}",
            where=f"{path}{line}",
            mend="check the indentation; put a text that holds ':' or '?' in quotes",
        ) from None
    if root is None:
        raise CodebookError(f"{what} is empty", where=str(path), mend=mend)
    return Node(path, root)
