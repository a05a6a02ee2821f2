"""The NZAVS profile on a made-up panel: waves, attrition, several ethnicities, what a person adjusts."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import svy_io
from polars.testing import assert_frame_equal

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, ConfigError, SurveyError
from valuealign.population import tabulate
from valuealign.surveys import read_survey
from valuealign.surveys.codebook_yaml import read_codebook
from valuealign.surveys.nzavs import PROFILE, profile_text
from valuealign.surveys.table import in_level
from valuealign.types import EVERYONE, Group

WAVES = ("T08", "T09", "T10", "T11")
ITEMS = {
    "climate_real": "Env.ClimateChgReal",
    "redistribution": "Issue.IncomeRedistribution",
    "orientation": "Pol.Orient",
}
ETHNICITIES = ("European", "Maori", "Pacific", "Asian", "Other")
PEOPLE = 200


@cache
def panel() -> tuple[dict[str, str], ...]:
    """A row a person: ever fewer take part; one item is not asked in T09; a non-participant's cells are blank."""
    rng = np.random.default_rng(0)
    rows = []
    for person in range(PEOPLE):
        row = {"Questionnaire.Num": f"{1000 + person}"}
        age, gender = int(rng.integers(18, 88)), int(rng.integers(0, 2))
        ethnic = rng.random(5) < (0.6, 0.3, 0.15, 0.15, 0.05)
        for place, wave in enumerate(WAVES):
            here = rng.random() < 0.9 - 0.15 * place
            row[f"Weight.{wave}"] = f"{rng.uniform(0.5, 2):.3f}" if here else ""
            row[f"Gender.{wave}"] = str(gender) if here else ""
            row[f"Age.{wave}"] = f"{age + place + 0.25}" if here else ""
            for name, one in zip(ETHNICITIES, ethnic, strict=True):
                row[f"Ethnic.{name}.{wave}"] = str(int(one)) if here else ""
            for column in ITEMS.values():
                asked = here and not (column == "Pol.Orient" and wave == "T09")
                row[f"{column}.{wave}"] = str(rng.integers(1, 8)) if asked else ""
            # Some take part without an answer to one question.
            if here and rng.random() < 0.1:
                row[f"Env.ClimateChgReal.{wave}"] = "-99"
        del row["Pol.Orient.T09"]
        rows.append(row)
    return tuple(rows)


