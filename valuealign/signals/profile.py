"""Value profiles become cells: what a person holds important -> this answer (Survey-to-Behavior's pairing)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from valuealign.prompts import Template, wordings
from valuealign.signals._people import Answer, People, collapse
from valuealign.splits import Splits
from valuealign.surveys.table import Survey
from valuealign.types import Cell, Group, Item
from valuealign.values import Theory, most_measured, score

# Centred scores, in widths of the scale, at which one degree of importance becomes the next.
CUTS = (-0.15, -0.05, 0.05, 0.15)
# A mean of fewer answers than this is no tendency.
LEAST = 2


def profiled_cells(
    survey: Survey,
    weights_P: np.ndarray,
    groups: Sequence[Group],
    splits: Splits,
    *,
    templates: Sequence[Template] = (),
    most: int = 20_000,
    values: int = 3,
    seed: int = 0,
) -> list[Cell]:
    """Closed cells as ``individual_cells`` makes them, with a profile in place of other answers.

    Where trained items measure values of a theory, the profile is the ``values`` of them that stand
    out most from the person's own mean, scored without the item that is asked. Where none does, it
    is the battery's: the mean place of the person's answers to the other items with the same options,
    said as the nearest option. One prompt in four has no profile.
    """
    rng = np.random.default_rng([seed, 0x70726F66])
    people = People(survey, weights_P, groups, splits)
    theory = most_measured(people.items)
    drawn = list(people.sample(most, rng))
    told = _tendencies(people, drawn) if theory is None else _values(people, drawn, theory, values)
    told = ["" if one.bare else text for one, text in zip(drawn, told, strict=True)]
    return collapse(people, list(zip(drawn, told, strict=True)), templates=templates, kind="profile")


def _values(people: People, drawn: Sequence[Answer], theory: Theory, values: int) -> list[str]:
    """What stands out in each person's centred scores; empty where too little was answered to say."""
    words = wordings().context
    keyed = [replace(item, values=tuple(v for v in item.values if v in theory.values)) for item in people.items]
    told = [""] * len(drawn)
    for asked in sorted({one.item for one in drawn}):
        mine = [n for n, one in enumerate(drawn) if one.item == asked]
        others = [i for i, item in enumerate(keyed) if i != asked and item.values]
        rows = [drawn[n].row for n in mine]
        found = score(theory, [keyed[i] for i in others], people.answers_PI[np.ix_(rows, others)])
        for n, centred_V in zip(mine, found.centred_PV, strict=True):
            known = [v for v in np.argsort(-np.abs(centred_V), kind="stable") if np.isfinite(centred_V[v])]
            lines = (words.valued(found.values[v], int(np.searchsorted(CUTS, centred_V[v]))) for v in known[:values])
            told[n] = "".join(lines)
    return told


def _tendencies(people: People, drawn: Sequence[Answer]) -> list[str]:
    """What each person tends to say to the other items with the same options; empty for nominal ones."""
    batteries = [tuple(option.text for option in item.options) for item in people.items]
    return [_tendency(people, one, [i for i, b in enumerate(batteries) if b == batteries[one.item]]) for one in drawn]


def _tendency(people: People, one: Answer, battery: Sequence[int]) -> str:
    item = people.items[one.item]
    places = [_place(people.items[i], people.answers_PI[one.row, i]) for i in battery if i != one.item]
    given = [place for place in places if place is not None]
    if len(given) < LEAST:
        return ""
    nearest = int(np.argmin(np.abs(np.array(item.places) - np.mean(given))))
    texts = [option.text for option in item.options]
    return wordings().context.tending(texts, texts[nearest])


def _place(item: Item, option: int) -> float | None:
    return item.places[option] if option >= 0 and item.places else None
