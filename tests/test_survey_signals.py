"""What a survey's answers become: the contract of every signal, and each on a survey small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_signals import GOOD, PAIR, write

from valuealign.population import ShareTable, tabulate
from valuealign.prompts import survey_messages, wordings
from valuealign.signals import SIGNALS
from valuealign.signals.documents import of_hundred
from valuealign.splits import Splits
from valuealign.store import Feedback, Judged, Response
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Cell, Group, Item, Message, Option

SCALE = ("never", "seldom", "often", "always")
ITEMS = tuple(Item(f"q{i}", f"Question {i}?", tuple(Option(k, text) for k, text in enumerate(SCALE))) for i in range(4))
SEX = Trait("sex", "sex", ("f", "m"), {"f": "woman", "m": "man"}, {"f": "noun", "m": "noun"})
AGE = Trait("age", "age", ("old", "young"), {"old": "old", "young": "young"}, {"old": "before", "young": "before"})
WOMEN, MEN = (Group((("sex", s),), text) for s, text in (("f", "a woman"), ("m", "a man")))
OLD, YOUNG = (Group((("age", a),), text) for a, text in (("old", "an old person"), ("young", "a young person")))
OLD_WOMEN = Group((("age", "old"), ("sex", "f")), "an old woman")
GROUPS = (EVERYONE, WOMEN, MEN, OLD, YOUNG, OLD_WOMEN)
# Six people: three train, one selects, two report. Answers to q0..q3; -1: refused.
PEOPLE = pl.DataFrame(
    {
        "person": ["a", "b", "c", "d", "e", "f"],
        "weight": [1.0] * 6,
        "sex": ["f", "f", "m", "m", "f", "m"],
        "age": ["old", "young", None, "old", "old", "young"],
        "q0": [3, 2, 0, 1, 1, 1],
        "q1": [3, 2, 1, 1, 1, 1],
        "q2": [2, -1, 0, 1, 1, 1],
        "q3": [3, 1, 0, 1, 1, 1],
    },
    schema_overrides={f"q{i}": pl.Int16 for i in range(4)},
)
WEIGHTS = np.array([2.0, 1.0, 1.0, 9.0, 9.0, 9.0])
# q3 is held out, old women are a held-out group, and (q0, women) is a held-out cell.
TRAIN = tuple((f"q{i}", group) for i in range(3) for group in GROUPS if group != OLD_WOMEN and (i, group) != (0, WOMEN))
SPLITS = Splits(np.array([0, 0, 0, 1, 2, 2], dtype=np.int8), {("cells", "report"): (("q0", WOMEN),)}, TRAIN)


@pytest.fixture
def survey() -> Survey:
    return Survey(Codebook("small", "A small survey", ITEMS, (AGE, SEX)), PEOPLE)


@pytest.fixture
def table(survey: Survey) -> ShareTable:
    return tabulate(survey, WEIGHTS, GROUPS, multiplicity_P=SPLITS.people("train"))


@pytest.fixture
def make(survey: Survey, table: ShareTable, tmp_path: Path) -> dict[str, Callable[[], list[Cell]]]:
    """Every signal on something small; a new one is put here with its own."""
    response = Response("r1", "chat", "demo", "v1", (Message("user", "Help?"),), "No.", {})
    posted = Judged(Feedback("f1", "r1", "correction", "Yes.", "2026-01-01T00:00:00", "accepted"), response)
    people = (survey, WEIGHTS, GROUPS, SPLITS)
    return {
        "targets": lambda: SIGNALS["targets"](table, TRAIN),
        "individuals": lambda: SIGNALS["individuals"](*people, most=50),
        "profile": lambda: SIGNALS["profile"](*people, most=50),
        "modal": lambda: SIGNALS["modal"](table, TRAIN),
        "documents": lambda: SIGNALS["documents"](table, TRAIN),
        "binary": lambda: SIGNALS["binary"](write(tmp_path, GOOD)),
        "pairs": lambda: SIGNALS["pairs"](write(tmp_path, PAIR)),
        "feedback": lambda: SIGNALS["feedback"]([posted]),
    }


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_keeps_the_contract(name: str, make: dict[str, Callable[[], list[Cell]]]) -> None:
    cells = make[name]()
    assert cells and cells == make[name](), "the same evidence gives the same cells, in the same order"
    assert all(isinstance(cell, Cell) and sum(cell.desirable) + sum(cell.undesirable) > 0 for cell in cells)
    assert all(not cell.prompt or cell.prompt[-1].role == "user" for cell in cells)
    assert all(cell.source.partition(":")[0] and cell.n_eff > 0 for cell in cells)
    assert all(set(cell.completions) == set(SCALE) for cell in cells if cell.closed)
    assert len({cell.key for cell in cells}) == len(cells), "equal rows are one cell"


OF_SURVEYS = ("targets", "individuals", "profile", "modal", "documents")


@pytest.mark.parametrize("name", OF_SURVEYS)
def test_nothing_held_out_is_told(name: str, make: dict[str, Callable[[], list[Cell]]]) -> None:
    """Neither the held-out item, nor how the held-out group or pair answers."""
    known = set(TRAIN)
    for cell in make[name]():
        item = cell.source.partition(":")[2]
        said = " ".join([*(turn.content for turn in cell.prompt), *cell.completions])
        assert item != "q3" and "Question 3?" not in said
        named = {part for part in cell.group.split(" & ") if part != "everyone"}
        for group in GROUPS[1:]:
            if {f"{trait}={level}" for trait, level in group.traits} <= named:
                assert (item, group) in known, (name, item, cell.group)


def test_templates_multiply_targets_and_take_turns_among_people(survey: Survey, table: ShareTable) -> None:
    templates = tuple(wordings().questions[name] for name in ("chat", "qa"))
    cells = SIGNALS["targets"](table, TRAIN, templates=templates)
    assert len(cells) == 2 * len(SIGNALS["targets"](table, TRAIN))
    assert cells[0].prompt == survey_messages(ITEMS[0], EVERYONE, templates[0])
    assert cells[1].prompt == survey_messages(ITEMS[0], EVERYONE, templates[1])
    assert cells[0].desirable == cells[1].desirable
    single = SIGNALS["individuals"](survey, WEIGHTS, GROUPS, SPLITS, templates=templates, answers=0)
    by_qa = sum("Possible answers" in cell.prompt[-1].content for cell in single)
    assert 0 < by_qa < len(single)


def test_individuals_of_a_small_survey(survey: Survey) -> None:
    """Eight answers of three people: those of a, b and c to q0, q1 and q2, of which b refused one."""
    cells = SIGNALS["individuals"](survey, WEIGHTS, GROUPS, SPLITS, answers=2)
    assert sum(cell.mass for cell in cells) == pytest.approx(3 * 2 + 2 * 1 + 3 * 1)
    texts = [(cell, "\n".join(turn.content for turn in cell.prompt)) for cell in cells]
    for cell, text in texts:
        asked = cell.source.partition(":")[2]
        assert text.count("Question ") in (1, 3) and text.count("Asked before") in (0, 2)
        assert f"Asked before: Question {asked[1]}?" not in text, "the answer itself is no context"
    # a is an old woman: of the two traits only one may be named, and of her answer to q0 only her age.
    of_a = [cell for cell in cells if cell.desirable in ((0, 0, 0, 2.0), (0, 0, 2.0, 0))]
    assert {cell.group for cell in of_a if cell.source.endswith("q0")} == {"age=old"}
    assert all(cell.group in ("age=old", "sex=f") for cell in of_a) and len(of_a) == 3
    # b is young, a woman: both may be named, but for q0; c's age is unknown.
    assert {c.group for c in cells if "young" in c.group and not c.source.endswith("q0")} == {"age=young & sex=f"}
    assert {c.group for c in cells if "sex=m" in c.group} == {"sex=m"}


def test_equal_people_collapse(survey: Survey) -> None:
    """Ten people like c, and five who answer q0 otherwise: one cell, their weights as masses."""
    like_c = pl.concat([PEOPLE[2:3].with_columns(person=pl.lit(f"c{n}")) for n in range(15)])
    people = like_c.with_columns(q0=pl.Series([0] * 10 + [3] * 5, dtype=pl.Int16))
    splits = replace(SPLITS, person_P=np.zeros(15, dtype=np.int8))
    weights = np.array([1.0] * 10 + [2.0] * 5)
    cells = SIGNALS["individuals"](replace(survey, people=people), weights, GROUPS, splits, answers=0)
    (of_q0,) = [cell for cell in cells if cell.source == "individuals:q0"]
    assert of_q0.desirable == (10.0, 0.0, 0.0, 10.0) and of_q0.undesirable == (0.0,) * 4 and of_q0.closed
    assert of_q0.n_eff == pytest.approx(20**2 / (10 + 5 * 4)) and of_q0.prompt[0].content == "Answer as a man."
    few = SIGNALS["individuals"](replace(survey, people=people), weights, GROUPS, splits, most=7)
    assert sum(cell.mass > 0 for cell in few) <= 7


def test_a_profile_is_what_is_said_to_the_other_items(survey: Survey) -> None:
    """No item measures a value, so the profile is the battery's mean: without the item asked, and none held out."""
    cells = SIGNALS["profile"](survey, WEIGHTS, GROUPS, SPLITS)
    told = {}
    for cell in cells:
        lines = cell.prompt[-1].content.split("\n")
        told[cell.desirable, cell.source] = next((x.split("'")[-2] for x in lines if "tends to" in x), None)
    # a: q0 3, q1 3, q2 2. For q2 the others' mean is 3; for q0 and q1 it is 2.5, as near to 2 as to 3.
    asked = {key: said for key, said in told.items() if said is not None and sum(key[0]) == 2.0}
    assert asked.get(((0, 0, 2.0, 0), "profile:q2"), "always") == "always"
    assert all(said in ("often", "always") for said in asked.values()) and asked
    # b has answered two of the trained items: for each a single other one is left, which is no tendency.
    assert all(told[key] is None for key in told if "young" in str(key))
    by_b = [c for c in cells if c.group.startswith("age=young") or c.group == "age=young & sex=f"]
    assert by_b and all("tends to" not in c.prompt[-1].content for c in by_b)


