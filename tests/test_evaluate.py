"""Known models go through the whole evaluation and must score what they are known to score."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
from copy import copy

import numpy as np
import polars as pl
import pytest
from known_public import CONFIG, ITEMS, PEOPLE, SEED, World, public, the_world
from tiny import behaviour_cells

from valuealign.config import GroupsConfig, SplitsConfig
from valuealign.errors import Diverged
from valuealign.evaluate import FLOOR, HALF, Evaluation, Key, Row, build_exam
from valuealign.evaluate.gained import ORIGIN, outcome
from valuealign.evaluate.nulls import Nulls
from valuealign.evaluate.record import MAIN
from valuealign.metrics import METRICS
from valuealign.metrics.nulls import additive
from valuealign.population import find_groups, tabulate
from valuealign.prompts import survey_messages, wordings
from valuealign.splits import other_survey, split
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Estimate, Group


@pytest.fixture(scope="module")
def world() -> World:
    return the_world()


@pytest.fixture(scope="module")
def judged(world: World) -> Evaluation:
    uniform = [np.full(len(cell.completions), math.log(0.5 / len(cell.completions))) for cell in world.exam.cells]
    return world.exam.judge({"guess": uniform, "blind": world.answers(group="everyone"), "public": world.answers()})


def test_a_perfect_model_scores_the_noise_floor(world: World, judged: Evaluation) -> None:
    """On average over ways to split: a few dozen cells of one split alone are a third off by chance."""
    over: dict[tuple[str, str], list[float]] = {}
    for seed in range(6):
        other = copy(world)
        other.splits = split(world.survey, world.weights, world.groups, CONFIG, seed=seed)
        other.exam = build_exam(world.survey, world.weights, world.groups, other.splits, bootstrap=40, seed=seed)
        perfect = other.exam.judge({"public": other.answers()})
        for split_name in ("cells", "groups", "items"):
            for metric in ("jsd_bits", "wasserstein", "total_variation"):
                model, floor = (perfect.figure(split_name, who, metric) for who in ("public", FLOOR))
                over.setdefault((split_name, metric), []).append(model.value / floor.value)
                assert model.low <= model.value <= model.high
    assert {key: np.mean(ratios) for key, ratios in over.items()} == pytest.approx(dict.fromkeys(over, 1), abs=0.3)
    for split_name in ("cells", "groups", "items"):
        assert judged.figure(split_name, "public", "gain(jsd_bits)").value > 0.6
        for metric, away in (("dispersion", 0.05), ("dispersion_variance", 0.1), ("calibration_slope", 0.1)):
            assert judged.figure(split_name, "public", metric).value == pytest.approx(1, abs=away)
        assert not [row for row in judged.rows if (row.who, row.metric) == ("guess", "calibration_slope")]


def test_a_copy_of_the_targets_scores_within_the_floor(world: World) -> None:
    copied = {**world.truth("select"), **world.truth("report")}
    full = {
        (cell.source.removeprefix("survey:"), cell.group): copied[cell.source.removeprefix("survey:"), cell.group]
        for cell in world.exam.cells
    }
    judged = world.exam.judge({"copy": world.answers(full)})
    for split_name in judged.splits:
        assert judged.figure(split_name, "copy").value < judged.figure(split_name, FLOOR).value
        assert judged.figure(split_name, "copy").value == pytest.approx(0, abs=1e-9)
        assert judged.figure(split_name, "copy", "mode_accuracy").value == 1


def test_a_uniform_model_scores_as_the_uniform_null(judged: Evaluation) -> None:
    for row in [row for row in judged.rows if row.who == "uniform"]:
        assert judged.figure(row.split, "guess", row.metric).value == pytest.approx(row.estimate.value, abs=1e-12)
        assert judged.figure(row.split, "guess", row.metric).low == pytest.approx(row.estimate.low, abs=1e-12)
    for split_name in judged.splits:
        assert judged.figure(split_name, "guess", "raw_mass").value == pytest.approx(0.5)
        assert judged.figure(split_name, "public", "raw_mass").value == pytest.approx(1.0)


def test_a_model_that_ignores_the_group_scores_as_the_marginal(world: World, judged: Evaluation) -> None:
    table = tabulate(world.survey, world.weights, world.groups, multiplicity_P=world.splits.person_P == 0)
    everyone = {
        (item.id, group.name): table.shares(item.id, EVERYONE) for item in table.items for group in world.groups
    }
    blind = world.exam.judge({"blind": world.answers(everyone)})
    for split_name in ("cells", "groups", "seen"):
        same = blind.figure(split_name, "marginal").value
        assert blind.figure(split_name, "blind").value == pytest.approx(same, abs=1e-9)
        # It loses nothing when its answers are given to other groups; the public's own answers do.
        assert blind.figure(split_name, "blind (groups shuffled)").value == pytest.approx(same, abs=1e-9)
        mixed = judged.figure(split_name, "public (groups shuffled)").value
        assert mixed > 2 * judged.figure(split_name, "public").value
    # Here traits act independently, so the additive null does better than the marginal.
    assert judged.figure("cells", "additive").value < judged.figure("cells", "marginal").value


def test_gain_is_over_the_named_null(judged: Evaluation) -> None:
    for split_name, null in (("cells", "additive"), ("groups", "additive"), ("items", "training items")):
        row = judged.row(split_name, "public", "gain(jsd_bits)")
        base, floor, model = (judged.figure(split_name, who).value for who in (null, FLOOR, "public"))
        assert row.estimate.value == pytest.approx((base - model) / (base - floor)) and null in row.note
        assert row.estimate.low < row.estimate.value < row.estimate.high


def test_differences_between_stages_are_paired(judged: Evaluation) -> None:
    for split_name in ("cells", "groups", "items"):
        apart = judged.figure(split_name, "public - blind")
        first, second = judged.figure(split_name, "blind"), judged.figure(split_name, "public")
        assert apart.value == pytest.approx(second.value - first.value)
    apart = judged.figure("cells", "public - guess")
    assert apart.high < 0  # plainly better than guessing


def test_oracles_are_marked_and_only_for_items(judged: Evaluation) -> None:
    kinds = {(row.split == "items", row.who): row.kind for row in judged.rows if row.kind in ("null", "oracle")}
    assert all(kinds[True, who] == "oracle" for who in ("marginal", "others", "additive"))
    assert kinds[True, "uniform"] == kinds[True, "training items"] == "null"
    assert all(kind == "null" for (items, _), kind in kinds.items() if not items)
    assert (False, "training items") not in kinds


def test_floor_is_what_resampling_says_and_below_the_split_half(world: World, judged: Evaluation) -> None:
    # The expected divergence of n_eff draws from the truth is about (K - 1) / (8 n_eff ln 2) bits (chi-square).
    (panel,) = [p for p in world.exam.panels if (p.split, p.part) == ("seen", "report")]
    options = (~np.isnan(panel.truth_CK)).sum(1)
    expected = np.mean((options - 1) / (8 * math.log(2) * panel.n_eff_C))
    assert judged.figure("seen", FLOOR).value == pytest.approx(expected, rel=0.15)
    # Training half (n = 2000) against the truth (n = 1000): (1/2 + 1) times the floor.
    assert judged.figure("seen", HALF).value == pytest.approx(1.5 * expected, rel=0.25)


def test_nominal_items_have_no_wasserstein(world: World, judged: Evaluation) -> None:
    (panel,) = [p for p in world.exam.panels if (p.split, p.part) == ("seen", "report")]
    nominal = {item.id for item in world.survey.codebook.items if not item.ordinal}
    places = {item.id: np.array(item.positions) for item in world.survey.codebook.items}
    apart = []
    for item, truth in zip(panel.items, panel.truth_CK, strict=True):
        if item not in nominal:
            p = truth[~np.isnan(truth)]
            gap = np.diff(places[item]) / (places[item][-1] - places[item][0])
            apart.append(np.sum(np.abs(np.cumsum(1 / len(p) - p)[:-1]) * gap))
    assert set(panel.items) & nominal and judged.figure("seen", "guess", "wasserstein").value == pytest.approx(
        np.mean(apart)
    )


def test_parts_share_no_person_cell_or_held_out_unit(world: World) -> None:
    pairs: dict[str, set[tuple[str, str]]] = {"select": set(), "report": set()}
    trained = {(item, group.name) for item, group in world.splits.train}
    for panel in world.exam.panels:
        mine = set(zip(panel.items, panel.groups, strict=True))
        assert not pairs[panel.part] & mine, "no cell counts twice"
        pairs[panel.part] |= mine
        assert (mine <= trained) == (panel.split in ("seen", "everyone"))
        if panel.split not in ("seen", "everyone"):
            assert not mine & trained
    assert not pairs["select"] & pairs["report"]
    parts = [set(world.survey.people["person"].to_numpy()[world.splits.person_P == n]) for n in (0, 1, 2)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_truth_and_nulls_come_from_their_own_people(world: World) -> None:
    """Changing every training person's answers leaves the truth alone, and the other way round."""
    for changed, number in (("nulls", 0), ("truth", 2)):
        mine = pl.Series(world.splits.person_P == number)
        frozen = world.survey.people.with_columns(
            pl.when(mine).then(pl.lit(0, dtype=pl.Int16)).otherwise(pl.col(i.id)).alias(i.id)
            for i in world.survey.codebook.items
        )
        other = build_exam(
            Survey(world.survey.codebook, frozen), world.weights, world.groups, world.splits, bootstrap=20, seed=SEED
        )
        for ours, theirs in zip(world.exam.panels, other.panels, strict=True):
            if ours.part == "report":
                same_truth = np.array_equal(ours.truth_CK, theirs.truth_CK, equal_nan=True)
                same_nulls = all(np.array_equal(ours.nulls[n], theirs.nulls[n], equal_nan=True) for n in ours.nulls)
                assert (same_truth, same_nulls) == ((True, False) if changed == "nulls" else (False, True))