def write(folder: Path, rows: tuple[dict[str, str], ...], **more: object) -> SurveyConfig:
    with (folder / "nzavs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return SurveyConfig(reader="nzavs", file=folder / "nzavs.csv", **more)


def took_part(row: dict[str, str], wave: str) -> bool:
    return any(row.get(f"{column}.{wave}", "") not in ("", "-99") for column in ITEMS.values())


def test_a_person_stands_once_for_each_wave_of_taking_part(tmp_path: Path) -> None:
    survey = read_survey(write(tmp_path, panel()), 0)
    found = list(zip(survey.people["person"], survey.people["wave"], strict=True))
    expected = {(row["Questionnaire.Num"], wave) for row in panel() for wave in WAVES if took_part(row, wave)}
    assert len(found) == len(set(found)) and set(found) == expected
    waves = [sum(wave == other for _, other in found) for wave in WAVES]
    assert waves == sorted(waves, reverse=True) and waves[0] > 1.5 * waves[-1]
    assert set(survey.codebook.waves) == set(WAVES)


def test_answers_weights_and_traits_are_those_of_the_wave(tmp_path: Path) -> None:
    survey = read_survey(write(tmp_path, panel()), 0)
    by_id = {row["Questionnaire.Num"]: row for row in panel()}
    weights = [float(by_id[p][f"Weight.{w}"]) for p, w in survey.people.select("person", "wave").iter_rows()]
    assert survey.people["weight"].to_list() == pytest.approx(np.array(weights) / np.mean(weights))
    bands = {(18, 29): "18-29", (30, 44): "30-44", (45, 59): "45-59", (60, 74): "60-74", (75, 200): "75+"}
    grown = 0
    for person in survey.people.iter_rows(named=True):
        row, wave = by_id[person["person"]], person["wave"]
        for item, column in ITEMS.items():
            code = row.get(f"{column}.{wave}", "")
            assert person[item] == (None if code in ("", "-99") else int(code) - 1)
        age = int(float(row[f"Age.{wave}"]))
        assert person["age"] == next(name for (low, high), name in bands.items() if low <= age <= high)
        assert person["gender"] == ("female", "male")[int(row[f"Gender.{wave}"])]
        named = [name.lower() for name in ETHNICITIES if row[f"Ethnic.{name}.{wave}"] == "1"]
        assert person["ethnicity"] == named
    for bands_of in survey.people.group_by("person").agg("age")["age"].to_list():
        grown += len(set(bands_of)) > 1
    assert grown > 5


def test_total_response_groups_overlap_and_count_everyone_in_them(tmp_path: Path) -> None:
    survey = read_survey(write(tmp_path, panel(), waves=("T08",)), 0)
    weights = survey.people["weight"].to_numpy()
    groups = tuple(Group((("ethnicity", name.lower()),)) for name in ETHNICITIES)
    inside = [in_level(survey.people, "ethnicity", name.lower()) for name in ETHNICITIES]
    assert sum(map(sum, inside)) > survey.people.height > 100
    table = tabulate(survey, weights, (EVERYONE, *groups))
    for name, group in zip(ETHNICITIES[:2], groups, strict=False):
        rows = [r for r in panel() if took_part(r, "T08") and r[f"Ethnic.{name}.T08"] == "1"]
        rows = [r for r in rows if r["Env.ClimateChgReal.T08"] not in ("", "-99")]
        w = np.array([float(r["Weight.T08"]) for r in rows])
        code = np.array([int(r["Env.ClimateChgReal.T08"]) for r in rows])
        target = table.target("climate_real", group)
        assert target.n == len(rows)
        assert target.shares == pytest.approx([w[code == k].sum() / w.sum() for k in range(1, 8)])
    assert survey.codebook.phrase([("ethnicity", "maori"), ("gender", "female")]) == "a woman who is Māori"


def test_waves_are_selectable(tmp_path: Path) -> None:
    survey = read_survey(write(tmp_path, panel(), waves=("T09", "T11")), 0)
    assert set(survey.people["wave"]) == {"T09", "T11"}
    assert survey.people.filter(wave="T09")["orientation"].null_count() == survey.people.filter(wave="T09").height
    assert survey.people.filter(wave="T11")["orientation"].null_count() == 0
    assert survey.people["weight"].mean() == pytest.approx(1)
    only = read_survey(write(tmp_path, panel(), waves=("T09",)), 0)
    assert "orientation" not in {item.id for item in only.codebook.items}
    with pytest.raises(ConfigError, match="no wave is called 'T12'"):
        read_survey(write(tmp_path, panel(), waves=("T12",)), 0)


def test_notes_say_what_was_left_out_and_that_names_are_guesses(tmp_path: Path) -> None:
    survey = read_survey(write(tmp_path, panel()), 0)
    notes = " ".join(survey.notes)
    assert "data dictionary" in notes and "euthanasia" in notes and "deprivation" in notes and "diverse" in notes
    assert {item.id for item in survey.codebook.items} == set(ITEMS)
    assert [trait.id for trait in survey.codebook.traits] == ["gender", "age", "ethnicity"]


def test_the_profile_is_adjusted_in_a_copy(tmp_path: Path) -> None:
    """A copy that fits the file reads as the built-in one does; one that does not fit is refused."""
    copy = profile_text().split("items:")[0].replace("waves: [T01, T02, T03, T04, T05, T06, T07, T08", "waves: [T08")
    copy = copy.replace("T11, T12, T13, T14, T15]", "T11]")
    copy += 'items:\n  climate_real: {text: Is it real, column: "Env.ClimateChgReal.{wave}", scale: agree}\n'
    copy += "traits:\n  gender: {column: 'Gender.{wave}', as: noun, levels: {woman: {codes: [0]}, man: {codes: [1]}}}\n"
    (tmp_path / "own.yaml").write_text(copy)
    config = write(tmp_path, panel(), codebook=tmp_path / "own.yaml")
    survey = read_survey(config, 0)
    assert survey.codebook.item("climate_real").text == "Is it real" and set(survey.people["gender"]) == {
        "woman",
        "man",
    }
    assert not any("built-in" in note for note in survey.notes)
    (tmp_path / "own.yaml").write_text(copy.replace("T11]", "T11, T12]"))
    with pytest.raises(AnswerError, match=r"(?s)no column 'Weight.T12'.* name under 'waves:' only those of the file"):
        read_survey(config, 0)
    (tmp_path / "own.yaml").write_text(copy.replace("ClimateChgReal", "ClimateReal"))
    with pytest.raises(AnswerError, match="no column 'Env.ClimateReal.T08'"):
        read_survey(config, 0)


def test_the_spss_file_reads_as_the_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # SPSS has dots in names, as the study does; this writer (not the reader) takes them for a mistake.
    monkeypatch.setattr("svy_io.spss._is_valid_varname", lambda name: True)
    config = write(tmp_path, panel())
    frame = pl.read_csv(tmp_path / "nzavs.csv")
    svy_io.write_sav(frame.with_columns(pl.col(pl.Int64).cast(pl.Float64)), tmp_path / "nzavs.sav")
    spss = read_survey(config.model_copy(update={"file": tmp_path / "nzavs.sav"}), 0)
    assert_frame_equal(spss.people, read_survey(config, 0).people)


def test_a_file_of_another_study_or_without_weights(tmp_path: Path) -> None:
    with pytest.raises(AnswerError, match="no column is named like"):
        read_survey(write(tmp_path, ({"id": "1", "q1": "2"},)), 0)
    rows = tuple({name: code for name, code in row.items() if "Weight" not in name} for row in panel())
    with pytest.raises(AnswerError, match=r"no column 'Weight.T08' \(the weight column\)"):
        read_survey(write(tmp_path, rows), 0)
    with pytest.raises(SurveyError, match="survey.file"):
        read_survey(SurveyConfig(reader="nzavs"), 0)


def test_the_profile_reads_and_marks_its_guesses() -> None:
    book = read_codebook(PROFILE)
    assert 12 <= len(book.items) <= 20 and not book.label_only and book.tier == "closed"
    assert all(len(item.options) == 7 and item.ordinal for item in book.items)
    assert all("{wave}" in book.columns[item.id].name for item in book.items)
    assert next(trait for trait in book.traits if trait.id == "ethnicity").several
    assert profile_text() == PROFILE.read_text(encoding="utf-8") and "guesses" in profile_text()
