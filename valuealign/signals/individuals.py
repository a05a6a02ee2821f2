"""People's own answers become cells: traits and other answers -> this answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from valuealign.prompts import Template, wordings
from valuealign.signals._people import Answer, People, collapse
from valuealign.splits import Splits
from valuealign.surveys.table import Survey
from valuealign.types import Cell, Group


def individual_cells(
    survey: Survey,
    weights_P: np.ndarray,
    groups: Sequence[Group],
    splits: Splits,
    *,
    templates: Sequence[Template] = (),
    most: int = 20_000,
    answers: int = 3,
    seed: int = 0,
) -> list[Cell]:
    """Closed cells of ``most`` answers of the train part's people to trained items, chosen by chance.

    The prompt names the person's traits (as many as give away nothing held out: see ``_people``) and
    ``answers`` of his or her other answers, none in one of four; equal prompts collapse, with their
    weights as masses. The same arguments give the same cells.
    """
    rng = np.random.default_rng([seed, 0x696E6469])
    people, words = People(survey, weights_P, groups, splits), wordings().context

    def context(one: Answer) -> str:
        others = np.flatnonzero(people.answers_PI[one.row] >= 0)
        others = rng.permutation(others[others != one.item])[: 0 if one.bare else answers]
        told = ((people.items[i], people.answers_PI[one.row, i]) for i in others)
        return "".join(words.answered(item.text, item.options[option].text) for item, option in told)

    drawn = [(one, context(one)) for one in people.sample(most, rng)]
    return collapse(people, drawn, templates=templates, kind="individuals")
