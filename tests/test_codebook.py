"""What a codebook may not say, or may say in many ways: names, numbers, bands, licences, weights at the edge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from valuealign.config import RunConfig, SplitsConfig, SurveyConfig
from valuealign.dataset import build, write
from valuealign.errors import CodebookError, SurveyError
from valuealign.population import target_frame
from valuealign.surveys import read_survey
from valuealign.surveys.codebook import plain_number, whole_code
from valuealign.surveys.codebook_yaml import read_codebook

BOOK = (
    "person: id\nweight: w\n"
    "items:\n  a: {text: A?, options: [1: 'yes', 2: 'no']}\n  b: {text: B?, options: [1: low, 2: mid, 3: top]}\n"
    "traits:\n  age: {bands: [18-39, 40+]}\n"
)
ROWS = [f"p{n},1,{1 + n % 2},{1 + n % 3},{20 + n}" for n in range(40)]


def config(folder: Path, book: str = BOOK, rows: list[str] = ROWS) -> SurveyConfig:
    (folder / "s.csv").write_text("\n".join(["id,w,a,b,age", *rows]) + "\n")
    (folder / "s.yaml").write_text(book)
    return SurveyConfig(reader="generic", file=folder / "s.csv", codebook=folder / "s.yaml")


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("  a: {text", "  '': {text", 4, "a name is empty"),
        ("  age: {", "  '': {column: age, ", 7, "a name is empty"),
        ("bands: [18-39, 40+]", "bands: {'': {from: 18, to: 39}, 40+: x}", 7, "a name is empty"),
        ("1: low", "'': low", 5, "a name is empty"),
        ("weight: w", "outcomes: {'': [9]}", 2, "a name is empty"),
        ("  a: {text", "  ? [a]\n  : {text", 4, "a list or a mapping stands as a name"),
        ("weight: w", "{weight: w}: w", 2, "a list or a mapping stands as a name"),
        ("[18-39, 40+]", "[18-45, 40+]", 7, "'18-45' and '40+' overlap at 40"),
        ("[18-39, 40+]", "[18-40, 40-99]", 7, "overlap at 40"),
        ("[18-39, 40+]", "{old: {from: 30}, young: {to: 30}}", 7, "overlap at 30"),
        ("[18-39, 40+]", "[39-18, 40+]", 7, "ends before it begins"),
        ("[18-39, 40+]", "{x: {from: 1_8}, y: {to: 17}}", 7, "'1_8' is not a number"),
        (
            "[1: low, 2: mid, 3: top]",
            "[{code: 1, text: l, position: 0}, {code: 2, text: h, position: inf}]",
            5,
            "'inf'",
        ),
        (
            "[1: low, 2: mid, 3: top]",
            "[{code: 1, text: l, position: nan}, {code: 2, text: h, position: 1}]",
            5,
            "'nan'",
        ),
        (
            "[1: low, 2: mid, 3: top]",
            "[{code: 1, text: l, position: -1e308}, {code: 2, text: h, position: 1e308}]",
            5,
            "too far apart",
        ),
    ],
)
def test_a_name_or_number_that_is_none_names_its_line(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in BOOK
    with pytest.raises(CodebookError) as caught:
        read_survey(config(tmp_path, BOOK.replace(old, new, 1)), 0)
    assert f"line {line}:" in str(caught.value) and words in str(caught.value), str(caught.value)
    assert "Node(" not in str(caught.value)


def test_a_code_of_any_length_goes_the_whole_way(tmp_path: Path) -> None:
    """Beyond 64 bits a code is a word: it is known by its place."""
    huge = "9" * 27
    rows = [row.replace(",3,", f",{huge},") for row in ROWS]
    asked = config(tmp_path, BOOK.replace("3: top", f"{huge}: top"), rows)
    survey = read_survey(asked, 0)
    assert [option.code for option in survey.codebook.item("b").options] == [1, 2, 3]
    assert survey.people["b"].to_list() == [n % 3 for n in range(40)]
    run = RunConfig(
        stages=("distribution",), survey=asked, splits=SplitsConfig(items=0, groups=0, cells=0, train=0.4, select=0.3)
    )
    dataset = build(run)
    assert target_frame(dataset.table())["code"].max() == 3
    write(dataset, tmp_path / "out", lambda text: None)
    assert whole_code("-12") == -12 and whole_code("9" * 19) is None and whole_code("Yes") is None


def test_numbers_are_those_of_data_files(tmp_path: Path) -> None:
    assert plain_number("2e1") == 20 and plain_number(" -1.5 ") == -1.5
    assert [plain_number(text) for text in ("2_0", "inf", "nan", "", "x")] == [None] * 5
    with pytest.raises(SurveyError, match="line 2: '2_0' is no number"):
        read_survey(config(tmp_path, rows=["p0,1,1,1,2_0", *ROWS]), 0)


@pytest.mark.parametrize("size", ["1e308", "1e-320", "1e-300"])
def test_weights_of_any_size_are_only_relative(tmp_path: Path, size: str) -> None:
    rows = [row.replace(",1,", f",{size},", 1) for row in ROWS]
    weight = read_survey(config(tmp_path, rows=rows), 0).people["weight"].to_numpy()
    assert weight == pytest.approx(np.ones(40))
    only = config(tmp_path, rows=rows).model_copy(update={"only": {"age": ["40+"]}})
    assert read_survey(only, 0).people["weight"].to_numpy() == pytest.approx(np.ones(20))


@pytest.mark.parametrize(
    ("licence", "tier"),
    [
        ("CC-BY 4.0 but only for members", "closed"), ("CC0 except for firms", "closed"), ("PDDL-like", "closed"),
        ("public domain in the US only", "closed"), ("CC BY 4.0 ND", "closed"), ("CC-BY-ND", "closed"),
        ("CC BY-NC-SA 4.0", "open"), ("CC BY 4.0 International", "open"), ("cc_zero", "open"), ("ODC-BY-1.0", "open"),
        ("CC-BY", "open"), ("CC BY-NC 3.0 Unported", "open"), ("PDDL 1.0", "open"), ("CC0 1.0 Universal", "open"),
    ],
)  # fmt: skip
def test_only_a_licence_without_conditions_of_its_own_is_open(tmp_path: Path, licence: str, tier: str) -> None:
    config(tmp_path, f"licence: {licence}\n{BOOK}")
    assert read_codebook(tmp_path / "s.yaml").tier == tier
