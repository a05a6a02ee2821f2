"""A codebook read from a YAML file (docs/surveys.md), every mistake named with its line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from valuealign.errors import nearest
from valuealign.surveys import _yaml
from valuealign.surveys._yaml import Node
from valuealign.surveys.codebook import WAVE, Codebook, Column, Tier, Trait, plain_code, tier_of, whole_code
from valuealign.surveys.trait_yaml import codes, read_trait
from valuealign.types import Item, Option
from valuealign.values import THEORIES

BOOK_KEYS = (
    "name",
    "title",
    "licence",
    "source",
    "tier",
    "person",
    "weight",
    "weight_scale",
    "duration",
    "wave",
    "waves",
    "country",
    "separator",
    "missing",
    "outcomes",
    "scales",
    "items",
    "desirability",
    "traits",
)
ITEM_KEYS = (
    "text",
    "label",
    "column",
    "scale",
    "options",
    "ordinal",
    "reversed",
    "missing",
    "outcomes",
    "values",
    "family",
)
OPTION_KEYS = ("code", "text", "position")
# Columns that the project itself adds to the people, here or in a prepared data set.
RESERVED = (
    *("person", "weight", "wave", "duration", "design_weight", "part", "held_out_wave"),
    *("screen_longest_string", "screen_variance", "screen_speeders", "screen_duplicates"),
)


def read_codebook(path: Path | str) -> Codebook:
    """Read a codebook. Raises CodebookError with file, line and the mend (a misspelt key: the nearest one)."""
    return codebook_of(_yaml.read(Path(path)))


def codebook_of(root: Node) -> Codebook:
    """The codebook of a file's root. Raises CodebookError as ``read_codebook`` does."""
    book = root.fields(BOOK_KEYS, required=("items",))
    away = _Away.of(book)
    scales = {name: _options(node) for name, node in book["scales"].pairs()} if "scales" in book else {}
    items, traits, label_only = list[Item](), list[Trait](), list[str]()
    columns: dict[str, Column] = {}
    for name, node in book["items"].pairs():
        _check_id(name, node, columns)
        item, columns[name] = _item(name, node, scales, away)
        items.append(item)
        if "waves" in book and WAVE not in columns[name].name:
            raise node.fail(
                f"'{name}' does not say in which wave it was asked", f"name its column such as '{name}_{WAVE}'"
            )
        if "text" not in dict(node.pairs()):
            label_only.append(name)
    for name, node in book["traits"].pairs() if "traits" in book else []:
        _check_id(name, node, columns)
        trait, columns[name] = read_trait(name, node, away.in_traits)
        traits.append(trait)
    if not items:
        raise book["items"].fail("no items", "add a line 'ITEM: {text: ..., scale: ...}' for each question")
    words = {key: book[key].text() if key in book else "" for key in ("name", "title", "licence", "source")}
    if "duration" in book:
        columns["duration"] = Column(book["duration"].text(), {}, away.in_traits)
    name = words["name"] or root.path.stem
    return Codebook(
        name=name,
        title=words["title"] or name,
        items=tuple(items),
        traits=tuple(traits),
        person=book["person"].text() if "person" in book else None,
        weight=book["weight"].text() if "weight" in book else None,
        licence=words["licence"],
        source=words["source"],
        separator=_separator(book),
        where=str(root.path),
        columns=columns,
        outcomes=tuple(away.outcomes),
        country=_one_of(book["country"], [trait.id for trait in traits], "trait") if "country" in book else None,
        duration=book["duration"].text() if "duration" in book else None,
        wave=book["wave"].text() if "wave" in book else None,
        waves=_waves(book, columns),
        tier=_tier(book, words["licence"]),
        label_only=tuple(label_only),
        desirability=tuple(
            _one_of(node, [item.id for item in items], "item")
            for node in (book["desirability"].entries() if "desirability" in book else ())
        ),
        weight_scale=_weight_scale(book),
    )


