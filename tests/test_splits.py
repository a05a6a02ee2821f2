"""Properties of the splits, on many seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from valuealign.config import GroupsConfig, SplitsConfig, SurveyConfig
from valuealign.errors import SplitError
from valuealign.population import find_groups, tabulate
from valuealign.splits import PARTS, SPLITS, Splits, pairs_frame, people_frame, read_splits, split
from valuealign.surveys import embedded
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group

CONFIG = SplitsConfig()


@pytest.fixture(scope="module")
def survey() -> Survey:
    """The embedded public, each person with two rows (two waves)."""
    one = embedded.read(SurveyConfig(people=800), 0)
    return Survey(one.codebook, pl.concat([one.people, one.people]))


@pytest.fixture(scope="module")
def groups(survey: Survey) -> tuple[Group, ...]:
    return find_groups(survey, np.ones(survey.people.height), GroupsConfig(min_n_eff=30))


def divide(survey: Survey, groups: tuple[Group, ...], config: SplitsConfig = CONFIG, seed: int = 0) -> Splits:
    return split(survey, np.ones(survey.people.height), groups, config, seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_people_are_parted_by_id(survey: Survey, groups: tuple[Group, ...], seed: int) -> None:
    splits = divide(survey, groups, seed=seed)
    ids = np.array(survey.people["person"].to_list())
    parts = [set(ids[splits.people(part)]) for part in ("train", *PARTS)]
    assert sum(map(len, parts)) == len(set(ids)) == 800
    assert [len(part) for part in parts] == pytest.approx([400, 200, 200], abs=50)  # a person is drawn by a hash


@pytest.mark.parametrize("seed", range(6))
def test_what_is_held_out_is_nowhere_in_training(survey: Survey, groups: tuple[Group, ...], seed: int) -> None:
    splits = divide(survey, groups, seed=seed)
    family = {item.id: item.family or item.id for item in survey.codebook.items}
    held = {name: [pair for part in PARTS for pair in splits.pairs[name, part]] for name in SPLITS}
    trained = set(splits.train)
    trained_families = {family[item] for item, _ in trained}
    trained_groups = {group for _, group in trained}
    assert all(held.values())
    assert not trained_families & {family[item] for item, _ in held["items"]}
    assert not trained_groups & {group for _, group in held["groups"]}
    assert not {(family[i], g) for i, g in trained} & {(family[i], g) for i, g in held["cells"]}
    assert {group for _, group in held["items"]} == trained_groups and EVERYONE in trained_groups
    assert {family[item] for item, _ in held["groups"]} == trained_families
    assert {family[item] for item, _ in held["cells"]} <= trained_families
    assert {group for _, group in held["cells"]} <= trained_groups - {EVERYONE}
    # All of training is seen by other people too, but for pairs that nobody in a part answered.
    assert set(held["seen"]) <= trained and len(held["seen"]) > 0.95 * len(trained)
    assert len(held["seen"]) == len(set(held["seen"])) and len(splits.train) == len(trained)


@pytest.mark.parametrize("seed", range(6))
def test_select_and_report_share_no_held_out_unit(survey: Survey, groups: tuple[Group, ...], seed: int) -> None:
    splits = divide(survey, groups, seed=seed)
    family = {item.id: item.family or item.id for item in survey.codebook.items}
    unit = {
        "items": lambda item, group: family[item],
        "groups": lambda item, group: group,
        "cells": lambda item, group: (family[item], group),
        "seen": lambda item, group: (family[item], group),
    }
    for name in SPLITS:
        select, report = ({unit[name](*pair) for pair in splits.pairs[name, part]} for part in PARTS)
        assert select and report and not select & report


def test_sizes_follow_the_configuration(survey: Survey, groups: tuple[Group, ...]) -> None:
    splits = divide(survey, groups, SplitsConfig(items=0.25, groups=0.3, cells=0.2))
    held_items = {item for part in PARTS for item, _ in splits.pairs["items", part]}
    held_groups = {group for part in PARTS for _, group in splits.pairs["groups", part]}
    assert 6 <= len(held_items) <= 7  # a family of two may round it up
    assert len(held_groups) == round(0.3 * (len(groups) - 1))
    assert all(len(group.traits) == 2 for group in held_groups), "pairs of traits go first"
    cells = sum(len(splits.pairs["cells", part]) for part in PARTS)
    assert cells / (cells + len(splits.train)) == pytest.approx(0.2, abs=0.02)


def test_zero_holds_nothing_out(survey: Survey, groups: tuple[Group, ...]) -> None:
    splits = divide(survey, groups, SplitsConfig(items=0, groups=0, cells=0))
    assert len(splits.train) == len(groups) * len(survey.codebook.items)
    assert all(splits.pairs[name, part] == () for name in ("items", "groups", "cells") for part in PARTS)


def test_a_seed_fixes_the_splits(survey: Survey, groups: tuple[Group, ...]) -> None:
    one, two, other = (divide(survey, groups, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.person_P, two.person_P) and one.pairs == two.pairs and one.train == two.train
    assert one.pairs != other.pairs and not np.array_equal(one.person_P, other.person_P)


def test_pairs_without_answers_are_left_out(survey: Survey, groups: tuple[Group, ...]) -> None:
    young = pl.col("age") == "18-34"
    people = survey.people.with_columns(pl.when(~young).then(pl.col("be_rich")).alias("be_rich"))
    hushed = Survey(survey.codebook, people)
    splits = divide(hushed, groups)
    asked = {pair for pairs in (splits.train, *splits.pairs.values()) for pair in pairs}
    assert not [pair for pair in asked if pair[0] == "be_rich" and ("age", "18-34") in pair[1].traits]
    table = tabulate(hushed, np.ones(people.height), groups, multiplicity_P=splits.people("train"))
    assert all(np.isfinite(table.shares(*pair)).all() for pair in splits.train)


def test_too_little_to_hold_out_is_an_error(survey: Survey, groups: tuple[Group, ...]) -> None:
    few = Survey(survey.codebook, survey.people.head(30))
    with pytest.raises(SplitError, match=r"30 people make parts of \d+, \d+ and \d+"):
        divide(few, groups)
    with pytest.raises(SplitError, match="splits.groups"):
        divide(survey, groups[:3])  # everyone and two more
    two = Survey(type(survey.codebook)("two", "two", survey.codebook.items[:2], survey.codebook.traits), survey.people)
    with pytest.raises(SplitError, match="splits.items"):
        divide(two, groups)
    one = Survey(type(survey.codebook)("one", "one", survey.codebook.items[:1], survey.codebook.traits), survey.people)
    with pytest.raises(SplitError, match="splits.cells"):
        divide(one, groups[:2], SplitsConfig(items=0, groups=0))
    assert divide(one, groups[:2], SplitsConfig(items=0, groups=0, cells=0)).train


@given(order=st.permutations(range(300)), keep=st.integers(150, 300), seed=st.integers(0, 3))
@hypothesis_settings(max_examples=15, deadline=None)
def test_a_person_stays_in_one_part_whatever_else_the_file_holds(
    survey: Survey, order: list[int], keep: int, seed: int
) -> None:
    """In any order, subset, wave or export a person's part is the same."""
    few = SplitsConfig(items=0, groups=0, cells=0)
    whole = divide(survey, (EVERYONE,), few, seed)
    part = dict(zip(survey.people["person"], whole.person_P, strict=True))
    some = survey.people[order[:keep]]
    other = divide(Survey(survey.codebook, some), (EVERYONE,), few, seed)
    assert [part[person] for person in some["person"]] == other.person_P.tolist()


