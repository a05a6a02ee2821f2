"""World Values Survey wave 7: every value item of the real codebook, labels of .sav and .dta, and each mistake."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from survey_samples import wvs as sample
from svy_io import write_dta, write_sav

from valuealign.config import RunConfig, SurveyConfig
from valuealign.dataset import weighted
from valuealign.errors import AnswerError, CodebookError, SurveyError, WeightingError
from valuealign.surveys import read_survey
from valuealign.surveys.wvs_codebook import from_json

FILES = ("codebook", "question_metadata", "answer_adjustment")
OUTCOMES = ("don't know", "no answer", "other answer")


def texts(survey: Any, item: str) -> list[str]:
    return [option.text for option in survey.codebook.item(item).options]


def test_reads_scales_in_order_and_keeps_outcomes_apart(tmp_path: Path) -> None:
    survey = read_survey(sample(tmp_path), 0)
    book, people = survey.codebook, survey.people
    assert book.outcomes == OUTCOMES and book.tier == "aggregates" and book.country == "country"
    assert texts(survey, "Q1") == ["Much", "Some", "Little"] and book.item("Q1").text == "What of Q1?"
    assert texts(survey, "Q2") == ["1 (Nothing)", *"23456789", "10 (All)"]  # listed from 10 down to 1
    assert texts(survey, "Q56") == ["Up", "Level", "Down"]  # codes 1, 3, 2
    assert [option.code for option in book.item("Q56").options] == [1, 3, 2]
    assert texts(survey, "Q60") == ["Much", "Some", "Little"]  # 0 counts as 1
    assert texts(survey, "Q254") == ["Proud", "Not proud"]  # 3 is off the scale
    # Raw codes in turn: Q56 1 2 3 -1 -2 -4 -5; Q60 0 1 2 3 -1 -2 -4 -5; Q254 1 2 3 -1 -2 -4 -5.
    assert people["Q56"].to_list()[:7] == [0, 2, 1, -1, -2, None, None]
    assert people["Q60"].to_list()[:8] == [0, 0, 1, 2, -1, -2, None, None]
    assert people["Q254"].to_list()[:7] == [0, 1, -3, -1, -2, None, None]
    raw = np.array([0.5 + place % 3 for place in range(40)])
    assert people["weight"].to_numpy() == pytest.approx(raw / raw.mean())
    assert people["person"][0] == "554070000" and not book.label_only


def test_traits_follow_the_survey_s_own_recodes_and_can_be_named(tmp_path: Path) -> None:
    survey = read_survey(sample(tmp_path), 0)
    people = survey.people
    assert people["country"].to_list()[:2] == ["NZL", "USA"] and people["sex"].to_list()[:2] == ["male", "female"]
    ages = [16 + 2 * place for place in range(40)]
    bands = ["under 30" if a < 30 else "30-44" if a < 45 else "45-59" if a < 60 else "60+" for a in ages]
    assert people["age"].to_list() == bands
    assert people["education"].to_list()[:9] == ["lower"] * 3 + ["middle"] * 2 + ["higher"] * 4
    assert people["income"].to_list()[:10] == ["low"] * 3 + ["medium"] * 4 + ["high"] * 3
    assert people["settlement"].to_list()[:4] == ["urban"] * 3 + ["rural"]
    # The list of letters lacks the USA: its name comes by way of the number 840.
    traits = [("country", "USA"), ("sex", "female"), ("age", "under 30"), ("income", "low")]
    assert survey.codebook.phrase(traits) == "a woman from the United States under 30 years old with a low income"


def test_recoded_traits_serve_where_the_file_has_only_them_and_missing_codes_are_unknown(tmp_path: Path) -> None:
    config = sample(tmp_path)
    table = pl.read_csv(config.file).rename({"Q275": "Q275R", "Q288": "Q288R"})
    table = table.with_columns(Q275R=pl.Series([1, 2, 3, -2] * 10), Q288R=pl.Series([3, 2, 1, -1] * 10))
    table = table.with_columns(Q260=pl.Series([1, 2, -5, -2] * 10), Q262=pl.Series([20, 50, -2, 70] * 10))
    table.write_csv(config.file, separator=";")  # as some releases are
    people = read_survey(config, 0).people
    assert people["education"].to_list()[:4] == ["lower", "middle", "higher", None]
    assert people["income"].to_list()[:4] == ["high", "medium", "low", None]
    assert people["sex"].to_list()[:4] == ["male", "female", None, None]
    assert people["age"].to_list()[:4] == ["under 30", "45-59", None, "60+"]


@pytest.mark.parametrize("ending", ["sav", "dta"])
def test_labelled_files_read_as_the_csv_does_and_bring_labels_of_their_own(tmp_path: Path, ending: str) -> None:
    config = sample(tmp_path)
    labelled = with_labels(config, ending)
    plain, same = read_survey(config, 0), read_survey(labelled, 0)
    assert same.people.equals(plain.people)

    survey = read_survey(labelled.model_copy(update={"codebook": None}), 0)
    book = survey.codebook
    assert book.label_only == ("Q1", "Q2", "Q56", "Q60", "Q254") == tuple(item.id for item in book.items)
    assert book.item("Q1").text == "Label Q1" and texts(survey, "Q1") == ["Much", "Some", "Little"]
    assert texts(survey, "Q2") == ["1 (Nothing)", *"23456789", "10 (All)"]  # only the ends have labels there
    assert survey.people["Q1"].equals(plain.people["Q1"]) and survey.people["Q2"].equals(plain.people["Q2"])
    # Nothing says that the codes of these two are out of order: no positions are made up.
    assert not book.item("Q56").ordinal and not book.item("Q254").ordinal and book.item("Q1").ordinal
    assert any("Q56, Q254" in note for note in survey.notes)
    assert dict(book.traits[1].phrases) == {"NZL": "from NZL", "USA": "from the United States"}
    assert any("NZL" in note for note in survey.notes)


def with_labels(config: SurveyConfig, ending: str) -> SurveyConfig:
    """The sample as a .sav or .dta file."""
    book = json.loads((config.codebook / "codebook.json").read_text())
    table = pl.read_csv(config.file)
    choices = {name: dict(book[name]["choices"]) for name in table.columns if name in book}
    choices["Q2"] = {code: label for code, label in choices["Q2"].items() if label != code}
    del choices["B_COUNTRY_ALPHA"]
    labels = [{"col": name, "labels": {int(code): text for code, text in of.items()}} for name, of in choices.items()]
    path = config.file.with_suffix(f".{ending}")
    write = write_sav if ending == "sav" else write_dta
    write(table, path, var_labels={name: f"Label {name}" for name in choices}, value_labels=labels)
    return config.model_copy(update={"file": path})


def test_without_metadata_every_question_is_read_by_its_label(tmp_path: Path) -> None:
    config = sample(tmp_path)
    (config.codebook / "question_metadata.json").unlink()
    book = read_survey(config, 0).codebook
    assert book.label_only == ("Q1", "Q2", "Q56", "Q60", "Q254") and book.item("Q1").text == "Label Q1"


OWN = (
    "person: D_INTERVIEW\nweight: W_WEIGHT\nmissing: [-1, -2, -4, -5]\n"
    "items: {Q1: {text: 'How much?', options: [1: Much, 2: Some, 3: Little]}}\n"
)


def own(config: SurveyConfig, text: str) -> SurveyConfig:
    """Read by a codebook in our own format instead."""
    path = config.file.with_name("own.yaml")
    path.write_text(text)
    return config.model_copy(update={"codebook": path})


def test_a_yaml_codebook_serves_too_and_must_fit_the_file(tmp_path: Path) -> None:
    config = sample(tmp_path)
    assert [item.text for item in read_survey(own(config, OWN), 0).codebook.items] == ["How much?"]
    for text, name in (
        (OWN.replace("Little]}", "Little]}, Q600: {text: Not there, options: [1: Yes, 2: No]}"), "Q600"),
        (OWN + "traits: {sex: {column: Q26O, levels: {m: {codes: [1]}, f: {codes: [2]}}}}\n", "Q26O"),
        (OWN + "country: nation\ntraits: {nation: {column: B_COUNTRY_ALFA, levels: [NZL, USA]}}\n", "B_COUNTRY_ALFA"),
    ):
        with pytest.raises(AnswerError, match=f"no column '{name}'.*\n.*did you mean"):
            read_survey(own(config, text), 0)


def test_the_country_is_found_whatever_the_codebook_says_of_it(tmp_path: Path) -> None:
    """Countries are never pooled because nobody named their column."""
    config = sample(tmp_path)
    survey = read_survey(own(config, OWN), 0)
    assert survey.codebook.country == "country" and set(survey.people["country"]) == {"NZL", "USA"}
    assert any("read from B_COUNTRY_ALPHA" in note for note in survey.notes)
    with pytest.raises(WeightingError, match="say what everyone means"):
        weighted(RunConfig(survey=own(config, OWN), stages=("distribution",)))
    nation = OWN + "traits: {nation: {column: B_COUNTRY_ALPHA, levels: [NZL, USA]}}\n"
    assert read_survey(own(config, nation), 0).codebook.country == "nation"


def test_countries_by_number_and_none_at_all(tmp_path: Path) -> None:
    config = sample(tmp_path)
    table = pl.read_csv(config.file)
    table.drop("B_COUNTRY_ALPHA").write_csv(config.file)
    for of in (config, own(config, OWN)):
        book = read_survey(of, 0).codebook
        assert book.country == "country" and set(read_survey(of, 0).people["country"]) == {"554", "840"}
    assert read_survey(config, 0).codebook.phrase([("country", "840")]) == "someone from the United States"
    table.drop("B_COUNTRY_ALPHA", "B_COUNTRY").write_csv(config.file)
    for of in (config, own(config, OWN)):
        survey = read_survey(of, 0)
        assert survey.codebook.country is None
        assert any("no column B_COUNTRY_ALPHA or B_COUNTRY" in note for note in survey.notes)
    table.with_columns(B_COUNTRY_ALPHA=pl.lit("")).write_csv(config.file)
    assert any("Nobody's country is known" in note for note in read_survey(config, 0).notes)


# The real codebook


def test_every_value_item_of_the_real_codebook(shared_data: Path, tmp_path: Path) -> None:
    """A file in the exact layout, random codes throughout: options, order and every count by plain loops."""
    folder = shared_data / "wvs7_codebook"
    book, words, moved = (json.loads((folder / f"{name}.json").read_text()) for name in FILES)
    people, items = 1500, [name for name in book if words.get(name, {}).get("use_case") == "value"]
    table = synthetic(book, people)
    table.write_csv(tmp_path / "wvs.csv")
    config = SurveyConfig(reader="wvs", file=tmp_path / "wvs.csv", codebook=folder)
    survey = read_survey(config, 0)
    assert len(items) == 239 and [item.id for item in survey.codebook.items] == items
    assert not survey.codebook.label_only
    for item in survey.codebook.items:
        assert item.text == words[item.id]["question"].strip() and item.ordinal
        new = {
            int(code): moved.get(item.id, {}).get(code, code)
            for code in book[item.id]["choices"]
            if not code.startswith("-")
        }
        scale = sorted({int(code) for code in new.values() if code != ""})
        assert len(item.options) == len(scale), item.id
        # The metadata's own ends of the scale, which the reader does not look at.
        assert len(scale) == words[item.id]["answer_scale_max"] - words[item.id]["answer_scale_min"] + 1, item.id
        assert item.positions == tuple(range(len(scale)))
        for at, option in zip(scale, item.options, strict=True):
            assert new[option.code] == str(at) and book[item.id]["choices"][str(option.code)].strip() in option.text
        raw = table[item.id].to_list()
        wanted = [
            scale.index(int(new[code])) if code in new and new[code] != ""
            else -3 if code in new else code if code in (-1, -2) else None
            for code in raw
        ]  # fmt: skip
        assert survey.people[item.id].to_list() == wanted, item.id
        assert {-1, -2, None} <= set(wanted)
    weight = table["W_WEIGHT"].to_numpy()
    assert survey.people["weight"].to_numpy() == pytest.approx(weight / weight.mean())
    assert survey.people["country"].to_list() == table["B_COUNTRY_ALPHA"].to_list()
    names = survey.codebook.traits[1].phrases
    assert names["NZL"] == "from New Zealand" and names["HKG"] == "from Hong Kong SAR"  # the latter by its number
    sexes = {1: "male", 2: "female"}
    assert survey.people["sex"].to_list() == [sexes.get(code) for code in table["Q260"].to_list()]


def synthetic(book: dict[str, Any], people: int) -> pl.DataFrame:
    """All columns of the codebook: random codes, negative ones too, plausible numbers where it lists no choices."""
    rng = np.random.default_rng(7)
    columns: dict[str, Any] = {}
    for name, entry in book.items():
        codes = [int(code) for code in entry["choices"] if code.lstrip("-").isdigit()]
        columns[name] = rng.choice(codes, people) if codes else [f"{name} {place}" for place in range(people)]
    country = rng.choice(3, people)
    columns["B_COUNTRY_ALPHA"] = [("NZL", "DEU", "HKG")[place] for place in country]
    columns["B_COUNTRY"] = [(554, 276, 344)[place] for place in country]
    columns["W_WEIGHT"] = rng.uniform(0.2, 4, people)
    columns["D_INTERVIEW"] = [554070000 + place for place in range(people)]
    columns["Q262"] = rng.choice([-5, -2, -1, *range(16, 100)], people)
    return pl.DataFrame(columns)


@pytest.mark.parametrize("ending", ["sav", "dta"])
def test_a_cut_of_the_real_codebook_reads_alike_from_labelled_files(
    shared_data: Path, tmp_path: Path, ending: str
) -> None:
    folder = shared_data / "wvs7_codebook"
    book = json.loads((folder / "codebook.json").read_text())
    kept = ["B_COUNTRY", "B_COUNTRY_ALPHA", "D_INTERVIEW", "W_WEIGHT", "Q1", "Q56", "Q119", "Q241", "Q254"]
    table = synthetic(book, 200).select(*kept, "Q260", "Q262", "Q275", "Q288", "H_URBRURAL")
    table.write_csv(tmp_path / "wvs.csv")
    (write_sav if ending == "sav" else write_dta)(table, tmp_path / f"wvs.{ending}")
    plain, same = (
        read_survey(SurveyConfig(reader="wvs", file=tmp_path / f"wvs.{kind}", codebook=folder), 0)
        for kind in ("csv", ending)
    )
    weight = pl.col("weight").round(10)
    assert same.people.with_columns(weight).equals(plain.people.with_columns(weight))
    assert same.codebook.items == plain.codebook.items


# Mistakes


def test_a_file_that_does_not_explain_itself_needs_a_codebook(tmp_path: Path) -> None:
    config = sample(tmp_path)
    with pytest.raises(SurveyError, match="does not say what its codes mean") as error:
        read_survey(config.model_copy(update={"codebook": None}), 0)
    assert "codebook.json" in error.value.mend and error.value.where == "survey.codebook"
    with pytest.raises(SurveyError, match=r"needs survey\.file"):
        read_survey(SurveyConfig(reader="wvs"), 0)


def test_a_column_or_a_code_that_nobody_explained_is_refused(tmp_path: Path) -> None:
    config = sample(tmp_path)
    table = pl.read_csv(config.file)
    table.with_columns(Q1=pl.Series([7, *[1] * 39])).write_csv(config.file)
    with pytest.raises(AnswerError, match=r"column 'Q1', line 2: the code '7'"):
        read_survey(config, 0)
    table.drop("W_WEIGHT").write_csv(config.file)
    with pytest.raises(AnswerError, match="W_WEIGHT"):
        read_survey(config, 0)


MISTAKES = {
    "no file": (None, "", "cannot read it"),
    "no JSON": ("codebook", "{'Q1': 1}", "not valid JSON"),
    "a list": ("codebook", "[]", "no object"),
    "half a character": ("codebook", '{"Q1": "\\ud800"}', "not valid JSON"),
    "twice": ("codebook", '{"Q1": {}, "Q1": {}}', "'Q1' stands twice"),
    "deep": ("codebook", "[" * 100_000, "not valid JSON"),
    "no choices": ("codebook", {"Q1": {"question": "x", "type": "multiple_choice"}}, "no 'choices'"),
    "a record that is text": ("codebook", {"Q1": "x"}, "no 'question'"),
    "choices as a list": ("codebook", {"Q1": {"question": "x", "choices": ["a"]}}, "maps no codes"),
    "codes as words": ("codebook", {"Q1": {"question": "x", "choices": {"a": "b"}}}, "the code 'a' is no number"),
    "a code twice": ("codebook", {"Q1": {"question": "x", "choices": {"1": "b", "01": "c"}}}, "stands twice"),
    "one option": ("codebook", {"Q1": {"question": "x", "choices": {"1": "b"}}}, "fewer than two options"),
    "an empty label": ("codebook", {"Q1": {"question": " ", "choices": {}}}, "'question' is no text"),
    "an unknown variable": ("question_metadata", {"Q7": {"use_case": "value"}}, "'Q7' is not in codebook.json"),
    "no use_case": ("question_metadata", {"Q1": {}}, "no 'use_case'"),
    "nothing of value": ("question_metadata", {"Q1": {"use_case": "demographic"}}, "no value question"),
    "an unknown code": ("answer_adjustment", {"Q1": {"9": "1"}}, "no answer with the code '9'"),
    "a missing code moved": ("answer_adjustment", {"Q1": {"-1": "1"}}, "no answer with the code '-1'"),
    "a new code in words": ("answer_adjustment", {"Q1": {"1": "one"}}, "is no number"),
    "an adjustment that is a list": ("answer_adjustment", {"Q1": []}, "no object of codes"),
    "all taken off": ("answer_adjustment", {"Q1": {"1": "", "2": "", "3": ""}}, "fewer than two options"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_the_codebook_are_named_with_their_file(tmp_path: Path, mistake: str) -> None:
    config = sample(tmp_path)
    name, content, message = MISTAKES[mistake]
    if name is None:
        (config.codebook / "codebook.json").unlink()
    elif isinstance(content, str):
        (config.codebook / f"{name}.json").write_text(content)
    else:
        path = config.codebook / f"{name}.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text()), **content} if name != "question_metadata" else content)
        )
    with pytest.raises(CodebookError, match=message) as error:
        read_survey(config, 0)
    assert error.value.mend and str(config.codebook) in error.value.where


def test_a_question_may_not_bear_the_name_of_a_trait_or_of_a_column_of_ours(tmp_path: Path) -> None:
    config = sample(tmp_path)
    books = {name: json.loads((config.codebook / f"{name}.json").read_text()) for name in FILES}
    for taken in ("sex", "weight", "person"):
        for name in FILES[:2]:
            content = {**books[name], taken: books[name]["Q1"]}
            (config.codebook / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(CodebookError, match=f"a question is called '{taken}'"):
            read_survey(config, 0)


def test_a_codebook_that_is_one_json_file_is_refused(tmp_path: Path) -> None:
    config = sample(tmp_path)
    with pytest.raises(CodebookError, match="single file"):
        read_survey(config.model_copy(update={"codebook": config.codebook / "codebook.json"}), 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["1", "-1", "Q1", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_codebook_however_broken_ends_in_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "book"
    if not folder.exists():
        sample(tmp_path)
        for name in FILES:
            (folder / f"{name}.json").rename(tmp_path / f"{name}.json")
    books = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in FILES}
    broken = copy.deepcopy(books)
    at: Any = broken[data.draw(st.sampled_from(FILES))]
    while True:
        key = data.draw(st.sampled_from(sorted(at)))
        if not isinstance(at[key], dict) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[data.draw(st.sampled_from([key, "Q9", "7"]))] = data.draw(JSON)
    for name, content in broken.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    try:
        read_survey(SurveyConfig(reader="wvs", file=tmp_path / "wvs.csv", codebook=folder), 0)
    except SurveyError as error:
        assert error.what and error.mend


def test_questions_are_a_record_of_what_the_files_say(tmp_path: Path) -> None:
    questions = from_json(sample(tmp_path).codebook)
    assert questions.countries == {"NZL": "New Zealand"} and questions.numbers == {"840": "United States"}
    assert questions.values["Q254"].adjustment == {"3": None}


def test_a_code_that_the_codebook_lacks_is_named_with_its_mend(tmp_path: Path) -> None:
    config = sample(tmp_path)
    assert config.file is not None
    table = pl.read_csv(config.file, infer_schema=False)
    table.with_columns(Q1=pl.Series(["7", *table["Q1"][1:]])).write_csv(config.file)
    with pytest.raises(AnswerError, match=r"(?s)line 2: the code '7'.* say at 'Q1' in .*book what it means") as caught:
        read_survey(config, 0)
    assert "'missing'" not in str(caught.value), "a key that JSON does not have"


def test_an_interview_that_stands_twice_is_refused(tmp_path: Path) -> None:
    config = sample(tmp_path)
    assert config.file is not None
    lines = config.file.read_text().splitlines()
    config.file.write_text("\n".join([*lines, lines[3]]) + "\n")
    with pytest.raises(AnswerError, match="stands there twice") as caught:
        read_survey(config, 0)
    assert f"line 4 and {config.file}" in str(caught.value) and f"line {len(lines) + 1}" in str(caught.value)
