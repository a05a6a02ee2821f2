"""Rokeach's rankings as pairwise preferences: complete, tied, incomplete and broken ones."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typed import typed

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, CodebookError, SurveyError
from valuealign.evaluate.profiles import compare_profiles, profile_cells, profile_items, theory_of
from valuealign.population import tabulate
from valuealign.surveys import read_survey
from valuealign.surveys.generic import NUMBERED
from valuealign.surveys.rokeach import pair_id, preferences
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE
from valuealign.values import THEORIES, score
from valuealign.values.rokeach import INSTRUMENTAL, TERMINAL

NAMES = [f"t{n}" for n in range(1, 19)] + [f"i{n}" for n in range(1, 19)]
FORWARD = list(range(1, 19))
BACKWARD = FORWARD[::-1]


def write(
    folder: Path, rows: Sequence[Sequence[object]], names: Sequence[str] = NAMES, book: str | None = None
) -> SurveyConfig:
    with (folder / "ranks.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    if book is not None:
        (folder / "own.yaml").write_text(book)
    return SurveyConfig(
        reader="rvs", file=folder / "ranks.csv", codebook=folder / "own.yaml" if book is not None else None
    )


def answers(survey: Survey, first: str, second: str) -> list[int | None]:
    return survey.people[pair_id(first, second)].to_list()


def test_a_complete_ranking_answers_every_pair(tmp_path: Path) -> None:
    survey = read_survey(write(tmp_path, [FORWARD + BACKWARD]), 0)
    items = survey.codebook.items
    assert len(items) == 2 * 153 and all(len(item.options) == 2 and not item.ordinal for item in items)
    assert len({frozenset((item.options[0].text, item.options[1].text)) for item in items}) == 306
    assert all(survey.people[pair_id(a, b)][0] == 0 for a, b in combinations(TERMINAL, 2))
    assert all(survey.people[pair_id(a, b)][0] == 1 for a, b in combinations(INSTRUMENTAL, 2))
    question = survey.codebook.item("self-respect_or_wisdom")
    assert question.text == "Which matters more to you: self-respect or wisdom?"
    assert [option.text for option in question.options] == ["self-respect", "wisdom"]
    assert survey.codebook.item("ambitious_or_clean").options[1].text == "being clean"
    assert any("alphabetical" in note for note in survey.notes)


def test_weighted_shares_and_traits_by_hand(tmp_path: Path) -> None:
    """Weights 1, 2, 5: the first and the third rank freedom before wisdom, so 6 of 8."""
    book = "person: id\nweight: w\nmissing: [NA]\ntraits: {sex: {as: noun, levels: {f: woman, m: man}}}\n"
    rows = [
        ["a", 1, "f", *FORWARD, *FORWARD],
        ["b", 2, "m", *BACKWARD, *FORWARD],
        ["c", 5, "f", *FORWARD, *["NA"] * 18],
    ]
    survey = read_survey(write(tmp_path, rows, ["id", "w", "sex", *NAMES], book), 0)
    table = tabulate(survey, survey.people["weight"].to_numpy(), (EVERYONE,))
    assert table.target("freedom_or_wisdom", EVERYONE).shares == pytest.approx((6 / 8, 2 / 8))
    honest = table.target("clean_or_honest", EVERYONE)
    assert honest.shares == pytest.approx((1, 0)) and honest.n == 2
    assert survey.people["sex"].to_list() == ["f", "m", "f"] and survey.people["person"].to_list() == ["a", "b", "c"]
    assert survey.codebook.phrase([("sex", "f")]) == "a woman"


def ranked(**ranks: object) -> list[object]:
    """Ranks of the terminal values (others blank), in the order of the list."""
    return [ranks.get(value.replace("-", "_"), "") for value in TERMINAL]


TIES = [
    # Equal ranks: no preference between the two, but against the third.
    ({"equality": 2, "freedom": 2, "wisdom": 4}, {"equality freedom": None, "equality wisdom": 0}),
    # The two foremost: they come before all the others, and nothing is known between those.
    ({"wisdom": 1, "freedom": 2}, {"freedom wisdom": 1, "equality wisdom": 1, "equality happiness": None}),
    # A gap: nothing is known of what was not ranked.
    ({"wisdom": 1, "freedom": 3}, {"freedom wisdom": 1, "equality wisdom": None, "equality freedom": None}),
    # Tied at the top, so no list of the foremost.
    ({"wisdom": 1, "freedom": 1}, {"freedom wisdom": None, "equality wisdom": None}),
    # A single favourite comes before everything.
    ({"wisdom": 1}, {"freedom wisdom": 1, "equality freedom": None}),
    ({"wisdom": 2}, {"freedom wisdom": None}),
]


@pytest.mark.parametrize(("ranks", "expected"), TIES)
def test_ties_and_incomplete_rankings(
    tmp_path: Path, ranks: Mapping[str, int], expected: Mapping[str, int | None]
) -> None:
    rows = [ranked(**ranks) + FORWARD, FORWARD + FORWARD]
    survey = read_survey(write(tmp_path, rows), 0)
    for pair, answer in expected.items():
        assert answers(survey, *pair.split())[0] == answer, pair


def test_a_value_that_nobody_ranked_still_loses(tmp_path: Path) -> None:
    survey = read_survey(write(tmp_path, [ranked(wisdom=1, freedom=2) + FORWARD, ranked(freedom=1) + FORWARD]), 0)
    assert answers(survey, "freedom", "salvation") == [0, 0]
    assert answers(survey, "salvation", "wisdom") == [1, None]


@pytest.mark.parametrize("rank", ["0", "19", "2.5", "first", "-1"])
def test_a_rank_that_is_none_names_its_line(tmp_path: Path, rank: str) -> None:
    rows = [FORWARD + FORWARD, [*FORWARD[:7], rank, *FORWARD[8:], *FORWARD]]
    with pytest.raises(AnswerError) as caught:
        read_survey(write(tmp_path, rows), 0)
    assert f"'{rank}'" in str(caught.value) and "column 't8', line 3" in str(caught.value)


def test_columns_by_name_by_hand_and_one_list_only(tmp_path: Path) -> None:
    by_name = [value.replace("-", "_").title() for value in TERMINAL]
    survey = read_survey(write(tmp_path, [BACKWARD], by_name), 0)
    assert (
        len(survey.codebook.items) == 153
        and answers(survey, "freedom", "wisdom") == [1]
        and survey.notes == (NUMBERED,)
    )
    by_name[7], book = "Q8", "items: {freedom: {column: Q8, text: liberty}}\n"
    with pytest.raises(AnswerError, match="of 18 items 1 have no column: freedom"):
        read_survey(write(tmp_path, [BACKWARD], by_name), 0)
    survey = read_survey(write(tmp_path, [BACKWARD], by_name, book), 0)
    assert survey.codebook.item("freedom_or_wisdom").text == "Which matters more to you: liberty or wisdom?"


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnswerError, match="no column looks like"):
        read_survey(write(tmp_path, [[1, 2]], ["a", "b"]), 0)
    with pytest.raises(AnswerError, match="'freedom' and 't8' both look like 'freedom'"):
        read_survey(write(tmp_path, [[*FORWARD, *FORWARD, 1]], [*NAMES, "freedom"]), 0)
    with pytest.raises(SurveyError, match="survey.file"):
        read_survey(SurveyConfig(reader="rvs"), 0)
    with pytest.raises(CodebookError, match=r"own.yaml, line 2: unknown key 'txt'"):
        read_survey(write(tmp_path, [FORWARD + FORWARD], book="items:\n  freedom: {txt: liberty}\n"), 0)
    with pytest.raises(AnswerError, match="no column 'gendr'"):
        read_survey(write(tmp_path, [FORWARD + FORWARD], book="traits: {gendr: {levels: [f, m]}}\n"), 0)


def test_mean_ranks_and_pairwise_wins_agree() -> None:
    """On complete rankings a value's mean rank is 18 less its expected wins (Borda)."""
    rng = np.random.default_rng(0)
    rank_PV = rng.permuted(np.tile(np.arange(1.0, 19), (200, 1)), axis=1)
    answer_PQ = preferences(rank_PV)
    wins_V = np.zeros(18)
    for q, (a, b) in enumerate(combinations(range(18), 2)):
        wins_V[a] += (answer_PQ[:, q] == 0).mean()
        wins_V[b] += (answer_PQ[:, q] == 1).mean()
    assert rank_PV.mean(axis=0) == pytest.approx(18 - wins_V)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(1, 19)))
