"""The Schwartz questionnaires: columns found, keys, codes, wordings laid over, scores by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, CodebookError, SurveyError
from valuealign.surveys import SURVEYS, read_survey
from valuealign.surveys.table import Survey
from valuealign.values import THEORIES, score

# Reader -> items, stem of the ids, lowest and highest code, theory, instrument.
READERS = {
    "svs": (57, "svs", -1, 7, "schwartz10", "SVS-57"),
    "pvq40": (40, "pvq", 1, 6, "schwartz10", "PVQ-40"),
    "pvqrr": (57, "pvq", 1, 6, "schwartz19", "PVQ-RR"),
}


def write(
    folder: Path, reader: str, names: Sequence[str], rows: Sequence[Sequence[object]], book: str | None = None
) -> SurveyConfig:
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    if book is not None:
        (folder / "own.yaml").write_text(book)
    return SurveyConfig(reader=reader, file=folder / "data.csv", codebook=folder / "own.yaml" if book else None)


def every_code(reader: str, people: int = 40, seed: int = 0) -> np.ndarray:
    """Codes [P, I] in which every item has every code."""
    count, _, low, high, *_ = READERS[reader]
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.resize(np.arange(low, high + 1), people), (count, 1)), axis=1).T


def places(survey: Survey) -> np.ndarray:
    return survey.people.select(item.id for item in survey.codebook.items).to_numpy()


@pytest.mark.parametrize("reader", READERS)
def test_every_item_with_its_codes_and_values(tmp_path: Path, reader: str) -> None:
    count, stem, low, high, theory, instrument = READERS[reader]
    codes = every_code(reader)
    survey = read_survey(write(tmp_path, reader, [f"{stem}{n}" for n in range(1, count + 1)], codes.tolist()), 0)
    items = survey.codebook.items
    assert [item.id for item in items] == [f"{stem}{n}" for n in range(1, count + 1)]
    assert all([option.code for option in item.options] == list(range(low, high + 1)) for item in items)
    assert all(item.ordinal and item.key == 1 for item in items)
    assert np.array_equal(places(survey), codes - low)
    key = THEORIES[theory].instruments[instrument]
    assert {v: tuple(n for n, item in enumerate(items, start=1) if v in item.values) for v in key} == dict(key)
    assert sum(not item.values for item in items) == (11 if reader == "svs" else 0)
    assert survey.codebook.label_only == tuple(item.id for item in items)


def test_keys_are_those_of_the_published_instructions(tmp_path: Path, shared_data: Path) -> None:
    published = json.loads((shared_data / "value_lists" / "theories.json").read_text())["svs57_item_keys"]["values"]
    names = [f"svs{n}" for n in range(1, 58)]
    survey = read_survey(write(tmp_path, "svs", names, every_code("svs").tolist()), 0)
    for value, numbers in published.items():
        read = [int(item.id[3:]) for item in survey.codebook.items if item.values == (value.lower(),)]
        assert read == sorted(numbers)


@pytest.mark.parametrize(
    ("reader", "spelling"),
    [
        ("svs", "SVS{}"),
        ("svs", "svs_{:02}"),
        ("svs", "SVS57.{}"),
        ("svs", "svs57{}"),
        ("svs", "svs-q{}"),
        ("pvq40", "PVQ{:02}"),
        ("pvq40", "pvq40_{}"),
        ("pvq40", "pvq40{:02}"),
        ("pvqrr", "pvqrr{}"),
        ("pvqrr", "PVQ-RR {}"),
        ("pvqrr", "PVQ_RR_item{:03}"),
        ("pvqrr", "pvq{}"),
    ],
)
def test_columns_are_found_in_many_spellings(tmp_path: Path, reader: str, spelling: str) -> None:
    """Shuffled, and beside columns that are something else."""
    count, stem, low, *_ = READERS[reader]
    codes = every_code(reader)
    order = np.random.default_rng(1).permutation(count)
    names = [spelling.format(n + 1) for n in order]
    rows = [[*row[order].tolist(), 99, 3] for row in codes]
    survey = read_survey(write(tmp_path, reader, [*names, f"{stem}_sum", "esvs1"], rows), 0)
    assert np.array_equal(places(survey), codes - low)


def test_missing_and_ambiguous_columns_are_named(tmp_path: Path) -> None:
    names = [f"svs{n}" for n in range(1, 58)]
    rows = every_code("svs").tolist()
    lacking = [name for name in names if name not in ("svs7", "svs30")]
    with pytest.raises(AnswerError, match=r"of 57 items 2 have no column: svs7, svs30") as caught:
        read_survey(write(tmp_path, "svs", lacking, [row[:55] for row in rows]), 0)
    assert "items: {svs7: {column: ...}}" in str(caught.value)
    with pytest.raises(AnswerError, match=r"'SVS_7' and 'svs7' both look like 'svs7'"):
        read_survey(write(tmp_path, "svs", [*names, "SVS_7"], [[*row, 1] for row in rows]), 0)
    with pytest.raises(AnswerError, match="no column looks like an item"):
        read_survey(write(tmp_path, "pvq40", names, rows), 0)
    named = write(tmp_path, "svs", [*lacking, "x", "y"], rows, "items: {svs7: {column: x}, svs30: {column: y}}\n")
    assert read_survey(named, 0).people["svs30"].null_count() == 0


OWN = """\
name: mine
person: id
weight: w
missing: [9]
scales:
  svs: # rated from 8 to 0 by mistake
    - 0: opposed to my values
    - 1: none
    - 2: "2"
    - 3: "3"
    - 4: some
    - 5: "5"
    - 6: "6"
    - 7: much
    - 8: most
