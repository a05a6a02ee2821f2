"""What each column and code of a survey file means, read from a YAML file (docs/surveys.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from valuealign.errors import nearest
from valuealign.surveys import _yaml
from valuealign.surveys._yaml import Node
from valuealign.types import Item, Option

BOOK_KEYS = (
    "name",
    "title",
    "licence",
    "source",
    "person",
    "weight",
    "separator",
    "missing",
    "scales",
    "items",
    "traits",
)
ITEM_KEYS = ("text", "column", "scale", "options", "ordinal", "reversed", "missing", "values", "family")
OPTION_KEYS = ("code", "text", "position")
TRAIT_KEYS = ("text", "column", "as", "levels", "bands", "missing")
LEVEL_KEYS = ("codes", "from", "to", "text", "as")
SLOTS = ("noun", "before", "after")
RESERVED = ("person", "weight")


@dataclass(frozen=True)
class Trait:
    """A demographic fact.

    ``phrases[level]`` is how a prompt names the level and ``slots[level]`` where the phrase goes:
    ``noun`` ("woman"), ``before`` the noun ("retired") or ``after`` it ("aged 18 to 34").
    """

    id: str
    text: str
    levels: tuple[str, ...]
    phrases: Mapping[str, str]
    slots: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """Where an item or a trait stands in the file and how its raw values are read.

    ``codes`` maps raw text to an option's index or a level; ``bands`` (traits only) holds numeric
    (level, lowest, highest) with whole-number bounds, both inclusive, infinite where open.
    """

    name: str
    codes: Mapping[str, int | str]
    missing: frozenset[str]
    bands: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Codebook:
    """A survey's items and traits, in the order of the codebook.

    ``columns[id]`` says how the column of an item or a trait is read; ``where`` is the codebook's
    file; ``separator`` parts the values of a line of the data.
    """

    name: str
    title: str
    items: tuple[Item, ...]
    traits: tuple[Trait, ...]
    person: str | None = None
    weight: str | None = None
    licence: str = ""
    source: str = ""
    separator: str = ","
    where: str = ""
    columns: Mapping[str, Column] = field(default_factory=dict, repr=False)

    def item(self, item_id: str) -> Item:
        """The item of that id (KeyError where there is none)."""
        return {item.id: item for item in self.items}[item_id]

    def phrase(self, traits: Sequence[tuple[str, str]]) -> str:
        """The (trait id, level) pairs in natural language, such as ``a woman aged 18 to 34``; empty for none.

        Phrases go around the noun in the codebook's order of traits: before it, the noun itself
        (``person`` or ``someone`` where no trait brings one), after it.
        """
        wanted = dict(traits)
        parts: dict[str, list[str]] = {slot: [] for slot in SLOTS}
        for trait in self.traits:
            if trait.id in wanted:
                level = wanted[trait.id]
                parts[trait.slots.get(level, "after")].append(trait.phrases[level])
        if not any(parts.values()):
            return ""
        nouns = " and ".join(parts["noun"]) or ("person" if parts["before"] else "")
        named = " ".join([*parts["before"], nouns]).strip()
        head = f"{_article(named)} {named}" if named else "someone"
        return " ".join([head, *parts["after"]])


def read_codebook(path: Path | str) -> Codebook:
    """Read a codebook. Raises CodebookError with file, line and the mend (a misspelt key: the nearest one)."""
    root = _yaml.read(Path(path))
    book = root.fields(BOOK_KEYS, required=("items",))
    missing = _texts(book.get("missing"))
    scales = {name: _options(node) for name, node in book["scales"].pairs()} if "scales" in book else {}
    items, traits = [], []
    columns: dict[str, Column] = {}
    for name, node in book["items"].pairs():
        _check_id(name, node, columns)
        item, columns[name] = _item(name, node, scales, missing)
        items.append(item)
    for name, node in book["traits"].pairs() if "traits" in book else []:
        _check_id(name, node, columns)
        trait, columns[name] = _trait(name, node, missing)
        traits.append(trait)
    if not items:
        raise book["items"].fail("no items", "add a line 'ITEM: {text: ..., scale: ...}' for each question")
    words = {key: book[key].text() if key in book else "" for key in ("name", "title", "licence", "source")}
    name = words["name"] or Path(path).stem
    separator = str(book["separator"].raw.value) if "separator" in book else ","
    if len(separator) != 1:
        raise book["separator"].fail("a separator is one character", "write ',' or ';' or \"\\t\"")
    return Codebook(
        name=name,
        title=words["title"] or name,
        items=tuple(items),
        traits=tuple(traits),
        person=book["person"].text() if "person" in book else None,
        weight=book["weight"].text() if "weight" in book else None,
        licence=words["licence"],
        source=words["source"],
        separator=separator,
        where=str(path),
        columns=columns,
    )


def _article(words: str) -> str:
    return "an" if words[0].lower() in "aeiou" else "a"


def _texts(node: Node | None) -> frozenset[str]:
    return frozenset(plain_code(entry.text()) for entry in node.entries()) if node else frozenset()


def plain_code(raw: str) -> str:
    """A code as it is compared: without outer blanks and without the ``.0`` that spreadsheets add."""
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", raw.strip())


def _check_id(name: str, node: Node, columns: Mapping[str, Column]) -> None:
    if name in columns or name in RESERVED:
        taken = "taken by an item" if name in columns else "a column that the project itself adds"
        raise node.fail(f"the name '{name}' is {taken}", "give it another name and say 'column:'")


@dataclass(frozen=True)
class _Options:
    """Options with the raw code of each, in order."""

    codes: tuple[str, ...]
    texts: tuple[str, ...]
    positions: tuple[float | None, ...]


def _options(node: Node) -> _Options:
    codes, texts, positions = [], [], []
    for entry in node.entries():
        pairs = entry.pairs()
        if len(pairs) == 1 and pairs[0][0] not in OPTION_KEYS:
            code, text, position = pairs[0][0], pairs[0][1].text(), None
        else:
            found = entry.fields(OPTION_KEYS, required=("code", "text"))
            code, text = found["code"].text(), found["text"].text()
            position = found["position"].number() if "position" in found else None
        if plain_code(code) in codes:
            raise entry.fail(f"the code {code} stands twice", "give every option its own code")
        if text in texts:
            raise entry.fail(
                f"two options read '{text}'", "word every option differently: a prompt shows only the words"
            )
        codes.append(plain_code(code))
        texts.append(text)
        positions.append(position)
    if len(codes) < 2:
        raise node.fail("a question needs at least two options", "list them in order: '- 1: Very important'")
    if len({position is None for position in positions}) > 1:
        raise node.fail("some options have a position and some have none", "give all of them one, or none")
    placed = [position for position in positions if position is not None]
    steps = {(later > earlier) - (later < earlier) for earlier, later in zip(placed, placed[1:], strict=False)}
    if placed and steps not in ({1}, {-1}):
        raise node.fail("positions neither rise nor fall all along", "list the options in the order of their positions")
    return _Options(tuple(codes), tuple(texts), tuple(positions))


def _item(name: str, node: Node, scales: Mapping[str, _Options], missing: frozenset[str]) -> tuple[Item, Column]:
    found = node.fields(ITEM_KEYS, required=("text",))
    if ("scale" in found) == ("options" in found):
        raise node.fail(f"'{name}' needs either 'scale' or 'options'", "name one of the scales, or list the options")
    if "options" in found:
        options = _options(found["options"])
    elif found["scale"].text() in scales:
        options = scales[found["scale"].text()]
    else:
        scale = found["scale"].text()
        raise found["scale"].fail(
            f"no scale is called '{scale}'", nearest(scale, scales) if scales else "add it below 'scales:'"
        )
    ordinal = found["ordinal"].flag() if "ordinal" in found else True
    away = missing | _texts(found.get("missing"))
    clash = sorted(away & set(options.codes))
    if clash:
        raise node.fail(
            f"the code {clash[0]} of '{name}' is both an option and missing", "take it out of one of the two"
        )
    return (
        Item(
            id=name,
            text=found["text"].text(),
            options=tuple(_option(options, place, ordinal) for place in range(len(options.codes))),
            ordinal=ordinal,
            values=tuple(entry.text() for entry in found["values"].entries()) if "values" in found else (),
            key=-1 if "reversed" in found and found["reversed"].flag() else 1,
            family=found["family"].text() if "family" in found else "",
        ),
        Column(
            found["column"].text() if "column" in found else name,
            {code: place for place, code in enumerate(options.codes)},
            away,
        ),
    )


def _option(options: _Options, place: int, ordinal: bool) -> Option:
    # A code in words ("Yes") gets its place on the list as its number.
    code = int(options.codes[place]) if re.fullmatch(r"[+-]?\d+", options.codes[place]) else place + 1
    position = options.positions[place]
    return Option(code, options.texts[place], (float(place) if position is None else position) if ordinal else None)


def _trait(name: str, node: Node, missing: frozenset[str]) -> tuple[Trait, Column]:
    found = node.fields(TRAIT_KEYS)
    if ("levels" in found) == ("bands" in found):
        raise node.fail(f"'{name}' needs either 'levels' or 'bands'", "list the levels, or the bands of a number")
    banded = "bands" in found
    text = found["text"].text() if "text" in found else name.replace("_", " ")
    slot = _slot(found["as"]) if "as" in found else "after"
    phrases, slots = {}, {}
    codes: dict[str, int | str] = {}
    bands: list[tuple[str, float, float]] = []
    listed = found["bands" if banded else "levels"]
    for level, entry in _levels(listed):
        given = entry.fields(LEVEL_KEYS) if entry.is_mapping else {}
        # A plain list names levels only; a mapping says how a prompt names each.
        phrase = given.get("text", entry if listed.is_mapping and entry.is_text else None)
        wording = phrase.text() if phrase else ""
        phrases[level] = wording or f"whose {text} is {level}"
        slots[level] = (_slot(given["as"]) if "as" in given else slot) if wording else "after"
        if banded:
            bands.append(_band(level, entry, given))
        else:
            for code in sorted(_texts(given.get("codes"))) or [plain_code(level)]:
                if code in codes:
                    raise entry.fail(
                        f"the code {code} belongs to both '{codes[code]}' and '{level}'", "give it to one level"
                    )
                codes[code] = level
    trait = Trait(name, text, tuple(phrases), phrases, slots)
    column = found["column"].text() if "column" in found else name
    return trait, Column(column, codes, missing | _texts(found.get("missing")), tuple(bands))


def _levels(node: Node) -> list[tuple[str, Node]]:
    """Levels as a mapping (level: phrase) or as a plain list of names."""
    if node.is_mapping:
        found = node.pairs()
    else:
        found = [(entry.text(), entry) for entry in node.entries()]
    if len({level for level, _ in found}) < max(2, len(found)):
        raise node.fail("a trait needs at least two levels, each named once", "list them: 'Female: woman'")
    return found


def _slot(node: Node) -> str:
    if node.text() not in SLOTS:
        raise node.fail(f"'{node.text()}' is no place in a phrase", nearest(node.text(), SLOTS))
    return node.text()


def _band(level: str, entry: Node, given: Mapping[str, Node]) -> tuple[str, float, float]:
    """The inclusive bounds of ``18-34`` or ``65+``, or of ``from:`` and ``to:``."""
    if "codes" in given:
        raise given["codes"].fail("a band has no codes", "write from: and to:, or use levels: instead of bands:")
    if "from" in given or "to" in given:
        low = given["from"].number() if "from" in given else float("-inf")
        return level, low, given["to"].number() if "to" in given else float("inf")
    if match := re.fullmatch(r"(\d+)\s*[-–]\s*(\d+)", level):
        return level, float(match[1]), float(match[2])
    if match := re.fullmatch(r"(\d+)\s*\+", level):
        return level, float(match[1]), float("inf")
    raise entry.fail(
        f"the bounds of the band '{level}' are not clear", "name it such as 18-34 or 65+, or add from: and to:"
    )