def test_exam_cells_hold_no_answers_and_come_in_one_order(world: World) -> None:
    again = build_exam(world.survey, world.weights, world.groups, world.splits, bootstrap=20, seed=SEED)
    assert again.cells == world.exam.cells
    assert len({(cell.source, cell.group) for cell in world.exam.cells}) == len(world.exam.cells)
    for cell in world.exam.cells:
        assert len(set(cell.desirable)) == 1 and cell.n_eff == 0 and cell.closed


def test_the_same_questions_in_other_words(world: World) -> None:
    exam, card = world.exam.only("report"), wordings().questions["card"]
    other = exam.worded(card)
    for one, cell, (item_id, group) in zip(other.cells, exam.cells, exam.asked, strict=True):
        item = world.survey.codebook.item(item_id)
        assert one.prompt == survey_messages(item, group, card) != cell.prompt == survey_messages(item, group)
        assert (one.completions, one.group, one.source) == (cell.completions, cell.group, cell.source)
    assert other.worded(None) == exam
    flat = [np.zeros(len(cell.completions)) for cell in exam.cells]
    steep = [np.arange(len(cell.completions)) - 9.0 for cell in exam.cells]
    judged = exam.judge({"a": flat, "b": steep}, reworded={"asked as card": {"a": steep, "b": flat}})
    assert judged.stages == ("a", "b")
    for split_name in ("cells", "groups", "items"):
        for metric in ("jsd_bits", "dispersion", "raw_mass"):
            row = judged.row(split_name, "a (asked as card)", metric)
            assert row.estimate == judged.figure(split_name, "b", metric) and row.kind == "reworded"
    plain = exam.judge({"a": flat, "b": steep})
    assert [row for row in judged.rows if row.kind != "reworded"] == list(plain.rows)


