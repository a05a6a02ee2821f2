"""The generic reader and its codebook: what is read, and what each mistake is told."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, CodebookError, ConfigError, SurveyError
from valuealign.population import tabulate
from valuealign.surveys import SURVEYS, read_survey
from valuealign.surveys.codebook import read_codebook
from valuealign.surveys.generic import read_survey as read_data
from valuealign.types import EVERYONE, Group
from valuealign.weighting import rake

HERE = Path(__file__).parents[1]
NONVOTERS = HERE.parent / "shared" / "data" / "nonvoters_538" / "nonvoters_data.csv"

BOOK = """\
name: town
person: id
weight: w
missing: [-1, NA]
scales:
  trust:
    - 1: A lot
    - 2: Some
    - 3: None
items:
  council: {text: "How much do you trust the council?", scale: trust}
  answer:
    text: Do you agree?
    ordinal: false
    missing: [9]
    options:
      - Yes: Yes, I do
      - No: No
traits:
  sex:
    as: noun
    levels: {f: woman, m: man}
  work:
    as: before
    levels:
      retired: {codes: [4, 5], text: old and retired}
      busy: {codes: [1]}
  age:
    bands: {18-39: aged 18 to 39, 40+: aged 40 or over}
"""
DATA = """\
id,w,council,answer,sex,work,age
a,1.0,1,Yes,f,4,18
b,3,2.0,No,m,1,39.5

c,2,-1,9,f,5,40
d,2,3,,NA,1,99
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "town.csv").write_text(DATA)
    (tmp_path / "town.yaml").write_text(BOOK)
    return tmp_path / "town.csv", tmp_path / "town.yaml"


def config(files: tuple[Path, Path], **more: object) -> SurveyConfig:
    return SurveyConfig(reader="generic", file=files[0], codebook=files[1], **more)


def test_reads_codes_bands_missing_answers_and_weights(files: tuple[Path, Path]) -> None:
    survey = read_survey(config(files), 0)
    people = survey.people
    assert people["person"].to_list() == ["a", "b", "c", "d"]
    assert people["weight"].to_list() == [0.5, 1.5, 1.0, 1.0]
    assert people["council"].to_list() == [0, 1, None, 2]
    assert people["answer"].to_list() == [0, 1, None, None]
    assert people["sex"].to_list() == ["f", "m", "f", None]
    assert people["work"].to_list() == ["retired", "busy", "retired", "busy"]
    assert people["age"].to_list() == ["18-39", "18-39", "40+", "40+"]
    assert people.schema["council"] == pl.Int16
    council, answer = survey.codebook.items
    assert council.positions == (0.0, 1.0, 2.0) and [o.code for o in council.options] == [1, 2, 3]
    assert not answer.ordinal and answer.positions == () and answer.options[0].text == "Yes, I do"
    assert survey.margins is None and survey.truth is None


def test_rows_reads_the_first_rows_only(files: tuple[Path, Path]) -> None:
    assert read_survey(config(files, rows=2), 0).people["person"].to_list() == ["a", "b"]


def test_phrases_compose_around_the_noun(files: tuple[Path, Path]) -> None:
    book = read_codebook(files[1])
    assert book.phrase([]) == ""
    assert book.phrase([("sex", "f")]) == "a woman"
    assert book.phrase([("age", "40+"), ("sex", "m")]) == "a man aged 40 or over"
    assert book.phrase([("age", "40+")]) == "someone aged 40 or over"
    assert book.phrase([("work", "retired")]) == "an old and retired person"
    assert book.phrase([("work", "retired"), ("sex", "f")]) == "an old and retired woman"
    assert book.phrase([("work", "busy")]) == "someone whose work is busy"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("scales:", "scale:", 5, "did you mean 'scales'?"),
        ("scale: trust}", "scael: trust}", 11, "did you mean 'scale'?"),
        ("scale: trust}", "scale: turst}", 11, "did you mean 'trust'?"),
        ("ordinal: false", "ordinal: maybe", 14, "neither true nor false"),
        ("bands: {18-39", "bands: {young", 29, "bounds of the band 'young'"),
        ("as: before", "as: befor", 24, "did you mean 'before'?"),
        ("- 2: Some", "- 1: Some", 8, "stands twice"),
        ("- 2: Some", "- 2: A lot", 8, "two options read"),
        ("missing: [9]", "missing: [Yes]", 13, "both an option and missing"),
        ("  council: {", "  answer: {", 12, "a second time"),
        ("  age:\n", "  council:\n", 29, "taken by an item"),
        ("codes: [1]", "codes: [4]", 27, "belongs to both"),
        ("name: town", "name: [town", 2, "not valid YAML"),
        ('text: "How much do you trust the council?", scale', "scale", 11, "'text' is missing"),
    ],
)
def test_a_codebook_mistake_names_file_line_and_mend(
    files: tuple[Path, Path], old: str, new: str, line: int, words: str
) -> None:
    assert old in BOOK
    files[1].write_text(BOOK.replace(old, new, 1))
    with pytest.raises(CodebookError) as caught:
        read_codebook(files[1])
    assert f"{files[1]}, line {line}:" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("c,2,-1", "c,2,7", ("column 'council', line 5", "code '7'", "add it to 'council' or to 'missing'")),
        ("b,3,", "b,-3,", ("column 'w', line 3", "'-3' is negative")),
        ("b,3,", "b,nan,", ("column 'w', line 3", "no finite number")),
        ("b,3,", "b,many,", ("column 'w', line 3", "no finite number")),
        ("c,2,", "c,,", ("column 'w', line 5", "no finite number")),
        ("c,2", ",2", ("column 'id', line 5", "without an id")),
        ("id,w,council", "id,w,counsil", ("line 1", "no column 'council'", "did you mean 'counsil'?")),
        ("id,w,", "id,id,", ("line 1", "'id' twice")),
        ("f,4,18", "x,4,18", ("column 'sex', line 2", "code 'x'")),
        ("f,4,18", "f,4,17", ("column 'age', line 2", "17 lies in no band")),
        ("f,4,18", "f,4,old", ("column 'age', line 2", "'old' is no number")),
        ("f,4,18", "f,4,18,1", ("line 2", "8 values; the header names 7 columns")),
        ("f,5,40", "f", ("line 5", "5 values; the header names 7 columns")),
        (DATA, "", ("the file is empty",)),
        (DATA, DATA.splitlines()[0] + "\n", ("no people",)),
        ("a,1.0", '"a,1.0', ("not valid CSV",)),
        ("m,1,39.5", "f,1,39.5", ("column 'sex'", "nobody is in the level 'm' of 'sex'")),
        (DATA, DATA.replace(",", ";"), ("separator",)),
    ],
)
def test_a_data_mistake_names_file_column_line_and_mend(
    files: tuple[Path, Path], old: str, new: str, words: tuple[str, ...]
) -> None:
    assert old in DATA
    files[0].write_text(DATA.replace(old, new, 1))
    with pytest.raises(AnswerError) as caught:
        read_survey(config(files), 0)
    for word in (str(files[0]), "mend:", *words):
        assert word in str(caught.value)


