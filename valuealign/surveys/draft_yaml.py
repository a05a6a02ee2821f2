"""A drafted codebook as the text of a YAML file, every guess marked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from valuealign.surveys.codebook import WAVE
from valuealign.surveys.codebook_yaml import RESERVED
from valuealign.surveys.draft import DONT_KNOW, NO_ANSWER, Coded, Draft, Look

SEXES = {
    "male": "man",
    "man": "man",
    "men": "man",
    "m": "man",
    "female": "woman",
    "woman": "woman",
    "women": "woman",
    "f": "woman",
}


def draft_text(draft: Draft) -> str:
    """The text of a codebook that ``read_codebook`` reads."""
    missing, outcomes = _common(draft)
    ids = _Ids()
    traits = {name: ids.new(name) for name in draft.traits}
    lines = [
        f"# A first codebook for {draft.path.name}, drafted from its columns, labels and codes.",
        "# Go through it before use: every line with '# guessed' wants your eye, and so does what is not here.",
        f"name: {_text(draft.path.stem)}",
        f"title: {_text(draft.path.stem)}",
        "licence: unknown # write the licence of the data: it decides what may be passed on",
    ]
    for key, column in (("person", draft.person), ("weight", draft.weight), ("duration", draft.duration)):
        if column is not None:
            lines.append(f"{key}: {_text(column)} # guessed")
    if "country" in traits:
        lines.append(f"country: {traits['country']} # guessed: the trait that says where a person was asked")
    if draft.separator != ",":
        lines.append(f"separator: {json.dumps(draft.separator)}")
    placed = [look.name for look, _ in (*draft.items, *draft.traits.values())]
    if any(WAVE in name for name in (*placed, draft.weight or "", draft.duration or "")):
        lines.append(f"waves: {_list(draft.waves)} # guessed from the column names")
    if missing:
        lines.append(f"missing: {_list(missing)} # guessed")
    if outcomes:
        lines.append("outcomes: # guessed from labels: outside the shares, but counted")
        lines += [f"  {_text(name)}: {_list(codes)}" for name, codes in outcomes.items()]
    scales = _scales(draft)
    if scales:
        lines += [
            "",
            "# Taken as ordered; write 'ordinal: false' at an item whose options have no order.",
            "scales: # guessed: options in the order of their codes",
        ]
        for options, name in scales.items():
            lines += [f"  {name}:", *_options(options, "    ")]
    lines += ["", "# A 'label' stands where the file has no question: write it as 'text'.", "items: # guessed"]
    if not draft.items:
        lines.append("  # no column looks like a question: add one, as in docs/surveys.md")
    for look, coded in draft.items:
        lines += _item(ids.new(look.id), look, coded, scales, missing, outcomes)
    if draft.traits:
        lines += ["", "traits: # guessed from names and labels"]
        for name, (look, coded) in draft.traits.items():
            lines += _trait(traits[name], look, coded, draft.bands.get(name), missing, outcomes)
    if draft.unplaced:
        lines += ["", "# Columns without a place (add those that you need above):"]
        lines += [f"#   {_plain(name)}: {reason}" for name, reason in draft.unplaced.items()]
    return "\n".join(lines) + "\n"


class _Ids:
    """Names of items and traits, none twice."""

    def __init__(self) -> None:
        self.seen = set(RESERVED)

    def new(self, wanted: str) -> str:
        name, more = wanted or "item", 2
        while name in self.seen:
            name, more = f"{wanted}_{more}", more + 1
        self.seen.add(name)
        return name


def _common(draft: Draft) -> tuple[list[str], dict[str, list[str]]]:
    """Missing codes and outcomes that hold for the whole file: what no item uses as an option, or as the other."""
    coded = [coded for _, coded in (*draft.items, *draft.traits.values())]
    options = {code for each in coded for code, _ in each.options}
    said = {code: Counter[str]() for each in coded for code in (*each.missing, *each.outcomes)}
    for each in coded:
        for code in each.missing:
            said[code]["missing"] += 1
        for code, outcome in each.outcomes.items():
            said[code][outcome] += 1
    mostly = {code: counts.most_common(1)[0][0] for code, counts in said.items()}
    missing = [code for code, meant in mostly.items() if meant == "missing" and code not in options]
    outcomes = {
        name: [code for code, meant in mostly.items() if meant == name and code not in options]
        for name in (DONT_KNOW, NO_ANSWER)
        if any(name in counts for counts in said.values())
    }
    return missing, outcomes


def _scales(draft: Draft) -> dict[tuple[tuple[str, str], ...], str]:
    """Names of the option lists that at least two items share."""
    counts = Counter(coded.options for _, coded in draft.items)
    shared = [options for options, count in counts.items() if count > 1]
    return {options: f"scale_{place}" for place, options in enumerate(shared, 1)}


def _options(options: Sequence[tuple[str, str]], indent: str) -> Iterator[str]:
    for code, words in options:
        note = "" if words != code else " # guessed: write the words in place of the code"
        yield f"{indent}- {{code: {_text(code)}, text: {_text(words)}}}{note}"


def _item(
    name: str,
    look: Look,
    coded: Coded,
    scales: Mapping[tuple[tuple[str, str], ...], str],
    missing: Sequence[str],
    outcomes: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    facts = [f"text: {_text(look.label)}" if look.label else f"label: {_text(look.id)}"]
    if look.name != name:
        facts.append(f"column: {_text(look.name)}")
    if any(not re.fullmatch(r"-?\d+(\.\d+)?", code) for code, _ in coded.options):
        facts.append("ordinal: false")  # codes in words
    if coded.options in scales:
        facts.append(f"scale: {scales[coded.options]}")
    facts += _own(coded, missing, outcomes, of_item=True)
    if coded.options in scales:
        yield f"  {_text(name)}: {{{', '.join(facts)}}}"
        return
    yield f"  {_text(name)}:"
    yield from (f"    {fact}" for fact in facts)
    yield "    options: # guessed: in the order of their codes"
    yield from _options(coded.options, "      ")


def _trait(
    name: str,
    look: Look,
    coded: Coded,
    bands: Sequence[str] | None,
    missing: Sequence[str],
    outcomes: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    yield f"  {_text(name)}:"
    if look.name != name:
        yield f"    column: {_text(look.name)}"
    if bands is not None:
        yield "    bands: # guessed"
        for band in bands:
            words = f"aged {band[:-1]} or over" if band.endswith("+") else f"aged {band.replace('-', ' to ')}"
            yield f"      {_text(band)}: {words}"
    else:
        yield "    levels: # guessed; add 'text:' for how a prompt should name each"
        for code, words in coded.options:
            known = SEXES.get(words.lower()) if name == "sex" else None
            phrase = f", text: {known}, as: noun" if known else ""
            yield f"      {_text(words)}: {{codes: [{_text(code)}]{phrase}}}"
    yield from (f"    {fact}" for fact in _own(coded, missing, outcomes, of_item=False))


def _own(coded: Coded, missing: Sequence[str], outcomes: Mapping[str, Sequence[str]], *, of_item: bool) -> list[str]:
    """Missing codes and outcomes that differ from those of the whole file."""
    known = {code for codes in outcomes.values() for code in codes}
    away = [code for code in coded.missing if code not in missing]
    facts = []
    if not of_item:
        away += [code for code in coded.outcomes if code not in known]
    elif any(code not in outcomes.get(name, ()) for code, name in coded.outcomes.items()):
        said = {name: [code for code, meant in coded.outcomes.items() if meant == name] for name in outcomes}
        facts.append("outcomes: {" + ", ".join(f"{_text(name)}: {_list(codes)}" for name, codes in said.items()) + "}")
    if away:
        facts.append(f"missing: {_list(away)}")
    return facts


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(_text(text) for text in texts)}]"


def _plain(text: str) -> str:
    """On one line, for a comment."""
    return _quoted(text)[1:-1]


def _quoted(text: str) -> str:
    """In double quotes, what cannot be printed by its number."""
    return "".join(
        mark if mark.isprintable() else f"\\U{ord(mark):08x}" for mark in json.dumps(text, ensure_ascii=False)
    )


def _text(text: str) -> str:
    """A YAML scalar that reads back as the text."""
    if re.fullmatch(r"[A-Za-z0-9]([\w .()/+-]*[\w)+])?|-?\d+", text, re.ASCII) and text.lower() != "null":
        return text
    return _quoted(text)