def test_complete_rankings_are_transitive(order: list[int]) -> None:
    answer_PQ = preferences(np.array([order], dtype=float))
    assert answer_PQ.shape == (1, 153) and (answer_PQ >= 0).all()
    before = {pair: answer_PQ[0, q] == 0 for q, pair in enumerate(combinations(range(18), 2))}
    wins = [sum(before[min(v, w), max(v, w)] == (v < w) for w in range(18) if w != v) for v in range(18)]
    assert sorted(wins) == list(range(18))  # a tournament is transitive exactly then
    assert [18 - win for win in wins] == order


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(1, 18)), min_size=18, max_size=18))
def test_any_ranking_follows_the_rule(ranks: list[int | None]) -> None:
    """Against the rule written pair by pair."""
    answer_PQ = preferences(np.array([[np.nan if rank is None else rank for rank in ranks]], dtype=float))
    known = sorted(rank for rank in ranks if rank is not None)
    foremost = bool(known) and known == list(range(1, len(known) + 1))
    for q, (a, b) in enumerate(combinations(ranks, 2)):
        if a is not None and b is not None:
            expected = -1 if a == b else int(b < a)
        elif foremost and (a is None) != (b is None):
            expected = int(a is None)
        else:
            expected = -1
        assert answer_PQ[0, q] == expected


