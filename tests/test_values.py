"""Theories as data against the published keys, and the scoring of people, groups and models by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from valuealign.errors import AnswerError, CodebookError
from valuealign.surveys import embedded
from valuealign.types import Item, Option
from valuealign.values import THEORIES, higher_order, score, score_shares

SIZES = {"schwartz10": 10, "schwartz19": 19, "rokeach": 36, "kiesel": 54}
COUNTS = {"PVQ-21": 21, "PVQ-40": 40, "SVS-57": 46, "PVQ-RR": 57}


@pytest.mark.parametrize("name", THEORIES)
def test_every_theory_is_whole(name: str) -> None:
    theory = THEORIES[name]
    assert theory.name == name and theory.title and theory.source
    assert len(set(theory.values)) == len(theory.values)
    grouped = [value for values in theory.higher.values() for value in values]
    assert len(set(grouped)) == len(grouped), "a value stands in one higher-order value"
    assert set(grouped) | set(theory.boundary) == set(theory.values)
    assert all(set(pair) <= set(theory.higher) for pair in theory.boundary.values())
    assert set(theory.lengths) == set(theory.instruments)
    for instrument, key in theory.instruments.items():
        numbers = [number for items in key.values() for number in items]
        assert set(key) == set(theory.values) and len(set(numbers)) == len(numbers) and min(numbers) == 1
        assert max(numbers) <= theory.lengths[instrument]


@pytest.mark.parametrize("name", ["schwartz10", "schwartz19"])
def test_higher_order_values_are_stretches_of_the_circle(name: str) -> None:
    """Going round, each higher-order value begins once, and a boundary value stands between its two."""
    theory = THEORIES[name]
    home = {value: higher for higher, values in theory.higher.items() for value in values}
    size = len(theory.values)
    ring = [home.get(value) for value in theory.values]
    inner = [higher for higher in ring if higher]
    assert sum(inner[i] != inner[i - 1] for i in range(len(inner))) == len(theory.higher) == 4
    for value, (before, after) in theory.boundary.items():
        place = theory.values.index(value)
        assert ring[place - 1] == before and ring[(place + 1) % size] == after


def test_sizes_are_those_of_the_publications() -> None:
    assert {name: len(THEORIES[name].values) for name in SIZES} == SIZES
    found = {
        instrument: sum(map(len, key.values()))
        for theory in THEORIES.values()
        for instrument, key in theory.instruments.items()
    }
    assert found == COUNTS
    assert {len(values) for values in THEORIES["rokeach"].higher.values()} == {18}
    assert len(THEORIES["kiesel"].higher) == 20
    assert THEORIES["schwartz10"].lengths["SVS-57"] == 57
    assert all(len(items) == 3 for items in THEORIES["schwartz19"].instruments["PVQ-RR"].values())


def slug(name: str) -> str:
    """The files' spellings of a value as this project spells them."""
    spelled = re.sub(r"[^a-z]+", "-", name.lower()).strip("-")
    return "benevolence-caring" if spelled == "benevolence-care" else spelled