def test_resamples_are_of_persons_and_average_to_the_truth(world: World) -> None:
    for panel in world.exam.panels:
        there = ~np.isnan(panel.truth_CK)
        apart = np.nanmean(panel.resampled_BCK[:, there], axis=0) - panel.truth_CK[there]
        assert np.abs(apart).max() < 0.1 and np.abs(apart).mean() < 0.01
        assert panel.resampled_BCK.dtype == np.float32


def test_a_person_with_two_rows_is_drawn_whole() -> None:
    survey, _ = public()
    twice = survey.people.with_columns(pl.Series("person", [f"{n // 2:05}" for n in range(PEOPLE)]))
    # Both rows of a person answer alike, so drawing rows apart would show less noise.
    alike = twice.with_columns(pl.col(i.id).first().over("person").alias(i.id) for i in survey.codebook.items)
    weights = np.ones(PEOPLE)
    one = Survey(survey.codebook, alike)
    splits = split(one, weights, (EVERYONE,), SplitsConfig(items=0.2, groups=0, cells=0), seed=SEED)
    exam = build_exam(one, weights, (EVERYONE,), splits, bootstrap=200, seed=SEED)
    (panel,) = [p for p in exam.panels if (p.split, p.part) == ("everyone", "report")]
    there = ~np.isnan(panel.truth_CK)
    spread, p = panel.resampled_BCK[:, there].std(axis=0), panel.truth_CK[there]
    persons = exam.facts["report"]["people"]
    assert persons == len(set(one.people["person"].filter(pl.Series(splits.people("report")))))
    assert persons == pytest.approx(500, abs=60) and spread.mean() == pytest.approx(
        np.sqrt(p * (1 - p) / persons).mean(), rel=0.1
    )


