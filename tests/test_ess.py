"""European Social Survey: the 21 portraits, their direction and scores, who is who, and the two weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from survey_samples import ess as sample
from svy_io import write_dta, write_sav

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, CodebookError, ConfigError, SurveyError
from valuealign.surveys import read_survey
from valuealign.surveys.ess import PORTRAITS
from valuealign.values import THEORIES, score

# Typed from the scoring instructions by the variables' names, apart from the product's item numbers.
KEYS = {
    "self-direction": ("ipcrtiv", "impfree"),
    "stimulation": ("impdiff", "ipadvnt"),
    "hedonism": ("ipgdtim", "impfun"),
    "achievement": ("ipshabt", "ipsuces"),
    "power": ("imprich", "iprspot"),
    "security": ("impsafe", "ipstrgv"),
    "conformity": ("ipfrule", "ipbhprp"),
    "tradition": ("ipmodst", "imptrad"),
    "benevolence": ("iphlppl", "iplylfr"),
    "universalism": ("ipeqopt", "ipudrst", "impenv"),
}
MISSING = {66: None, 77: -1, 88: -2, 99: -3}


def synthetic(people: int = 300, seed: int = 3) -> pl.DataFrame:
    """A file of one round and three countries in the survey's layout; ids stand once in each country."""
    rng = np.random.default_rng(seed)
    codes = rng.choice([1, 2, 3, 4, 5, 6, 66, 77, 88, 99], (people, 21), p=[0.15] * 6 + [0.025] * 4)
    return pl.DataFrame(
        {
            "name": ["ESS9e03_2"] * people,
            "essround": [9] * people,
            "idno": [1000 + place // 3 for place in range(people)],
            "cntry": [("AT", "GB", "ZZ")[place % 3] for place in range(people)],
            "pspwght": rng.uniform(0.2, 3, people),
            "anweight": rng.uniform(0.2, 3, people),
            **{name: codes[:, place] for place, name in enumerate(PORTRAITS)},
            "gndr": rng.choice([1, 2, 9], people),
            "agea": rng.choice([*range(15, 91), 999], people),
            "eisced": rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 55, 77, 88, 99], people),
        }
    )


def written(folder: Path, table: pl.DataFrame, **more: object) -> SurveyConfig:
    table.write_csv(folder / "ess.csv")
    return SurveyConfig(reader="ess", file=folder / "ess.csv", **more)


def test_scores_equal_the_keys_on_reversed_raw_codes(tmp_path: Path) -> None:
    table = synthetic()
    survey = read_survey(written(tmp_path, table), 0)
    items = survey.codebook.items
    answers = survey.people.select(item.id for item in items).fill_null(-9).to_numpy()
    scores = score(THEORIES["schwartz10"], items, answers)
    assert set(scores.values) == set(KEYS) and len(items) == 21
    seen = 0
    for at, row in enumerate(table.iter_rows(named=True)):
        rated = {name: 7 - row[name] for name in PORTRAITS if row[name] <= 6}  # high: important
        # The stated rule: 70 % of all items for the mean, half of a value's own for its score.
        mean = sum(rated.values()) / len(rated) if len(rated) >= 0.7 * 21 else np.nan
        for place, value in enumerate(scores.values):
            own = [rated[name] for name in KEYS[value] if name in rated]
            wanted = sum(own) / len(own) if len(own) >= len(KEYS[value]) / 2 else np.nan
            # From 1..6 to the 0..1 that scores are given in.
            assert scores.raw_PV[at, place] == pytest.approx((wanted - 1) / 5, nan_ok=True)
            assert scores.centred_PV[at, place] == pytest.approx((wanted - mean) / 5, nan_ok=True)
            seen += not np.isnan(wanted - mean)
    assert seen > 2800


def test_answers_outcomes_traits_and_persons(tmp_path: Path) -> None:
    table = synthetic()
    survey = read_survey(written(tmp_path, table), 0)
    book, people = survey.codebook, survey.people
    assert book.outcomes == ("refused", "don't know", "no answer") and book.tier == "aggregates"
    for name in PORTRAITS:
        assert people[name].to_list() == [MISSING.get(code, code - 1) for code in table[name].to_list()]
    assert book.item("ipcrtiv").positions == (5, 4, 3, 2, 1, 0)
    assert [option.code for option in book.item("ipcrtiv").options] == [1, 2, 3, 4, 5, 6]
    assert people["person"].to_list()[:4] == ["AT-9-1000", "GB-9-1000", "ZZ-9-1000", "AT-9-1001"]
    assert people["person"].n_unique() == people.height and set(people["wave"]) == {"9"}
    sexes = {1: "male", 2: "female"}
    assert people["sex"].to_list() == [sexes.get(code) for code in table["gndr"].to_list()]
    steps = {**dict.fromkeys((1, 2), "lower"), **dict.fromkeys((3, 4), "middle"), **dict.fromkeys((5, 6, 7), "higher")}
    assert people["education"].to_list() == [steps.get(code) for code in table["eisced"].to_list()]
    bands = ["under 30" if age < 30 else "30-44" if age < 45 else "45-59" if age < 60 else "60+" for age in range(91)]
    assert people["age"].to_list() == [bands[age] if age < 999 else None for age in table["agea"].to_list()]
    traits = [("country", "GB"), ("sex", "male"), ("age", "60+")]
    assert book.phrase(traits) == "a man aged 60 or over from the United Kingdom" and book.country == "country"
    assert book.phrase([("country", "ZZ")]) == "someone from ZZ"  # a country that joined later


