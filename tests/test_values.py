"""Theories as data, and the scoring of people."""

from __future__ import annotations

import numpy as np
import pytest

from valuealign.errors import CodebookError
from valuealign.surveys import embedded
from valuealign.types import Item, Option
from valuealign.values import THEORIES, score

SIZES = {"schwartz10": 10, "schwartz19": 19, "rokeach": 36, "kiesel": 54}
COUNTS = {"PVQ-21": 21, "PVQ-40": 40, "SVS-57": 46, "PVQ-RR": 57}


@pytest.mark.parametrize("name", THEORIES)
def test_every_theory_is_whole(name: str) -> None:
    theory = THEORIES[name]
    assert theory.name == name and theory.title and theory.source
    assert len(set(theory.values)) == len(theory.values)
    if theory.higher:
        assert sorted(value for values in theory.higher.values() for value in values) == sorted(theory.values)
    for key in theory.instruments.values():
        numbers = [number for items in key.values() for number in items]
        assert set(key) == set(theory.values) and len(set(numbers)) == len(numbers) and min(numbers) == 1


def test_sizes_are_those_of_the_publications() -> None:
    assert {name: len(THEORIES[name].values) for name in SIZES} == SIZES
    found = {
        instrument: sum(map(len, key.values()))
        for theory in THEORIES.values()
        for instrument, key in theory.instruments.items()
    }
    assert found == COUNTS


def item(name: str, value: str, key: int = 1, k: int = 5, positions: tuple[float, ...] | None = None) -> Item:
    options = tuple(Option(i, f"o{i}", float(i) if positions is None else positions[i]) for i in range(k))
    return Item(name, name, options, values=(value,) if value else (), key=key)


def test_scores_by_hand_with_reversed_keys_and_centring() -> None:
    items = [
        item("a", "power"),
        item("b", "power", key=-1),
        item("c", "security", k=3),
        item("d", "", k=3),
        item("e", "security", positions=(4.0, 3.0, 2.0, 1.0, 0.0)),
    ]
    answers = np.array([[4, 0, 1, 2, 4], [2, -1, -1, 0, -1], [-1, -1, -1, 2, -1]])
    scores = score(THEORIES["schwartz10"], items, answers)
    assert scores.values == ("power", "security")
    # Person 1: power (1 + 1) / 2, security (.5 + 0) / 2, mean of the four keyed items 2.5 / 4.
    assert scores.raw_PV[0].tolist() == [1.0, 0.25]
    assert scores.mean_P[0] == 0.625 and scores.centred_PV[0].tolist() == [0.375, -0.375]
    assert scores.raw_PV[1, 0] == 0.5 and np.isnan(scores.raw_PV[1, 1]) and scores.centred_PV[1, 0] == 0
    assert np.isnan(scores.raw_PV[2]).all() and np.isnan(scores.mean_P[2])


def test_centred_scores_recover_the_profiles_behind_the_embedded_answers() -> None:
    public = embedded.draw(4000, 0)
    scores = score(THEORIES["schwartz10"], embedded.codebook().items, public.answer_PI)
    assert scores.values == embedded.VALUES
    for v in range(len(embedded.VALUES)):
        known = ~np.isnan(scores.centred_PV[:, v])
        assert np.corrcoef(scores.centred_PV[known, v], public.profile_PV[known, v])[0, 1] > 0.5


def test_what_cannot_be_scored_is_an_error() -> None:
    with pytest.raises(CodebookError, match="did you mean 'power'"):
        score(THEORIES["schwartz10"], [item("a", "powers")], np.array([[1]]))
    with pytest.raises(CodebookError, match="tags texts"):
        score(THEORIES["kiesel"], [item("a", "be-curious")], np.array([[1]]))
    nominal = Item("n", "n", (Option(0, "x"), Option(1, "y")), ordinal=False, values=("power",))
    with pytest.raises(CodebookError, match="nominal"):
        score(THEORIES["schwartz10"], [nominal], np.array([[1]]))
