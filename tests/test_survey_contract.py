"""What every reader owes: a valid survey from its sample, and never a traceback, however broken the files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from survey_samples import SAMPLES

from valuealign.config import GroupsConfig, RunConfig, ScreensConfig, SplitsConfig, SurveyConfig, WeightingConfig
from valuealign.dataset import build, facts
from valuealign.errors import CodebookError, ConfigError, SplitError, ValuealignError
from valuealign.population import tabulate
from valuealign.surveys import SURVEYS, read_survey, screen
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE


@dataclass(frozen=True)
class Sample:
    """A reader's files in a folder of their own, as they were and where they may be broken."""

    reader: str
    config: SurveyConfig
    folder: Path
    whole: dict[str, bytes]

    def restore(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name, data in self.whole.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@pytest.fixture(scope="module", params=sorted(SURVEYS))
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    folder = tmp_path_factory.mktemp(request.param) / "files"
    folder.mkdir()
    config = SAMPLES[request.param](folder)
    whole = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    yield Sample(request.param, config, folder, whole)


def test_every_reader_has_a_sample() -> None:
    assert set(SAMPLES) == set(SURVEYS)


def test_a_reader_returns_a_valid_survey(sample: Sample) -> None:
    sample.restore()
    assert sample.config.reader == sample.reader
    survey = read_survey(sample.config, 0)
    check(survey)
    assert survey.people.height >= 10 and len(survey.codebook.items) >= 2
    assert survey.codebook.title and survey.codebook.tier in ("open", "aggregates", "closed")
    again = read_survey(sample.config, 0)
    assert survey.people.equals(again.people) and survey.codebook.items == again.codebook.items


def test_a_reader_ends_in_targets(sample: Sample) -> None:
    """What the samples hold goes the whole way: screens, weights, groups, targets, a data set."""
    sample.restore()
    survey = read_survey(sample.config, 0)
    screened = screen(survey, ScreensConfig(least_items=2))
    everyone = "equal" if survey.codebook.country else None
    run = RunConfig(
        stages=("distribution",),
        survey=sample.config,
        screens=ScreensConfig(least_items=2),
        weighting=WeightingConfig(everyone=everyone),
        groups=GroupsConfig(min_n_eff=2, crossings=1),
        splits=SplitsConfig(items=0, groups=0, cells=0, train=0.4, select=0.3),
    )
    try:
        dataset = build(run)
    except SplitError as error:
        assert "people make parts" in error.what  # a small sample
    else:
        assert facts(dataset) and dataset.table().shares_GIK.shape[0] == len(dataset.groups)
    assert set(screened.flags) <= {"longest_string", "variance", "speeders", "duplicates"}


def test_the_licence_may_be_said_in_the_run(sample: Sample) -> None:
    sample.restore()
    said = sample.config.model_copy(update={"licence": "by agreement of 2026", "tier": "aggregates"})
    book = read_survey(said, 0).codebook
    assert (book.licence, book.tier) == ("by agreement of 2026", "aggregates")


def test_a_licence_without_a_tier_never_opens_more(tmp_path: Path) -> None:
    def read(**said: Any) -> Survey:
        return read_survey(SurveyConfig(people=100, **said), 0)

    assert read().codebook.tier == "open"
    for licence in ("All rights reserved", "CC-BY-ND-4.0"):
        closed = read(licence=licence)
        assert closed.codebook.tier == "closed" and any("the tier is closed" in note for note in closed.notes)
        assert read(licence=licence, tier="aggregates").codebook.tier == "aggregates"
    assert read(licence="CC0").codebook.tier == "open"
    ess = SAMPLES["ess"](tmp_path).model_copy(update={"licence": "CC0"})
    assert read_survey(ess, 0).codebook.tier == "aggregates"


def test_keys_that_a_reader_has_no_use_for_are_refused() -> None:
    for config in (SurveyConfig(file=Path("town.csv")), SurveyConfig(reader="generic", statements=Path("s.csv"))):
        with pytest.raises(ConfigError, match="takes no such key"):
            read_survey(config, 0)


def test_more_outcomes_than_options_are_no_index(tmp_path: Path) -> None:
    rows = ["id,a,b,c"] + [f"{n},{n % 2 + 1},{(-3, 1, 2)[n % 3]},{n % 2 + 1}" for n in range(30)]
    (tmp_path / "s.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "s.yaml").write_text(
        "person: id\noutcomes: {one: [-1], two: [-2], three: [-3]}\nscales: {s: [1: low, 2: top]}\n"
        "items: {a: {text: One?, scale: s}, b: {text: Two?, scale: s}, c: {text: Three?, scale: s}}\n"
    )
    config = SurveyConfig(reader="generic", file=tmp_path / "s.csv", codebook=tmp_path / "s.yaml")
    survey = read_survey(config, 0)
    assert survey.people["b"].min() == -3
    flags = screen(survey, ScreensConfig(least_items=2)).flags
    plain = [np.var([v for v in row if v >= 0]) <= 0.001 for row in survey.people.select("a", "b", "c").iter_rows()]
    assert flags["variance"].tolist() == plain


@pytest.mark.parametrize("name", ["part", "design_weight", "screen_variance", "weight"])
@pytest.mark.parametrize("kind", ["items", "traits"])
def test_names_that_the_project_takes_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "s.csv").write_text(f"id,a,{name}\n" + "".join(f"{n},{n % 2},{n % 2}\n" for n in range(9)))
    extra = f"{name}: {{text: X?, scale: s}}" if kind == "items" else "b: {text: B?, column: a, scale: s}"
    trait = f"traits: {{{name}: {{levels: [0, 1]}}}}\n" if kind == "traits" else ""
    (tmp_path / "s.yaml").write_text(
        f"scales: {{s: [0: no, 1: yes]}}\nitems: {{a: {{text: A?, scale: s}}, {extra}}}\n{trait}"
    )
    config = SurveyConfig(reader="generic", file=tmp_path / "s.csv", codebook=tmp_path / "s.yaml")
    with pytest.raises(CodebookError, match=f"'{name}' is a column that the project itself adds"):
        read_survey(config, 0)