def test_the_key_file_agrees_with_the_items(shared_data: Path) -> None:
    keys = json.loads((shared_data / "schwartz_keys" / "pvq_keys.json").read_text())
    assert list(PORTRAITS) == keys["PVQ21_ESS_vars_in_item_order"]
    for value, numbers in keys["PVQ21"].items():
        assert tuple(list(PORTRAITS)[number - 1] for number in numbers) == KEYS[value.lower()]


def test_pspwght_by_default_and_anweight_counts_populations(tmp_path: Path) -> None:
    table = synthetic()
    for weight, scale in ((None, "sample"), ("anweight", "population")):
        survey = read_survey(written(tmp_path, table, weight=weight), 0)
        raw = table[weight or "pspwght"].to_numpy()
        assert survey.people["weight"].to_numpy() == pytest.approx(raw / raw.mean())
        assert survey.codebook.weight_scale == scale


def test_rounds_are_chosen_and_both_spellings_read_as_one(tmp_path: Path) -> None:
    """Rounds 9 and 11 in one file: the newer one has its answers in columns with a final a."""
    old, new = synthetic(), synthetic(seed=4).with_columns(essround=pl.lit(11))
    new = new.rename({name: name + "a" for name in PORTRAITS})
    both = pl.concat([old, new], how="diagonal_relaxed")
    people = read_survey(written(tmp_path, both), 0).people
    for name in PORTRAITS:
        codes = [*old[name].to_list(), *new[name + "a"].to_list()]
        assert people[name].to_list() == [MISSING.get(code, code - 1) for code in codes]
    assert people["person"].n_unique() == 600 and "ipcrtiva" not in people.columns

    survey = read_survey(written(tmp_path, both, waves=("11",)), 0)
    assert survey.people["ipcrtiv"].equals(people["ipcrtiv"][300:]) and survey.people["person"][0] == "AT-11-1000"
    assert len(survey.codebook.items) == 21 and not any("left out" in note for note in survey.notes)
    alone = read_survey(written(tmp_path, new), 0)
    assert alone.people["ipcrtiv"].equals(people["ipcrtiv"][300:])
    with pytest.raises(ConfigError, match="no wave is called '12'"):
        read_survey(written(tmp_path, both, waves=("12",)), 0)


@pytest.mark.parametrize("ending", ["sav", "dta"])
def test_labelled_files_read_as_the_csv_does(tmp_path: Path, ending: str) -> None:
    table = synthetic()
    plain = read_survey(written(tmp_path, table), 0)
    (write_sav if ending == "sav" else write_dta)(table, tmp_path / f"ess.{ending}")
    same = read_survey(SurveyConfig(reader="ess", file=tmp_path / f"ess.{ending}"), 0)
    weight = pl.col("weight").round(10)
    assert same.people.with_columns(weight).equals(plain.people.with_columns(weight))


def test_own_wordings_replace_the_paraphrases(tmp_path: Path) -> None:
    config = written(tmp_path, synthetic())
    survey = read_survey(config, 0)
    assert "ipcrtiv" in survey.notes[0] and "impfun" in survey.notes[0]
    own = tmp_path / "own.yaml"
    own.write_text("items:\n  ipcrtiv: The wording of the licence holder\n")
    survey = read_survey(config.model_copy(update={"codebook": own}), 0)
    assert survey.codebook.item("ipcrtiv").text == "The wording of the licence holder"
    assert "ipcrtiv" not in survey.notes[0] and "impfun" in survey.notes[0]
    own.write_text("items:\n  ipcrtiv: {txt: misspelt}\n")
    with pytest.raises(CodebookError, match="line 2"):
        read_survey(config.model_copy(update={"codebook": own}), 0)
    own.write_text("items:\n  ipcrtvi: A misspelt item\n")
    with pytest.raises(CodebookError, match=r"(?s)line 2: 'ipcrtvi' is no item .* did you mean 'ipcrtiv'"):
        read_survey(config.model_copy(update={"codebook": own}), 0)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(SurveyError, match=r"needs survey\.file"):
        read_survey(SurveyConfig(reader="ess"), 0)
    table = synthetic()
    twice = table.with_columns(idno=pl.when(pl.col("idno") == 1002).then(1001).otherwise("idno"))
    with pytest.raises(AnswerError, match=r"line 8: person AT-9-1001 stands a second time"):
        read_survey(written(tmp_path, twice), 0)
    nobody = table.with_columns(idno=pl.when(pl.col("idno") == 1002).then(None).otherwise("idno"))
    with pytest.raises(AnswerError, match=r"column 'idno', line 8"):
        read_survey(written(tmp_path, nobody), 0)
    with pytest.raises(AnswerError, match=r"column 'impfun', line 2: the code '7'"):
        read_survey(written(tmp_path, table.with_columns(impfun=pl.Series([7, *[1] * 299]))), 0)
    with pytest.raises(AnswerError, match="pspwght"):
        read_survey(written(tmp_path, table.drop("pspwght")), 0)
    with pytest.raises(AnswerError, match="none of the 21 items"):
        read_survey(written(tmp_path, table.drop(PORTRAITS)), 0)


