"""Leaks: what is asked as if it were held out although training saw it, or nearly so.

``check_leaks`` holds a split against its own survey; ``leaks`` holds any texts against any others: another
survey's questions, a benchmark's, the prompts of a feedback file (``Trained`` is what training asked). All go by the
rule that ties near-duplicates (``units.tie``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from valuealign.errors import SplitError
from valuealign.splits.split import PARTS, PEOPLE, Pair, Splits
from valuealign.splits.units import alike, content, tie
from valuealign.surveys.table import Survey
from valuealign.types import Cell, Group, Item

# How many leaks a message names, and how much of each name, in characters.
NAMED, SHOWN = 5, 90
# What a record calls the leaked questions of another survey or a benchmark.
LEFT_OUT = "questions left out, since they were trained"
ANEW = "make the splits anew with jobs/prepare.py, or leave these out of training"
ALIKE = "two groups or two items read the same in a prompt: give each a text of its own in the codebook, or drop one"


@dataclass(frozen=True)
class Leak:
    """``asked`` is, or nearly is, ``seen``, which was trained (or, of a report part, which choices saw): their
    names, and the part of their content words that they share."""

    seen: str
    asked: str
    overlap: float

    def __str__(self) -> str:
        return f"'{_short(self.asked)}' shares {self.overlap:.0%} of its words with '{_short(self.seen)}'"


def leaks(
    trained: Mapping[str, str], asked: Mapping[str, str], *, threshold: float, stems: bool = True
) -> tuple[Leak, ...]:
    """Each asked text that is a near-duplicate of a trained one, with the nearest such. Texts by name, in order.

    ``threshold``, over 0 to 1, is ``splits.near_duplicates``: the part of their content words that two texts
    share (Jaccard); texts with the same are duplicates at any threshold. With ``stems``, as in ``units.tie``,
    texts of a battery that differ in the one thing asked about are none. A text without words is no leak.
    """
    told = {name: words for name, text in trained.items() if (words := content(text))}
    put = {name: words for name, text in asked.items() if (words := content(text))}
    seen: dict[frozenset[str], str] = {}
    for name, words in told.items():
        seen.setdefault(frozenset(words), name)
    texts = {frozenset(words): words for words in (*put.values(), *told.values())}
    nearest = {words: (1.0, name) for words, name in seen.items()}
    sets = list(texts)
    for a, b, overlap in alike(list(texts.values()), threshold, stems=stems):
        for mine, other in ((sets[a], sets[b]), (sets[b], sets[a])):
            if other in seen and overlap > nearest.get(mine, (0.0, ""))[0]:
                nearest[mine] = overlap, seen[other]
    found = ((name, nearest.get(frozenset(words))) for name, words in put.items())
    return tuple(Leak(near[1], name, near[0]) for name, near in found if near)


def item_leaks(trained: Iterable[Item], asked: Iterable[Item], *, threshold: float) -> tuple[Leak, ...]:
    """Items of another survey that training saw under whatever scale, by item id; see ``leaks``.

    Where an item has no scale the question may stand in its options, so these count as its words too: of what was
    trained always, of what is asked besides the question alone, which training may have put with a scale.
    """
    told, put = {item.id: _wording(item) for item in trained}, list(asked)
    whole, bare = (
        leaks(told, {item.id: words(item) for item in put}, threshold=threshold)
        for words in (_wording, lambda item: item.text)
    )
    return _nearest((*whole, *bare), put)


def prompt_leaks(trained: Iterable[Cell], asked: Iterable[Cell], *, threshold: float) -> tuple[Leak, ...]:
    """Prompts of open cells (behaviour, feedback) that training saw, by what the users say in them; see ``leaks``.

    Prompts have no batteries: what overlaps is a leak. Not for survey cells, where one question put to two
    groups may be one prompt but for two words.
    """
    texts = [{text: text for text in map(_said, cells)} for cells in (trained, asked)]
    return leaks(*texts, threshold=threshold, stems=False)


@dataclass(frozen=True)
class Trained:
    """What a run's training asked: survey items and the prompts of open cells (behaviour, feedback).

    ``threshold`` is ``splits.near_duplicates``; see ``leaks``.
    """

    items: tuple[Item, ...]
    prompts: tuple[Cell, ...]
    threshold: float

    def leaks(self, asked: Iterable[Item]) -> tuple[Leak, ...]:
        """The questions of another survey or of a benchmark that training saw as an item or as a prompt, by id."""
        put = list(asked)
        as_items = item_leaks(self.items, put, threshold=self.threshold)
        told = {text: text for text in map(_said, self.prompts)}
        as_prompts = leaks(told, {item.id: item.text for item in put}, threshold=self.threshold, stems=False)
        return _nearest((*as_items, *as_prompts), put)


def refuse_leaks(found: Sequence[Leak], *, where: str, mend: str = ANEW) -> None:
    """Raises SplitError that names the leaks, both sides of each and their overlap, if there are any."""
    if found:
        raise SplitError(f"a leak: what is judged as held out was seen before: {named(found)}", where=where, mend=mend)


def named(found: Sequence[Leak]) -> str:
    """The first few leaks by name, and how many more there are."""
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(map(str, found[:NAMED])) + more


def check_leaks(survey: Survey, splits: Splits, *, threshold: float) -> None:
    """Whether all that a split holds out was held out: of training, and what is reported also of choices.

    An item leaks if an item of its unit (``units.tie`` with ``threshold``, families included) was trained, a
    cell if one of its unit was trained with the same group, a group if anything was trained with it; a
    person, if rows are in two parts. Raises SplitError for the first split that leaks.
    """
    persons = survey.people["person"].to_numpy()
    ids = {part: set(persons[splits.person_P == number]) for number, part in enumerate(PEOPLE)}
    for one, two in combinations(PEOPLE, 2):
        refuse_shared_people(ids[one], ids[two], where=f"splits ({one} and {two})")
    words = {item.id: frozenset(content(item.text)) for item in survey.codebook.items}
    unit = tie(survey.codebook.items, threshold)
    # What of a pair must not come twice, and what it is called.
    rules: dict[str, tuple[Callable[[str, Group], Hashable], Callable[[str, Group], str]]] = {
        "items": (lambda item, group: unit[item], lambda item, group: item),
        "groups": (lambda item, group: group, lambda item, group: group.name),
        "cells": (lambda item, group: (unit[item], group), lambda item, group: f"{item} of {group.name}"),
    }
    for split, (key, name) in rules.items():
        seen: dict[Hashable, Pair] = {key(*pair): pair for pair in reversed(splits.train)}
        for part in PARTS:  # select first: its pairs are seen when what is reported is asked
            asked = splits.pairs.get((split, part), ())
            met = [(seen[key(*pair)], pair) for pair in asked if key(*pair) in seen]
            found = (Leak(name(*one), name(*two), _jaccard(words[one[0]], words[two[0]])) for one, two in met)
            refuse_leaks(list(dict.fromkeys(found)), where=f"splits.{split} ({part})")
            seen |= {key(*pair): pair for pair in asked}


def refuse_shared_people(trained: Collection[str], judged: Collection[str], *, where: str) -> None:
    """Raises SplitError if somebody whose answers trained is among those who judge (person ids)."""
    both = sorted(set(trained) & set(judged))
    if both:
        what = f"a leak: '{both[0]}' trains and judges ({len(both)} such people in all)"
        raise SplitError(what, where=where, mend="use the configuration that the version was trained with")


def refuse_same_prompts(trained: Iterable[Cell], asked: Iterable[Cell], *, where: str = "prompts") -> None:
    """Raises SplitError if a held-out cell has, to the letter, the prompt of a trained one.

    Two groups that a prompt names alike make such a pair, whatever the split says, as do two items of one text.
    """
    first: dict[Hashable, Cell] = {}
    for cell in trained:
        first.setdefault(cell.prompt, cell)
    met = [(first[cell.prompt], cell) for cell in asked if cell.prompt in first]
    names = [[f"{cell.source} of {cell.group}" for cell in pair] for pair in met]
    refuse_leaks([Leak(one, two, 1.0) for one, two in names], where=where, mend=ALIKE)


def without(splits: Splits, found: Iterable[Leak], *, where: str = "--on") -> Splits:
    """The splits of another survey without the items that leaked. Raises SplitError where none is left."""
    leaked = {leak.asked for leak in found}
    pairs = {key: tuple(pair for pair in some if pair[0] not in leaked) for key, some in splits.pairs.items()}
    if any(some and not pairs[key] for key, some in splits.pairs.items()):
        what = f"all that it asks was trained ({len(leaked)} questions)"
        raise SplitError(what, where=where, mend="judge on a survey that asks something else")
    return replace(splits, pairs=pairs)


def _nearest(found: Iterable[Leak], asked: Iterable[Item]) -> tuple[Leak, ...]:
    """Of each question asked the leak that overlaps most (the first of several), in the order of the questions."""
    best: dict[str, Leak] = {}
    for leak in found:
        if leak.asked not in best or leak.overlap > best[leak.asked].overlap:
            best[leak.asked] = leak
    return tuple(best[item.id] for item in asked if item.id in best)


def _wording(item: Item) -> str:
    scale = item.ordinal and len(item.options) > 2
    return item.text if scale else " ".join([item.text, *(option.text for option in item.options)])


def _said(cell: Cell) -> str:
    return "\n".join(turn.content for turn in cell.prompt if turn.role == "user")


def _jaccard(one: frozenset[str], two: frozenset[str]) -> float:
    return len(one & two) / len(one | two) if one | two else 1.0


def _short(name: str) -> str:
    return name if len(name) <= SHOWN else name[: SHOWN - 3] + "..."
