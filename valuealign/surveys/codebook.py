"""What each column and code of a survey file means: the records that every reader fills."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from valuealign.types import Item

# Stands for the wave in the column names of a wide panel.
WAVE = "{wave}"
SLOTS = ("noun", "before", "after")
# What a licence lets one pass on: everything; target shares but no persons' answers; nothing.
Tier = Literal["open", "aggregates", "closed"]
# Licences that let one pass the answers on: CC0, CC BY, CC BY-SA, CC BY-NC, CC BY-NC-SA, public domain, ODC-BY, PDDL,
# with or without a version, and nothing beside: a condition of their own makes another licence.
# Not CC BY-ND: what is made of the answers may not be passed on.
OPEN = re.compile(
    r"(cc-?(0|zero)|cc-by(-nc)?(-sa)?|public-domain|odc-by|pddl)(-v?\d(\.\d)?)?(-(international|unported|universal|igo))?"
)


@dataclass(frozen=True)
class Trait:
    """A demographic fact.

    ``phrases[level]`` is how a prompt names the level and ``slots[level]`` where the phrase goes:
    ``noun`` ("woman"), ``before`` the noun ("retired") or ``after`` it ("aged 18 to 34"). With
    ``several`` a person may be in more than one level (ethnicity, say): margins are then those of
    total response, one share for each level, and need not sum to 1.
    """

    id: str
    text: str
    levels: tuple[str, ...]
    phrases: Mapping[str, str]
    slots: Mapping[str, str] = field(default_factory=dict)
    several: bool = False

    def among(self, levels: Container[str]) -> Trait:
        """The trait with those of its levels that are in ``levels``."""
        kept = tuple(level for level in self.levels if level in levels)
        phrases, slots = (
            {level: said for level, said in of.items() if level in kept} for of in (self.phrases, self.slots)
        )
        return replace(self, levels=kept, phrases=phrases, slots=slots)


@dataclass(frozen=True)
class Column:
    """Where an item or a trait stands in the file and how its raw values are read.

    ``name`` may hold ``{wave}`` (see ``Codebook.waves``). ``codes`` maps raw text to an option's
    index (outcome j of the codebook: ``-1 - j``) or to a level. ``bands`` (traits only) holds
    numeric (level, lowest, highest) with whole-number bounds, both inclusive, infinite where open.
    ``levels`` (traits with several answers only) names the column of each level; ``codes`` then
    maps to ``yes`` and ``no``.
    """

    name: str
    codes: Mapping[str, int | str]
    missing: frozenset[str]
    bands: tuple[tuple[str, float, float], ...] = ()
    levels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Codebook:
    """A survey's items and traits, in the order of the codebook.

    ``columns[id]`` says how the column of an item or a trait is read; ``where`` is the codebook's
    file; ``separator`` parts the values of a line of the data.

    ``outcomes`` names what people did instead of choosing an option ("don't know", "no answer"):
    kept apart, outside the shares, countable. ``country`` is the trait that says in which country
    a person was asked, ``duration`` the column of how long the interview took (``columns["duration"]``,
    where it is there, holds that column's missing codes). Panels have either
    ``waves`` (wide files: wave -> what stands for ``{wave}`` in column names) or ``wave`` (long
    files: the column that names the wave). ``tier`` is what the licence lets one pass on.
    ``label_only`` lists items that have a short label but no question wording, ``desirability``
    those that measure socially desirable answering. ``weight_scale`` is ``population`` where the
    weights already bring countries to the sizes of their populations. ``centred_on`` are the items
    over which a person's mean rating runs (empty: those that measure a value). ``own`` are the items
    and traits (or ``duration``) whose columns the user's own file names, where the rest is a built-in
    profile: those columns must be there, the profile's may be absent.
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
    outcomes: tuple[str, ...] = ()
    country: str | None = None
    duration: str | None = None
    wave: str | None = None
    waves: Mapping[str, str] = field(default_factory=dict)
    tier: Tier = "closed"
    label_only: tuple[str, ...] = ()
    desirability: tuple[str, ...] = ()
    weight_scale: Literal["sample", "population"] = "sample"
    centred_on: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()

    def item(self, item_id: str) -> Item:
        """The item of that id (KeyError where there is none)."""
        return {item.id: item for item in self.items}[item_id]

    def among(self, items: Iterable[Item], traits: Iterable[Trait]) -> Codebook:
        """The codebook with these items and traits only, whatever it says of others left out."""
        items, traits = tuple(items), tuple(traits)
        kept = {item.id for item in items} | {trait.id for trait in traits}
        return replace(
            self,
            items=items,
            traits=traits,
            country=self.country if self.country in kept else None,
            label_only=tuple(name for name in self.label_only if name in kept),
            desirability=tuple(name for name in self.desirability if name in kept),
        )

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


def _article(words: str) -> str:
    return "an" if words[0].lower() in "aeiou" else "a"


def tier_of(licence: str) -> Tier:
    """What a licence lets one pass on where nobody says: everything if it is open, nothing under any other."""
    return "open" if OPEN.fullmatch(re.sub(r"[\s_]+", "-", licence.strip().lower())) else "closed"


def plain_code(raw: str) -> str:
    """A code as it is compared: without outer blanks and without the ``.0`` that spreadsheets add."""
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", raw.strip())


def whole_code(code: str) -> int | None:
    """A code as a whole number of at most 64 bits; None for words and for anything longer."""
    return int(code) if re.fullmatch(r"[+-]?\d{1,18}", code, re.ASCII) else None


def plain_number(text: str) -> float | None:
    """A finite number as data files write it (``20``, ``-1.5``, ``2e3``), or None: ``2_0`` is Python's alone."""
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
