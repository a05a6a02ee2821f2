"""Screens by hand and against plain loops; no screen looks at what the others answer, copies aside."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from valuealign.config import ScreensConfig
from valuealign.errors import SurveyError
from valuealign.surveys import screen
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.codebook_yaml import RESERVED
from valuealign.surveys.screening import SCREENS
from valuealign.surveys.table import Survey
from valuealign.types import Item, Option

OFF = {"longest_string": "off", "variance": "off", "speeders": "off", "duplicates": "off"}


def only(name: str, mode: str = "flag", **keys: float) -> ScreensConfig:
    return ScreensConfig.model_validate({**OFF, name: mode, **keys})


def items(scales: Sequence[int], *, ordinal: bool = True) -> tuple[Item, ...]:
    """Items of the scales named by their number of options (equal numbers: equal texts)."""
    return tuple(
        Item(f"q{i}", f"Question {i}?", tuple(Option(j, f"o{j} of {k}") for j in range(k)), ordinal=ordinal)
        for i, k in enumerate(scales)
    )


def survey(answers_PI: np.ndarray, scales: Sequence[int], **columns: object) -> Survey:
    n = len(answers_PI)
    frame: dict[str, object] = {"person": [f"p{p}" for p in range(n)], "weight": np.ones(n), **columns}
    people = pl.DataFrame(frame).with_columns(
        pl.Series(f"q{i}", [None if a == -99 else int(a) for a in answers_PI[:, i]], dtype=pl.Int16)
        for i in range(len(scales))
    )
    known = {"person", "weight", "duration", "wave"}
    traits = tuple(Trait(name, name, (), {}) for name in columns if name not in known)
    return Survey(Codebook("s", "s", items(scales), traits), people)


def test_longest_string_by_hand() -> None:
    scales = [5] * 6 + [3] + [4] * 4  # the item of three options has no neighbour of its scale
    answers = np.array(
        [
            [2, 2, 2, 2, 2, 2, 0, 1, 1, 1, 1],  # longest 6 of 10: a new scale begins a new run
            [2, 2, 2, 2, 2, 2, 0, -99, -99, -99, -99],  # 6 of 6
            [2, 2, -99, -1, 2, 2, 2, 0, 1, 2, 3],  # skipping breaks nothing: 5 of 8... of the first six, 4
            [0, 1, 2, 3, 4, 0, 0, 0, 1, 2, 3],  # 1 of 10
            [2, 2, 2, 2, -99, -99, 2, -99, -99, -99, -99],  # 4 of 4, too few to judge
        ]
    )
    found = {
        share: screen(survey(answers, scales), only("longest_string", longest_string_share=share, least_items=5)).flags[
            "longest_string"
        ]
        for share in (0.4, 0.5, 0.6, 0.61, 1.0)
    }
    assert found[0.4].tolist() == [True, True, True, False, False]
    assert found[0.5].tolist() == [True, True, True, False, False]
    assert found[0.6].tolist() == [True, True, False, False, False]
    assert found[0.61].tolist() == [False, True, False, False, False]
    assert found[1.0].tolist() == [False, True, False, False, False]


def longest_by_loop(row: Sequence[int], scales: Sequence[int]) -> float:
    """Longest run over answered, eligible items."""
    beside = [k for k in range(len(scales)) if scales[k] in (*scales[max(k - 1, 0) : k], *scales[k + 1 : k + 2])]
    best, run, last, answered = 0, 0, None, 0
    for i in beside:
        if i and scales[i] != scales[i - 1]:
            last = None
        if row[i] < 0:
            continue
        answered += 1
        run = run + 1 if row[i] == last else 1
        last, best = row[i], max(best, run)
    return best / answered if answered >= 3 else 0.0


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_longest_string_and_variance_equal_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = rng.choice([2, 4], 12, p=[0.3, 0.7]).tolist()
    answers = np.minimum(rng.integers(0, 4, (30, 12)) * (rng.random((30, 1)) < 0.5), np.array(scales) - 1)
    answers = np.where(rng.random(answers.shape) < 0.15, rng.choice([-99, -1, -2], answers.shape), answers)
    config = ScreensConfig(longest_string_share=0.6, variance_below=0.02, least_items=3, duplicates="off")
    flags = screen(survey(answers, scales), config).flags
    if "longest_string" in flags:
        assert flags["longest_string"].tolist() == [longest_by_loop(row, scales) >= 0.6 for row in answers.tolist()]
    for row, flag in zip(answers.tolist(), flags["variance"], strict=True):
        places = [a / (k - 1) for a, k in zip(row, scales, strict=True) if a >= 0]
        assert flag == (len(places) >= 3 and np.var(places) <= 0.02)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_flags_hang_on_ones_own_answers_only(seed: int) -> None:
    """Whatever the others answer, and whichever option is popular, a person's flags stay."""
    rng = np.random.default_rng(seed)
    scales = [5] * 8 + [3] * 6
    config = ScreensConfig(longest_string_share=0.5, variance_below=0.03, least_items=4)
    top = np.array(scales)
    mine = np.where(rng.random((10, 14)) < 0.7, 1, rng.integers(0, 99, (10, 14)) % top)
    first, second = (np.vstack([mine, rng.integers(0, 99, (50, 14)) % top]) for _ in range(2))
    second[10:] = mine[0]  # now the first person is the majority
    before, after = (screen(survey(answers, scales), config).flags for answers in (first, second))
    for name in ("longest_string", "variance"):
        assert before[name][:10].tolist() == after[name][:10].tolist()
    # Turning every scale round makes the rare option the popular one.
    turned = screen(survey(top - 1 - first, scales), config).flags
    assert {name: flag.tolist() for name, flag in turned.items()} == {k: f.tolist() for k, f in before.items()}


