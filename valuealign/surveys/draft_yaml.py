"""A drafted codebook as the text of a YAML file, every guess marked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from valuealign.surveys.codebook import WAVE
from valuealign.surveys.codebook_yaml import RESERVED
from valuealign.surveys.draft import Coded, Draft, Look
from valuealign.surveys.wordings import DONT_KNOW, EITHER, NO_ANSWER, ordered

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
    traits = {name: ids.new(name) for name in (*draft.traits, *draft.several)}
    lines = [
        f"# A first codebook for {draft.path.name}, drafted from its columns, labels and codes.",
        "# Go through it before use: every line with '# guessed' wants your eye, and so does what is not here.",
        f"name: {_text(draft.path.stem)}",
        f"title: {_text(draft.path.stem)}",
        "licence: unknown # write the licence of the data: it decides what may be passed on",
    ]
    for key, column in (("person", draft.person), ("weight", draft.weight), ("duration", draft.duration)):
        if column is not None:
            lines.append(f"{key}: {_text(column)} # guessed" + (draft.weight_remark if key == "weight" else ""))
    if draft.wave is not None:
        lines.append(f"wave: {_text(draft.wave)} # guessed: a person stands once in each")
    if "country" in traits:
        lines.append(f"country: {traits['country']} # guessed: the trait that says where a person was asked")
    if draft.separator != ",":
        lines.append(f"separator: {json.dumps(draft.separator)}")
    placed = [look.name for look, _ in _placed(draft)]
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
            "# Options stand in the order of their codes; 'ordinal:' at an item says whether it means anything.",
            "scales: # guessed",
        ]
        for options, name in scales.items():
            lines += [f"  {name}: # guessed: {_order(options)[1]}", *_options(options, "    ")]
    lines += ["", "# A 'label' stands where the file has no question: write it as 'text'.", "items: # guessed"]
    if not draft.items:
        lines.append("  # no column looks like a question: add one, as in docs/surveys.md")
    for look, coded in draft.items:
        lines += _item(ids.new(look.id), look, coded, scales, missing, outcomes)
    if traits:
        lines += ["", "traits: # guessed from names and labels"]
        for name, (look, coded) in draft.traits.items():
            lines += _trait(traits[name], look, coded, draft.bands.get(name), missing, outcomes)
        for name, levels in draft.several.items():
            lines += _several(traits[name], levels, missing, outcomes)
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


def _placed(draft: Draft) -> list[tuple[Look, Coded]]:
    """The columns of items and traits."""
    several = [level for levels in draft.several.values() for level in levels]
    return [*draft.items, *draft.traits.values(), *several]


def _common(draft: Draft) -> tuple[list[str], dict[str, list[str]]]:
    """Missing codes and outcomes that hold for the whole file: what no item uses as an option, or as the other."""
    coded = [coded for _, coded in _placed(draft)]
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
        for name in (DONT_KNOW, NO_ANSWER, EITHER)
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


def _order(options: Sequence[tuple[str, str]]) -> tuple[bool, str]:
    """Whether options are written as ordered, and what speaks for it; what is not known to be ordered is not."""
    if all(words == code and re.fullmatch(r"-?\d+(\.\d+)?", code) for code, words in options):
        return True, "ordered, as the codes are bare numbers"
    if ordered([words for _, words in options]):
        return True, "ordered, as the words climb or fall a known scale"
    return False, "no order is known of these words"


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
    facts += _own(coded, missing, outcomes, of_item=True)
    ordinal, why = _order(coded.options)
    if coded.options in scales:
        facts += [f"scale: {scales[coded.options]}", f"ordinal: {str(ordinal).lower()}"]
        yield f"  {_text(name)}: {{{', '.join(facts)}}} # guessed"
        return
    yield f"  {_text(name)}:"
    yield from (f"    {fact}" for fact in facts)
    yield f"    ordinal: {str(ordinal).lower()} # guessed: {why}"
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


def _several(
    name: str, levels: Sequence[tuple[Look, Coded]], missing: Sequence[str], outcomes: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    yield f"  {_text(name)}:"
    yield "    several: true # guessed: a column of 0 and 1 for each level"
    yield "    levels: # guessed; add 'text:' for how a prompt should name each"
    labels = [re.sub(r"^[^:]*:\s*", "", look.label) for look, _ in levels]
    named = all(labels) and len(set(labels)) == len(labels)
    for (look, _), label in zip(levels, labels, strict=True):
        yield f"      {_text(label if named else look.id)}: {{column: {_text(look.name)}}}"
    silent = dict.fromkeys(code for _, coded in levels for code in (*coded.missing, *coded.outcomes))
    yield from (f"    {fact}" for fact in _own(Coded((), {}, tuple(silent), False), missing, outcomes, of_item=False))


def _own(coded: Coded, missing: Sequence[str], outcomes: Mapping[str, Sequence[str]], *, of_item: bool) -> list[str]:
    """Missing codes and outcomes that differ from those of the whole file."""
    known = {code for codes in outcomes.values() for code in codes}
    away = [code for code in coded.missing if code not in missing]
    facts = []
    if not of_item:
        # Every non-answer leaves a trait unknown.
        away = [code for code in (*away, *coded.outcomes) if code not in known]
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