items:
  svs1: Fairness for everyone
  svs2: {text: Calm within, family: calm}
  own: {text: A piece of cake, options: [1: "yes", 2: "no"]}
traits:
  sex: {as: noun, levels: {f: woman, m: man}}
"""


def test_the_users_yaml_is_laid_over(tmp_path: Path) -> None:
    codes = every_code("svs", people=18) + 1
    codes[3, 0] = 9
    rows = [[f"p{i}", 1 + i % 2, "fm"[i % 2], 1 + i % 2, *row] for i, row in enumerate(codes.tolist())]
    names = ["id", "w", "sex", "own", *(f"SVS{n}" for n in range(1, 58))]
    survey = read_survey(write(tmp_path, "svs", names, rows, OWN), 0)
    book, people = survey.codebook, survey.people
    assert book.name == "mine" and people["person"][1] == "p1" and people["weight"][1] == pytest.approx(4 / 3)
    assert book.item("svs1").text == "Fairness for everyone" and book.item("svs1").values == ("universalism",)
    assert book.item("svs2").family == "calm" and book.item("svs3").text == "SVS-57 item 3"
    assert "svs1" not in book.label_only and "svs3" in book.label_only and len(book.label_only) == 55
    assert book.centred_on == tuple(f"svs{n}" for n in range(1, 58)), "the user's own item counts for no mean"
    assert book.item("svs3").options[8].text == "most" and book.item("own").options[0].text == "yes"
    assert people["svs1"][3] is None and people["svs1"].null_count() == 1
    assert people["svs5"].to_list() == codes[:, 4].tolist()


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("svs2: {text", "svs2: {txt", 18, "unknown key 'txt'"),
        ('options: [1: "yes", 2: "no"]', "scale: svss", 19, "did you mean 'svs'?"),
        ("person:", "persn:", 2, "did you mean 'person'?"),
        ("  svs1:", "  own:", 19, "a second time"),
        ("missing: [9]", "missing: [3]", 17, "both an option and missing"),
        ("levels: {f", "lvls: {f", 21, "unknown key 'lvls'"),
    ],
)
def test_a_mistake_in_the_users_yaml_names_its_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    assert old in OWN
    text = OWN.replace(old, new, 1)
    with pytest.raises(CodebookError) as caught:
        read_survey(write(tmp_path, "svs", ["svs1"], [[1]], text), 0)
    assert f"own.yaml, line {line}:" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("text", ["items:\n", "items: {svs1: }\n", "scales: {svs: }\nperson:\n"])
def test_what_is_left_empty_stays_as_it_was(tmp_path: Path, text: str) -> None:
    names = [f"svs{n}" for n in range(1, 58)]
    survey = read_survey(write(tmp_path, "svs", names, every_code("svs").tolist(), text), 0)
    assert len(survey.codebook.items) == 57 and survey.codebook.item("svs1").options[0].code == -1


@pytest.mark.parametrize(
    "text", ["items: 3\n", "items: [svs1]\n", "[]\n", "scales: {svs: 3}\n", "items: {svs99: Words}\n"]
)
def test_yaml_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    names = [f"svs{n}" for n in range(1, 58)]
    with pytest.raises(CodebookError, match="own.yaml, line 1"):
        read_survey(write(tmp_path, "svs", names, every_code("svs").tolist(), text), 0)


def test_codes_that_are_none_and_no_file(tmp_path: Path) -> None:
    names = [f"pvq{n}" for n in range(1, 41)]
    codes = every_code("pvq40").tolist()
    codes[4][2] = 7
    with pytest.raises(AnswerError) as caught:
        read_survey(write(tmp_path, "pvq40", names, codes), 0)
    for words in ("code '7'", "column 'pvq3', line 6", "survey.codebook"):
        assert words in str(caught.value)
    for reader in READERS:
        with pytest.raises(SurveyError, match="survey.file"):
            SURVEYS[reader](SurveyConfig(reader=reader), 0)


@pytest.mark.parametrize("reader", READERS)
def test_scores_are_the_means_of_the_keyed_codes(tmp_path: Path, reader: str) -> None:
    count, stem, low, high, theory, instrument = READERS[reader]
    codes = every_code(reader, seed=5)
    survey = read_survey(write(tmp_path, reader, [f"{stem}{n}" for n in range(1, count + 1)], codes.tolist()), 0)
    scores = score(THEORIES[theory], survey.codebook.items, places(survey))
    for place, value in enumerate(scores.values):
        numbers = np.array(THEORIES[theory].instruments[instrument][value]) - 1
        assert scores.raw_PV[:, place] == pytest.approx((codes[:, numbers].mean(axis=1) - low) / (high - low))
    # The mean rating (MRAT) runs over all items of the questionnaire, of the SVS over the 11 unkeyed ones too.
    centred = score(THEORIES[theory], survey.codebook.items, places(survey), centre_on="all")
    assert centred.mean_P == pytest.approx((codes.mean(axis=1) - low) / (high - low))
    assert (np.abs(centred.mean_P - scores.mean_P).max() > 0.01) == (reader == "svs")


def test_a_questionnaire_is_not_read_by_the_key_of_another(tmp_path: Path) -> None:
    """The PVQ-40 and the PVQ-RR number their items alike; their keys differ."""
    names = [f"pvq{n}" for n in range(1, 58)]
    with pytest.raises(AnswerError, match=r"(?s)run to 'pvq57': the file holds the PVQ-RR.*survey.reader=pvqrr"):
        read_survey(write(tmp_path, "pvq40", names, every_code("pvqrr").tolist()), 0)
    with pytest.raises(AnswerError, match=r"(?s)run to 'pvq40': the file holds the PVQ-40.*survey.reader=pvq40"):
        read_survey(write(tmp_path, "pvqrr", names[:40], every_code("pvq40").tolist()), 0)
    # Both side by side, each under its own name.
    both = [f"pvq40_{n}" for n in range(1, 41)] + [f"pvqrr_{n}" for n in range(1, 58)]
    rows = np.concatenate([every_code("pvq40"), every_code("pvqrr")], axis=1).tolist()
    for reader, count in (("pvq40", 40), ("pvqrr", 57)):
        assert len(read_survey(write(tmp_path, reader, both, rows), 0).codebook.items) == count
    own = "items: {mine: {text: Mine?, column: pvq41, scale: pvq}}\n"
    survey = read_survey(write(tmp_path, "pvq40", names[:41], every_code("pvqrr")[:, :41].tolist(), own), 0)
    assert len(survey.codebook.items) == 41


def test_a_column_of_the_users_own_must_be_there(tmp_path: Path) -> None:
    names = [f"svs{n}" for n in range(1, 58)]
    for own in ("items: {mine: {text: Mine?, column: svs_x, scale: svs}}\n", "items: {svs3: {column: svs_x}}\n"):
        with pytest.raises(AnswerError, match="no column 'svs_x'"):
            read_survey(write(tmp_path, "svs", names, every_code("svs").tolist(), own), 0)