def test_a_lone_dissenter_is_never_flagged() -> None:
    rng = np.random.default_rng(0)
    crowd = rng.integers(3, 5, (200, 20))
    dissenter = rng.integers(0, 2, (1, 20))
    flags = screen(survey(np.vstack([dissenter, crowd]), [5] * 20), ScreensConfig()).flags
    assert not any(flag[0] for flag in flags.values())


def test_speeders_by_hand_and_within_their_wave() -> None:
    answers = np.arange(8)[:, None] + np.arange(12)
    duration = [100.0, 100.0, 32.0, 34.0, None, -5.0, float("nan"), 0.0]
    timed = screen(survey(answers % 5, [5] * 12, duration=duration), only("speeders"))
    # The median of the four known times is 67: only what is under 22 would be quick.
    assert not timed.flags["speeders"].any() and "4 have no time" in timed.notes[0]
    duration = [100.0, 100.0, 100.0, 32.0, 10.0, 10.0, 10.0, 3.0]
    assert screen(survey(answers % 5, [5] * 12, duration=duration), only("speeders")).flags["speeders"].sum() == 1
    waves = ["1"] * 4 + ["2"] * 4
    flagged = screen(survey(answers % 5, [5] * 12, duration=duration, wave=waves), only("speeders")).flags["speeders"]
    assert np.flatnonzero(flagged).tolist() == [3, 7]


def test_what_cannot_be_applied_is_said() -> None:
    few = screen(survey(np.zeros((3, 4), dtype=int), [5, 3, 5, 3]), ScreensConfig())
    assert set(few.flags) == {"duplicates"}
    said = " ".join(few.notes)
    assert "longest_string was not applied" in said and "variance was not applied" in said
    assert "speeders was not applied: the survey does not say how long" in said
    assert screen(survey(np.zeros((3, 4), dtype=int), [5] * 4), ScreensConfig.model_validate(OFF)).notes == ()


