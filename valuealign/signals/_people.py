"""Single answers of single people, and as much of whom they are as training may tell.

What is held out by (item, group) must stay so when a prompt describes one person. Dropping every
answer of everybody in a held-out group would leave almost nobody: people are in many groups. So an
answer is kept and the *description* is cut: of a person's traits those are named that, all
together, hold no group for which the item is not trained. No prompt then tells how a held-out
group answers, which is what the group shares hold back as well. Held-out items, and people who are
not in the train part, give nothing, neither an answer nor a context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from valuealign.prompts import Template
from valuealign.signals.targets import question
from valuealign.splits import Splits
from valuealign.surveys.table import Survey
from valuealign.types import Cell, Group, Item, Message

Pair = tuple[str, str]  # trait id, level
# Evaluation asks without a context, so that must be learnt too.
BARE = 0.25


@dataclass(frozen=True)
class Answer:
    """One answer: the row and its weight, the item's place among ``People.items``, the option, and whom the
    prompt may name. ``bare`` says that the prompt should have no context."""

    row: int
    item: int
    option: int
    weight: float
    group: Group
    bare: bool


class People:
    """The train part's people and trained items. ``answers_PI`` holds options of all rows (-1: none), items as in
    ``items``."""

    def __init__(self, survey: Survey, weights_P: np.ndarray, groups: Sequence[Group], splits: Splits) -> None:
        trained = {item for item, _ in splits.train}
        self.survey, self.items = survey, tuple(i for i in survey.codebook.items if i.id in trained)
        columns = (survey.people[item.id].fill_null(-1).to_numpy() for item in self.items)
        self.answers_PI = np.maximum(np.column_stack(list(columns)), -1)
        self.weight_P = np.where(splits.people("train"), weights_P, 0.0)
        known = set(splits.train)
        # For each item and trait, the sets of traits that may not be named together, as that trait completes them.
        self._barred: dict[tuple[str, Pair], list[frozenset[Pair]]] = {}
        for item in self.items:
            for group in groups:
                if group.traits and (item.id, group) not in known:
                    for pair in group.traits:
                        self._barred.setdefault((item.id, pair), []).append(frozenset(group.traits))
        named = {trait for group in groups for trait, _ in group.traits}
        self._traits = {
            trait.id: survey.people[trait.id].to_list() for trait in survey.codebook.traits if trait.id in named
        }

    def sample(self, most: int, rng: np.random.Generator) -> Iterator[Answer]:
        """At most ``most`` answers, drawn alike from all, without replacement."""
        rows, places = np.nonzero((self.answers_PI >= 0) & (self.weight_P > 0)[:, None])
        for n in rng.permutation(len(rows))[:most]:
            row, item = int(rows[n]), int(places[n])
            group = self._named(row, self.items[item], rng)
            option, weight = int(self.answers_PI[row, item]), float(self.weight_P[row])
            yield Answer(row, item, option, weight, group, bool(rng.random() < BARE))

    def _named(self, row: int, item: Item, rng: np.random.Generator) -> Group:
        """As many of the person's traits as may be named together, in an order of chance."""
        traits = list(self._traits)
        named: dict[str, str] = {}
        for trait in (traits[n] for n in rng.permutation(len(traits))):
            found = self._traits[trait][row]
            levels = found if isinstance(found, list) else [found]
            for level in levels if found is not None else []:
                pair = trait, level
                whole = frozenset({*named.items(), pair})
                if not any(barred <= whole for barred in self._barred.get((item.id, pair), ())):
                    named[trait] = level
                    break
        pairs = tuple(sorted(named.items()))
        return Group(pairs, self.survey.codebook.phrase(pairs))


def collapse(
    people: People, answers: Sequence[tuple[Answer, str]], *, templates: Sequence[Template], kind: str
) -> list[Cell]:
    """A closed cell for each distinct prompt, in order of first appearance.

    ``answers`` come with the context before the question; the templates take turns. Answers to equal
    prompts become one mass an option, the sum of their weights; n_eff is Kish's over them.
    """
    masses: dict[tuple[Message, ...], np.ndarray] = {}
    squares: dict[tuple[Message, ...], float] = {}
    cells: dict[tuple[Message, ...], Cell] = {}
    turns = templates or (None,)
    for n, (one, context) in enumerate(answers):
        item = people.items[one.item]
        nothing = [0.0] * len(item.options)
        template = turns[n % len(turns)]
        cell = question(item, one.group, nothing, nothing, n_eff=0.0, template=template, context=context, kind=kind)
        cells.setdefault(cell.prompt, cell)
        masses.setdefault(cell.prompt, np.zeros(len(item.options)))[one.option] += one.weight
        squares[cell.prompt] = squares.get(cell.prompt, 0.0) + one.weight**2
    return [
        replace(
            cell, desirable=tuple(masses[prompt].tolist()), n_eff=float(masses[prompt].sum() ** 2 / squares[prompt])
        )
        for prompt, cell in cells.items()
    ]
