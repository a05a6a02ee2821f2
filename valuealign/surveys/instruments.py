"""Published questionnaires whose items are known beforehand: only a file's own facts are to be told.

The reader brings the codebook as nested dicts in the shape of the YAML (docs/surveys.md). The user's
YAML, where there is one, is laid over it: its keys win, mappings (``items``, ``scales``, one item)
are merged key by key. So a file of three lines names the person and the weight, and wordings,
which are copyrighted, stay with the user.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, SurveyError, nearest
from valuealign.surveys import _yaml, files
from valuealign.surveys._yaml import Node
from valuealign.surveys.codebook import Codebook
from valuealign.surveys.codebook_yaml import codebook_of

TEXT = "tag:yaml.org,2002:str"
# Stands for the user's YAML in messages where there is none yet.
NO_FILE = Path("survey.codebook")


def data_file(config: SurveyConfig) -> Path:
    """``config.file``. Raises SurveyError where it is not named."""
    if config.file is None:
        raise SurveyError(f"reader {config.reader} needs survey.file", where="survey.file", mend="name the data file")
    return config.file


def laid_over(base: Mapping[str, Any], path: Path | None) -> Codebook:
    """The codebook of ``base`` with the YAML of ``path`` laid over it.

    An item's ``text`` replaces the base's ``label``; ``ITEM: words`` is short for its text. The
    codebook's ``own`` are what the YAML adds and that of which it names the column: those must be in
    the file. Raises CodebookError naming the line of ``path`` (line 1 for what the base says).
    """
    if path is None:
        return codebook_of(Node(NO_FILE, _plain(base, yaml.Mark(str(NO_FILE), 0, 0, 0, None, 0))))
    over = _yaml.read(path)
    over.pairs()  # refuses what is no mapping
    book = codebook_of(Node(path, _merged(Node(path, _plain(base, over.raw.start_mark)), over, ())))
    return replace(book, own=frozenset(_own(base, over)))


def _own(base: Mapping[str, Any], over: Node) -> Iterator[str]:
    """The items and traits that only the user's YAML knows, or whose columns it names."""
    given = dict(over.pairs())
    if "duration" in given:
        yield "duration"
    for kind in ("items", "traits"):
        for name, node in given[kind].pairs() if kind in given else ():
            said = dict(node.pairs()) if node.is_mapping else {}
            levels = said["levels"].pairs() if "levels" in said and said["levels"].is_mapping else ()
            placed = [node, *(level for _, level in levels)]
            if name not in base.get(kind, ()) or any(n.is_mapping and "column" in dict(n.pairs()) for n in placed):
                yield name


def _plain(value: Any, mark: yaml.Mark) -> yaml.Node:
    """Dicts, lists and scalars as YAML nodes that stand at ``mark``."""
    if isinstance(value, Mapping):
        pairs = [(_plain(key, mark), _plain(inner, mark)) for key, inner in value.items()]
        return yaml.MappingNode("tag:yaml.org,2002:map", pairs, mark, mark)
    if isinstance(value, (list, tuple)):
        return yaml.SequenceNode("tag:yaml.org,2002:seq", [_plain(inner, mark) for inner in value], mark, mark)
    return yaml.ScalarNode(TEXT, str(value), mark, mark)


def _merged(base: Node, over: Node, place: tuple[str, ...]) -> yaml.Node:
    """``over`` laid over ``base``; ``place`` holds the keys that lead there."""
    in_items = len(place) == 2 and place[0] == "items"
    if in_items and over.is_text:
        over = Node(over.path, _pairs([(yaml.ScalarNode(TEXT, "text", over.raw.start_mark), over.raw)], over))
    if not (base.is_mapping and over.is_mapping):
        return base.raw if over.empty else over.raw
    known, given = dict(base.pairs()), dict(over.pairs())
    if in_items and "text" in given:
        known.pop("label", None)
    if place == ("items",):
        for name, node in given.items():
            if name not in known and node.is_text:
                raise node.fail(f"'{name}' is no item of this questionnaire", nearest(name, known))
    # The user's own key nodes are kept: they know their line.
    keys = {str(key.value).strip(): key for node in (base, over) for key, _ in node.raw.value}
    pairs = []
    for name in [*known, *(name for name in given if name not in known)]:
        both = name in known and name in given
        value = _merged(known[name], given[name], (*place, name)) if both else {**known, **given}[name].raw
        pairs.append((keys[name], value))
    return _pairs(pairs, over)