def test_distances_for_a_gate(world: World) -> None:
    apart, keys = world.exam.distances(world.answers(), part="select")
    assert len(apart) == len(keys) == len(set(keys)) and np.isfinite(apart).all()
    cells = [value for value, key in zip(apart, keys, strict=True) if key[0] == "cells"]
    judged = world.exam.judge({"public": world.answers()}, part="select")
    assert judged.figure("cells", "public").value == pytest.approx(np.mean(cells))
    key: Key = keys[0]
    assert key[1].startswith("q") and {k[0] for k in keys} == {"cells", "groups", "items", "seen", "everyone"}


def test_figures_of_a_part_are_over_all_its_cells(world: World) -> None:
    found = world.exam.figures(world.answers())
    assert set(found) == set(METRICS) and all(np.isfinite(value) for value in found.values())
    assert found["jsd_bits"] == pytest.approx(world.exam.distances(world.answers(), part="select")[0].mean())
    assert found != world.exam.figures(world.answers(), part="report")
    with pytest.raises(Diverged, match="not finite"):
        world.exam.figures([np.full_like(one, np.nan) for one in world.answers()])


def test_the_outcome_of_a_sweep_is_read_from_the_report_part(world: World) -> None:
    """Stage 1 answers as the public, one trial as well but for its behaviour, another answers alike everywhere."""
    exam, public = world.exam, world.answers()
    flat = [np.full(len(one), -np.log(len(one))) for one in public]
    marks = behaviour_cells(4)
    still = [np.log(np.full(len(cell.completions), 0.5)) for cell in marks]
    moved = [logp + np.array(cell.desirable) for logp, cell in zip(still, marks, strict=True)]
    surveyed = {ORIGIN: public, "kind": public, "blunt": flat}
    found = outcome(exam, marks, surveyed, {ORIGIN: still, "kind": moved, "blunt": still}, compared=2)
    kind, blunt = found.trials
    assert (kind.trial, kind.lost.value, kind.lost.high) == ("kind", 0.0, 0.0) and kind.behaviour.value > 0.2
    assert blunt.lost.low > 0 and blunt.behaviour.value == 0.0
    judged = exam.judge(surveyed, part="report")
    assert blunt.lost == judged.figure(found.split, f"blunt - {ORIGIN}")
    at = judged.figure(found.split, "uniform").value - judged.figure(found.split, ORIGIN).value
    assert found.marks["uniform"] == pytest.approx(at) and FLOOR in found.marks
    assert found.apart is not None and found.apart.value == pytest.approx(kind.behaviour.value)
    alone = outcome(exam, marks, surveyed, {ORIGIN: still, "kind": moved, "blunt": still}, compared=1)
    assert alone.apart is None


def test_most_limits_cells_without_choosing_by_hand(world: World) -> None:
    small = build_exam(
        world.survey, world.weights, world.groups, world.splits, bootstrap=20, seed=SEED, most=5, most_seen=3
    )
    for panel in small.panels:
        assert len(panel.items) <= (3 if panel.split == "seen" else 5)
    big = {(cell.source, cell.group) for cell in world.exam.cells}
    assert {(cell.source, cell.group) for cell in small.cells} <= big and len(small.cells) < len(big)


def test_diverged_models_are_refused(world: World) -> None:
    answers = world.answers()
    for bad in (np.full_like(answers[3], np.nan), np.full_like(answers[3], -np.inf)):
        with pytest.raises(Diverged, match="not finite") as error:
            world.exam.judge({"broken": [*answers[:3], bad, *answers[4:]]})
        assert "broken" in error.value.where
    one_impossible = answers[3].copy()
    one_impossible[0] = -np.inf
    world.exam.distances([*answers[:3], one_impossible, *answers[4:]])


def test_exam_travels_and_the_record_comes_back(world: World, judged: Evaluation) -> None:
    there = pickle.loads(pickle.dumps(world.exam))
    assert (
        there.judge({"public": world.answers()}).figure("cells", "public").value
        == judged.figure("cells", "public").value
    )
    back = Evaluation.from_json(judged.to_json())
    assert back.to_json() == judged.to_json() and back.figure("cells", "public") == judged.figure("cells", "public")
    assert (
        "NaN" not in judged.to_json()
        and json.loads(judged.to_json())["facts"]["people"] == world.splits.people("report").sum()
    )
    rows = list(csv.DictReader(io.StringIO(judged.to_csv())))
    assert len(rows) == len(judged.rows)
    (one,) = [r for r in rows if (r["split"], r["who"], r["metric"]) == ("cells", "public", "jsd_bits")]
    assert float(one["value"]) == judged.figure("cells", "public").value
    with pytest.raises(KeyError):
        judged.figure("cells", "nobody")


