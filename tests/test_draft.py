"""The drafted codebook: what is guessed of a file, and that the draft reads its own data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import svy_io
from hypothesis import given, settings
from hypothesis import strategies as st
from typed import typed

from valuealign.config import SurveyConfig
from valuealign.errors import AnswerError, ValuealignError
from valuealign.surveys import draft_codebook, draft_text
from valuealign.surveys.codebook_yaml import read_codebook
from valuealign.surveys.draft import Look, code
from valuealign.surveys.generic import read_survey
from valuealign.surveys.table import Survey

ROOT = Path(__file__).parents[1]
AGREE = {1: "Agree strongly", 2: "Agree", 3: "Disagree", 4: "Disagree strongly", -8: "Don't know", -9: "Refused"}
PEOPLE = 40


def panel(path: Path) -> None:
    """Two waves side by side, with labels, user-missing codes and a column that nobody should guess."""
    rows = [
        {
            "respid": place,
            "weight_w1": 0.5 + place % 3,
            "weight_w2": 0.75 + place % 3,
            "trust_w1": (1, 2, 3, 4, -9)[place % 5],
            "trust_w2": (1, 2, -8, 4, 3)[place % 5],
            "fair_w2": (1, 2, 3, 4)[place % 4],
            "happy_w1": (1, 2, 9)[place % 3],
            "happy_w2": (2, 1, 1)[place % 3],
            "once": 1 + place % 2,
            "gender": 1 + place % 2,
            "age": 20 + place,
            "comment": f"text {place}",
        }
        for place in range(1, PEOPLE + 1)
    ]
    answers = ("trust_w1", "trust_w2", "fair_w2")
    svy_io.write_sav(
        pl.DataFrame(rows),
        path,
        var_labels={"trust_w1": "Can people be trusted: yes or no?", "gender": "Sex of respondent"},
        value_labels=[
            *({"col": name, "labels": AGREE} for name in answers),
            {"col": "happy_w1", "labels": {1: "Happy", 2: "Not happy", 9: "No answer"}},
            {"col": "gender", "labels": {1: "Male", 2: "Female", 3: "Other"}},
        ],
        user_missing=[{"col": "trust_w1", "values": [-8, -9]}],
    )


def read_back(path: Path, folder: Path) -> Survey:
    (folder / "draft.yaml").write_text(draft_text(draft_codebook(path)))
    return read_survey(path, read_codebook(folder / "draft.yaml"), SurveyConfig())


def test_a_labelled_panel_is_drafted_and_reads_its_own_data(tmp_path: Path) -> None:
    panel(tmp_path / "panel.sav")
    survey = read_back(tmp_path / "panel.sav", tmp_path)
    book = survey.codebook
    assert (book.person, book.weight, tuple(book.waves)) == ("respid", "weight_{wave}", ("w1", "w2"))
    assert book.outcomes == ("don't know", "no answer")
    assert [item.id for item in book.items] == ["trust", "fair", "happy"] and book.label_only == ("fair", "happy")
    assert book.item("trust").text == "Can people be trusted: yes or no?"
    assert [option.text for option in book.item("fair").options] == list(AGREE.values())[:4]
    assert [trait.id for trait in book.traits] == ["sex", "age"] and book.traits[0].levels == ("Male", "Female")
    assert book.phrase([("sex", "Female"), ("age", "30-44")]) == "a woman aged 30 to 44"
    # 40 people in both waves; the refusals of the first are outcomes, not shares.
    assert survey.people.height == 2 * PEOPLE
    first = survey.people.filter(pl.col("wave") == "w1")
    assert first["trust"].to_list()[:5] == [1, 2, 3, -2, 0]
    text = (tmp_path / "draft.yaml").read_text()
    assert text.count("scale: scale_1") == 2 and "# guessed" in text
    assert "#   comment: 40 different values" in text and "#   once: in which wave" in text


def test_the_nonvoter_survey_is_drafted(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "nonvoters_538" / "nonvoters_data.csv"
    survey = read_back(path, tmp_path)
    book = survey.codebook
    assert (book.person, book.weight) == ("RespId", "weight") and not book.waves
    assert {"age", "sex", "education", "ethnicity", "income"} <= {trait.id for trait in book.traits}
    right = read_codebook(ROOT / "examples" / "nonvoters.yaml")
    for item in right.items:
        drafted = book.item(item.id)
        assert [option.code for option in drafted.options] == [option.code for option in item.options]
    assert survey.people.height == 5836 and set(book.label_only) == {item.id for item in book.items}


@pytest.mark.parametrize(
    ("codes", "labels", "options", "outcomes", "missing"),
    [
        ("1 2 3 4 8 9", {}, "1 2 3 4", {}, "8 9"),
        ("1 2 3 4 5 6 7", {}, "1 2 3 4 5 6 7", {}, ""),
        ("1 2 4 5 -1 99", {}, "1 2 3 4 5", {}, "-1 99"),
        ("-3 -2 -1 0 1 2 3", {}, "-3 -2 -1 0 1 2 3", {}, ""),
        ("-1 0 1 7 99", {"-1": "Opposed", "7": "Supreme", "99": "Missing"}, "-1 0 1 7", {}, "99"),
        ("1 2 8", {"1": "Yes", "2": "No", "8": "Don't know"}, "1 2", {"8": "don't know"}, ""),
        ("1 9", {"1": "Yes", "2": "No", "9": "Refused to answer"}, "1 2", {"9": "no answer"}, ""),
        ("a b NA", {}, "a b", {}, "NA"),
        ("NA NZ", {"NA": "Namibia", "NZ": "New Zealand"}, "NA NZ", {}, ""),
        ("1 2 8", {"1": "Yes", "2": "No", "8": "DK/Refused"}, "1 2", {"8": "don't know or no answer"}, ""),
        ("1 2 8", {"1": "Yes", "2": "No", "8": "8 - Don\u2019t know, spontaneous"}, "1 2", {"8": "don't know"}, ""),
        ("-1 1 2", {"1": "Yes", "2": "No", "-1": "Don\u00b4t know"}, "1 2", {"-1": "don't know"}, ""),
        ("1 2 8", {"1": "Yes", "2": "No", "8": "I would prefer not to tell"}, "1 2", {"8": "no answer"}, ""),
        ("1 2 8", {"1": "Yes", "2": "No", "8": "Not sure"}, "1 2", {"8": "don't know"}, ""),
        ("1 2 8", {"1": "Yes", "2": "No", "8": "Decline to answer"}, "1 2", {"8": "no answer"}, ""),
        ("1 2 8", {"1": "Yes", "2": "No", "8": "IAP"}, "1 2", {}, "8"),
        ("1 2 8", {"1": "Yes", "2": "No", "8": "Missing; other reasons"}, "1 2", {}, "8"),
    ],
)
def test_codes_are_told_apart(
    codes: str, labels: dict[str, str], options: str, outcomes: dict[str, str], missing: str
) -> None:
    look = Look("q", labels=labels)
    look.counts.update(codes.split())
    found = code(look)
    assert " ".join(text for text, _ in found.options) == options
    assert dict(found.outcomes) == outcomes and " ".join(found.missing) == missing


@pytest.mark.parametrize(
    ("names", "template", "waves"),
    [
        (["Trust.T9", "Trust.T10", "Fair.T10"], "Trust.{wave}", ("T9", "T10")),
        (["trustT1", "trustT2"], "trust{wave}", ("T1", "T2")),
        (["w1_trust", "w2_trust"], "{wave}_trust", ("w1", "w2")),
        (["trust.2018", "trust.2020"], "trust.{wave}", ("2018", "2020")),
        (["Q2_1", "Q2_2", "t1", "t2"], None, ()),
        (["vote_2016", "vote_2020", *(f"q{place}" for place in range(20))], None, ()),
    ],
)
def test_waves_are_found_in_column_names(
    tmp_path: Path, names: list[str], template: str | None, waves: tuple[str, ...]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([",".join(names)] + [",".join(str(1 + row % 2) for _ in names) for row in range(6)]))
    found = draft_codebook(path)
    assert found.waves == waves
    assert (template in {look.name for look, _ in found.items}) if template else not found.waves


word = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
small = st.integers(-9, 12).map(str) | st.sampled_from(["", "NA", "1.5", "Don't know", "null", "~", "#x", "{wave}"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    names=st.lists(word, min_size=1, max_size=5, unique_by=str.strip),
    cells=st.lists(small | word, min_size=5, max_size=40),
)
def test_any_file_gives_a_draft_that_is_a_codebook(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], cells: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [[cells[(row * len(names) + at) % len(cells)] for at in range(len(names))] for row in range(8)]
    pl.DataFrame(rows, schema=[(f"c{at}", pl.String) for at in range(len(names))], orient="row").rename(
        {f"c{at}": name for at, name in enumerate(names)}
    ).write_csv(folder / "t.csv")
    try:
        found = draft_codebook(folder / "t.csv")
    except ValuealignError:
        return
    (folder / "t.yaml").write_text(draft_text(found), encoding="utf-8")
    if found.items:
        assert {item.text for item in read_codebook(folder / "t.yaml").items} == {
            look.label or look.id.strip() or "item" for look, _ in found.items
        }


def test_the_job_writes_once_and_says_what_it_guessed(tmp_path: Path) -> None:
    panel(tmp_path / "panel.sav")
    job = [sys.executable, str(ROOT / "jobs" / "draft_codebook.py"), str(tmp_path / "panel.sav")]
    done = subprocess.run(job, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "weight: weight_{wave}" in done.stdout and "reads: 80 rows, 3 items" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["panel.codebook.yaml", "panel.sav"]
    again = typed("draft_codebook", str(tmp_path / "panel.sav"))
    assert again.returncode == 2 and "there already" in again.stderr and "Traceback" not in again.stderr


def test_countries_are_not_pooled_without_a_question(tmp_path: Path) -> None:
    rows = [f"{n},{('NZL', 'AUS')[n % 2]},{(554, 36)[n % 2]},{n % 4 + 1},{n % 3 + 1}" for n in range(60)]
    (tmp_path / "s.csv").write_text("\n".join(["id,country,B_COUNTRY_ALPHA,trust,fair", *rows]) + "\n")
    draft = draft_codebook(tmp_path / "s.csv")
    (tmp_path / "s.yaml").write_text(draft_text(draft))
    book = read_codebook(tmp_path / "s.yaml")
    assert book.country == "country" and {item.id for item in book.items} == {"trust", "fair"}
    assert "country" in draft.unplaced["B_COUNTRY_ALPHA"]
    assert "country: country # guessed" in draft_text(draft)


def test_a_weight_with_gaps_is_still_the_weight(tmp_path: Path) -> None:
    rows = [f"{n},{0.5 + n % 3},{'' if n % 4 else 1.25},{n % 3 + 1},{'' if n % 4 else n % 3 + 1}" for n in range(1, 61)]
    (tmp_path / "s.csv").write_text("\n".join(["id,weight.2019,weight.2020,trust.2019,trust.2020", *rows]) + "\n")
    draft = draft_codebook(tmp_path / "s.csv")
    assert draft.weight == "weight.{wave}"
    (tmp_path / "s.yaml").write_text(draft_text(draft))
    survey = read_survey(tmp_path / "s.csv", read_codebook(tmp_path / "s.yaml"), SurveyConfig())
    assert survey.people.height == 60 + 15
    remark = "empty weights: 45, right for who answered nothing in that wave"
    assert remark in (tmp_path / "s.yaml").read_text() and any(remark in line for line in draft.summary())


@pytest.mark.parametrize("gap", ["", "NA"])
def test_a_row_without_a_weight_is_named_by_the_reader(gap: str, tmp_path: Path) -> None:
    # 7 and 9 are whole and beyond a gap: in a weight that makes them no missing codes.
    rows = [f"{n},{gap if n == 3 else (0.5, 1, 2, 7, 9)[n % 5]},{n % 3 + 1}" for n in range(1, 61)]
    (tmp_path / "s.csv").write_text("\n".join(["id,weight,trust", *rows]) + "\n")
    draft = draft_codebook(tmp_path / "s.csv")
    assert draft.weight == "weight" and "; empty weights: 1, fill them" in draft_text(draft)
    with pytest.raises(AnswerError, match="line 4"):
        read_back(tmp_path / "s.csv", tmp_path)


def test_the_order_of_options_is_a_marked_guess(tmp_path: Path) -> None:
    codes = {"bare": 3, "bare2": 3, "agree": 3, "party": 3, "paper": 4, "paper2": 4}
    people = pl.DataFrame({name: [n % count + 1 for n in range(40)] for name, count in codes.items()})
    labels = {
        "agree": {1: "Agree", 2: "Neither agree nor disagree", 3: "Disagree"},
        "party": {1: "The red one", 2: "The blue one", 3: "Another"},
        **dict.fromkeys(("paper", "paper2"), {1: "The Sun", 2: "The Moon", 3: "The Star", 4: "Another"}),
    }
    svy_io.write_sav(
        people, tmp_path / "s.sav", value_labels=[{"col": name, "labels": said} for name, said in labels.items()]
    )
    book = read_back(tmp_path / "s.sav", tmp_path).codebook
    assert {item.id for item in book.items if item.ordinal} == {"bare", "bare2", "agree"}
    lines = (tmp_path / "draft.yaml").read_text().splitlines()
    assert all("# guessed" in line for line in lines if "ordinal:" in line and not line.startswith("#"))
    assert "    ordinal: true # guessed: ordered, as the words climb or fall a known scale" in lines
    assert "    ordinal: false # guessed: no order is known of these words" in lines
    assert "  scale_1: # guessed: ordered, as the codes are bare numbers" in lines
    assert "  scale_2: # guessed: no order is known of these words" in lines


def test_columns_of_0_and_1_are_one_trait_where_they_say_so(tmp_path: Path) -> None:
    names = ["id", "eth_maori", "eth_euro", "news_paper", "news_radio", "trust", "ethnicity"]
    rows = [f"{n},{n % 2},{(0, 1, 1, 9)[n % 4]},{n % 2},{(n + 1) % 2},{n % 3 + 1},{n % 2 + 1}" for n in range(60)]
    (tmp_path / "s.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    survey = read_back(tmp_path / "s.csv", tmp_path)
    (trait,) = survey.codebook.traits
    assert (trait.id, trait.several, trait.levels) == ("ethnicity", True, ("eth_maori", "eth_euro"))
    assert [item.id for item in survey.codebook.items] == ["news_paper", "news_radio", "trust"]
    assert survey.people["ethnicity"].to_list()[:4] == [[], ["eth_maori", "eth_euro"], ["eth_euro"], ["eth_maori"]]
    assert "#   ethnicity: another column of the trait 'ethnicity'" in (tmp_path / "draft.yaml").read_text()


def test_labels_of_flags_name_the_levels(tmp_path: Path) -> None:
    people = pl.DataFrame({"q9_1": [0, 1] * 20, "q9_2": [1, 0] * 20, "q10": [1, 2, 3, 4] * 10})
    labels = {"q9_1": "Religion: Buddhist", "q9_2": "Religion: none"}
    svy_io.write_sav(people, tmp_path / "s.sav", var_labels=labels)
    (trait,) = read_back(tmp_path / "s.sav", tmp_path).codebook.traits
    assert (trait.id, trait.levels) == ("religion", ("Buddhist", "none"))


@pytest.mark.parametrize(
    ("label", "trait"),
    [
        ("Scale of incomes", "income"),
        ("Income equality vs larger income differences", None),
        ("Income level", "income"),
    ],
)
def test_questions_about_income_are_no_trait(label: str, trait: str | None, tmp_path: Path) -> None:
    people = pl.DataFrame({"q1": [n % 5 + 1 for n in range(40)], "q2": [n % 3 + 1 for n in range(40)]})
    svy_io.write_sav(people, tmp_path / "s.sav", var_labels={"q1": label})
    assert list(draft_codebook(tmp_path / "s.sav").traits) == ([trait] if trait else [])


def test_many_different_ages_become_bands(tmp_path: Path) -> None:
    rows = [f"{n},{18 + n / 7:.2f},{n % 3 + 1},{(-1, 1)[n % 2]}" for n in range(400)]
    (tmp_path / "s.csv").write_text("\n".join(["id,age,trust,ticked", *rows]) + "\n")
    draft = draft_codebook(tmp_path / "s.csv")
    assert draft.bands["age"] == ("18-29", "30-44", "45-59", "60+")
    assert "-1 is taken for missing" in draft.unplaced["ticked"]


def test_the_job_never_writes_over_the_survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "s.csv"
    data.write_text("id,trust\n1,1\n2,2\n3,1\n")
    before = data.read_bytes()
    (tmp_path / "link.csv").symlink_to(data)
    itself = (["s.csv", "-o", "s.csv", "--force"], ["s.csv", "-o", "s.csv"], ["s.csv", "-o", "link.csv", "--force"])
    for arguments in (*itself, ["s.csv", "-o", "."], ["."], ["missing.csv"], []):
        done = typed("draft_codebook", *arguments)
        assert done.returncode == 2 and "mend:" in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert "--force" not in done.stderr
    assert data.read_bytes() == before


def test_a_long_panel_has_a_person_and_a_wave(tmp_path: Path) -> None:
    """Ids stand several times, once a year: neither is a question."""
    rows = [f"{n},{year},{1 + (n + year) % 3}" for year in (2019, 2020, 2021) for n in range(30)]
    (tmp_path / "long.csv").write_text("\n".join(["pid,year,trust", *rows]) + "\n")
    draft = draft_codebook(tmp_path / "long.csv")
    assert (draft.person, draft.wave) == ("pid", "year") and [look.name for look, _ in draft.items] == ["trust"]
    assert "\nwave: year # guessed" in draft_text(draft) and any("wave: year" in line for line in draft.summary())
    people = read_back(tmp_path / "long.csv", tmp_path).people
    assert people["person"].n_unique() == 30 and people["wave"].n_unique() == 3
    # Twice in one year: who is who is not clear, and the id says so.
    (tmp_path / "long.csv").write_text("\n".join(["pid,year,trust", *rows, rows[0]]) + "\n")
    draft = draft_codebook(tmp_path / "long.csv")
    assert draft.person is None and "stands in several rows" in draft.unplaced["pid"]


@pytest.mark.parametrize("name", ["weight", "pop_weight", "wt", "popweight"])
def test_whole_numbers_are_the_weight_by_their_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "w.csv").write_text(f"id,{name},q\n" + "".join(f"{n},{100 + 7 * n},{1 + n % 3}\n" for n in range(30)))
    draft = draft_codebook(tmp_path / "w.csv")
    assert draft.weight == name and "whole numbers" in draft.weight_remark
    assert f"\nweight: {name} # guessed; whole numbers" in draft_text(draft)
    # A column of fractions is the better guess.
    lines = (tmp_path / "w.csv").read_text().splitlines()
    (tmp_path / "w.csv").write_text(
        "\n".join([lines[0] + ",wgt2", *(f"{line},0.{n + 1}" for n, line in enumerate(lines[1:]))])
    )
    assert draft_codebook(tmp_path / "w.csv").weight == "wgt2"


def test_a_column_without_a_name_is_listed(tmp_path: Path) -> None:
    """R's write.csv puts row names first, without a name."""
    (tmp_path / "r.csv").write_text('"","id","q"\n' + "".join(f'"{n}",{n},{1 + n % 3}\n' for n in range(1, 31)))
    draft = draft_codebook(tmp_path / "r.csv")
    assert (
        "(a column without a name)" in draft_text(draft) and read_back(tmp_path / "r.csv", tmp_path).people.height == 30
    )