def test_scores_are_the_ranks_turned_and_everyones_profile_their_mean(tmp_path: Path) -> None:
    """A complete ranking gives (18 - rank) / 17; a list of the foremost only what it can say."""
    rng = np.random.default_rng(1)
    ranks = np.concatenate([rng.permuted(np.tile(np.arange(1, 19), (20, 1)), axis=1) for _ in range(2)], axis=1)
    survey = read_survey(write(tmp_path, ranks.tolist()), 0)
    theory, items = THEORIES["rokeach"], survey.codebook.items
    scores = score(theory, items, survey.people.select(item.id for item in items).to_numpy())
    assert scores.values == theory.values
    assert scores.raw_PV == pytest.approx((18 - ranks) / 17) and scores.centred_PV == pytest.approx(scores.raw_PV - 0.5)

    table = tabulate(survey, survey.people["weight"].to_numpy(), (EVERYONE,))
    mine = profile_items(survey, theory)
    flat = [np.zeros(2) for _ in profile_cells(mine, table)]
    people, model = compare_profiles(survey, np.ones(20), table, theory, {"flat": flat})
    assert theory_of(survey) is theory and people.everyone_V == pytest.approx(((18 - ranks) / 17 - 0.5).mean(axis=0))
    assert model.everyone_V == pytest.approx(np.zeros(36)) and model.distance == pytest.approx(
        np.abs(people.everyone_V).mean()
    )
    assert people.circle is None and "no circle" in people.why

    survey = read_survey(write(tmp_path, [ranked(wisdom=1, freedom=2) + FORWARD, *ranks.tolist()]), 0)
    items = survey.codebook.items
    first = score(theory, items, survey.people.select(survey.people[i.id].fill_null(-1) for i in items).to_numpy())
    place = {value: first.raw_PV[0, v] for v, value in enumerate(theory.values)}
    assert place["wisdom"] == 1 and place["freedom"] == pytest.approx(16 / 17) and np.isnan(place["salvation"])
    assert place["ambitious"] == 1 and place["self-controlled"] == 0


def test_the_job_shows_the_profile_of_rankings(home: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    ranks = np.concatenate([rng.permuted(np.tile(np.arange(1, 19), (30, 1)), axis=1) for _ in range(2)], axis=1)
    config = write(tmp_path, ranks.tolist())
    done = typed("values", "--theory", "rokeach", "survey.reader=rvs", f"survey.file={config.file}")
    assert done.returncode == 0, done.stderr
    shown = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if line.strip()}
    wisdom = ((18 - ranks[:, 17]) / 17 - 0.5).mean()
    assert float(shown["wisdom"]) == pytest.approx(wisdom, abs=6e-4) and "nan" not in done.stdout


def test_what_nobody_ranked_is_said_as_it_is(tmp_path: Path) -> None:
    """Of lists of the foremost, values that nobody named lose their pairs; only pairs of two such are left out."""
    survey = read_survey(write(tmp_path, [ranked(wisdom=1, freedom=2, equality=3), ranked(wisdom=1)], NAMES[:18]), 0)
    assert not any("Nobody answered" in note for note in survey.notes)
    assert any("left out: 105." in note for note in survey.notes)  # 15 * 14 / 2
    assert len(survey.codebook.items) == 153 - 105 and answers(survey, "salvation", "wisdom") == [1, 1]
    with pytest.raises(AnswerError, match="nobody ranked one value before another"):
        read_survey(write(tmp_path, [[3] * 18, [""] * 18], NAMES[:18]), 0)