def _one_of(node: Node, known: Iterable[str], kind: str) -> str:
    known = list(known)
    if node.text() not in known:
        mend = nearest(node.text(), known) if known else f"name a {kind} of this codebook"
        raise node.fail(f"no {kind} is called '{node.text()}'", mend)
    return node.text()


def _separator(book: Mapping[str, Node]) -> str:
    separator = str(book["separator"].raw.value) if "separator" in book else ","
    if len(separator) != 1:
        raise book["separator"].fail("a separator is one character", "write ',' or ';' or \"\\t\"")
    return separator


def _tier(book: Mapping[str, Node], licence: str) -> Tier:
    """What may be passed on: as written, else as the licence says."""
    if "tier" in book:
        tiers: dict[str, Tier] = {tier: tier for tier in get_args(Tier)}
        return tiers[_one_of(book["tier"], tiers, "tier")]
    return tier_of(licence)


def _weight_scale(book: Mapping[str, Node]) -> Literal["sample", "population"]:
    if "weight_scale" not in book:
        return "sample"
    word = _one_of(book["weight_scale"], ("sample", "population"), "scale of weights")
    return "population" if word == "population" else "sample"


def _waves(book: Mapping[str, Node], columns: Mapping[str, Column]) -> dict[str, str]:
    """Wave -> what stands for ``{wave}`` in column names; checks that the two go together."""
    marked = [book[key] for key in ("weight", "duration") if key in book and WAVE in book[key].text()]
    for key in ("items", "traits"):
        for name, node in book[key].pairs() if key in book else ():
            if any(WAVE in column for column in (columns[name].name, *columns[name].levels.values())):
                marked.append(node)
    if "waves" not in book:
        if marked:
            raise marked[0].fail(f"'{WAVE}' stands for a wave, and none is named", "add 'waves: [...]' at the top")
        if "wave" in book and "person" not in book:
            raise book["wave"].fail("a panel needs to know who is who", "add 'person: COLUMN'")
        return {}
    if "wave" in book:
        raise book["wave"].fail(
            "both 'wave' and 'waves'", "'wave' names the column of a long file, 'waves' the marks of a wide one"
        )
    if "person" in book and WAVE in book["person"].text():
        raise book["person"].fail("a person has one id in all waves", f"name a column without '{WAVE}'")
    if not marked:
        raise book["waves"].fail(f"no column name holds '{WAVE}'", f"write the columns such as 'trust_{WAVE}'")
    given = book["waves"]
    pairs = given.pairs() if given.is_mapping else [(node.text(), node) for node in given.entries()]
    waves = {name: node.text() for name, node in pairs}
    if not waves or len(waves) < len(pairs) or len(set(waves.values())) < len(pairs):
        raise given.fail("each wave is named once, with a mark of its own", "write 'waves: {2009: t1, 2010: t2}'")
    return waves


def _check_id(name: str, node: Node, columns: Mapping[str, Column]) -> None:
    if name in columns or name in RESERVED:
        taken = "taken by an item" if name in columns else "a column that the project itself adds"
        raise node.fail(f"the name '{name}' is {taken}", "give it another name and say 'column:'")


