"""Votes on statements, long and wide, against plain loops; and the votes that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, ConfigError, SurveyError
from valuealign.surveys import read_survey
from valuealign.surveys.table import Survey

LONG = """timestamp,datetime,comment-id,voter-id,vote
100,Mon,0,7,1
300,Mon,1,7,-1
200,Mon,1,7,1
100,Mon,0,10,agree
100,Mon,2,10,0
100,Mon,1,9,-1
100,Mon,10,9,1
100,Mon,3,9,1
"""
WIDE = """participant,xid,group-id,n-comments,n-votes,n-agree,n-disagree,0,1,2,3,10
7,,0,0,2,1,1,1,-1,,,
9,,,0,3,2,1,,-1,,1,1
10,,1,0,2,1,0,1,,0,,
"""
TEXTS = """timestamp,comment-id,author-id,agrees,disagrees,moderated,comment-body
1,10,0,1,0,0,"Plant more
 trees"
1,0,0,2,0,1,plant  more trees
1,1,0,0,2,1,Ban cars
1,2,0,0,0,1,No idea
1,3,0,1,0,-1,Buy my soap
1,4,0,0,0,1,Never shown
"""


@pytest.fixture
def config(tmp_path: Path) -> SurveyConfig:
    (tmp_path / "votes.csv").write_text(LONG)
    (tmp_path / "comments.csv").write_text(TEXTS)
    return SurveyConfig(reader="votes", file=tmp_path / "votes.csv", statements=tmp_path / "comments.csv")


def rewrite(path: Path | None, old: str, new: str) -> None:
    assert path is not None and old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_long_votes_by_hand(config: SurveyConfig) -> None:
    survey = read_survey(config, 0)
    assert survey.people.to_dict(as_series=False) == {
        "person": ["7", "9", "10"],
        "weight": [1.0, 1.0, 1.0],
        "s_0": [0, None, 0],
        "s_1": [1, 1, None],  # voter 7 changed from 1 (at 200) to -1 (at 300)
        "s_10": [None, 0, None],
    }
    assert survey.people.schema["s_0"] == pl.Int16
    book = survey.codebook
    assert [option.text for option in book.items[0].options] == ["Agree", "Disagree"] and book.outcomes == ("pass",)
    assert [item.family for item in book.items] == ["s_0", "", "s_0"] and book.items[2].text == "Plant more trees"
    notes = " ".join(survey.notes)
    assert "1 statements that moderators rejected" in notes and "1 votes on a statement voted on again" in notes
    assert "2 statements that nobody agreed or disagreed with" in notes


def test_wide_votes_say_the_same(config: SurveyConfig, tmp_path: Path) -> None:
    survey = read_survey(config, 0)
    (tmp_path / "wide.csv").write_text(WIDE)
    wide = read_survey(config.model_copy(update={"file": tmp_path / "wide.csv"}), 0)
    assert wide.people.equals(survey.people) and wide.codebook.items == survey.codebook.items


def test_passing_is_counted_and_without_times_the_later_row_counts(config: SurveyConfig) -> None:
    assert config.file
    config.file.write_text("comment-id,voter-id,vote\n0,1,1\n0,2,pass\n0,1,Disagree\n1,2,-1.0\n")
    survey = read_survey(config, 0)
    assert survey.people["s_0"].to_list() == [1, -1] and survey.people["s_1"].to_list() == [None, 1]
    options = read_survey(config.model_copy(update={"outcomes": "options"}), 0)
    assert options.people["s_0"].to_list() == [1, 2] and len(options.codebook.item("s_0").options) == 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 3), st.sampled_from([1, -1, 0]), st.integers(0, 9)), min_size=1
    )
)
def test_the_last_vote_counts(tmp_path: Path, votes: list[tuple[int, int, int, int]]) -> None:
    last: dict[tuple[int, int], tuple[int, int]] = {}
    for voter, statement, vote, time in votes:
        if time >= last.get((voter, statement), (0, -1))[1]:
            last[voter, statement] = (vote, time)
    sided = {statement for (_, statement), (vote, _) in last.items() if vote}
    names = ("voter-id", "comment-id", "vote", "timestamp")
    pl.DataFrame(votes, schema=names, orient="row").write_csv(tmp_path / "votes.csv")
    pl.DataFrame({"comment-id": range(4), "comment-body": list("abcd")}).write_csv(tmp_path / "texts.csv")
    config = SurveyConfig(reader="votes", file=tmp_path / "votes.csv", statements=tmp_path / "texts.csv")
    if not sided:
        with pytest.raises(AnswerError, match="nobody agrees or disagrees"):
            read_survey(config, 0)
        return
    survey = read_survey(config, 0)
    found = {
        (int(row["person"]), int(item.id[2:])): {0: 1, 1: -1, -1: 0}[row[item.id]]
        for row in survey.people.iter_rows(named=True)
        for item in survey.codebook.items
        if row[item.id] is not None
    }
    assert found == {key: vote for key, (vote, _) in last.items() if key[1] in sided}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("0,7,1", "0,7,2", ("column 'vote', line 2", "'2' is no vote", "1 or agree")),
        ("0,7,1", "0,7,", ("column 'vote', line 2", "the vote is empty")),
        ("0,7,1", "0,,1", ("column 'voter-id', line 2", "the id is empty")),
        ("100,Mon,0,7", "soon,Mon,0,7", ("column 'timestamp', line 2", "no number")),
        ("1,9,-1", "11,9,-1", ("statement '11' has no words", "comments.csv")),
        ("voter-id", "voterid", ("no column 'voter-id'", "did you mean 'voterid'?")),
        ("comment-id,voter-id", "tid,pid", ("database, where -1 agrees",)),
        ("0,7,1\n", "0,7,1,1\n", ("line 2", "6 values")),
        (LONG, "", ("empty",)),
        (LONG, "timestamp,comment-id,voter-id,vote\n", ("no people",)),
        (LONG, "comment-id,voter-id,vote\n3,1,1\n2,1,0\n", ("nobody agrees or disagrees",)),
        (LONG, "participant,0,1\n7,1,\n7,1,1\n", ("line 3", "'7' has a second row")),
        (LONG, "participant,0,1\n7,1,\n8,1,yes\n", ("column '1', line 3", "'yes' is no vote")),
        (LONG, "participant,0,note\n7,1,\n8,1,\n", ("statement 'note' has no words",)),
    ],
)
def test_a_mistake_in_the_votes_is_named(config: SurveyConfig, old: str, new: str, words: tuple[str, ...]) -> None:
    rewrite(config.file, old, new)
    with pytest.raises(AnswerError) as caught:
        read_survey(config, 0)
    for word in (str(config.file), "mend:", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("1,1,0,0,2", "1,0,0,0,2", ("column 'comment-id'", "'0' stands a second time")),
        ("Ban cars", "", ("column 'comment-body'", "is empty")),
        ("1,Ban cars", "2,Ban cars", ("column 'moderated'", "'2' is no moderation")),
        ("comment-body", "comment_text", ("no column 'comment-body'",)),
    ],
)
def test_a_mistake_in_the_statements_is_named(config: SurveyConfig, old: str, new: str, words: tuple[str, ...]) -> None:
    rewrite(config.statements, old, new)
    with pytest.raises(AnswerError) as caught:
        read_survey(config, 0)
    for word in (str(config.statements), "mend:", *words):
        assert word in str(caught.value)


def test_signs_turned_round_are_seen_by_the_statements_own_counts(config: SurveyConfig) -> None:
    assert config.file and config.statements
    config.file.write_text("comment-id,voter-id,vote\n0,1,-1\n0,2,-1\n1,1,1\n1,2,1\n")
    with pytest.raises(AnswerError, match="signs turned round"):
        read_survey(config, 0)
    config.statements.write_text("comment-id,comment-body\n0,Plant trees\n1,Ban cars\n")
    assert read_survey(config, 0).people["s_0"].to_list() == [1, 1]


def test_rows_and_keys_that_are_missing_or_mean_nothing(config: SurveyConfig) -> None:
    assert read_survey(config.model_copy(update={"rows": 2}), 0).people["person"].to_list() == ["7", "9"]
    with pytest.raises(SurveyError, match="survey.statements"):
        read_survey(config.model_copy(update={"statements": None}), 0)
    with pytest.raises(ConfigError, match="survey.waves"):
        read_survey(config.model_copy(update={"waves": ("1",)}), 0)


def test_many_votes_against_a_loop(config: SurveyConfig) -> None:
    """Votes of 300 people on 40 statements, counted independently."""
    assert config.file and config.statements
    rng = np.random.default_rng(0)
    vote_PS = rng.choice([1, -1, 0, 9], (300, 40), p=[0.4, 0.2, 0.1, 0.3])
    lines = [f"{s},{p},{vote_PS[p, s]}" for p in range(300) for s in range(40) if vote_PS[p, s] != 9]
    config.file.write_text("comment-id,voter-id,vote\n" + "\n".join(lines))
    config.statements.write_text("comment-id,comment-body\n" + "\n".join(f"{s},Statement {s}" for s in range(40)))
    survey: Survey = read_survey(config, 0)
    for s in range(40):
        found = survey.people[f"s_{s}"]
        assert [(found == code).sum() for code in (0, 1, -1)] == [(vote_PS[:, s] == v).sum() for v in (1, -1, 0)]


def test_a_look_at_the_first_voters_says_so(config: SurveyConfig) -> None:
    assert "Only the first 2 of 3 people were kept." in read_survey(config.model_copy(update={"rows": 2}), 0).notes
