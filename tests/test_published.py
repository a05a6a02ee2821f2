"""Tables of published shares: apportioned, reconstructed, refused; and what wordings give away."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, ConfigError, SurveyError
from valuealign.population import tabulate
from valuealign.surveys import read_survey
from valuealign.surveys.published import apportion
from valuealign.surveys.table import Survey
from valuealign.surveys.wordings import non_answer, ordered
from valuealign.types import EVERYONE, Group

TIDY = """question,option,country,share,n
Is it safe?,Yes,Chile,60,200
Is it safe?,No,Chile,30,200
Is it safe?,DK/Refused,Chile,10,200
Is it safe?,Yes,Peru,33.3,
Is it safe?,No,Peru,66.7,
Which one?,Jobs,Chile,50,50
Which one?,Forests,Chile,50,50
"""
SELECTIONS = defaultdict(list, {"Chile": [0.6, 0.3, 0.1], "Peru": [1 / 3, 2 / 3, 0.0], "Cuba": []})


def read(path: Path, text: str, **keys: object) -> Survey:
    path.write_text(text)
    return read_survey(SurveyConfig.model_validate({"reader": "published", "file": path, **keys}), 0)


def counts(survey: Survey, item: str, country: str) -> dict[int | None, int]:
    column = survey.people.filter(pl.col("country") == country)[item]
    return dict(column.value_counts().iter_rows())


def test_a_tidy_table_by_hand(tmp_path: Path) -> None:
    survey = read(tmp_path / "t.csv", TIDY, assumed_n=10)
    assert survey.people.height == 210 and survey.people["person"].n_unique() == 210
    assert counts(survey, "q1", "Chile") == {0: 120, 1: 60, -1: 20}
    assert counts(survey, "q1", "Peru") == {0: 3, 1: 7}
    assert counts(survey, "q2", "Chile") == {0: 25, 1: 25, None: 150}
    assert counts(survey, "q2", "Peru") == {None: 10}
    book = survey.codebook
    assert [option.text for option in book.items[0].options] == ["Yes", "No"] and not book.items[0].ordinal
    assert book.outcomes == ("don't know or no answer",) and book.country == "country"
    assert book.phrase([("country", "Peru")]) == "someone from Peru"
    notes = " ".join(survey.notes)
    assert "210 were reconstructed" in notes and "1 of 3 distributions do not say" in notes and "'DK/Refused'" in notes


def test_all_formats_and_layouts_say_the_same(tmp_path: Path) -> None:
    text = 'question,selections,options,source\nIs it safe?,"{}","{}",GAS\n'
    answers = ["Yes", "No", "DK/Refused"]
    csv = read(tmp_path / "t.csv", text.format(SELECTIONS, answers))
    row = {"question": "Is it safe?", "selections": SELECTIONS, "options": answers, "source": "GAS"}
    lines = read(tmp_path / "t.jsonl", json.dumps(row))
    pl.DataFrame([row]).write_parquet(tmp_path / "t.parquet")
    parquet = read_survey(SurveyConfig(reader="published", file=tmp_path / "t.parquet"), 0)
    percent = {name: [100 * share for share in shares] for name, shares in SELECTIONS.items()}
    hundred = read(tmp_path / "h.jsonl", json.dumps({**row, "selections": percent}))
    assert csv.codebook.source == "GAS" and csv.codebook.traits[0].levels == ("Chile", "Peru")
    for other in (lines, parquet, hundred):
        assert other.people.equals(csv.people) and other.codebook.items == csv.codebook.items
    assert counts(csv, "q1", "Chile") == {0: 300, 1: 150, -1: 50} and counts(csv, "q1", "Peru") == {0: 167, 1: 333}


def test_targets_are_the_published_shares_and_halves_differ(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shares = {country: rng.dirichlet(np.ones(4), 30).round(3) for country in ("A", "B")}
    rows = [
        {
            "question": f"Question {place}?",
            "options": list("wxyz"),
            "selections": {country: table[place].tolist() for country, table in shares.items()},
            "n": {"A": 400, "B": 137},
        }
        for place in range(30)
    ]
    survey = read(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    groups = [Group((("country", country),)) for country in shares]
    table = tabulate(survey, np.ones(survey.people.height), [EVERYONE, *groups])
    for g, (table_IK, n) in enumerate(zip(shares.values(), (400, 137), strict=True), start=1):
        wanted_IK = table_IK / table_IK.sum(axis=1, keepdims=True)
        assert np.abs(table.shares_GIK[g] - wanted_IK).max() < 1 / n and (table.n_GI[g] == n).all()
    half = np.arange(survey.people.height) % 2 == 0
    part = tabulate(survey, np.ones(len(half)), groups, multiplicity_P=half)
    # A half of 400 without replacement: standard error sqrt(p q / 200) * sqrt(200 / 399).
    p_IK = table.shares_GIK[1]
    z_IK = (part.shares_GIK[0] - p_IK) / np.sqrt(p_IK * (1 - p_IK) / 399 + 1e-12)
    assert 0.7 < z_IK[p_IK > 0.02].std() < 1.3
    answers_PI = survey.people.filter(pl.col("country") == "A").select(item.id for item in survey.codebook.items)
    correlation = np.corrcoef(answers_PI.to_numpy().T)[np.triu_indices(30, 1)]
    assert np.abs(correlation).max() < 5 / math.sqrt(400), "no correlation is pretended"
    again = read_survey(SurveyConfig(reader="published", file=tmp_path / "t.jsonl"), 1)
    assert not again.people.equals(survey.people), "the seed shuffles"


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(any), min_size=1), st.integers(1, 5000))
def test_largest_remainders(weights: list[list[float]], n: int) -> None:
    shares_CK = np.array([[share / math.fsum(row) for share in row] for row in weights])
    counts_CK = apportion(shares_CK, np.full(len(weights), n))
    assert (counts_CK.sum(axis=1) == n).all() and (counts_CK >= 0).all()
    assert (np.abs(counts_CK - n * shares_CK) < 1 + 1e-6).all() and (counts_CK[shares_CK == 0] == 0).all()
    # Independent: hand out the seats one by one to the largest remainder.
    for shares, found in zip(shares_CK.tolist(), counts_CK.tolist(), strict=True):
        quotas = [round(share * n, 9) for share in shares]
        seats = [math.floor(quota) for quota in quotas]
        for _ in range(n - sum(seats)):
            best = max(range(4), key=lambda k: (quotas[k] - seats[k], -k))
            seats[best] += 1
        assert seats == found


def test_questions_of_the_same_words_are_a_family_and_ordinal_can_be_said(tmp_path: Path) -> None:
    lines = [
        {"question": text, "options": list(options), "selections": {"A": [1, 0, 0]}, "ordinal": said}
        for text, options, said in (
            ("How good?", "xyz", True),
            ("how  GOOD?", ("Good", "Fair", "Poor"), None),
            ("Other?", ("Good", "Fair", "Poor"), False),
        )
    ]
    items = read(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines))).codebook.items
    assert [item.family for item in items] == ["q1", "q1", ""]
    assert [item.ordinal for item in items] == [True, True, False] and items[0].positions == (0, 1, 2)


def test_rounding_is_scaled_and_said_and_not_asked_is_missing(tmp_path: Path) -> None:
    lines = {"question": "Q?", "options": ["a", "b", "Not asked"], "selections": {"A": [33, 33, 33]}, "n": 99}
    survey = read(tmp_path / "t.jsonl", json.dumps(lines))
    assert counts(survey, "q1", "A") == {0: 33, 1: 33, None: 33} and survey.codebook.outcomes == ()
    assert any("1 of 1 distributions do not sum to 1 exactly (furthest: 1.0 points" in note for note in survey.notes)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Chile,60", "Chile,-60", ("column 'share', line 2", "'-60' is negative")),
        ("Chile,60", "Chile,many", ("column 'share', line 2", "'many' is no number")),
        ("Chile,60", "Chile,nan", ("line 2", "no number")),
        ("Chile,60", "Chile,1e999", ("line 2", "no number")),
        ("Chile,60", "Chile,70", ("line 2", "'Chile' sum to 110")),
        ("Peru,33.3", "Peru,.333", ("line 5", "'Peru' sum to 67.033")),
        ("No,Chile", "Yes,Chile", ("line 3", "'Yes' stands a second time")),
        ("30,200", "30,201", ("column 'n', line 3", "n was 200 before")),
        ("60,200", "60,2.5", ("column 'n', line 2", "no number of people")),
        ("50,50\nWhich one?,Forests,Chile,50,50", "100,50", ("line 7", "fewer than two options")),
        ("share,n", "shar,n", ("no column 'share'", "did you mean 'shar'?")),
        ("Yes,Chile", ",Chile", ("column 'option', line 2", "is empty")),
        ("60,200", "60,200,1", ("line 2", "6 values")),
        (TIDY, "", ("empty",)),
    ],
)
def test_a_mistake_in_a_tidy_table_is_named(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    assert old in TIDY
    with pytest.raises(AnswerError) as caught:
        read(tmp_path / "t.csv", TIDY.replace(old, new, 1))
    for word in (str(tmp_path / "t.csv"), "mend:", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("selections", {"A": [0.5]}, ("1 shares; 2 answers",)),
        ("selections", {"A": 0.5}, ("no list of shares",)),
        ("selections", {"A": [0.5, "x"]}, ("'x' is no number",)),
        ("selections", {"A": [0.4, 0.4]}, ("sum to 0.8",)),
        ("selections", {"A": []}, ("no country has any shares",)),
        ("selections", {" ": [0.4, 0.6]}, ("no name",)),
        ("selections", "__import__('os').abort()", ("'selections' cannot be read",)),
        ("selections", "defaultdict(<class 'list'>, {'A': [0.5, nan]})", ("'selections' cannot be read",)),
        ("options", "Yes, No", ("'options' cannot be read",)),
        ("options", ["Yes", "Yes"], ("read the same",)),
        ("options", ["Yes", "Refused"], ("fewer than two options",)),
        ("ordinal", "maybe", ("'maybe' is neither true nor false",)),
        ("n", 900000000000, ("more than can be reconstructed",)),
        ("n", {"A": 0}, ("'0' is no number of people",)),
        ("question", "", ("'question' is empty",)),
    ],
)
def test_a_mistake_in_a_row_of_lists_is_named(tmp_path: Path, name: str, value: object, words: tuple[str, ...]) -> None:
    row = {"question": "Q?", "options": ["Yes", "No"], "selections": {"A": [0.5, 0.5]}, name: value}
    with pytest.raises(AnswerError) as caught:
        read(tmp_path / "t.jsonl", json.dumps(row))
    for word in ("t.jsonl", "mend:", *words):
        assert word in str(caught.value)


def test_what_is_no_table_and_keys_that_mean_nothing(tmp_path: Path) -> None:
    for text in ("[1, 2]", '{"question":', "[" * 100_000):
        with pytest.raises(AnswerError, match="line 1"):
            read(tmp_path / "t.jsonl", text)
    with pytest.raises(SurveyError, match="survey.file"):
        read_survey(SurveyConfig(reader="published"), 0)
    with pytest.raises(ConfigError, match="survey.weight"):
        read(tmp_path / "t.csv", TIDY, weight="w")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Don\u2019t know", "don't know"),
        ("DON'T KNOW (DO NOT READ)", "don't know"),
        ("DK/Refused", "don't know or no answer"),
        ("No answer", "no answer"),
        ("Prefer not to say", "no answer"),
        ("Not asked in survey", "not asked"),
        ("Missing; Unknown", "not asked"),
        ("Yes", None),
        ("Not applicable, no children", None),
        ("No", None),
    ],
)
def test_non_answers(text: str, kind: str | None) -> None:
    assert non_answer(text) == kind


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["Very good", "Somewhat good", "Somewhat bad", "Very bad"], True),
        (["Strongly disagree", "Disagree", "Neither agree nor disagree", "Agree", "Strongly agree"], True),
        (["A great deal", "Quite a lot", "Not very much", "None at all"], True),
        (["More likely", "No difference", "Less likely"], True),
        (["Always", "Often", "Sometimes", "Never"], True),
        (["Never justified", "2", "3", "4", "Always justified"], True),
        (["3", "2", "1"], True),
        (["More likely", "Less likely", "No difference"], False),
        (["Good thing", "Bad thing", "Neither"], False),
        (["1", "2", "4"], False),
        (["Yes", "No"], False),
        (["Greens", "Reds", "Blues"], False),
        (["1"], False),
    ],
)
def test_ordered_scales(texts: list[str], wanted: bool) -> None:
    assert ordered(texts) is wanted and ordered(texts[::-1]) is wanted


def test_what_is_no_answer_or_reads_like_another_is_refused(tmp_path: Path) -> None:
    for odd in (None, ["Yes"], {"a": 1}, "  "):
        row = {"question": "Is it safe?", "options": ["No", odd], "selections": {"Chile": [0.5, 0.5]}}
        with pytest.raises(AnswerError, match=r"column 'options', line 1: .* is no answer"):
            read(tmp_path / "t.jsonl", json.dumps(row))
    tidy = {"question": "Safe?", "option": ["Yes"], "country": "Chile", "share": 1}
    with pytest.raises(AnswerError, match=r"column 'option', line 1: 'option' is no text"):
        read(tmp_path / "t.jsonl", json.dumps(tidy))
    with pytest.raises(AnswerError, match=r"line 5: 'yes' and 'Yes' read alike"):
        read(tmp_path / "t.csv", TIDY.replace("Yes,Peru", "yes,Peru"))
    assert read(tmp_path / "t.csv", TIDY.replace("No,Peru,66.7,", "No,Peru,66.7,\nIs it safe?,dk/refused,Peru,0,"))


ORDERED = """question,option,country,share,ordinal
How often?,Often,Chile,50,true
How often?,Never,Chile,50,true
How often?,Often,Peru,40,true
How often?,At times,Peru,40,true
How often?,Never,Peru,20,true
"""


def test_ordered_options_stand_as_the_countries_rows_do(tmp_path: Path) -> None:
    """The first country has no row for the middle option: its share is 0, and its place is Peru's."""
    survey = read(tmp_path / "t.csv", ORDERED, assumed_n=10)
    assert [option.text for option in survey.codebook.items[0].options] == ["Often", "At times", "Never"]
    assert counts(survey, "q1", "Chile") == {0: 5, 2: 5} and counts(survey, "q1", "Peru") == {0: 4, 1: 4, 2: 2}
    assert any("q1" in note and "column 'order'" in note for note in survey.notes)
    turned = ORDERED.replace("Chile", "X").replace("Peru", "Chile")
    swapped = turned.replace("Often,X", "?,X").replace("Never,X", "Often,X").replace("?,X", "Never,X")
    with pytest.raises(AnswerError, match=r"(?s)list the options in different orders.*column 'order'"):
        read(tmp_path / "t.csv", swapped)


def test_the_order_may_be_said(tmp_path: Path) -> None:
    place = {"Often": 3, "At times": 2, "Never": 1}
    head, *lines = ORDERED.splitlines()
    said = [f"{head},order", *(f"{line},{place[line.split(',')[1]]}" for line in lines)]
    survey = read(tmp_path / "t.csv", "\n".join(said))
    assert [option.text for option in survey.codebook.items[0].options] == ["Never", "At times", "Often"]
    assert not any("column 'order'" in note for note in survey.notes)
    for line, new, words in ((4, "3", "is not clear"), (2, "x", "is no number"), (4, "", "'At times' has no order")):
        broken = [*said]
        broken[line] = broken[line].rsplit(",", 1)[0] + "," + new
        with pytest.raises(AnswerError, match=words):
            read(tmp_path / "t.csv", "\n".join(broken))


def test_a_look_at_the_first_people_says_so(tmp_path: Path) -> None:
    assert any(note.startswith("Only the first 50 of") for note in read(tmp_path / "t.csv", TIDY, rows=50).notes)
    assert not any("Only the first" in note for note in read(tmp_path / "t.csv", TIDY).notes)
