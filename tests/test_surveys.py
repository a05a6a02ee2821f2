"""The generic reader and its codebook: what is read, and what each mistake is told."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from valuealign.config import SurveyConfig, WeightingConfig
from valuealign.errors import AnswerError, CodebookError, ConfigError, SurveyError
from valuealign.population import tabulate
from valuealign.surveys import SURVEYS, read_survey
from valuealign.surveys.codebook_yaml import read_codebook
from valuealign.surveys.generic import read_survey as read_data
from valuealign.types import EVERYONE, Group
from valuealign.weighting import weigh

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
        ("c,2,-1", "c,2,7", ("column 'council', line 5", "code '7'", "say at 'council' in ", "or that it is missing")),
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


WIDE = """\
person: id
weight: 'w.{wave}'
duration: 'time.{wave}'
waves: {2019: T1, 2020: T2}
missing: [NA]
outcomes: {refused: [-1], do not know: [-2]}
scales:
  agree: [1: Agree, 2: Neither, 3: Disagree]
items:
  trust: {text: People can be trusted., scale: agree, column: 'trust.{wave}'}
  fair: {label: Fairness, scale: agree, column: 'fair.{wave}', outcomes: {refused: [9]}, missing: [-1]}
traits:
  sex: {as: noun, levels: {f: woman, m: man}}
  ethnicity:
    several: true
    yes: [1]
    no: [0, 2]
    levels:
      maori: {column: m, text: Māori, as: before}
      other: {column: o}