def test_a_file_with_some_items_and_other_marks_is_read(tmp_path: Path) -> None:
    config = sample(tmp_path)
    items = [item.id for item in read_survey(config, 0).codebook.items]
    assert items == ["ipcrtiv", "imprich", "ipeqopt", "ipshabt", "impsafe", "impdiff"]
    table = pl.read_csv(config.file)
    people = read_survey(config, 0).people
    one = table.with_columns(idno=pl.arange(100, 140)).rename(str.upper).drop("ESSROUND", "CNTRY")
    one.write_csv(config.file, separator=";")
    survey = read_survey(config, 0)
    assert survey.people["ipcrtiv"].equals(people["ipcrtiv"]) and survey.codebook.country is None
    assert survey.people["person"].to_list()[:2] == ["100", "101"]
    assert any("no column cntry" in note for note in survey.notes)


def test_persons_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """Without idno nobody knows who is who; without country and round one id may be two people's."""
    table = synthetic()
    config = written(tmp_path, table.drop("idno").with_columns(nr=pl.arange(300)))
    with pytest.raises(AnswerError, match=r"(?s)no column 'idno': persons .*'person: COLUMN'"):
        read_survey(config, 0)
    own = tmp_path / "own.yaml"
    own.write_text("person: nr\n")
    assert read_survey(config.model_copy(update={"codebook": own}), 0).people["person"][1] == "1"
    with pytest.raises(AnswerError, match=r"(?s)line 3: person 9-1000 stands a second time.*cntry"):
        read_survey(written(tmp_path, table.drop("cntry")), 0)


def test_the_country_is_found_under_the_users_name_for_it(tmp_path: Path) -> None:
    """A trait that reads cntry is the country, whatever it is called: nothing is pooled unasked."""
    config, own = written(tmp_path, synthetic()), tmp_path / "own.yaml"
    config = config.model_copy(update={"codebook": own})
    own.write_text("traits: {nation: {column: cntry, levels: [AT, GB, ZZ]}}\n")
    book = read_survey(config, 0).codebook
    assert book.country == "nation" and "country" not in {trait.id for trait in book.traits}
    # Two countries in one level are none: the file's column is read beside it.
    own.write_text("traits: {area: {column: cntry, levels: {a: {codes: [AT, GB]}, z: {codes: [ZZ]}}}}\n")
    assert read_survey(config, 0).codebook.country == "country"
    own.write_text("traits: {country: {column: cntry, levels: {a: {codes: [AT, GB]}, z: {codes: [ZZ]}}}}\n")
    with pytest.raises(CodebookError, match="has a 'country' that is not"):
        read_survey(config, 0)


def test_what_the_users_own_file_names_must_be_there(tmp_path: Path) -> None:
    config, own = written(tmp_path, synthetic().drop("eisced", "imprich")), tmp_path / "own.yaml"
    config = config.model_copy(update={"codebook": own})
    for text, name in (
        ("items: {more: {text: More?, column: agee, scale: likeness}}", "agee"),
        ("items: {ipcrtiv: {text: Own, column: ipcrtvi}}", "ipcrtvi"),
        ("traits: {area: {column: regoin, levels: [a, b]}}", "regoin"),
        ("traits: {age: {column: agee}}", "agee"),
        ("duration: minutes", "minutes"),
    ):
        own.write_text(text + "\n")
        with pytest.raises(AnswerError, match=f"no column '{name}'"):
            read_survey(config, 0)
    own.write_text("items: {imprich: Only a wording}\n")  # the profile's own item may be absent
    assert any("imprich" in note and "education" in note for note in read_survey(config, 0).notes)


def test_an_item_answered_in_both_its_columns(tmp_path: Path) -> None:
    """An answer beats a non-answer; two answers that differ are refused with their line."""
    rows = synthetic().with_columns(impfun=pl.Series([77, 3, 88, 2, *[1] * 296]))
    rows = rows.with_columns(impfuna=pl.Series([3, 99, 77, 2, *[None] * 296]))
    assert read_survey(written(tmp_path, rows), 0).people["impfun"].to_list()[:5] == [2, 2, -2, 1, 0]
    rows = rows.with_columns(impfuna=pl.Series([3, 99, 77, 6, *[None] * 296]))
    with pytest.raises(AnswerError, match=r"column 'impfuna', line 5: the answer is 6 here and 2 in 'impfun'"):
        read_survey(written(tmp_path, rows), 0)
    # A column of the user's own choice has no twin.
    own = tmp_path / "own.yaml"
    own.write_text("items: {impfun: {text: Fun?, column: impfuna}}\n")
    people = read_survey(written(tmp_path, rows, codebook=own), 0).people
    assert people["impfun"].to_list()[:4] == [2, -3, -1, 5]
