"""Value profiles of people and models: known models come out as what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from valuealign.config import GroupsConfig, SurveyConfig, WeightingConfig
from valuealign.errors import CodebookError
from valuealign.evaluate.profiles import PEOPLE, compare_profiles, profile_cells, profile_items, theory_of
from valuealign.population import find_groups, tabulate
from valuealign.surveys import read_survey
from valuealign.values import THEORIES
from valuealign.weighting import Weights, weigh

SCHWARTZ = THEORIES["schwartz10"]


@pytest.fixture(scope="module")
def world():
    survey = read_survey(SurveyConfig(people=4000), 0)
    weights: Weights = weigh(survey, survey.margins, WeightingConfig(), country=None, population_weights=False)
    groups = find_groups(survey, weights.weights_P, GroupsConfig(crossings=1))
    return survey, weights.weights_P, tabulate(survey, weights.weights_P, groups)


def test_the_people_show_the_circle_and_a_copy_of_them_has_no_distance(world) -> None:
    survey, weights_P, table = world
    items = profile_items(survey, SCHWARTZ)
    cells = profile_cells(items, table)
    assert len(cells) == len(items) * len(table.groups) and cells[len(items)].group == table.groups[1].name
    place = {group.name: group for group in table.groups}
    copy = [np.log(np.maximum(table.shares(c.source.removeprefix("survey:"), place[c.group]), 1e-12)) for c in cells]
    flat = [np.zeros(len(c.completions)) for c in cells]
    people, same, uniform = compare_profiles(survey, weights_P, table, SCHWARTZ, {"copy": copy, "uniform": flat})
    assert people.who == PEOPLE and people.distance is None and people.circle is not None
    assert people.circle.p_value < 0.01 and people.circle.n == 4000 - int(_incomplete(survey, items))
    assert same.distance == pytest.approx(0, abs=1e-6) and np.allclose(same.everyone_V, people.everyone_V, atol=1e-6)
    assert uniform.circle is None and uniform.why and np.allclose(uniform.everyone_V, 0)
    assert uniform.distance > 0.02


def _incomplete(survey, items) -> int:
    """People who answered fewer than half of some value's items, or fewer than 70 % of all: counted plainly."""
    count = 0
    for row in survey.people.select([item.id for item in items]).iter_rows():
        known = {item.id: answer is not None for item, answer in zip(items, row, strict=True)}
        shares = [
            np.mean([known[i.id] for i in items if value in i.values])
            for value in SCHWARTZ.values
            if any(value in i.values for i in items)
        ]
        count += min(shares) < 0.5 or np.mean(list(known.values())) < 0.7
    return count


def test_the_theory_that_measures_most_is_taken(world) -> None:
    survey = world[0]
    assert theory_of(survey).name == "schwartz10"
    bare = replace(
        survey, codebook=replace(survey.codebook, items=tuple(replace(i, values=()) for i in survey.codebook.items))
    )
    with pytest.raises(CodebookError, match="no item measures a value"):
        theory_of(bare)
    with pytest.raises(CodebookError, match="no item measures Rokeach"):
        profile_items(survey, THEORIES["rokeach"])


def test_an_instrument_is_centred_on_its_own_items(world) -> None:
    """One item without a value counts for the mean; one that the user added counts for nothing."""
    survey, weights_P, table = world
    first, second, *rest = survey.codebook.items
    mine = tuple(item.id for item in survey.codebook.items if item.id != second.id)
    book = replace(survey.codebook, items=(replace(first, values=()), second, *rest), centred_on=mine)
    mixed = replace(survey, codebook=book)
    items = profile_items(mixed, SCHWARTZ)
    assert [item.id for item in items] == list(mine) and not items[0].values
    (people,) = compare_profiles(mixed, weights_P, table, SCHWARTZ, {})
    place = {item.id: i for i, item in enumerate(survey.codebook.items)}
    means = {}
    for item in items:
        shares, position = table.shares_GIK[0, place[item.id], : len(item.options)], np.array(item.positions)
        place_K = (position - position.min()) / (position.max() - position.min())
        means[item.id] = float(shares @ (place_K if item.key > 0 else 1 - place_K))
    for v, value in enumerate(people.values):
        own = np.mean([means[item.id] for item in items if value in item.values])
        assert people.everyone_V[v] == pytest.approx(own - np.mean(list(means.values())))