def test_worst_group_is_the_worst(world: World, judged: Evaluation) -> None:
    row = judged.row("cells", "blind", "worst_group_jsd_bits")
    apart, keys = world.exam.distances(world.answers(group="everyone"), part="report")
    means = {
        group: np.mean([v for v, k in zip(apart, keys, strict=True) if k[0] == "cells" and k[2] == group])
        for group in {k[2] for k in keys if k[0] == "cells"}
        if sum(k[0] == "cells" and k[2] == group for k in keys) > 1
    }
    assert row.note == max(means, key=lambda name: means[name]) and row.estimate.value == pytest.approx(
        max(means.values())
    )


def test_portraits_show_people_and_stages(world: World, judged: Evaluation) -> None:
    assert judged.portraits
    for one in judged.portraits:
        assert sum(one.people) == pytest.approx(1) and set(one.stages) == {"guess", "blind", "public"}
        assert one.stages["guess"] == pytest.approx([1 / len(one.options)] * len(one.options))


def test_nulls_read_nothing_held_out(world: World) -> None:
    """Changing the training people's answers to a held-out pair leaves every null of that pair alone."""
    table = tabulate(world.survey, world.weights, world.groups, multiplicity_P=world.splits.person_P == 0)
    known = set(world.splits.train)
    held = [pair for name in ("cells", "groups") for pair in world.splits.pairs[name, "report"]]
    broken = table.shares_GIK.copy()
    for item, group in held:
        broken[table.group_index[group], table.item_index[item]] = np.nan
    other = type(table)(table.items, table.groups, broken, table.n_GI, table.n_eff_GI)
    for ours, theirs in zip(
        Nulls(table, known).of("cells", held).items(), Nulls(other, known).of("cells", held).items(), strict=True
    ):
        assert np.array_equal(ours[1], theirs[1], equal_nan=True), ours[0]


def test_training_items_mean_by_hand(world: World) -> None:
    table = tabulate(world.survey, world.weights, world.groups, multiplicity_P=world.splits.person_P == 0)
    nulls = Nulls(table, set(world.splits.train))
    item, group = world.splits.pairs["items", "report"][0]
    mine = {i.id: i for i in table.items}
    words = [o.text for o in mine[item].options]
    alike = [i for i, g in world.splits.train if g == group and [o.text for o in mine[i].options] == words]
    expected = np.mean([table.shares(i, group) for i in alike], axis=0)
    guess = nulls.of("items", [(item, group)])["training items"][0]
    assert alike and np.allclose(guess[~np.isnan(guess)], expected)


def test_additive_of_a_pair_uses_known_traits_only(world: World) -> None:
    table = tabulate(world.survey, world.weights, world.groups, multiplicity_P=world.splits.person_P == 0)
    pair = Group((("age", "old"), ("sex", "f")))
    old, female = Group((("age", "old"),)), Group((("sex", "f"),))
    p, a, b = (table.shares("q00", group) for group in (EVERYONE, old, female))
    both = Nulls(table, {("q00", EVERYONE), ("q00", old), ("q00", female)}).of("cells", [("q00", pair)])["additive"][0]
    assert np.allclose(both[:4], (a * b / p) / (a * b / p).sum())
    one = Nulls(table, {("q00", EVERYONE), ("q00", old)}).of("cells", [("q00", pair)])["additive"][0]
    assert np.allclose(one[:4], a)  # female is held out: the marginal stands in for her
    none = Nulls(table, {("q00", EVERYONE)}).of("cells", [("q00", old)])["additive"][0]
    assert np.allclose(none[:4], p)