def keyed(lists: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {slug(name): tuple(numbers) for name, numbers in lists.items()}


def test_every_key_equals_the_published_one_entry_by_entry(shared_data: Path) -> None:
    keys = json.loads((shared_data / "schwartz_keys" / "pvq_keys.json").read_text())
    lists = json.loads((shared_data / "value_lists" / "theories.json").read_text())
    ten, nineteen = THEORIES["schwartz10"], THEORIES["schwartz19"]
    assert dict(ten.instruments["PVQ-21"]) == keyed(keys["PVQ21"])
    assert dict(ten.instruments["PVQ-40"]) == keyed(keys["PVQ40"])
    assert dict(ten.instruments["SVS-57"]) == keyed(lists["svs57_item_keys"]["values"])
    assert dict(nineteen.instruments["PVQ-RR"]) == keyed(keys["PVQ_RR_19"])
    assert ten.values == tuple(slug(name) for name in keys["circle_order"])
    order = [slug(name) for name in lists["schwartz19_circle_order"]["values"]]
    assert nineteen.values == tuple(order)
    assert {higher: set(values) for higher, values in ten.higher.items()} == {
        slug(higher): {slug(value) for value in values} for higher, values in keys["higher_order_10"].items()
    }
    assert dict(THEORIES["rokeach"].higher) == {
        kind: tuple(slug(name) for name in lists["rokeach"][kind]) for kind in ("terminal", "instrumental")
    }
    kiesel = lists["kiesel2022_54_values_by_20_categories"]["values"]
    assert dict(THEORIES["kiesel"].higher) == {
        slug(name): tuple(slug(value) for value in values) for name, values in kiesel.items()
    }


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
    scores = score(THEORIES["schwartz10"], items, answers, least_of_items=0.25)
    assert scores.values == ("power", "security")
    # Person 1: power (1 + 1) / 2, security (.5 + 0) / 2, mean of the four keyed items 2.5 / 4.
    assert scores.raw_PV[0].tolist() == [1.0, 0.25]
    assert scores.mean_P[0] == 0.625 and scores.centred_PV[0].tolist() == [0.375, -0.375]
    assert scores.raw_PV[1, 0] == 0.5 and np.isnan(scores.raw_PV[1, 1]) and scores.centred_PV[1, 0] == 0
    assert np.isnan(scores.raw_PV[2]).all() and np.isnan(scores.mean_P[2])


def test_missing_items_by_the_stated_rule() -> None:
    items = [item(f"p{i}", "power") for i in range(3)] + [item(f"s{i}", "security") for i in range(3)]
    answers = np.array(
        [
            [4, 4, -1, 0, 0, -1],  # four of six: too few for a mean
            [4, 4, -1, 0, 0, 0],  # five of six
            [4, -1, -1, 0, 0, 0],  # one of three: no score of power, and too few for a mean
        ]
    )
    scores = score(THEORIES["schwartz10"], items, answers)
    assert scores.raw_PV[:2].tolist() == [[1.0, 0.0]] * 2 and np.isnan(scores.raw_PV[2, 0])
    assert np.isnan(scores.mean_P).tolist() == [True, False, True] and scores.mean_P[1] == pytest.approx(2 / 5)
    assert np.isnan(scores.centred_PV[0]).all() and scores.centred_PV[1].tolist() == pytest.approx([0.6, -0.4])
    free = score(THEORIES["schwartz10"], items, answers, least_of_value=0, least_of_items=0)
    assert free.raw_PV[2].tolist() == [1.0, 0.0] and free.mean_P.tolist() == pytest.approx([0.5, 0.4, 0.25])


def test_the_svs_is_centred_on_all_its_items() -> None:
    """One person by hand: SVS codes -1..7, 57 items, of which the eleven without a value count in the mean only."""
    theory = THEORIES["schwartz10"]
    value_of = {number: value for value, numbers in theory.instruments["SVS-57"].items() for number in numbers}
    items = [item(f"v{number}", value_of.get(number, ""), k=9) for number in range(1, 58)]
    ratings = np.array([7 if value_of.get(n) == "power" else 3 if n in value_of else -1 for n in range(1, 58)])
    scores = score(theory, items, (ratings + 1)[None], centre_on="all")
    mrat = (4 * 7 + 42 * 3 + 11 * -1) / 57
    power = scores.values.index("power")
    assert (scores.mean_P[0] * 8 - 1) == pytest.approx(mrat)
    assert scores.centred_PV[0, power] * 8 == pytest.approx(7 - mrat)
    on_keyed = score(theory, items, (ratings + 1)[None])
    assert (on_keyed.mean_P[0] * 8 - 1) == pytest.approx((4 * 7 + 42 * 3) / 46)


def test_higher_order_scores_are_means_of_values() -> None:
    items = [item("a", "achievement"), item("p", "power"), item("s", "security")]
    scores = score(THEORIES["schwartz10"], items, np.array([[4, 2, 0], [-1, 2, 0]]))
    higher = higher_order(THEORIES["schwartz10"], scores)
    assert higher.values == ("self-enhancement",), "conservation lacks two of its values"
    assert higher.raw_PV[0, 0] == 0.75 and higher.centred_PV[0, 0] == 0.25 and np.isnan(higher.raw_PV[1, 0])


def test_scores_of_shares_are_the_mean_scores_of_the_people_behind_them() -> None:
    rng = np.random.default_rng(0)
    items = [item("a", "power"), item("b", "power", key=-1), item("c", "security", k=3), item("d", "", k=4)]
    answers = np.stack([rng.integers(0, len(one.options), 50) for one in items], axis=1)
    shares = np.full((2, 4, 5), np.nan)
    for i, one in enumerate(items):
        k = len(one.options)
        shares[0, i, :k] = np.bincount(answers[:, i], minlength=k) / len(answers)
    shares[0, 2, 3:] = 7.0  # padding, whatever it holds
    theory = THEORIES["schwartz10"]
    people, group = score(theory, items, answers), score_shares(theory, items, shares)
    assert group.values == people.values
    assert group.raw_PV[0] == pytest.approx(people.raw_PV.mean(axis=0))
    assert group.centred_PV[0] == pytest.approx(people.centred_PV.mean(axis=0))
    assert np.isnan(group.mean_P[1]) and np.isnan(group.raw_PV[1]).all()
    everything = score_shares(theory, items, shares, centre_on="all")
    assert everything.mean_P[0] == pytest.approx(score(theory, items, answers, centre_on="all").mean_P.mean())
    for wrong in ([0.5, 0.5, 0.5, 0.0, 0.0], [1.2, -0.2, 0.0, 0.0, 0.0]):
        shares[1, 0] = wrong
        with pytest.raises(AnswerError, match=r"item 'a', row 1.*no distribution"):
            score_shares(theory, items, shares)


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


def choice(first: str, second: str, key: int = 1) -> Item:
    options = (Option(1, first), Option(2, second))
    return Item(f"{first}_or_{second}", "Which?", options, ordinal=False, values=(first, second), key=key)


def test_choices_between_values_by_hand() -> None:
    """Three values, three pairs. The ranking freedom, wisdom, equality wins 2, 1 and 0 of the 2 pairs each is in."""
    theory = THEORIES["rokeach"]
    items = (choice("freedom", "wisdom"), choice("equality", "freedom"), choice("equality", "wisdom"))
    answers = np.array([[0, 1, 1], [1, -1, -1], [-1, -1, -1]])
    scores = score(theory, items, answers)
    assert scores.values == ("equality", "freedom", "wisdom")
    assert scores.raw_PV[0].tolist() == [0, 1, 0.5] and scores.centred_PV[0].tolist() == [-0.5, 0.5, 0]
    # The second chose wisdom before freedom and nothing else: half of the pairs of these two, none of equality's.
    assert scores.raw_PV[1].tolist() == pytest.approx([np.nan, 0, 1], nan_ok=True)
    assert scores.centred_PV[1].tolist() == pytest.approx([np.nan, -0.5, 0.5], nan_ok=True)
    assert np.isnan(scores.raw_PV[2]).all() and np.isnan(scores.centred_PV[2]).all()
    assert score(theory, items, answers, least_of_value=1).raw_PV[1].tolist() == pytest.approx(
        [np.nan] * 3, nan_ok=True
    )
    # Turned round: the first option speaks for the second value.
    turned = score(theory, (choice("freedom", "wisdom", key=-1),), np.array([[0]]))
    assert turned.raw_PV[0].tolist() == [0, 1]


def test_choices_of_a_model_by_hand() -> None:
    """Shares .75 : .25, .5 : .5 and .1 : .9; each value's mean over its two pairs."""
    items = (choice("freedom", "wisdom"), choice("equality", "freedom"), choice("equality", "wisdom"))
    shares = np.array([[[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]]])
    scores = score_shares(THEORIES["rokeach"], items, shares)
    assert scores.raw_PV[0] == pytest.approx([(0.5 + 0.1) / 2, (0.75 + 0.5) / 2, (0.25 + 0.9) / 2])
    assert scores.centred_PV[0] == pytest.approx(scores.raw_PV[0] - 0.5) and scores.mean_P[0] == 0.5


def test_a_nominal_item_of_one_value_is_no_choice() -> None:
    alone = replace(choice("freedom", "wisdom"), values=("freedom",))
    with pytest.raises(CodebookError, match="a nominal item cannot measure a value"):
        score(THEORIES["rokeach"], (alone,), np.array([[0]]))