def _pairs(pairs: list[tuple[yaml.Node, yaml.Node]], like: Node) -> yaml.MappingNode:
    return yaml.MappingNode("tag:yaml.org,2002:map", pairs, like.raw.start_mark, like.raw.end_mark)


def placed(book: Codebook, path: Path, lists: Sequence[Mapping[int, str]], stems: Sequence[Sequence[str]]) -> Codebook:
    """The codebook with the columns of its items in the file's own spelling.

    ``lists[l][number]`` is the item of that number; its column bears the item's name (``svs1``,
    ``SVS_1``) or one of the beginnings ``stems[l]`` (patterns, case aside) and the number
    (``svs01``). An item whose ``column`` the user has named is left alone. A list of which the file
    has no column at all is left out, but not every list.

    Raises AnswerError where a list is incomplete or a column ambiguous.
    """
    names = files.layout(path, separator=book.separator).names
    columns, absent = dict(book.columns), set[str]()
    for items, spelt in zip(lists, stems, strict=True):
        wanted = {number: name for number, name in items.items() if book.columns[name].name == name}
        found = {number: sorted(rivals) for number, rivals in _candidates(names, wanted, spelt).items() if rivals}
        lacking = [name for number, name in wanted.items() if number not in found]
        if lacking and (len(lacking) < len(items) or len(lists) == 1):
            raise _incomplete(lacking, len(items), path)
        absent |= set(lacking)
        for number, rivals in found.items():
            columns[wanted[number]] = replace(columns[wanted[number]], name=_only(rivals, wanted[number], path))
    if len(absent) == sum(map(len, lists)):
        raise _incomplete([name for items in lists for name in items.values()], len(absent), path)
    book = replace(book, columns=columns)
    return book.among((item for item in book.items if item.id not in absent), book.traits)


def bare(name: str) -> str:
    """A name by its letters and digits alone: equal for ``a-world-at-peace`` and ``A_World_at_Peace``."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _candidates(names: Collection[str], wanted: Mapping[int, str], stems: Sequence[str]) -> dict[int, set[str]]:
    """Number -> the columns that could hold that item.

    Of several stems those count that find every item, or else the one that finds most: ``pvq40_1``
    to ``pvq40_40`` are one row of columns, and ``pvq40`` beside them is something else.
    """
    rows = [numbered(names, wanted, stem) for stem in stems]
    chosen = [row for row in rows if len(row) == len(wanted)] or [max(rows, key=len)]
    return {
        number: {spelt for spelt in names if bare(spelt) == bare(item)}.union(*(row.get(number, ()) for row in chosen))
        for number, item in wanted.items()
    }


def numbered(names: Collection[str], wanted: Container[int], stem: str) -> dict[int, set[str]]:
    """Number -> the columns called ``stem`` (a pattern) and one of the ``wanted`` numbers."""
    found: dict[int, set[str]] = {}
    for name in names:
        match = re.fullmatch(rf"(?:{stem})[\s_.-]*(?:item|q)?[\s_.-]*0*(\d{{1,3}})", name.strip(), re.IGNORECASE)
        if match and int(match[1]) in wanted:
            found.setdefault(int(match[1]), set()).add(name)
    return found


def _only(rivals: Sequence[str], item: str, path: Path) -> str:
    if len(rivals) > 1:
        raise AnswerError(
            f"the columns {' and '.join(repr(name) for name in rivals)} both look like '{item}'",
            where=str(path),
            mend=f"rename one, or say 'items: {{{item}: {{column: ...}}}}' in survey.codebook",
        )
    return rivals[0]


def _incomplete(lacking: Sequence[str], count: int, path: Path) -> AnswerError:
    if len(lacking) == count:
        what = f"no column looks like an item of this questionnaire ({', '.join(lacking[:3])}, ...)"
    else:
        what = f"of {count} items {len(lacking)} have no column: {', '.join(lacking)}"
    mend = f"name the columns so, or say 'items: {{{lacking[0]}: {{column: ...}}}}' in survey.codebook"
    return AnswerError(what, where=str(path), mend=mend)