def test_a_value_profile_says_what_stands_out(survey: Survey) -> None:
    """Power from q0 and q1, security from q2: for q1, power is what q0 says of it."""
    keyed = tuple(
        replace(item, values=(value,))
        for item, value in zip(ITEMS, ("power", "power", "security", "hedonism"), strict=True)
    )
    valued = replace(survey, codebook=replace(survey.codebook, items=keyed))
    cells = SIGNALS["profile"](valued, WEIGHTS, GROUPS, SPLITS, values=1)
    far, level = (wordings().context.valued("power", place).strip() for place in (4, 2))
    # Without q1, a has 1 on power and 2/3 on security, mean 5/6: both stand out by 1/6, the first named is told.
    # Without q2 there is power alone, which cannot stand out. b answered one other item of two: too few to say.
    expected = {
        ((0, 0, 0, 2.0), "profile:q0"): far,
        ((0, 0, 0, 2.0), "profile:q1"): far,
        ((0, 0, 2.0, 0), "profile:q2"): level,
        ((1.0, 0, 0, 0), "profile:q0"): far,
        ((0, 1.0, 0, 0), "profile:q1"): level,
        ((1.0, 0, 0, 0), "profile:q2"): level,
    }
    lines = {(c.desirable, c.source): c.prompt[-1].content.split("\n")[0] for c in cells}
    told = {key: line for key, line in lines.items() if line.startswith("Beside")}
    assert len(lines) == 8 and len(told) >= 3
    assert told == {key: expected[key] for key in told}


