"""Targets with and without screens and styles, against plain loops and a public whose habit is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from valuealign.config import ScreensConfig, SurveyConfig
from valuealign.population import tabulate
from valuealign.population.sensitivity import (
    acquiescence,
    adjusted,
    desirability,
    self_report,
    targets_with_and_without,
    with_and_without,
)
from valuealign.surveys import embedded, screen
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group, Item, Option

WOMEN = Group((("sex", "f"),))
MEN = Group((("sex", "m"),))


def item(name: str, k: int = 5, *, value: str = "", key: int = 1, nominal: bool = False) -> Item:
    options = tuple(Option(j, f"o{j} of {k}") for j in range(k))
    return Item(name, name, options, ordinal=not nominal, values=(value,) if value else (), key=key)


def survey(items: tuple[Item, ...], answers_PI: np.ndarray, *, desirability: tuple[str, ...] = ()) -> Survey:
    n = len(answers_PI)
    rng = np.random.default_rng(9)
    weight = rng.uniform(0.5, 2, n)
    people = pl.DataFrame(
        {"person": [f"p{p}" for p in range(n)], "weight": weight / weight.mean(), "sex": ["f", "m"] * (n // 2)}
    ).with_columns(
        pl.Series(item.id, [int(a) if a >= 0 else None for a in answers_PI[:, i]], dtype=pl.Int16)
        for i, item in enumerate(items)
    )
    sex = Trait("sex", "sex", ("f", "m"), {"f": "woman", "m": "man"})
    return Survey(Codebook("s", "s", items, (sex,), desirability=desirability), people)


def random_survey(n: int = 300) -> tuple[Survey, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    items = (item("a"), item("b", 3), item("c", 4, nominal=True))
    answers = np.stack([rng.integers(-1, len(i.options), n) for i in items], axis=1)
    given = survey(items, answers)
    flag = rng.random(n) < 0.2
    return given, given.people["weight"].to_numpy(), {"some": flag, "nobody": np.zeros(n, dtype=bool)}


def shares_by_loop(given: Survey, item: Item, group: Group, keep: np.ndarray) -> tuple[np.ndarray, int]:
    mass, n = np.zeros(len(item.options)), 0
    for row, kept in zip(given.people.iter_rows(named=True), keep, strict=True):
        if kept and row[item.id] is not None and all(row[t] == level for t, level in group.traits):
            mass[row[item.id]] += row["weight"]
            n += 1
    return mass / mass.sum(), n


def test_with_and_without_equals_plain_loops() -> None:
    given, weights, flags = random_survey()
    everyone = np.ones(len(weights), dtype=bool)
    summary = with_and_without(given, weights, (EVERYONE, WOMEN), flags)
    detail = targets_with_and_without(given, weights, (EVERYONE, WOMEN), flags)
    assert summary.height == 4 and detail.height == 2 * 2 * (5 + 3 + 4)
    for group in (EVERYONE, WOMEN):
        row = summary.row(by_predicate=(pl.col("screen") == "some") & (pl.col("group") == group.name), named=True)
        inside = everyone if group is EVERYONE else (given.people["sex"] == "f").to_numpy()
        flagged = inside & flags["some"]
        assert (row["n"], row["flagged"], row["items"]) == (inside.sum(), flagged.sum(), 3)
        assert row["flagged_share"] == pytest.approx(weights[flagged].sum() / weights[inside].sum())
        distances = {}
        for one in given.codebook.items:
            share, n = shares_by_loop(given, one, group, everyone)
            without, left = shares_by_loop(given, one, group, ~flags["some"])
            distances[one.id] = np.abs(share - without).sum() / 2
            part = detail.filter(screen="some", group=group.name, item=one.id)
            assert part["option"].to_list() == list(range(len(one.options)))
            assert part["share"].to_numpy() == pytest.approx(share) and part["without"].to_numpy() == pytest.approx(
                without
            )
            assert set(part["n"]) == {n} and set(part["n_without"]) == {left}
        assert row["mean_distance"] == pytest.approx(np.mean(list(distances.values())))
        assert row["largest_distance"] == pytest.approx(max(distances.values()))
        assert row["largest_item"] == max(distances, key=lambda name: distances[name])
    nobody = summary.filter(screen="nobody")
    assert nobody["flagged"].sum() == 0 and nobody["largest_distance"].to_list() == [0.0, 0.0]
    assert nobody["largest_item"].null_count() == 2


def test_too_few_answers_are_no_distance() -> None:
    given, weights, flags = random_survey()
    found = with_and_without(given, weights, (EVERYONE,), flags, least=10_000)
    assert found["items"].to_list() == [0, 0] and found["mean_distance"].null_count() == 2
    assert with_and_without(given, weights, (EVERYONE,), {}).height == 0
    everybody = {"all": np.ones(len(weights), dtype=bool)}
    assert with_and_without(given, weights, (EVERYONE,), everybody)["items"].to_list() == [0]
    assert targets_with_and_without(given, weights, (EVERYONE,), everybody)["without"].null_count() == 12


def test_straight_lines_move_the_targets_and_the_table_says_so() -> None:
    rng = np.random.default_rng(2)
    items = tuple(item(f"q{i}") for i in range(12))
    answers = rng.integers(0, 5, (400, 12))
    answers[:80:2] = 4  # women's straight lines
    given = survey(items, answers)
    weights = given.people["weight"].to_numpy()
    flags = screen(given, ScreensConfig(duplicates="off", speeders="off")).flags
    found = with_and_without(given, weights, (WOMEN, MEN), flags).filter(screen="longest_string")
    women, men = found.rows(named=True)
    assert women["flagged"] == 40 and men["flagged"] == 0
    assert women["mean_distance"] > 0.1 and men["largest_distance"] == 0


BALANCED = (
    item("p1", value="power"),
    item("p2", value="power"),
    item("m1", value="power", key=-1),
    item("m2", value="power", key=-1),
    item("other"),
    item("three", 3),
    item("nominal", nominal=True),
)


def test_acquiescence_by_hand() -> None:
    answers = np.array(
        [
            [4, 4, 0, 0, 2, 0, 0],  # content only: (1 + 0) / 2
            [4, 4, 2, 2, 2, 0, 0],  # (1 + .5) / 2
            [2, 3, 2, 3, 2, 0, 0],  # .625
            [4, -1, 2, 2, 2, 0, 0],  # one item keyed +: not balanced
        ]
    )
    style = acquiescence(survey(BALANCED, answers))
    assert style.excess_P[:3].tolist() == [0.0, 0.25, 0.125] and np.isnan(style.excess_P[3])
    assert set(style.slope) == {"p1", "p2", "m1", "m2", "other"}, "only items on the scale of the balanced set"
    assert "1 of 4 interviews have no index" in " ".join(style.notes)


def test_no_balanced_keys_no_adjustment_and_a_reason() -> None:
    answers = np.zeros((4, 3), dtype=int)
    lone = survey((item("p1", value="power"), item("p2", value="power"), item("m", value="power", key=-1)), answers)
    found = self_report(lone, np.ones(4), (EVERYONE,))
    assert found.frame.height == 0 and set(found.frame.columns) >= {"style", "share", "adjusted", "low", "high"}
    assert "no acquiescence" in found.notes[0] and "no social desirability" in found.notes[1]


def test_adjusted_answers_are_shared_between_neighbours() -> None:
    answers = np.array([[4, 4, 2, 2, 3, 0, 0], [4, 4, 0, 0, 1, 1, 0], [2, 3, 2, 3, 2, 2, 0], [0, 0, 0, 0, 0, 1, 1]])
    given = survey(BALANCED, answers)
    w = np.array([1.0, 2.0, 3.0, 4.0])
    frame = adjusted(given, w, (EVERYONE, WOMEN), by=acquiescence(given))
    found = frame.filter(item="other", group="everyone")
    # Excess .25, 0, .125, -.5 in places: option 3 goes to 2, 1 stays, 2 is halved with 1, 0 goes to 2.
    assert found["share"].to_list() == pytest.approx([0.4, 0.2, 0.3, 0.1, 0.0])
    assert found["adjusted"].to_list() == pytest.approx([0.0, 0.2 + 0.15, 0.1 + 0.15 + 0.4, 0.0, 0.0])
    assert found["low"].to_list() == pytest.approx([0.0, 0.2, 0.3, 0.0, 0.0])
    assert found["high"].to_list() == pytest.approx([0.4, 0.35, 0.65, 0.1, 0.0])
    table = tabulate(given, w, (EVERYONE, WOMEN))
    for group in (EVERYONE, WOMEN):
        for name in ("p1", "other"):
            part = frame.filter(item=name, group=group.name)
            assert part["share"].to_numpy() == pytest.approx(table.shares(name, group))
            assert part["adjusted"].sum() == pytest.approx(1)


def test_falling_and_uneven_positions() -> None:
    """A scale whose first option stands highest, unevenly spaced: places 1, .25, 0."""
    options = tuple(Option(j, f"u{j}", p) for j, p in enumerate((8.0, 2.0, 0.0)))
    uneven = tuple(
        Item(name, name, options, values=("power",), key=key)
        for name, key in (("a", 1), ("b", 1), ("c", -1), ("d", -1))
    )
    given = survey(uneven, np.array([[0, 0, 1, 1], [2, 2, 0, 0]]))
    style = acquiescence(given)
    assert style.excess_P.tolist() == [0.125, 0.0]
    frame = adjusted(given, np.ones(2), (EVERYONE,), by=style).filter(item="a")
    # Place 1 less .125: 5/6 of the way from .25 to 1.
    assert frame["adjusted"].to_list() == pytest.approx([5 / 12, 1 / 12, 0.5])


def test_adjusting_takes_out_a_habit_that_was_put_in() -> None:
    """Two publics with the same content, one with a habit of agreeing: adjusted, the second looks like the first."""
    rng = np.random.default_rng(5)
    n, keys = 4000, np.array([1, -1] * 8)
    items = tuple(item(f"q{i}", 7, value="power", key=int(key)) for i, key in enumerate(keys))
    content = rng.normal(0, 0.12, (n, 1)) * keys + rng.normal(0, 0.1, (n, 16)) + 0.5
    habit = rng.normal(0.12, 0.05, (n, 1))
    clean, biased = (
        survey(items, np.clip(np.rint(6 * place), 0, 6).astype(int)) for place in (content, content + habit)
    )
    w = np.ones(n)
    found = adjusted(biased, w, (EVERYONE,), by=acquiescence(biased))
    truth = tabulate(clean, w, (EVERYONE,))
    places = np.arange(7) / 6
    for one in items:
        part = found.filter(item=one.id)
        true = truth.shares(one.id, EVERYONE) @ places
        assert abs(part["share"].to_numpy() @ places - true) > 0.08
        assert abs(part["adjusted"].to_numpy() @ places - true) < 0.02


def test_desirability_against_a_plain_regression() -> None:
    rng = np.random.default_rng(7)
    n = 600
    items = (item("sd1"), item("sd2", key=-1), item("q", 5), item("free", 5))
    proper = rng.integers(0, 5, n)
    q = np.clip(proper + rng.integers(-1, 2, n), 0, 4)
    answers = np.stack([proper, 4 - proper, q, rng.integers(0, 5, n)], axis=1)
    answers[:20, :2] = -1  # no score
    answers[20:30, 2] = -1
    given = survey(items, answers, desirability=("sd1", "sd2"))
    w = given.people["weight"].to_numpy()
    style = desirability(given, w)
    score = proper / 4
    both = slice(30, None)
    line = np.polyfit(score[both], q[both] / 4, 1, w=np.sqrt(w[both]))
    assert set(style.slope) == {"q", "free"} and style.slope["q"] == pytest.approx(line[0])
    assert abs(style.slope["free"]) < 0.1
    assert np.isnan(style.excess_P[:20]).all() and style.excess_P[20:] == pytest.approx(score[20:])
    part = adjusted(given, w, (EVERYONE,), by=style).filter(item="q")
    places = np.arange(5) / 4
    moved = np.where(np.arange(n) < 20, q / 4, np.clip(q / 4 - line[0] * score, 0, 1))
    known = answers[:, 2] >= 0
    assert part["adjusted"].to_numpy() @ places == pytest.approx(np.average(moved[known], weights=w[known]))
    assert part["adjusted"].to_numpy() @ places < part["share"].to_numpy() @ places - 0.2


def test_the_embedded_population_is_screened_and_bounded() -> None:
    given = embedded.read(SurveyConfig(people=600), 0)
    w = given.people["weight"].to_numpy()
    found = screen(given, ScreensConfig())
    assert sum(flag.sum() for flag in found.flags.values()) < 0.01 * len(w), "honest people are left alone"
    bounds = self_report(given, w, (EVERYONE,)).frame
    assert bounds.height == 0 or bounds.select((pl.col("low") <= pl.col("high")).all()).item()


def test_an_item_that_cannot_measure_desirability_is_named() -> None:
    items = (item("sd"), item("nominal", nominal=True), item("q"))
    answers = np.random.default_rng(0).integers(0, 5, (40, 3))
    given = survey(items, answers, desirability=("sd", "nominal"))
    notes = self_report(given, np.ones(40), (EVERYONE,)).notes
    assert any(note.startswith("nominal: ") for note in notes) and any("desirability from sd" in note for note in notes)
    alone = desirability(survey(items, answers, desirability=("nominal",)), np.ones(40))
    assert alone.notes[0].startswith("nominal: ") and not alone.slope
