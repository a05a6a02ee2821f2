"""The ``traits:`` of a codebook file: levels, bands, traits with several answers, and their phrases."""

from __future__ import annotations

import re
from collections.abc import Mapping

from valuealign.errors import nearest
from valuealign.surveys._yaml import Node
from valuealign.surveys.codebook import SLOTS, Column, Trait, plain_code

TRAIT_KEYS = ("text", "column", "as", "levels", "bands", "missing", "several", "yes", "no")
LEVEL_KEYS = ("codes", "column", "from", "to", "text", "as")


def codes(node: Node | None) -> frozenset[str]:
    """The codes of a list (or of one scalar), as ``plain_code``; none for a key that is not there."""
    return frozenset(plain_code(entry.text()) for entry in node.entries()) if node else frozenset()


def read_trait(name: str, node: Node, missing: frozenset[str]) -> tuple[Trait, Column]:
    """A trait and its column; ``missing`` are the codes that are no answer anywhere. Raises CodebookError."""
    found = node.fields(TRAIT_KEYS)
    if ("levels" in found) == ("bands" in found):
        raise node.fail(f"'{name}' needs either 'levels' or 'bands'", "list the levels, or the bands of a number")
    text = found["text"].text() if "text" in found else name.replace("_", " ")
    slot = _slot(found["as"]) if "as" in found else "after"
    several = "several" in found and found["several"].flag()
    phrases, slots = {}, {}
    listed = found["bands" if "bands" in found else "levels"]
    levels: list[tuple[str, Node, Mapping[str, Node]]] = []
    for level, entry in _levels(listed):
        given = entry.fields(LEVEL_KEYS) if entry.is_mapping else {}
        if "column" in given and not several:
            raise given["column"].fail("a level has a column only with 'several: true'", "add it, or take this out")
        # A plain list names levels only; a mapping says how a prompt names each.
        phrase = given.get("text", entry if listed.is_mapping and entry.is_text else None)
        wording = phrase.text() if phrase else ""
        phrases[level] = wording or f"whose {text} is {level}"
        slots[level] = (_slot(given["as"]) if "as" in given else slot) if wording else "after"
        levels.append((level, entry, given))
    trait = Trait(name, text, tuple(phrases), phrases, slots, several)
    missing = missing | codes(found.get("missing"))
    if several:
        return trait, _several(found, node, levels, missing)
    for key in ("yes", "no"):
        if key in found:
            raise found[key].fail(f"'{key}' goes with 'several: true'", "add that, or list codes below 'levels:'")
    column = found["column"].text() if "column" in found else name
    if "bands" in found:
        bands = _bands(levels)
        return trait, Column(column, {}, missing, bands)
    return trait, Column(column, _level_codes(levels), missing)


def _level_codes(levels: list[tuple[str, Node, Mapping[str, Node]]]) -> dict[str, int | str]:
    meant: dict[str, int | str] = {}
    for level, entry, given in levels:
        for code in sorted(codes(given.get("codes"))) or [plain_code(level)]:
            if code in meant:
                raise entry.fail(
                    f"the code {code} belongs to both '{meant[code]}' and '{level}'", "give it to one level"
                )
            meant[code] = level
    return meant


def _several(
    found: Mapping[str, Node],
    node: Node,
    levels: list[tuple[str, Node, Mapping[str, Node]]],
    missing: frozenset[str],
) -> Column:
    """A column for each level, all with the same codes for yes and no."""
    for key in ("column", "bands"):
        if key in found:
            raise found[key].fail(f"a trait with several answers has no '{key}'", "give each level its own 'column'")
    for level, entry, given in levels:
        if "column" not in given:
            raise entry.fail(f"the level '{level}' has no column", "write {column: ..., text: ...}")
        if "codes" in given:
            raise given["codes"].fail("a level with a column has no codes", "say 'yes:' and 'no:' beside 'several:'")
    yes, no = codes(found.get("yes")) or {"1"}, codes(found.get("no")) or {"0"}
    if both := sorted(yes & no):
        raise node.fail(f"the code {both[0]} is both yes and no", "take it out of one of the two")
    meant: dict[str, int | str] = {**dict.fromkeys(sorted(no), "no"), **dict.fromkeys(sorted(yes), "yes")}
    columns = {level: given["column"].text() for level, _, given in levels}
    return Column("", meant, missing, levels=columns)


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


def _bands(levels: list[tuple[str, Node, Mapping[str, Node]]]) -> tuple[tuple[str, float, float], ...]:
    """The bands of a trait; no number lies in two of them."""
    bands: list[tuple[str, float, float]] = []
    for level, entry, given in levels:
        _, low, high = _band(level, entry, given)
        if low > high:
            raise entry.fail(f"the band '{level}' ends before it begins", "write its lower bound first")
        for other, other_low, other_high in bands:
            if max(low, other_low) <= min(high, other_high):
                mend = "both bounds belong to a band: begin the next one a whole number later"
                raise entry.fail(f"the bands '{other}' and '{level}' overlap at {max(low, other_low):g}", mend)
        bands.append((level, low, high))
    return tuple(bands)


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