@dataclass(frozen=True)
class _Away:
    """What is no option anywhere: the outcomes with their codes, in order, and the missing codes."""

    outcomes: Mapping[str, frozenset[str]]
    missing: frozenset[str]

    @classmethod
    def of(cls, book: Mapping[str, Node]) -> _Away:
        missing = codes(book.get("missing"))
        pairs = book["outcomes"].pairs() if "outcomes" in book else []
        _check_apart(pairs, missing)
        return cls({name: codes(node) for name, node in pairs}, missing)

    @property
    def in_traits(self) -> frozenset[str]:
        """Who did not answer has an unknown trait."""
        return self.missing.union(*self.outcomes.values())

    def of_item(self, found: Mapping[str, Node], options: Iterable[str]) -> tuple[dict[str, int | str], frozenset[str]]:
        """Codes of an item's outcomes (outcome j: -1 - j) and its missing codes.

        What the item itself says of a code (an option, an outcome, missing) beats what the top
        says of it in ``outcomes``; its outcomes beat the top's ``missing``.
        """
        own = codes(found.get("missing"))
        if "outcomes" in found:
            pairs = found["outcomes"].pairs()
            for name, node in pairs:
                if name not in self.outcomes:
                    mend = nearest(name, self.outcomes) if self.outcomes else f"add '{name}: []' to it"
                    raise node.fail(f"the outcome '{name}' is not among 'outcomes' at the top", mend)
            _check_apart(pairs, own)
            outcomes = {name: codes(node) for name, node in pairs}
        else:
            outcomes = {name: said - own - set(options) for name, said in self.outcomes.items()}
        places = {name: -1 - place for place, name in enumerate(self.outcomes)}
        meant: dict[str, int | str] = {code: places[name] for name, said in outcomes.items() for code in sorted(said)}
        return meant, (self.missing | own) - set(meant)


def _check_apart(pairs: list[tuple[str, Node]], missing: frozenset[str]) -> None:
    """No code means two things."""
    seen = dict.fromkeys(missing, "missing")
    for name, node in pairs:
        for code in sorted(codes(node)):
            if code in seen:
                raise node.fail(f"the code {code} is both '{seen[code]}' and '{name}'", "take it out of one of the two")
            seen[code] = name


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
    if placed and not math.isfinite(placed[-1] - placed[0]):
        raise node.fail("the positions are too far apart", "number them 0, 1, 2, ...")
    if placed and steps not in ({1}, {-1}):
        raise node.fail("positions neither rise nor fall all along", "list the options in the order of their positions")
    return _Options(tuple(codes), tuple(texts), tuple(positions))


def _item(name: str, node: Node, scales: Mapping[str, _Options], away: _Away) -> tuple[Item, Column]:
    found = node.fields(ITEM_KEYS)
    if ("text" in found) == ("label" in found):
        raise node.fail(
            f"'{name}' has both 'text' and 'label'" if "text" in found else "'text' is missing",
            "write the question as 'text:'; only where its wording is not known, its subject as 'label:'",
        )
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
    outcomes, missing = away.of_item(found, options.codes)
    for clash, kind in ((missing, "missing"), (set(outcomes), "an outcome")):
        if both := sorted(clash & set(options.codes)):
            raise node.fail(
                f"the code {both[0]} of '{name}' is both an option and {kind}", "take it out of one of the two"
            )
    return (
        Item(
            id=name,
            text=found["text" if "text" in found else "label"].text(),
            options=tuple(_option(options, place, ordinal) for place in range(len(options.codes))),
            ordinal=ordinal,
            values=tuple(_value(entry) for entry in found["values"].entries()) if "values" in found else (),
            key=-1 if "reversed" in found and found["reversed"].flag() else 1,
            family=found["family"].text() if "family" in found else "",
        ),
        Column(
            found["column"].text() if "column" in found else name,
            {**{code: place for place, code in enumerate(options.codes)}, **outcomes},
            missing,
        ),
    )


def _option(options: _Options, place: int, ordinal: bool) -> Option:
    # A code in words ("Yes") gets its place on the list as its number.
    code = whole_code(options.codes[place])
    position = options.positions[place]
    return Option(
        place + 1 if code is None else code,
        options.texts[place],
        (float(place) if position is None else position) if ordinal else None,
    )


def _value(node: Node) -> str:
    """A value of any of the theories: a codebook may use several."""
    known = {value for theory in THEORIES.values() for value in theory.values}
    if node.text() not in known:
        close = nearest(node.text(), known)
        mend = close if close.startswith("did") else f"write a value of one of the theories {', '.join(THEORIES)}"
        raise node.fail(f"no theory has a value '{node.text()}'", mend)
    return node.text()