def test_held_out_waves_are_judged_on_their_own_rows() -> None:
    """The later wave's answers differ: its panels see them, the others and the nulls do not."""
    survey, _ = public()
    late = np.arange(PEOPLE) >= PEOPLE // 2
    moved = survey.people.with_columns(
        pl.Series("wave", np.where(late, "late", "early")),
        pl.Series("person", [f"{n % (PEOPLE // 2):05}" for n in range(PEOPLE)]),
        *(
            pl.when(pl.Series(late)).then(pl.lit(0, pl.Int16)).otherwise(pl.col(i.id)).alias(i.id)
            for i in survey.codebook.items
        ),
    )
    panel_survey, weights = Survey(survey.codebook, moved), np.ones(PEOPLE)
    groups = find_groups(panel_survey, weights, GroupsConfig(min_n_eff=60.0, crossings=1))
    splits = split(panel_survey, weights, groups, SplitsConfig(waves=("late",)), seed=SEED)
    exam = build_exam(panel_survey, weights, groups, splits, bootstrap=20, seed=SEED)
    train = tabulate(panel_survey, weights, groups, multiplicity_P=splits.people("train"))
    for panel in exam.panels:
        first_C = panel.truth_CK[:, 0]
        if panel.split != "waves":
            assert (first_C < 1).all()
            continue
        assert (first_C == 1).all() and (panel.resampled_BCK[:, :, 0] == 1).all()
        by_name = {group.name: group for group in groups}
        earlier = [train.shares(item, by_name[group])[0] for item, group in zip(panel.items, panel.groups, strict=True)]
        assert panel.nulls["persistence"][:, 0] == pytest.approx(earlier)
    assert {panel.part for panel in exam.panels if panel.split == "waves"} == {"select", "report"}
    uniform = [np.log(np.full(len(cell.completions), 1 / len(cell.completions))) for cell in exam.cells]
    judged = exam.judge({"guess": uniform})
    assert judged.row("waves", "guess", "gain(jsd_bits)").note == "over persistence"


def test_additive_of_three_traits_by_hand() -> None:
    """p_abc is proportional to p_a p_b p_c / p^2."""
    p, a, b, c = (np.array(v) for v in ([0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.6, 0.2, 0.2], [0.3, 0.3, 0.4]))
    wanted = a * b * c / p**2
    assert additive(p, [a, b, c]) == pytest.approx(wanted / wanted.sum())


def test_a_survey_that_trained_nothing_is_judged(world: World) -> None:
    splits = other_survey(world.survey, world.weights, world.groups, CONFIG, seed=SEED)
    assert splits.train == () and np.array_equal(splits.person_P, world.splits.person_P)
    assert len(splits.pairs["survey", "report"]) == len(world.groups) * ITEMS
    exam = build_exam(world.survey, world.weights, world.groups, splits, bootstrap=20, seed=SEED)
    assert {(panel.split, panel.part) for panel in exam.panels} == {("survey", "select"), ("survey", "report")}
    assert all(set(panel.nulls) == {"uniform"} for panel in exam.panels)
    table = tabulate(world.survey, world.weights, world.groups, multiplicity_P=splits.people("report"))
    (panel,) = [one for one in exam.panels if one.part == "report"]
    by_name = {group.name: group for group in world.groups}
    for item, group, truth in zip(panel.items, panel.groups, panel.truth_CK, strict=True):
        assert truth[~np.isnan(truth)] == pytest.approx(table.shares(item, by_name[group]))
    other = copy(world)
    other.exam = exam
    judged = exam.judge({"public": other.answers()})
    assert judged.row("survey", "public", "gain(jsd_bits)").estimate.value > 0.8


def test_a_card_keeps_main_figures(judged: Evaluation) -> None:
    """Hundreds of a sheet's parts belong into the record; a card names what one asks first."""
    one = Estimate(0.5, 0.4, 0.6, 9)
    parts = [f"shown({value})" for value in ("calm", "care", "wealth")]
    metrics = {"probes": [*parts, "consistency"], "declined": ["no_answer(cells)", "no_answer(items)"]}
    more = [Row(sheet, "report", "public", m, "stage", one) for sheet, all_ in metrics.items() for m in all_]
    record = judged.joined(more).with_behaviour({"public": one})
    found = {(row["split"], row["metric"]): row for row in record.results("public")}
    assert len(found) == len(record.results("public")), "each once"
    assert ("cells", "jsd_bits") in found and ("cells", "gain(jsd_bits)") in found and ("behaviour", "auc") in found
    assert {metric for split, metric in found if split in record.splits} <= set(MAIN)
    assert [m for split, m in found if split == "probes"] == ["consistency"]
    assert [m for split, m in found if split == "declined"] == ["no_answer(cells)"], "the first, where all are parts"
    assert found["probes", "consistency"]["value"] == 0.5
    assert record.figure("probes", "public", "shown(calm)") == one, "the record has them all"
