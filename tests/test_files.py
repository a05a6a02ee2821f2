"""Survey files of every kind: the same answers from each, and an error in words for any damage."""

from __future__ import annotations

import datetime
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import svy_io

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError
from valuealign.surveys import files
from valuealign.surveys.codebook_yaml import read_codebook
from valuealign.surveys.generic import read_survey

AGREE = {1: "Agree", 2: "Neither", 3: "Disagree", -1: "No answer", -2: "Don't know"}
BOOK = """\
person: id
weight: w
outcomes: {no answer: [-1], do not know: [-2]}
missing: [99]
scales:
  agree: [1: Agree, 2: Neither, 3: Disagree]
items:
  trust: {text: Most people can be trusted., scale: agree}
  fair: {text: Most people are fair., scale: agree}
traits:
  sex: {levels: {f: woman, m: man}}
  age: {bands: [18-39, 40+]}
"""
MADE_UP = pl.DataFrame(
    {
        "id": [f"p{place}" for place in range(24)],
        "w": [0.25 + place % 4 for place in range(24)],
        "trust": [None if place == 5 else float((1, 2, 3, -1, -2)[place % 5]) for place in range(24)],
        "fair": [float((3, 99, 1, 2)[place % 4]) for place in range(24)],
        "sex": ["fm"[place % 2] for place in range(24)],
        "age": [18.0 + 2 * place for place in range(24)],
        "note": ["not read"] * 24,
    }
)


def write_sav(table: pl.DataFrame, path: Path) -> None:
    svy_io.write_sav(
        table,
        path,
        var_labels={"trust": "Most people can be trusted", "sex": "Sex of respondent"},
        value_labels=[{"col": "trust", "labels": AGREE}, {"col": "fair", "labels": {1: "Agree", 99: "Not asked"}}],
        user_missing=[{"col": "trust", "values": [-1, -2]}, {"col": "fair", "range": [90, 99]}],
    )


def write_dta(table: pl.DataFrame, path: Path) -> None:
    svy_io.write_dta(table, path, var_labels={"trust": "Most people can be trusted"}, value_labels={"trust": AGREE})


WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    ".csv": lambda table, path: table.write_csv(path),
    ".parquet": lambda table, path: table.write_parquet(path),
    ".sav": write_sav,
    ".zsav": lambda table, path: svy_io.write_sav(table, path, compress="zsav"),
    ".dta": write_dta,
}


@pytest.mark.parametrize("ending", WRITERS)
def test_the_same_survey_from_every_kind_of_file(tmp_path: Path, ending: str) -> None:
    (tmp_path / "book.yaml").write_text(BOOK)
    book = read_codebook(tmp_path / "book.yaml")
    MADE_UP.write_csv(tmp_path / "made.csv")
    WRITERS[ending](MADE_UP, tmp_path / f"made{ending}")
    survey = read_survey(tmp_path / f"made{ending}", book, SurveyConfig())
    expected = {-1: -1, -2: -2, 1: 0, 2: 1, 3: 2, None: None, 99: None}
    for item in ("trust", "fair"):
        assert survey.people[item].to_list() == [expected[value] for value in MADE_UP[item].to_list()]
    assert survey.people.equals(read_survey(tmp_path / "made.csv", book, SurveyConfig()).people)
    quick = read_survey(tmp_path / f"made{ending}", book, SurveyConfig(rows=7))
    assert quick.people["person"].to_list() == [f"p{place}" for place in range(7)]


@pytest.mark.parametrize(
    ("ending", "place"), [(".csv", "line 9"), (".parquet", "row 8"), (".sav", "row 8"), (".dta", "row 8")]
)
def test_an_unknown_code_is_placed_in_every_kind_of_file(tmp_path: Path, ending: str, place: str) -> None:
    (tmp_path / "book.yaml").write_text(BOOK)
    wrong = MADE_UP.with_columns(pl.when(pl.col("id") == "p7").then(7.0).otherwise("trust").alias("trust"))
    WRITERS[ending](wrong, tmp_path / f"made{ending}")
    with pytest.raises(AnswerError) as caught:
        read_survey(tmp_path / f"made{ending}", read_codebook(tmp_path / "book.yaml"), SurveyConfig())
    assert caught.value.where == f"{tmp_path / f'made{ending}'}, column 'trust', {place}"
    assert "the code '7'" in caught.value.what


def test_labels_of_spss_and_stata(tmp_path: Path) -> None:
    for ending, write in ((".sav", write_sav), (".dta", write_dta)):
        write(MADE_UP, tmp_path / f"made{ending}")
        layout = files.layout(tmp_path / f"made{ending}")
        assert layout.names == tuple(MADE_UP.columns)
        assert layout.labels["trust"] == "Most people can be trusted"
        assert layout.values["trust"] == {str(code): words for code, words in AGREE.items()}
        wanted = files.load(tmp_path / f"made{ending}", columns=["trust", "nowhere"])
        assert wanted.layout == layout and wanted.frame.columns == ["trust"]
        assert "trust" in wanted and "fair" not in wanted
    MADE_UP.write_parquet(tmp_path / "made.parquet")
    assert files.layout(tmp_path / "made.parquet").names == tuple(MADE_UP.columns)
    assert not files.layout(tmp_path / "made.parquet").labels


def test_user_missing_codes_stay_where_the_first_value_is_empty(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"q": [None, -1.0, 1.0], "all_empty": [None, None, None]}, schema_overrides={"all_empty": pl.Float64}
    )
    svy_io.write_sav(
        table,
        tmp_path / "q.sav",
        value_labels=[{"col": "q", "labels": AGREE}],
        user_missing=[{"col": "q", "values": [-1]}, {"col": "all_empty", "values": [-1]}],
    )
    assert files.load(tmp_path / "q.sav").texts("q").to_list() == ["", "-1", "1"]


