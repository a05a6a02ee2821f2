"""Raking against a plain IPF, trimming, Kish, and the errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from valuealign.config import WeightingConfig
from valuealign.errors import WeightingError
from valuealign.surveys.codebook import Codebook
from valuealign.surveys.table import Survey
from valuealign.weighting import Margins, Weights, kish, weigh

A = {"x": 0.2, "y": 0.5, "z": 0.3}
B = {"u": 0.4, "v": 0.6}


def sample(n: int = 800, seed: int = 0) -> Survey:
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 2, n)
    people = pl.DataFrame(
        {
            "person": [str(i) for i in range(n)],
            "weight": weight / weight.mean(),
            "a": rng.choice(list(A), n, p=[0.5, 0.3, 0.2]),
            "b": rng.choice(list(B), n, p=[0.7, 0.3]),
        }
    )
    return Survey(Codebook("s", "s", (), ()), people)


def rake(survey: Survey, margins: Margins | None, *, trim: float | None = None) -> Weights:
    return weigh(survey, margins, WeightingConfig(trim=trim), country=None, population_weights=False)


def ipf(survey: Survey, margins: dict[str, dict[str, float]], rounds: int = 500) -> np.ndarray:
    w = survey.people["weight"].to_numpy().copy()
    for _ in range(rounds):
        for trait, levels in margins.items():
            column = np.array(survey.people[trait].to_list())
            for level, share in levels.items():
                w[column == level] *= share * len(w) / w[column == level].sum()
            w *= len(w) / w.sum()
    return w


def test_raking_equals_a_plain_ipf_from_the_design_weights() -> None:
    survey = sample()
    weights = rake(survey, Margins({"a": A, "b": B}))
    assert weights.weights_P == pytest.approx(ipf(survey, {"a": A, "b": B}), abs=1e-6)
    assert weights.weights_P.mean() == pytest.approx(1)


def test_gaps_say_what_was_mended() -> None:
    survey = sample()
    gaps = {(gap.trait, gap.level): gap for gap in rake(survey, Margins({"a": A, "b": B})).gaps}
    assert set(gaps) == {("a", "x"), ("a", "y"), ("a", "z"), ("b", "u"), ("b", "v")}
    u = gaps["b", "u"]
    has = np.array(survey.people["b"].to_list()) == "u"
    w = survey.people["weight"].to_numpy()
    assert u.target == 0.4 and u.before == pytest.approx(w[has].sum() / w.sum()) and u.before > 0.6
    assert all(gap.after == pytest.approx(gap.target, abs=1e-7) for gap in gaps.values())


def test_trimming_holds_the_ratio_and_the_margins() -> None:
    survey = sample()
    free = rake(survey, Margins({"a": A, "b": B}))
    cap = 0.7 * free.weights_P.max()
    trimmed = rake(survey, Margins({"a": A, "b": B}), trim=cap)
    assert free.weights_P.max() > cap >= trimmed.weights_P.max() - 1e-6
    assert all(gap.after == pytest.approx(gap.target, abs=1e-6) for gap in trimmed.gaps)
    assert trimmed.design_effect < free.design_effect


def test_kish_by_hand() -> None:
    worth = kish(np.array([1.0, 1.0, 2.0]))
    assert worth.n == 3 and worth.design_effect == pytest.approx(3 * 6 / 16) and worth.n_eff == pytest.approx(16 / 6)
    assert kish(np.ones(7)).n_eff == pytest.approx(7)
    assert kish(np.zeros(3)).n_eff == 0


def test_without_margins_the_weights_stay_as_they_are() -> None:
    survey = sample()
    weights = rake(survey, None, trim=1.1)
    assert np.array_equal(weights.weights_P, survey.people["weight"].to_numpy()) and weights.gaps == ()


def margins_file(tmp_path: Path, text: str) -> Path:
    (tmp_path / "margins.csv").write_text(text)
    return tmp_path / "margins.csv"


def test_margins_are_read_with_their_lines(tmp_path: Path) -> None:
    margins = Margins.read(margins_file(tmp_path, 'trait,level,share\na,x,0.25\n\na,"y, z",0.75\n'))
    assert margins.shares == {"a": {"x": 0.25, "y, z": 0.75}}
    assert margins.place("a", "y, z").endswith("margins.csv, line 4")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("trait,share\n", 1, "trait,level,share"),
        ("trait,level,share\na,x,lots\n", 2, "'lots' is no share"),
        ("trait,level,share\na,x,-0.1\n", 2, "a share of -0.1"),
        ("trait,level,share\na,x,nan\n", 2, "a share of nan"),
        ("trait,level,share\na,x,0.5\na,x,0.5\n", 3, "twice"),
        ("trait,level,share\na,x,0.5\na,y,0.49\n", 3, "sum to 0.990000"),
        ("trait,level,share\na,x,0.5,1\n", 2, "4 values"),
    ],
)
def test_a_mistake_in_the_margins_names_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(WeightingError) as caught:
        Margins.read(margins_file(tmp_path, text))
    assert f"margins.csv, line {line}:" in str(caught.value) and words in str(caught.value)


def test_missing_and_empty_margins(tmp_path: Path) -> None:
    with pytest.raises(WeightingError, match="cannot read the margins"):
        Margins.read(tmp_path / "none.csv")
    with pytest.raises(WeightingError, match="no margins"):
        Margins.read(margins_file(tmp_path, "trait,level,share\n"))


def test_levels_and_people_that_do_not_meet() -> None:
    survey = sample()
    with pytest.raises(WeightingError, match="no trait 'c'"):
        rake(survey, Margins({"c": A}))
    with pytest.raises(WeightingError, match="no respondent has a 'w'"):
        rake(survey, Margins({"a": {"w": 0.1, "x": 0.1, "y": 0.5, "z": 0.3}}))
    counts = dict(survey.people["a"].value_counts().iter_rows())
    named = f"{counts['y'] + counts['z']} such in all: 'y' {counts['y']}, 'z' {counts['z']}"
    with pytest.raises(WeightingError, match=rf"respondent \d+ has a '[yz]', which has no margin .{named}"):
        rake(survey, Margins({"a": {"x": 1.0}}))
    with pytest.raises(WeightingError, match=r"respondent \d+ has a 'z', which has no margin"):
        rake(survey, Margins({"a": {"x": 0.4, "y": 0.6}}))
    unknown = survey.people.with_columns(pl.when(pl.col("person") != "17").then("b").alias("b"))
    with pytest.raises(WeightingError, match=r"respondent 17 has an unknown b \(1 such"):
        rake(Survey(survey.codebook, unknown), Margins({"b": B}))


def test_margins_out_of_reach_are_an_error_not_a_last_iterate() -> None:
    # Level x always goes with u, y with v: no weights give x 0.3 and u 0.6.
    twins = pl.DataFrame(
        {
            "person": [str(i) for i in range(40)],
            "weight": [1.0] * 40,
            "a": ["x", "y"] * 20,
            "b": ["u", "v"] * 20,
        }
    )
    survey = Survey(Codebook("s", "s", (), ()), twins)
    with pytest.raises(WeightingError, match="do not meet the margins of a, b: a x ends at 0.6"):
        rake(survey, Margins({"a": {"x": 0.3, "y": 0.7}, "b": {"u": 0.6, "v": 0.4}}))
    with pytest.raises(WeightingError, match="raise weighting.trim"):
        rake(sample(), Margins({"a": A, "b": B}), trim=1.05)


CSV = "trait,level,share\na,x,0.2\na,y,0.5\na,z,0.3\nb,u,0.4\nb,v,0.6\n"
JUNK = st.sampled_from(["", ",", "\n", '"', "nan", "1e400", "-1", "0", "a & b", "a & a", "\x00", "é", "0.5"])


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.integers(0, len(CSV)), span=st.integers(0, 9), junk=JUNK | st.text(max_size=4))
def test_no_broken_margins_end_in_a_traceback(tmp_path: Path, where: int, span: int, junk: str) -> None:
    """Fitted weights with every margin met, or an error that says where and how to mend it."""
    path = tmp_path / "margins.csv"
    path.write_text(CSV[:where] + junk + CSV[where + span :], encoding="utf-8", errors="replace")
    try:
        weights = rake(sample(200), Margins.read(path), trim=5.0)
    except WeightingError as error:
        assert error.where and error.mend
        return
    assert max(abs(gap.after - gap.target) for gap in weights.gaps) < 1e-6