def test_parts_have_the_configured_sizes_on_average(survey: Survey) -> None:
    few = SplitsConfig(train=0.6, select=0.1, items=0, groups=0, cells=0)
    counts = np.mean([np.bincount(divide(survey, (EVERYONE,), few, seed).person_P) for seed in range(20)], axis=0)
    # 20 x 800 people: a standard error of at most 0.004.
    assert counts / counts.sum() == pytest.approx([0.6, 0.1, 0.3], abs=0.016)


@pytest.fixture(scope="module")
def panel(survey: Survey) -> Survey:
    half = survey.people.height // 2
    waves = pl.Series("wave", ["2019"] * half + ["2021"] * half)
    return Survey(survey.codebook, survey.people.with_columns(waves))


def test_a_held_out_wave_is_read_by_its_own_split_only(panel: Survey, groups: tuple[Group, ...]) -> None:
    splits = divide(panel, groups, SplitsConfig(waves=("2021",)))
    late = (panel.people["wave"] == "2021").to_numpy()
    ids = np.array(panel.people["person"].to_list())
    for part in ("train", *PARTS):
        assert not (splits.people(part) & late).any() and not (splits.rows(part, "waves") & ~late).any()
        assert set(ids[splits.people(part)]) == set(ids[splits.rows(part, "waves")]), (
            "persons are in one part throughout"
        )
    for part in PARTS:
        assert set(splits.pairs["waves", part]) <= set(splits.train)
        assert len(splits.pairs["waves", part]) > 0.9 * len(splits.train)
    # Hiding what was said in the held-out wave changes nothing of the other splits.
    hidden = panel.people.with_columns(
        pl.when(pl.col("wave") == "2019").then(pl.col(i.id)).alias(i.id) for i in panel.codebook.items
    )
    with pytest.raises(SplitError, match="answered any pair of 'waves'"):
        divide(Survey(panel.codebook, hidden), groups, SplitsConfig(waves=("2021",)))
    early = divide(Survey(panel.codebook, panel.people.filter(~late)), groups)
    assert early.train == splits.train
    assert {key: value for key, value in splits.pairs.items() if key[0] != "waves"} == early.pairs