def test_stata_tagged_missing_values_are_codes_of_their_own(tmp_path: Path) -> None:
    svy_io.write_dta(
        pl.DataFrame({"q": [1.0, None, 5.0, 2.0]}),
        tmp_path / "q.dta",
        value_labels={"q": {1: "Yes", 123456: "Refused"}},
    )
    # The writer knows no tags: the 5 becomes .a, and so does the label's code (dta format 118, "missing values").
    data = (tmp_path / "q.dta").read_bytes()
    for plain, tagged in (
        (struct.pack("<d", 5), bytes.fromhex("000000000001e07f")),
        (struct.pack("<i", 123456), struct.pack("<i", 0x7FFFFFE6)),
    ):
        assert data.count(plain) == 1
        data = data.replace(plain, tagged)
    (tmp_path / "q.dta").write_bytes(data)
    table = files.load(tmp_path / "q.dta")
    assert table.texts("q").to_list() == ["1", "", ".a", "2"]
    assert table.layout.values["q"] == {"1": "Yes", ".a": "Refused"}


def test_every_type_of_a_parquet_column_becomes_codes(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "whole": [1, 2, None],
            "float": [1.0, 2.5, float("nan")],
            "text": [" 01", "1.0", ""],
            "flag": [True, False, None],
            "word": pl.Series(["a", "b", None], dtype=pl.Categorical),
            "day": [datetime.date(2020, 1, 2), None, None],
            "money": pl.Series(["1.50", "2.00", None]).str.to_decimal(scale=2),
            "list": [[1], [2], []],
        }
    )
    table.write_parquet(tmp_path / "types.parquet")
    loaded = files.load(tmp_path / "types.parquet")
    expected = {
        "whole": ["1", "2", ""],
        "float": ["1", "2.5", ""],
        "text": ["01", "1", ""],
        "flag": ["true", "false", ""],
        "word": ["a", "b", ""],
        "day": ["2020-01-02", "", ""],
        "money": ["1.5", "2", ""],
    }
    for name, texts in expected.items():
        codes = loaded.codes(name)
        assert [codes.texts[place] for place in codes.index_P] == texts, name
        assert loaded.texts(name).to_list() == texts, name
    assert np.allclose(loaded.numbers("float")[:2], [1, 2.5]) and np.isnan(loaded.numbers("text")[2])
    with pytest.raises(AnswerError, match=r"column 'list': the column holds values of the kind List"):
        loaded.codes("list")


def test_blank_lines_quotes_and_line_ends_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text, expected, rows in (
        ("a,b\n1,2\n\n3,4\n,\n5,6", ["1", "3", "5"], [0, 2, 4]),
        ('a,b\r\n"1\n1",2\r\n\r\n"3",4\r\n', ["1\n1", "3"], [0, 2]),
        ("\ufeffa,b\n1,2\n", ["1"], [0]),
    ):
        path.write_bytes(text.encode())
        table = files.load(path, columns=["a"])
        assert table.texts("a").to_list() == expected and table.row_P.tolist() == rows
    path.write_bytes(b'a,b\n"1\n1",2\n\n"3",4\n')
    assert files.load(path).where("b", 1) == f"{path}, column 'b', line 5"
    for data, words in (
        (b"a,b\n1,2\n3\n", "line 3: 1 values; the header names 2 columns"),
        (b'a,b\n"1",2\n3,4,5\n', "line 3: 3 values; the header names 2 columns"),
        (b"a,b\n1,2\xff\n", "not UTF-8"),
        (b"a,b\r1,2\r3,4\r", "not valid CSV"),
        (b"a,a\n1,2\n", "names 'a' twice"),
        (b"", "the file is empty"),
    ):
        path.write_bytes(data)
        with pytest.raises(AnswerError, match=words):
            files.load(path)


def test_files_of_no_known_kind_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(AnswerError, match=r"no survey file ends in '.xlsx'"):
        files.layout(tmp_path / "t.xlsx")
    with pytest.raises(AnswerError, match="cannot read the data"):
        files.layout(tmp_path / "t.sav")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(AnswerError, match="cannot read the data"):
        files.layout(tmp_path / "folder.csv")
    for ending in (".parquet", ".sav", ".dta"):
        path = tmp_path / f"made{ending}"
        WRITERS[ending](MADE_UP, path)
        whole = path.read_bytes()
        for damaged in (b"", b"hello" * 100, whole[:40], whole[: len(whole) // 2], whole[100:]):
            path.write_bytes(damaged)
            with pytest.raises(AnswerError) as caught:
                files.load(path)
            assert caught.value.mend and str(path) in caught.value.where


FUZZ = """
import sys
import numpy as np
from pathlib import Path
from valuealign.errors import AnswerError
from valuealign.surveys import files
rounds, rng = int(sys.argv[1]), np.random.default_rng(0)
for path in map(Path, sys.argv[2:]):
    whole = bytearray(path.read_bytes())
    for _ in range(rounds):
        data = whole[:]
        for place in rng.integers(0, len(data), rng.integers(1, 9)):
            data[place] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        try:
            table = files.load(path)
            for name in table.frame.columns:
                table.codes(name), table.numbers(name)
        except AnswerError:
            pass
print("done")
"""


def test_garbled_bytes_end_in_our_error(tmp_path: Path) -> None:
    """In a process of its own: a parser in C or Rust could end ours."""
    paths = [str(tmp_path / f"made{ending}") for ending in (".parquet", ".sav", ".dta")]
    for path in paths:
        WRITERS[Path(path).suffix](MADE_UP, Path(path))
    done = subprocess.run([sys.executable, "-c", FUZZ, "60", *paths], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr[-2000:]