def check(survey: Survey) -> None:
    """The promises of ``Survey`` and ``Codebook``."""
    people, book = survey.people, survey.codebook
    schema = people.schema  # made anew each time that it is asked for
    assert schema["person"] == pl.String and people["person"].null_count() == 0
    weight_P = people["weight"].to_numpy()
    assert np.isfinite(weight_P).all() and (weight_P >= 0).all() and weight_P.mean() == pytest.approx(1)
    assert len({item.id for item in book.items}) == len(book.items)
    for item in book.items:
        assert schema[item.id] == pl.Int16
        answers = people[item.id].drop_nulls()
        assert len(item.options) >= 2 and len({option.text for option in item.options}) == len(item.options)
        assert answers.max() is None or answers.max() < len(item.options)  # type: ignore[operator]
        assert answers.min() is None or answers.min() >= -len(book.outcomes)  # type: ignore[operator]
        assert item.text.strip() and len(item.positions) in (0, len(item.options))
    for trait in book.traits:
        assert schema[trait.id] == (pl.List(pl.String) if trait.several else pl.String)
        levels = people[trait.id].explode() if trait.several else people[trait.id]
        assert set(levels.drop_nulls()) <= set(trait.levels) and set(trait.phrases) == set(trait.levels)
        assert all(book.phrase([(trait.id, level)]) for level in trait.levels)
    assert book.country is None or book.country in {trait.id for trait in book.traits}
    assert set(book.label_only) | set(book.desirability) <= {item.id for item in book.items}
    keys = ["person", "wave"] if "wave" in people.columns else ["person"]
    if "wave" in people.columns:
        assert not people.select(keys).is_duplicated().any(), "a person counts once a wave"
    table = tabulate(survey, weight_P, (EVERYONE,))
    answered = table.n_GI[0] > 0
    assert answered.any() and np.allclose(np.nansum(table.shares_GIK[0, answered], axis=1), 1)


# What happens to files on their way: cut off, garbled, a column or a line lost, something typed over.
JUNK = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b'"',
    b",",
    b";",
    b"\n",
    b"-1",
    b"99",
    b"1e400",
    b"nan",
    b"\xe2\x82\xac",
    b"{",
    b"]",
    b": ",
]


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, float, float, bytes]:
    kind = draw(st.sampled_from(["cut", "insert", "replace", "drop line", "double line", "empty", "swap"]))
    where, span = draw(st.floats(0, 1)), draw(st.floats(0, 0.2))
    return kind, where, span, draw(st.sampled_from(JUNK) | st.binary(max_size=6))


def broken(data: bytes, kind: str, where: float, span: float, junk: bytes) -> bytes:
    at = int(where * len(data))
    to = min(len(data), at + 1 + int(span * 40))
    lines = data.split(b"\n")
    line = min(len(lines) - 1, int(where * len(lines)))
    return {
        "cut": data[:at],
        "insert": data[:at] + junk + data[at:],
        "replace": data[:at] + junk + data[to:],
        "drop line": b"\n".join(lines[:line] + lines[line + 1 :]),
        "double line": b"\n".join(lines[: line + 1] + lines[line:]),
        "empty": b"",
        "swap": data[to:] + data[:to],
    }[kind]


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # CI finds today what it found yesterday; `make prove` looks further
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(hurt=damage(), which=st.floats(0, 0.999), rows=st.none() | st.integers(1, 30))
def test_no_broken_file_ends_in_a_traceback(
    sample: Sample, hurt: tuple[str, float, float, bytes], which: float, rows: int | None
) -> None:
    """Either a valid survey, or an error of ours that says what, where, and the mend."""
    sample.restore()
    if not sample.whole:
        return
    name = sorted(sample.whole)[int(which * len(sample.whole))]
    (sample.folder / name).write_bytes(broken(sample.whole[name], *hurt))
    try:
        survey = read_survey(sample.config.model_copy(update={"rows": rows}), 0)
    except ValuealignError as error:
        assert error.what and error.mend, f"no mend: {error}"
        assert error.where, f"no place: {error}"
        return
    check(survey)
    screen(survey, ScreensConfig(least_items=2))


@pytest.mark.prove
@settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
@given(hurt=damage(), second=damage(), which=st.floats(0, 0.999))
def test_no_broken_file_ends_in_a_traceback_in_full(
    sample: Sample, hurt: tuple[str, float, float, bytes], second: tuple[str, float, float, bytes], which: float
) -> None:
    """Twice broken, many more times."""
    sample.restore()
    if not sample.whole:
        return
    name = sorted(sample.whole)[int(which * len(sample.whole))]
    (sample.folder / name).write_bytes(broken(broken(sample.whole[name], *hurt), *second))
    try:
        check(read_survey(sample.config, 0))
    except ValuealignError as error:
        assert error.what and error.mend and error.where


def test_a_missing_file_is_named(sample: Sample) -> None:
    sample.restore()
    for name in sample.whole:
        sample.restore()
        (sample.folder / name).unlink()
        try:
            read_survey(sample.config, 0)
        except ValuealignError as error:
            assert error.mend