def test_duplicates_by_hand() -> None:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 5, (6, 12))
    answers = np.vstack([base, base[1], base[1], base[2], np.full((2, 12), 3), base[4]])
    answers[10, 0] = 3
    area = ["a"] * 11 + ["b"]
    people = survey(answers, [5] * 12, area=area)
    flags = screen(people, only("duplicates")).flags["duplicates"]
    # The copies, not the originals; not the uniform answers; not the copy with another trait.
    assert np.flatnonzero(flags).tolist() == [6, 7, 8]
    again = Survey(people.codebook, people.people.with_columns(pl.lit("p1").alias("person")))
    assert not screen(again, only("duplicates")).flags["duplicates"].any(), "one person twice is no copy"
    outcome = answers.copy()
    outcome[8, 0] = -1
    assert (
        np.flatnonzero(screen(survey(outcome, [5] * 12, area=area), only("duplicates")).flags["duplicates"]).tolist()[
            -1
        ]
        == 7
    )


def test_duplicates_need_answers_that_two_honest_people_would_hardly_share() -> None:
    """Ten yes-or-no items have 1,024 patterns: among 400 people twins are to be expected."""
    rng = np.random.default_rng(4)
    honest = survey(rng.integers(0, 2, (400, 10)), [2] * 10)
    assert honest.people.select(pl.selectors.starts_with("q")).is_duplicated().sum() > 50
    assert not screen(honest, only("duplicates")).flags["duplicates"].any()


def test_several_answers_to_a_trait_are_compared_without_their_order() -> None:
    answers = np.vstack([np.arange(12) % 5] * 3)
    people = survey(answers, [5] * 12, kin=[["x", "y"], ["y", "x"], ["x"]])
    assert screen(people, only("duplicates")).flags["duplicates"].tolist() == [False, True, False]


def test_drop_takes_people_out_and_flag_does_not() -> None:
    answers = np.vstack([np.full(12, 2), np.arange(12) % 5, np.arange(12)[::-1] % 5])
    given = survey(answers, [5] * 12)
    given = Survey(given.codebook, given.people.with_columns(weight=pl.Series([2.0, 0.25, 0.75])))
    flagged = screen(given, only("variance"))
    assert flagged.survey.people.equals(given.people) and flagged.flags["variance"].tolist() == [True, False, False]
    dropped = screen(given, only("variance", "drop"))
    assert dropped.flags["variance"].tolist() == [True, False, False] and dropped.kept_P.tolist() == [False, True, True]
    assert dropped.survey.people["person"].to_list() == ["p1", "p2"]
    assert dropped.survey.people["weight"].to_list() == pytest.approx([0.5, 1.5])
    assert dropped.notes == ("the screen variance drops 1 of 3 interviews (33.3 %)",)
    with pytest.raises(SurveyError, match="leave nobody"):
        screen(survey(np.full((3, 12), 2), [5] * 12), only("variance", "drop"))


def test_the_columns_of_flags_are_nobody_elses() -> None:
    assert {f"screen_{name}" for name in SCREENS} <= set(RESERVED)


def test_nominal_items_have_no_variance() -> None:
    nominal = survey(np.full((2, 12), 1), [5] * 12)
    book = Codebook("s", "s", items([5] * 12, ordinal=False), ())
    assert "variance" not in screen(Survey(book, nominal.people), ScreensConfig()).flags


def test_a_large_survey_takes_seconds() -> None:
    rng = np.random.default_rng(5)
    n, scales = 20_000, [4] * 60 + [10] * 60
    answers = (rng.random((n, 120)) * np.array(scales)).astype(np.int16)
    answers[-1] = answers[0]
    people = pl.DataFrame({"person": [str(p) for p in range(n)], "weight": np.ones(n), "duration": np.full(n, 60.0)})
    frame = people.hstack(pl.DataFrame(answers, schema=[f"q{i}" for i in range(120)]))
    started = time.perf_counter()
    found = screen(Survey(Codebook("s", "s", items(scales), ()), frame), ScreensConfig())
    assert time.perf_counter() - started < 5
    assert set(found.flags) == set(OFF) and np.flatnonzero(found.flags["duplicates"]).tolist() == [n - 1]