"""
WIDE_DATA = """\
id,w.T1,w.T2,time.T1,time.T2,trust.T1,trust.T2,fair.T2,sex,m,o
a,1,3,100,NA,1,-1,9,f,1,1
b,2,,-5,,3,,,m,0,1
c,,2,,50,,2,1,f,,NA
d,1,1,7,8,NA,NA,-1,m,2,0
"""


def written(folder: Path, book: str, data: str, **more: object) -> SurveyConfig:
    (folder / "book.yaml").write_text(book)
    (folder / "data.csv").write_text(data)
    return config((folder / "data.csv", folder / "book.yaml"), **more)


def test_a_wide_panel_has_a_row_for_each_person_and_wave_with_an_answer(tmp_path: Path) -> None:
    survey = read_survey(written(tmp_path, WIDE, WIDE_DATA), 0)
    people, book = survey.people, survey.codebook
    # d answered nothing; b not in 2020, c not in 2019. A refusal is no answer, but b was there.
    assert people.select("wave", "person").rows() == [("2019", "a"), ("2019", "b"), ("2020", "a"), ("2020", "c")]
    assert people["trust"].to_list() == [0, 2, -1, 1]
    # Not asked in 2019; 9 is the item's own code for a refusal and -1 missing, as the item says.
    assert people["fair"].to_list() == [None, None, -1, 0]
    assert people["weight"].to_list() == [0.5, 1.0, 1.5, 1.0]
    assert people["duration"].to_list() == [100, None, None, 50]
    assert people["ethnicity"].to_list() == [["maori", "other"], ["other"], ["maori", "other"], None]
    assert book.outcomes == ("refused", "do not know") and book.label_only == ("fair",)
    assert book.phrase([("ethnicity", "maori"), ("sex", "f")]) == "a Māori woman"


def test_waves_are_chosen_and_nobody_may_answer_only_by_refusing(tmp_path: Path) -> None:
    one = read_survey(written(tmp_path, WIDE.replace("fair: {", "# fair: {"), WIDE_DATA, waves=("2019",)), 0)
    assert one.people["wave"].to_list() == ["2019", "2019"]
    with pytest.raises(ConfigError, match="did you mean '2019'"):
        read_survey(written(tmp_path, WIDE, WIDE_DATA, waves=("2091",)), 0)
    with pytest.raises(AnswerError, match="nobody answered 'fair'"):
        read_survey(written(tmp_path, WIDE, WIDE_DATA.replace("2,1,f", "2,9,f")), 0)
    with pytest.raises(AnswerError, match="no column 'fair.T1'"):
        read_survey(written(tmp_path, WIDE, WIDE_DATA, waves=("2019",)), 0)


def test_a_long_panel_counts_a_person_once_a_wave(tmp_path: Path) -> None:
    book = "person: id\nwave: year\nitems:\n  trust: {text: Trust, options: [1: Yes, 2: No]}\n"
    data = "id,year,trust\na,2019,1\na,2020,2\nb,2020,1\n"
    survey = read_survey(written(tmp_path, book, data), 0)
    assert survey.people["wave"].to_list() == ["2019", "2020", "2020"]
    chosen = read_survey(written(tmp_path, book, data, waves=("2020",)), 0)
    assert chosen.people["person"].to_list() == ["a", "b"]
    with pytest.raises(ConfigError, match="did you mean '2020'"):
        read_survey(written(tmp_path, book, data, waves=("2022",)), 0)
    with pytest.raises(AnswerError, match=r"line 2: person 'a' in wave '2019' stands a second time, in line 5"):
        read_survey(written(tmp_path, book, data + "a,2019,2\n"), 0)
    with pytest.raises(AnswerError, match="line 3: a row without a wave"):
        read_survey(written(tmp_path, book, data.replace("a,2020", "a,")), 0)
    with pytest.raises(ConfigError, match="has no waves"):
        read_survey(written(tmp_path, book.replace("wave: year\n", ""), data, waves=("2020",)), 0)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("waves: {2019: T1, 2020: T2}", "waves: {2019: T1, 2020: T1}", 4, "a mark of its own"),
        ("waves: {2019: T1, 2020: T2}\n", "", 2, "none is named"),
        ("waves: {2019: T1, 2020: T2}", "waves: [T1]\nwave: year", 5, "both 'wave' and 'waves'"),
        ("person: id", "person: 'id_{wave}'", 1, "one id in all waves"),
        ("column: 'trust.{wave}'", "column: trust", 10, "in which wave"),
        ("do not know: [-2]", "do not know: [-1]", 6, "both 'refused' and 'do not know'"),
        ("{refused: [9]}", "{refusd: [9]}", 11, "did you mean 'refused'?"),
        ("{refused: [9]}", "{refused: [-1]}", 11, "both 'missing' and 'refused'"),
        ("{refused: [9]}", "{refused: [1]}", 11, "both an option and an outcome"),
        ("label: Fairness", "label: Fairness, text: Fair", 11, "both 'text' and 'label'"),
        ("label: Fairness", "label: Fairness, values: benevolance", 11, "did you mean 'benevolence'?"),
        ("{column: o}", "{codes: [1]}", 20, "has no column"),
        ("no: [0, 2]", "no: [0, 1]", 15, "both yes and no"),
        ("several: true", "several: false", 19, "only with 'several: true'"),
        ("person: id", "person: id\ncountry: sx", 2, "did you mean 'sex'?"),
        ("person: id", "person: id\ntier: opne", 2, "did you mean 'open'?"),
        ("person: id", "person: id\ndesirability: [fiar]", 2, "did you mean 'fair'?"),
        ("person: id", "person: id\nweight_scale: big", 2, "no scale of weights"),
    ],
)
def test_mistakes_about_panels_outcomes_and_several_answers(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in WIDE
    with pytest.raises(CodebookError) as caught:
        read_survey(written(tmp_path, WIDE.replace(old, new, 1), WIDE_DATA), 0)
    assert f"line {line}:" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("b,2,", "a,2,", ("line 2", "person 'a' stands a second time, in line 3")),
        ("a,1,3", "a,1,", ("column 'w.T2', line 2", "no finite number")),
        ("m,2,0", "m,3,0", ("column 'm', line 5", "the code '3'")),
        ("100,NA", "soon,NA", ("column 'time.T1', line 2", "'soon' is no number")),
        ("w.T2", "w.T3", ("no column 'w.T2' (the weight column)",)),
        ("trust.T1,trust.T2", "trust,trust2", ("no column 'trust.T1'",)),
    ],
)
def test_mistakes_in_the_data_of_a_panel(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    assert old in WIDE_DATA
    with pytest.raises(AnswerError) as caught:
        read_survey(written(tmp_path, WIDE, WIDE_DATA.replace(old, new, 1)), 0)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_option_beats_an_outcome_of_the_top_and_missing_in_a_trait(tmp_path: Path) -> None:
    book = (
        "outcomes: {none: [-1]}\nitems:\n"
        "  svs: {text: Power, options: [-1: Opposed, 0: Not important, 1: Important]}\n"
        "  other: {text: Other, options: [0: No, 1: Yes]}\n"
        "traits:\n  side: {levels: [-1, 1]}\n  work: {levels: [0, 1]}\n"
    )
    survey = read_survey(written(tmp_path, book, "svs,other,side,work\n-1,-1,-1,-1\n0,0,1,0\n1,1,-1,1\n"), 0)
    assert survey.people["svs"].to_list() == [0, 1, 2] and survey.people["other"].to_list() == [-1, 0, 1]
    assert survey.people["side"].to_list() == ["-1", "1", "-1"] and survey.people["work"].to_list() == [None, "0", "1"]


def test_outcomes_become_options_where_asked_for(tmp_path: Path) -> None:
    asked = written(tmp_path, WIDE, WIDE_DATA.replace("b,2,,-5,,3", "b,2,,-5,,-2"), outcomes="options")
    survey = read_survey(asked, 0)
    trust, fair = survey.codebook.items
    assert [option.text for option in trust.options] == ["Agree", "Neither", "Disagree", "refused", "do not know"]
    assert [option.code for option in trust.options][3:] == [-1, -2] and not trust.ordinal and not trust.positions
    assert survey.people["trust"].to_list() == [0, 4, 3, 1]
    assert [option.code for option in fair.options] == [1, 2, 3, 9]
    assert any("counts as an option of 2 items" in note for note in survey.notes)


def test_only_keeps_people_of_the_named_levels(files: tuple[Path, Path]) -> None:
    files[0].write_text(DATA + "e,4,2,No,f,1,70\n")
    survey = read_survey(config(files, only={"sex": ["f"], "work": ["retired"]}), 0)
    assert survey.people["person"].to_list() == ["a", "c"]
    assert survey.people["weight"].to_list() == pytest.approx([2 / 3, 4 / 3])
    assert {trait.id: trait.levels for trait in survey.codebook.traits}["sex"] == ("f",)
    assert survey.notes[0] == "Only sex f and work retired: 2 of 5 rows."
    with pytest.raises(ConfigError, match="did you mean 'sex'"):
        read_survey(config(files, only={"sxe": ["f"]}), 0)
    with pytest.raises(ConfigError, match="no level 'x'"):
        read_survey(config(files, only={"sex": ["x"]}), 0)
    with pytest.raises(SurveyError, match="nobody is left"):
        read_survey(config(files, only={"sex": ["m"], "work": ["retired"]}), 0)


def test_a_profile_leaves_out_what_the_file_lacks_and_says_so(files: tuple[Path, Path]) -> None:
    text = BOOK.replace(
        "  answer:\n", "  gone: {text: Gone, scale: trust}\n  idle: {text: Idle, scale: trust}\n  answer:\n"
    )
    files[1].write_text(text.replace("busy: {codes: [1]}", "busy: {codes: [1]}\n      away: {codes: [7]}"))
    lines = DATA.splitlines()
    files[0].write_text("\n".join([lines[0] + ",idle", *(line + ",NA" if line else line for line in lines[1:])]) + "\n")
    survey = read_data(files[0], read_codebook(files[1]), SurveyConfig(weight="age"), prune=True)
    assert [item.id for item in survey.codebook.items] == ["council", "answer"] and "idle" not in survey.people
    assert survey.codebook.traits[1].levels == ("retired", "busy")
    assert survey.notes == (
        "Not in the file and left out: gone.",
        "Nobody answered and left out: idle.",
        "Levels of work that nobody is in, left out: away.",
    )
    assert survey.people["weight"][0] == pytest.approx(18 * 4 / (18 + 39.5 + 40 + 99))


@pytest.mark.parametrize(
    ("licence", "tier"),
    [
        ("CC-BY-4.0", "open"), ("cc by-sa 4.0", "open"), ("CC0-1.0", "open"), ("Public Domain", "open"),
        ("ODC-BY", "open"), ("CC-BY-ND-4.0", "closed"), ("ask us", "closed"), ("", "closed"),
    ],
)  # fmt: skip
def test_the_tier_follows_from_the_licence(tmp_path: Path, licence: str, tier: str) -> None:
    book = "items:\n  a: {text: A, options: [1: Yes, 2: No]}\n"
    (tmp_path / "book.yaml").write_text(book + (f"licence: {licence}\n" if licence else ""))
    assert read_codebook(tmp_path / "book.yaml").tier == tier
    (tmp_path / "book.yaml").write_text(book + "licence: ask us\ntier: aggregates\n")
    assert read_codebook(tmp_path / "book.yaml").tier == "aggregates"


@pytest.fixture(scope="module")
def nonvoters_rows() -> list[dict[str, str]]:
    if not NONVOTERS.exists():
        pytest.skip("the non-voter survey is not at hand")
    with NONVOTERS.open() as file:
        return list(csv.DictReader(file))


def test_nonvoter_survey_from_file_to_targets(nonvoters_rows: list[dict[str, str]]) -> None:
    survey = read_data(NONVOTERS, read_codebook(HERE / "examples" / "nonvoters.yaml"), SurveyConfig())
    four_point = [item for item in survey.codebook.items if item.id[:3] in ("Q2_", "Q3_", "Q4_", "Q8_")]
    assert len(four_point) == 31 and all(len(item.options) == 4 for item in survey.codebook.items)
    weights = weigh(survey, survey.margins, WeightingConfig(), country=None, population_weights=False)
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
    assert refused and (survey.people["Q3_1"] == -1).sum() == refused
    assert survey.codebook.outcomes == ("refused",) and survey.codebook.tier == "open"