def test_modal_keeps_one_answer(table: ShareTable) -> None:
    cells = SIGNALS["modal"](table, (("q0", EVERYONE), ("q1", WOMEN)))
    # q0: a (weight 2) says always, b often, c never.
    assert [c.desirable for c in cells] == [(0, 0, 0, 1.0), (0, 0, 0, 1.0)]
    assert all(c.closed and c.completions == SCALE and c.source.startswith("modal:q") for c in cells)
    assert cells[0].n_eff == pytest.approx(4**2 / 6) and cells[0].positions == (0, 1, 2, 3)
    tied = replace(table, shares_GIK=np.full_like(table.shares_GIK, 0.25))
    assert SIGNALS["modal"](tied, (("q0", EVERYONE),))[0].desirable == (1.0, 0, 0, 0)


def test_documents_say_the_shares(table: ShareTable) -> None:
    one = (wordings().statements["counts"],)
    whole, women = SIGNALS["documents"](table, (("q0", EVERYONE), ("q1", WOMEN)), statements=one)
    assert whole.completions == (
        'Of 100 people, 25 say "never", 0 say "seldom", 25 say "often", 50 say "always". They were asked: Question 0?',
    )
    assert 'each of them a woman, 0 say "never", 0 say "seldom", 33 say "often", 67 say' in women.completions[0]
    assert whole.prompt == () and not whole.closed and whole.desirable == (1.0,) and women.group == "sex=f"
    every = SIGNALS["documents"](table, (("q0", EVERYONE),))
    assert len(every) == len(wordings().statements)


def test_a_hundred_people_are_a_hundred() -> None:
    rng = np.random.default_rng(0)
    for k in range(2, 9):
        counts = of_hundred(rng.dirichlet(np.ones(k)).tolist())
        assert sum(counts) == 100 and min(counts) >= 0
    assert of_hundred([1 / 3, 1 / 3, 1 / 3]) == [34, 33, 33] and of_hundred([0.005, 0.995]) == [1, 99]
