"""Which items go together, and what batteries must not do."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from valuealign.splits.units import tie
from valuealign.types import Item, Option

SCALE = ("a great deal", "quite a lot", "not very much", "none at all")


def items(*texts: str, scale: tuple[str, ...] = SCALE) -> list[Item]:
    return [Item(f"q{i}", text, tuple(Option(k, word) for k, word in enumerate(scale))) for i, text in enumerate(texts)]


def together(found: list[Item], threshold: float = 0.9) -> set[frozenset[str]]:
    heads = tie(found, threshold)
    units = {frozenset(item for item in heads if heads[item] == head) for head in heads.values()}
    return {unit for unit in units if len(unit) > 1}


LONG = (
    "Thinking of life in this country over the past twelve months, and setting aside what friends, neighbours or"
    " colleagues may believe, please say how much confidence, if any, people like yourself can place in {}."
)
BODIES = ("the press", "the courts", "the police", "trade unions", "the health service", "banks", "the army")


@pytest.mark.parametrize("stem", ["How much do you trust {}?", LONG])
@pytest.mark.parametrize("many", [2, 3, len(BODIES)])
def test_a_battery_with_one_stem_does_not_collapse(stem: str, many: int) -> None:
    assert together(items(*(stem.format(body) for body in BODIES[:many]))) == set()
    assert together(items(*(f"{body}: {stem.format('it')}" for body in BODIES[: max(3, many)]))) == set()


def test_the_bare_stem_is_no_duplicate_of_its_battery() -> None:
    assert together(items(LONG.format(""), *(LONG.format(body) for body in BODIES))) == set()


def test_near_duplicates_in_a_battery_go_together() -> None:
    texts = [LONG.format(body) for body in BODIES]
    found = items(
        *texts, LONG.format("the courts").upper(), LONG.format("really the police"), "How much do you trust banks?"
    )
    assert together(found) == {frozenset({"q1", "q7"}), frozenset({"q2", "q8"})}


def test_the_same_wording_ties_whatever_the_scale() -> None:
    text = "How much do you trust the national parliament of this country to act fairly?"
    five, yes = ("a great deal", "a lot", "some", "little", "none"), ("yes", "no")
    four = items(text, *(LONG.format(body) for body in BODIES))
    others = [
        Item(f"r{k}", one, items("x", scale=scale)[0].options)
        for k, (one, scale) in enumerate(
            (
                (text.upper(), five),
                (text, SCALE[::-1]),
                (text.rstrip("?"), yes),
                (LONG.format("banks"), five),
            )
        )
    ]
    assert together([*four, *others], 1.0) == {frozenset({"q0", "r0", "r1", "r2"}), frozenset({"q6", "r3"})}


def test_a_stem_whose_options_hold_the_question_ties_nothing() -> None:
    """A battery of forced choices: the same words, other pairs to choose from."""
    stem, pairs = (
        "Which is closer to your own view?",
        (("war", "peace"), ("bread", "wine"), ("peace", "war"), ("tea", "wine")),
    )
    found = [Item(f"q{k}", stem, tuple(Option(j, w) for j, w in enumerate(pair))) for k, pair in enumerate(pairs)]
    assert together(found, 0.1) == {frozenset({"q0", "q2"})}
    many = [("war", "peace", "truce"), ("bread", "wine", "oil"), ("wine", "oil", "tea"), ("salt", "figs", "tar")]
    nominal = [
        Item(f"q{k}", stem, tuple(Option(j, w) for j, w in enumerate(words)), ordinal=False)
        for k, words in enumerate(many)
    ]
    assert together(nominal, 0.1) == {frozenset({"q1", "q2"})}


def test_same_words_tie_at_every_threshold_and_other_options_never() -> None:
    pair = ("Are you free to choose your own goals?", "your own goals: free to choose?")
    assert together(items(*pair), 1.0) == {frozenset({"q0", "q1"})}
    other = [items(pair[0])[0], Item("q1", pair[1], (Option(0, "yes"), Option(1, "no")))]
    assert together(other, 0.1) == set()


def test_the_threshold_decides() -> None:
    found = items("Wealth matters greatly in my life", "Wealth matters in my life", "Rain is likely tomorrow morning")
    # Content words: wealth matters greatly my life / wealth matters my life: 4 of 5.
    assert together(found, 0.8) == {frozenset({"q0", "q1"})} and together(found, 0.81) == set()


def test_families_and_likeness_chain() -> None:
    found = items("Rain is likely", "Snow is likely", "Rain likely", "Wind is likely")
    family = [found[0], Item("q1", found[1].text, found[1].options, family="weather"), *found[2:3]]
    family.append(Item("q3", found[3].text, found[3].options[:2], family="weather"))
    assert together(family) == {frozenset({"q0", "q2"}), frozenset({"q1", "q3"})}
    tied = [Item(one.id, one.text, one.options, family="all" if one.id in ("q2", "q3") else "") for one in family]
    assert together(tied) == {frozenset({"q0", "q2", "q3"})}


def test_plain_loops_agree_on_overlap() -> None:
    """Without a stem or a common beginning the rule is the Jaccard overlap alone."""
    rng = random.Random(3)
    words = [f"word{i}" for i in range(400)]
    texts = [" ".join([f"start{i}", *rng.sample(words, 9)]) for i in range(30)]
    texts += [text + f" extra{i}" for i, text in enumerate(texts[:10])]
    sets = [set(text.split()) for text in texts]
    near = [
        (a, b)
        for a, b in itertools.combinations(range(40), 2)
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= 0.9
    ]
    assert together(items(*texts)) == {frozenset({f"q{a}", f"q{b}"}) for a, b in near} and len(near) == 10


def test_a_questionnaire_of_thousands_is_quick() -> None:
    rng = random.Random(0)
    words = [f"word{i}" for i in range(6000)]
    found = items(*(LONG.format(" ".join(rng.sample(words, 5))) for _ in range(2000)))
    began = time.process_time()
    assert together(found) == set() and time.process_time() - began < 10