@pytest.mark.parametrize(
    ("waves", "words"),
    [
        (("2020",), r"no wave '2020' \(its waves: 2019, 2021\)"),
        (("2019", "2021"), "every wave of the survey is held out"),
    ],
)
def test_waves_that_cannot_be_held_out(panel: Survey, waves: tuple[str, ...], words: str) -> None:
    with pytest.raises(SplitError, match=words):
        divide(panel, (EVERYONE,), SplitsConfig(waves=waves))


def test_no_waves_to_hold_out(survey: Survey) -> None:
    with pytest.raises(SplitError, match="no panel"):
        divide(survey, (EVERYONE,), SplitsConfig(waves=("2019",)))


def test_units_name_what_was_tied(survey: Survey, groups: tuple[Group, ...]) -> None:
    families: dict[str, list[str]] = {}
    for item in survey.codebook.items:
        if item.family:
            families.setdefault(item.family, []).append(item.id)
    assert set(map(tuple, families.values())) <= set(divide(survey, groups).units)


@pytest.mark.parametrize("waves", [(), ("2021",)])
def test_splits_come_back_from_parquet(
    panel: Survey, groups: tuple[Group, ...], waves: tuple[str, ...], tmp_path: Path
) -> None:
    config = SplitsConfig(waves=waves, cells=0)
    splits = divide(panel, groups, config)
    people, pairs = people_frame(panel, splits), pairs_frame(splits)
    assert people.height == panel.people["person"].n_unique() and set(pairs["split"]) >= {"train", "items", "groups"}
    people.write_parquet(tmp_path / "people.parquet")
    pairs.write_parquet(tmp_path / "pairs.parquet")
    there = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("people", "pairs"))
    back = read_splits(*there, panel, groups, config)
    assert np.array_equal(back.person_P, splits.person_P) and np.array_equal(
        back.rows("report", "waves"), splits.rows("report", "waves")
    )
    assert (back.pairs, back.train, back.units) == (splits.pairs, splits.train, splits.units)
    assert (back.held_P is None) == (not waves)
    with pytest.raises(SplitError, match="not in the splits and the survey both"):
        read_splits(people.head(700), pairs, panel, groups, config)
    with pytest.raises(SplitError, match="not in the splits and the survey both"):
        read_splits(people, pairs, panel, groups[:3], config)


def test_a_survey_without_groups_holds_out_items_alone(survey: Survey) -> None:
    splits = split(survey, np.ones(survey.people.height), (EVERYONE,), SplitsConfig(), seed=0)
    assert splits.pairs["items", "report"] and splits.train
    assert not any(splits.pairs[name, part] for name in ("groups", "cells") for part in ("select", "report"))