def test_files_that_are_no_csv_or_not_there(files: tuple[Path, Path]) -> None:
    files[0].write_bytes(bytes(range(256)) * 20)
    with pytest.raises(AnswerError, match="CSV"):
        read_survey(config(files), 0)
    files[0].unlink()
    with pytest.raises(AnswerError, match="cannot read the data"):
        read_survey(config(files), 0)
    files[1].unlink()
    with pytest.raises(CodebookError, match="cannot read the codebook"):
        read_survey(config(files), 0)
    with pytest.raises(SurveyError, match="survey.file"):
        SURVEYS["generic"](SurveyConfig(reader="generic", codebook=files[1]), 0)
    with pytest.raises(ConfigError, match="did you mean 'generic'"):
        read_survey(SurveyConfig(reader="genric"), 0)


def test_the_codebook_of_the_manual_reads_its_data(tmp_path: Path) -> None:
    manual = (HERE / "docs" / "surveys.md").read_text()
    (tmp_path / "town.yaml").write_text(manual.split("```yaml\n")[1].split("```")[0])
    (tmp_path / "town.csv").write_text(
        "id,w,t_council,t_press,bus,Q17b,sex,age,district\n1,1,1,8,2,3,f,18,north\n2,1,3,2,1,1,m,70,south\n"
    )
    survey = read_survey(config((tmp_path / "town.csv", tmp_path / "town.yaml")), 0)
    assert survey.people["t_press"].to_list() == [None, 1]
    assert survey.codebook.item("help").positions == (2.0, 1.0, 0.0)
    assert survey.codebook.phrase([("district", "north"), ("sex", "m")]) == "a man whose district is north"


@pytest.fixture(scope="module")
def nonvoters_rows() -> list[dict[str, str]]:
    if not NONVOTERS.exists():
        pytest.skip("the non-voter survey is not at hand")
    with NONVOTERS.open() as file:
        return list(csv.DictReader(file))


def test_nonvoter_survey_from_file_to_targets(nonvoters_rows: list[dict[str, str]]) -> None:
    survey = read_data(NONVOTERS, read_codebook(HERE / "examples" / "nonvoters.yaml"))
    four_point = [item for item in survey.codebook.items if item.id[:3] in ("Q2_", "Q3_", "Q4_", "Q8_")]
    assert len(four_point) == 31 and all(len(item.options) == 4 for item in survey.codebook.items)
    weights = rake(survey, survey.margins, trim=5.0)
    assert weights.design_effect == pytest.approx(1.121, abs=5e-4)
    assert weights.n_eff == pytest.approx(5205, abs=1)
    young = Group((("age", "18-34"), ("gender", "Female")))
    table = tabulate(survey, weights.weights_P, (EVERYONE, young))
    for name in ("Q2_4", "Q8_9", "Q3_1"):
        for group in (EVERYONE, young):
            inside = [
                row
                for row in nonvoters_rows
                if row[name] in "1234"
                and (group == EVERYONE or (row["gender"] == "Female" and int(row["ppage"]) <= 34))
            ]
            w = np.array([float(row["weight"]) for row in inside])
            code = np.array([int(row[name]) for row in inside])
            expected = [w[code == k].sum() / w.sum() for k in (1, 2, 3, 4)]
            target = table.target(name, group)
            assert target.shares == pytest.approx(expected, abs=1e-12)
            assert target.n == len(inside)
            assert target.n_eff == pytest.approx(w.sum() ** 2 / (w**2).sum())
    refused = sum(row["Q3_1"] == "-1" for row in nonvoters_rows)
    assert refused and survey.people["Q3_1"].null_count() == refused
