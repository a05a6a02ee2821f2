"""PPI++ against an independent formulation and the authors' code, its ends, and its coverage."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from conftest import ROOT
from prepared_once import prepare_once
from typed import benchmark

from valuealign import config as configuration
from valuealign.errors import ModelError, SplitError, SurveyError
from valuealign.evaluate.pilot import FLOOR, MODEL, PILOT, RECTIFIED, Pilot, as_table, draw_pilot, how_far
from valuealign.evaluate.rectify import Frame, rectify
from valuealign.population import tabulate
from valuealign.report import write_rectified
from valuealign.splits import Splits
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Estimate, Group, Item, Option

SAYS_GK = np.array([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
N, M = 80, 500
GROUP_N, GROUP_M = np.arange(N) % 7 % 3, np.arange(M) * 5 % 11 % 3
ANSWER_N = np.where(np.arange(N) % 2 > 0, SAYS_GK[GROUP_N].argmax(1), np.arange(N) * 13 % 17 % 3)
WEIGHT_N, WEIGHT_M = 1 + np.arange(N) % 3 / 2, 1 + np.arange(M) % 4 / 2


# What ppi-python 0.2.3 says of these arrays at the lambdas found here: ppi_mean_pointestimate, and the limits of
# ppi_mean_ci(alpha=.05) at that lambda and at 0. Its own lambda pools f's variance over pilot and frame.
PEER = {
    "lambda": 0.8418094700428604,
    "their lambda": 0.8120465860311363,
    "point": [0.5092152018065578, 0.17883023308869342, 0.3119545651047431],
    "left": [(0.40728939, 0.61114101), (0.09451335, 0.26314712), (0.22228171, 0.40162742)],
    "alone": [(0.42824327, 0.64675673), (0.09173757, 0.25826243), (0.1883222, 0.3866778)],
    "weighted lambda": 0.8494212092735629,
    "weighted point": [0.5012505665431788, 0.178935139723002, 0.31981429373382303],
}


def values(estimates: Sequence[Estimate]) -> list[float]:
    return [one.value for one in estimates]


def limits(estimates: Sequence[Estimate]) -> list[float]:
    return [limit for one in estimates for limit in (one.low, one.high)]


def test_with_a_known_frame_it_is_the_regression_estimator() -> None:
    """Two options: lambda is the slope of answers on predictions by least squares, read at the population's mean."""
    says_G2 = np.array([[0.8, 0.2], [0.35, 0.65], [0.5, 0.5]])
    size_G, answer_N = np.array([2.0, 5.0, 3.0]), np.minimum(ANSWER_N, 1)
    found = rectify(answer_N, says_G2[GROUP_N], WEIGHT_N, Frame.known(says_G2, size_G))
    # The population's slope is that of the influence values: squares of weights.
    x_N, y_N, share_N = says_G2[GROUP_N, 1], answer_N.astype(float), WEIGHT_N / WEIGHT_N.sum()
    x, y = share_N @ x_N, share_N @ y_N
    design = np.sqrt(share_N**2)[:, None] * (x_N - x)[:, None]
    (slope,), *_ = np.linalg.lstsq(design, share_N * (y_N - y), rcond=None)
    assert 0 < slope < 1 and found.lambda_ == pytest.approx(slope)
    assert found.shares[1].value == pytest.approx(y + slope * (size_G @ says_G2[:, 1] / size_G.sum() - x))
    assert found.model[1] == pytest.approx(size_G @ says_G2[:, 1] / size_G.sum())
    r2 = slope * np.sum(share_N**2 * (x_N - x) * (y_N - y)) / np.sum(share_N**2 * (y_N - y) ** 2)
    assert found.worth / found.n_eff == pytest.approx(1 / (1 - r2))


def test_it_is_what_the_authors_code_says() -> None:
    found = rectify(ANSWER_N, SAYS_GK[GROUP_N], np.ones(N), Frame.sample(SAYS_GK[GROUP_M], np.ones(M)))
    assert found.lambda_ == pytest.approx(PEER["lambda"]) == pytest.approx(PEER["their lambda"], rel=0.05)
    assert values(found.shares) == pytest.approx(PEER["point"])
    assert values(found.pilot) == pytest.approx([sum(pair) / 2 for pair in PEER["alone"]])
    # Their standard errors divide by n where an unbiased one divides by n - 1, in the pilot and in the frame.
    alone, left = (sum(((high - low) / 2 / 1.959964) ** 2 for low, high in PEER[key]) for key in ("alone", "left"))
    assert found.worth / found.n_eff == pytest.approx(alone / left, rel=2e-3)
    weighted = rectify(ANSWER_N, SAYS_GK[GROUP_N], WEIGHT_N, Frame.sample(SAYS_GK[GROUP_M], WEIGHT_M))
    assert weighted.lambda_ == pytest.approx(PEER["weighted lambda"])
    assert values(weighted.shares) == pytest.approx(PEER["weighted point"])


def test_a_bias_that_all_groups_share_cancels() -> None:
    frame = Frame.sample(SAYS_GK[GROUP_M], WEIGHT_M)
    plain = rectify(ANSWER_N, SAYS_GK[GROUP_N], WEIGHT_N, frame)
    wrong_GK = SAYS_GK + np.array([0.15, -0.05, -0.1])
    biased = rectify(ANSWER_N, wrong_GK[GROUP_N], WEIGHT_N, Frame.sample(wrong_GK[GROUP_M], WEIGHT_M))
    assert limits(biased.shares) == pytest.approx(limits(plain.shares)) and biased.gained == pytest.approx(plain.gained)
    assert np.subtract(biased.model, plain.model) == pytest.approx([0.15, -0.05, -0.1])


def test_a_model_that_knows_no_differences_is_worth_nothing() -> None:
    for says_K in (np.full(3, 1 / 3), np.array([0.9, 0.1, 0.0])):
        same_GK = np.tile(says_K, (3, 1))
        found = rectify(ANSWER_N, same_GK[GROUP_N], WEIGHT_N, Frame.sample(same_GK[GROUP_M], WEIGHT_M))
        assert found.lambda_ == 0 and found.gained == 0 and found.shares == found.pilot
    against_GK = SAYS_GK[[1, 0, 2]]  # it says of each group what the other does
    found = rectify(ANSWER_N, against_GK[GROUP_N], WEIGHT_N, Frame.known(against_GK, np.ones(3)))
    assert found.lambda_ == 0 and found.shares == found.pilot


def test_a_model_that_knows_every_answer_needs_no_pilot() -> None:
    says_GK = np.eye(3)
    found = rectify(GROUP_N, says_GK[GROUP_N], WEIGHT_N, Frame.known(says_GK, np.array([5.0, 3.0, 2.0])))
    assert found.lambda_ == pytest.approx(1) and values(found.shares) == pytest.approx([0.5, 0.3, 0.2])
    assert found.gained > 1e6 and max(np.diff(limits(found.shares))[::2]) < 1e-3


def test_shares_are_shares_whoever_is_asked() -> None:
    frame = Frame.sample(SAYS_GK[GROUP_M], WEIGHT_M)
    nobody = rectify(np.minimum(ANSWER_N, 1), SAYS_GK[GROUP_N], WEIGHT_N, frame)
    alike = rectify(np.zeros(N, dtype=np.int64), SAYS_GK[GROUP_N], WEIGHT_N, frame)
    for found in (nobody, alike):
        assert sum(values(found.shares)) == pytest.approx(1) and min(limits(found.shares)) >= 0
        assert all(one.low <= one.value <= one.high for one in (*found.shares, *found.pilot))
        assert found.pilot[2].value == 0 and found.pilot[2].high > 0.01
    assert alike.lambda_ == 0 and values(alike.shares) == [1, 0, 0]


def test_who_did_not_answer_or_weighs_nothing_is_not_there() -> None:
    frame = Frame.sample(SAYS_GK[GROUP_M], WEIGHT_M)
    missing_N, light_N = np.where(np.arange(N) < 30, -1, ANSWER_N), np.where(np.arange(N) < 30, 0.0, WEIGHT_N)
    short = rectify(ANSWER_N[30:], SAYS_GK[GROUP_N[30:]], WEIGHT_N[30:], frame)
    assert rectify(missing_N, SAYS_GK[GROUP_N], WEIGHT_N, frame) == short
    assert rectify(ANSWER_N, SAYS_GK[GROUP_N], light_N, frame) == short and short.n == 50
    with pytest.raises(SurveyError, match="19 persons of the pilot") as error:
        rectify(ANSWER_N[:19], SAYS_GK[GROUP_N[:19]], WEIGHT_N[:19], frame)
    assert "20" in error.value.mend
    with pytest.raises(SurveyError, match="0 persons"):
        rectify(np.full(N, -1), SAYS_GK[GROUP_N], WEIGHT_N, frame)


def test_the_rows_of_a_person_are_one_person() -> None:
    frame = Frame.sample(SAYS_GK[GROUP_M], WEIGHT_M)
    once = rectify(ANSWER_N, SAYS_GK[GROUP_N], WEIGHT_N, frame)
    twice = [np.repeat(one, 2, axis=0) for one in (ANSWER_N, SAYS_GK[GROUP_N], WEIGHT_N, np.arange(N))]
    again = rectify(*twice[:3], frame, person_N=twice[3])
    apart = rectify(*twice[:3], frame)
    assert limits(again.shares) == pytest.approx(limits(once.shares)) and again.n == N
    assert again.n_eff == pytest.approx(once.n_eff) and apart.n_eff == pytest.approx(2 * once.n_eff)
    double = Frame.sample(np.repeat(SAYS_GK[GROUP_M], 2, axis=0), np.repeat(WEIGHT_M, 2), np.repeat(np.arange(M), 2))
    assert double.mean_K == pytest.approx(frame.mean_K) and double.variance_K == pytest.approx(frame.variance_K)
    scaled = rectify(ANSWER_N, SAYS_GK[GROUP_N], 7 * WEIGHT_N, Frame.sample(SAYS_GK[GROUP_M], 3 * WEIGHT_M))
    assert limits(scaled.shares) == pytest.approx(limits(once.shares))


def test_weights_that_go_with_the_answers_widen_more_than_kish_says() -> None:
    """Few heavy people who differ, many light ones who agree: Kish's n_eff is too kind to the divided option."""
    heavy_N = np.arange(200) < 20
    answer_N = np.where(heavy_N, np.arange(200) % 2, 0)
    flat_NK = np.full((200, 2), 0.5)
    weight_N = np.where(heavy_N, 9.0, 1.0)
    found = rectify(answer_N, flat_NK, weight_N, Frame(np.array([0.5, 0.5]), np.zeros(2)))
    kish = tabulate(*_two_options(answer_N, weight_N), (EVERYONE,)).target("q", EVERYONE)
    assert found.n_eff == pytest.approx(kish.n_eff) and found.pilot[1].value == pytest.approx(kish.shares[1])
    assert found.pilot[1].high - found.pilot[1].low > 1.2 * (kish.high[1] - kish.low[1])
    even = rectify(answer_N, flat_NK, np.ones(200), Frame(np.array([0.5, 0.5]), np.zeros(2)))
    counted = tabulate(*_two_options(answer_N, np.ones(200)), (EVERYONE,)).target("q", EVERYONE)
    assert limits(even.pilot[1:]) == pytest.approx([counted.low[1], counted.high[1]], rel=0.01)


def _two_options(answer_N: np.ndarray, weight_N: np.ndarray) -> tuple[Survey, np.ndarray]:
    item = Item("q", "Yes?", (Option(0, "no"), Option(1, "yes")))
    person = [f"{p}" for p in range(len(answer_N))]
    people = pl.DataFrame({"person": person, "weight": weight_N, "q": pl.Series(answer_N, dtype=pl.Int16)})
    return Survey(Codebook("test", "A test", (item,), ()), people), weight_N


def check_coverage(replicates: int, *, least: float, most: float, of_one_option: float, claim: float) -> None:
    cases = benchmark("rectify_coverage", "--replicates", str(replicates))[0]["cases"]
    assert len(cases) == 4 * 4 * 2 * 2
    assert 0.945 < np.mean([one["held"] for one in cases.values()]) < 0.965
    for name, one in cases.items():
        assert least <= one["held"] <= most and one["least"] >= of_one_option, name
        assert one["width"] < 1.01, "a model never costs anything"
        if name.startswith("same"):
            assert one["worth"] == 0
        if name.startswith("useless") and "1000" not in name:  # of a thousand, chance alone leaves some differences
            assert one["width"] > 0.98 and -0.5 < one["worth"] < 4
        if "apart 1.5" in name and name.startswith(("good", "biased")):
            assert one["width"] < 0.93
            assert one["worth"] == pytest.approx(one["is worth"], rel=claim, abs=5)


def test_intervals_cover() -> None:
    check_coverage(60, least=0.87, most=1.0, of_one_option=0.8, claim=3.0)


@pytest.mark.prove
def test_intervals_cover_in_full() -> None:
    check_coverage(4000, least=0.935, most=0.975, of_one_option=0.925, claim=0.3)


OPTIONS = (Option(0, "no"), Option(1, "perhaps"), Option(2, "yes"))
ITEMS = (Item("q0", "Is it so?", OPTIONS), Item("q1", "Was it so?", OPTIONS[:2]), Item("q2", "Will it be?", OPTIONS))
OLD, YOUNG, WOMEN, MEN = (Group((one,)) for one in (("age", "old"), ("age", "young"), ("sex", "f"), ("sex", "m")))
OLD_WOMEN = Group((("age", "old"), ("sex", "f")))
GROUPS = (EVERYONE, OLD, YOUNG, WOMEN, MEN, OLD_WOMEN)


def public(people: int = 1200) -> tuple[Survey, np.ndarray, Splits]:
    """Old people say yes, young ones no; hardly anybody is asked q2, and some sexes and ages are not known."""
    rng = np.random.default_rng(4)
    age_P, sex_P = rng.choice(["old", "young"], people, p=[0.4, 0.6]), rng.choice(["f", "m"], people)
    yes_P = np.where(age_P == "old", 0.8, 0.15)
    first_P = np.where(rng.random(people) < yes_P, 2, rng.integers(0, 2, people))
    second_P = np.where(rng.random(people) < 0.1, -1, rng.integers(0, 2, people))
    third_P = np.where(np.arange(people) % 100 > 0, -1, 0)
    answers = {f"q{i}": pl.Series(a, dtype=pl.Int16) for i, a in enumerate((first_P, second_P, third_P))}
    unknown = np.arange(people) % 50
    frame = pl.DataFrame(
        {
            "person": [f"{p:04}" for p in range(people)],
            "weight": np.ones(people),
            "age": pl.Series([None if u == 0 else a for u, a in zip(unknown, age_P, strict=True)], dtype=pl.String),
            "sex": pl.Series([None if u == 1 else a for u, a in zip(unknown, sex_P, strict=True)], dtype=pl.String),
            **answers,
        }
    )
    traits = (
        Trait("age", "age", ("old", "young"), {"old": "aged", "young": "not aged"}),
        Trait("sex", "sex", ("f", "m"), {"f": "female", "m": "male"}),
    )
    parts = np.repeat(np.array([0, 1, 2], dtype=np.int8), people // 3)
    return (
        Survey(Codebook("test", "A test", ITEMS, traits), frame),
        rng.uniform(0.5, 1.5, people),
        Splits(parts, {}, ()),
    )


def said(pilot: Pilot, *, old: tuple[float, ...] = (0.1, 0.1, 0.8)) -> list[np.ndarray]:
    """A model's log-probabilities of the pilot's cells: it knows the ages, and is sure of nothing else."""
    found = []
    for cell in pilot.cells():
        k = len(cell.completions)
        shares = np.full(k, 1 / k)
        if k == 3 and "old" in cell.group:
            shares = np.array(old)
        elif k == 3 and "young" in cell.group:
            shares = np.array([0.425, 0.425, 0.15])
        found.append(np.log(shares / 2))
    return found


@pytest.fixture(scope="module")
def pilot() -> Pilot:
    survey, weights, splits = public()
    return draw_pilot(survey, weights, GROUPS, splits, persons=150, seed=3)


def test_the_pilot_is_held_out_and_apart_from_frame_and_truth(pilot: Pilot) -> None:
    survey, weights, splits = public()
    assert pilot.pilot_P.sum() == 150 and (pilot.pilot_P <= splits.people("report")).all()
    assert not (pilot.pilot_P & (pilot.frame_P | pilot.truth_P)).any()
    assert (pilot.pilot_P | pilot.truth_P).tolist() == splits.people("report").tolist()
    assert (pilot.pilot_P | pilot.frame_P).all() and pilot.truth_P.sum() == 250
    again = draw_pilot(survey, weights, GROUPS, splits, persons=150, seed=3)
    other = draw_pilot(survey, weights, GROUPS, splits, persons=150, seed=4)
    assert (again.pilot_P == pilot.pilot_P).all() and (other.pilot_P != pilot.pilot_P).any()
    for persons in (19, 381, 5000):
        with pytest.raises(SplitError, match=f"a pilot of {persons} out of 400"):
            draw_pilot(survey, weights, GROUPS, splits, persons=persons, seed=3)
    panel = survey.people.with_columns(pl.Series("person", [f"{p // 2:04}" for p in range(survey.people.height)]))
    two = draw_pilot(replace(survey, people=panel), weights, GROUPS, splits, persons=80, seed=3)
    inside, outside = (set(panel["person"].filter(pl.Series(rows))) for rows in (two.pilot_P, two.frame_P))
    assert len(inside) == 80 and two.pilot_P.sum() == 160 and not inside & outside


def test_a_person_is_predicted_from_the_finest_groups(pilot: Pilot) -> None:
    people, belongs_PG = pilot.survey.people, pilot.belongs_PG.toarray()
    assert belongs_PG.sum(1) == pytest.approx(np.ones(len(belongs_PG)))
    for (age, sex), row in zip(people.select("age", "sex").iter_rows(), belongs_PG, strict=True):
        if (age, sex) == ("old", "f"):
            expected = {OLD_WOMEN: 1.0}
        else:  # no pair of this kind is a group: both traits count alike, or the one that is known
            singles = [Group((one,)) for one in (("age", age), ("sex", sex)) if one[1]]
            expected = dict.fromkeys(singles, 1 / len(singles))
        assert {GROUPS[g]: row[g] for g in np.flatnonzero(row)} == expected
    assert pilot.asked == (OLD, YOUNG, WOMEN, MEN, OLD_WOMEN), "everyone is nobody's finest group"
    nobody = draw_pilot(*public()[:2], (EVERYONE,), public()[2], persons=150, seed=3)
    assert nobody.asked == (EVERYONE,) and len(nobody.cells()) == len(ITEMS)


def test_a_survey_is_rectified_item_by_item(pilot: Pilot) -> None:
    found = pilot.rectify(said(pilot))
    assert [one.item.id for one in found] == ["q0", "q1"], "too few were asked q2"
    first, second = (one.rectified for one in found)
    assert first.lambda_ > 0.5 and first.gained > 20 and second.gained == 0
    assert first.n == 150 and second.n == ((pilot.survey.people["q1"].to_numpy() >= 0) & pilot.pilot_P).sum()
    truth = tabulate(pilot.survey, pilot.weights_P, (EVERYONE,), multiplicity_P=pilot.truth_P)
    mine = tabulate(pilot.survey, pilot.weights_P, (EVERYONE,), multiplicity_P=pilot.pilot_P)
    for one in found:
        assert one.truth == truth.target(one.item.id, EVERYONE)
        assert values(one.rectified.pilot) == pytest.approx(mine.shares(one.item.id, EVERYONE).tolist())
    answer_P, belongs_PG = pilot.survey.people["q0"].to_numpy(), pilot.belongs_PG.toarray()
    says_GK = np.array([[1 / 3] * 3, [0.1, 0.1, 0.8], [0.425, 0.425, 0.15], [1 / 3] * 3, [1 / 3] * 3, [0.1, 0.1, 0.8]])
    says_PK = belongs_PG @ says_GK
    frame = Frame.sample(says_PK[pilot.frame_P], pilot.weights_P[pilot.frame_P])
    mine_P = pilot.pilot_P
    by_hand = rectify(answer_P[mine_P].astype(int), says_PK[mine_P], pilot.weights_P[mine_P], frame)
    assert limits(first.shares) == pytest.approx(limits(by_hand.shares))

    for bad in (np.full(3, np.nan), np.full(3, -np.inf)):
        with pytest.raises(ModelError, match="not finite"):
            pilot.rectify([bad, *said(pilot)[1:]])
    nothing = pilot.survey.people.with_columns(pl.lit(-1, dtype=pl.Int16).alias(item.id) for item in ITEMS)
    with pytest.raises(SurveyError, match="no item was answered by 20"):
        replace(pilot, survey=replace(pilot.survey, people=nothing)).rectify(said(pilot))


def test_only_the_pilots_answers_are_read(pilot: Pilot) -> None:
    """Other people's answers change the truth beside it, never the estimate."""
    found = pilot.rectify(said(pilot))
    frozen = pilot.survey.people.with_columns(
        pl.when(pl.Series(pilot.pilot_P)).then("q0").otherwise(pl.lit(0, dtype=pl.Int16)).alias("q0")
    )
    other = replace(pilot, survey=replace(pilot.survey, people=frozen)).rectify(said(pilot))
    assert other[0].rectified == found[0].rectified and other[0].truth != found[0].truth


def test_a_table_may_stand_in_for_the_model(pilot: Pilot) -> None:
    survey, weights, splits = public()
    train = tabulate(survey, weights, GROUPS, multiplicity_P=splits.people("train"))
    says = pilot.known_shares(train)
    shown = [(cell.source, cell.group, np.exp(one)) for cell, one in zip(pilot.cells(), says, strict=True)]
    assert shown[4][:2] == ("survey:q0", OLD_WOMEN.name) and shown[4][2] == pytest.approx(train.shares("q0", OLD_WOMEN))
    bare = replace(train, shares_GIK=np.where(np.arange(3)[:, None] == 2, np.nan, train.shares_GIK))
    assert np.exp(pilot.known_shares(bare)[10]) == pytest.approx(np.full(3, 1 / 3)), "nobody answered q2"
    found = pilot.rectify(says)
    assert found[0].rectified.gained > 20 and found[1].rectified.gained < 3


def test_the_table_and_how_far_each_way_is(pilot: Pilot) -> None:
    found = pilot.rectify(said(pilot, old=(0.6, 0.1, 0.3)))
    table = as_table(found)
    assert table["option"].to_list() == ["no", "perhaps", "yes", "no", "perhaps"]
    assert table.filter(item="q0")["rectified"].to_list() == values(found[0].rectified.shares)
    assert not table.null_count().sum_horizontal().item()
    rows = {row.who: row.estimate for row in how_far(found)}
    apart = [abs(table["model"] - table["truth"]).filter(table["item"] == q).sum() / 2 for q in ("q0", "q1")]
    assert rows[MODEL].value == pytest.approx(np.mean(apart))
    assert rows[f"{RECTIFIED} - {PILOT}"].value == pytest.approx(rows[RECTIFIED].value - rows[PILOT].value)
    # What the truth's people would be away from themselves by chance, by drawing such samples.
    rng, chance = np.random.default_rng(0), []
    for one in found:
        n, p = round(one.truth.n_eff), np.array(one.truth.shares)
        chance.append(np.abs(rng.multinomial(n, p, size=4000) / n - p).sum(1).mean() / 2)
    assert rows[FLOOR].value == pytest.approx(np.mean(chance), rel=0.03)
    assert rows[FLOOR].value < rows[RECTIFIED].value < rows[MODEL].value


def test_the_job(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a version that says the same for every group: the table is the pilot's, and the job says so."""
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    spec = importlib.util.spec_from_file_location("rectify_job", ROOT / "jobs" / "rectify.py")
    assert spec is not None and spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    version = SimpleNamespace(ref="demo@v1", id="v1", path="", card={"data_hash": "another"})
    host = SimpleNamespace(score=lambda _, cells: [np.full(len(c.completions), -2.0) for c in cells])
    monkeypatch.setattr(job, "prepare", prepare_once)
    monkeypatch.setattr(job, "hosted", lambda *_: (host, (version,), {}))
    config = configuration.load(None, ["survey.people=900", "groups.crossings=1", "evaluate.bootstrap=20"])
    found = job.rectify(config, "champion", 60)
    assert found and all(one.rectified.n <= 60 and one.rectified.gained == 0 for one in found)
    for one in found:
        assert limits(one.rectified.shares) == pytest.approx(limits(one.rectified.pilot))
    said = capsys.readouterr().out
    assert (
        "the model is worth 0.0 respondents" in said
        and "a table in place of a model" in said
        and "if it saw the pilot" in said
        and RECTIFIED in said
    )
    (folder,) = (home / "runs" / "demo").iterdir()
    table = pl.read_csv(folder / "rectified.csv")
    kept = json.loads((folder / "rectified.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["rectified.csv", "rectified.html", "rectified.json"]
    assert table.height == len(kept["shares"]) == sum(len(one.item.options) for one in found)
    assert kept["version"] == "demo@v1" and kept["shares"][0]["rectified"] == found[0].rectified.shares[0].value
    page = (folder / "rectified.html").read_text(encoding="utf-8")
    assert page.count("<svg") == len(found) and all(line in unescape(page) for line in kept["summary"])
    assert kept["tier"] == "open" and "Not to be passed on" not in page
    with pytest.raises(SplitError, match="a pilot of 5 out of"):
        job.rectify(config, "champion", 5)


def test_the_page_shows_people_model_and_rectified_shares(pilot: Pilot, tmp_path: Path) -> None:
    biased = pilot.rectify(said(pilot, old=(0.6, 0.1, 0.3)))
    facts = {"pilot": 150}
    path = write_rectified(tmp_path, biased, version="demo@v1", licence="Ours", tier="closed", facts=facts)
    page, kept = unescape(path.read_text(encoding="utf-8")), json.loads((tmp_path / "rectified.json").read_text())
    assert "Not to be passed on" in page and "Not to be passed on" in kept["summary"][-1] and kept["pilot"] == 150
    assert (
        all(line in page for line in kept["summary"]) and "<script" not in page and "://" not in page.split("<svg")[0]
    )
    rows = {row.who: row.estimate for row in how_far(biased)}
    assert {row["who"]: row["estimate"]["value"] for row in kept["distances"]} == {w: e.value for w, e in rows.items()}
    first = page.split("<figure>")[1].split("</figure>")[0]
    off = max(
        biased, key=lambda one: sum(abs(a - b) for a, b in zip(one.rectified.model, one.truth.shares, strict=True))
    )
    assert off.item.text in first, "where the model is furthest off comes first"
    for who in ("other people", MODEL, PILOT, RECTIFIED):
        assert f">{who}<" in first
    spans = first.count('aria-roledescription="rule mark"')
    assert spans == 3 * len(off.item.options), "people, pilot and PPI++ have intervals; the model alone has none"
    for one in biased:
        r, text = one.rectified, page.split(f"<h3>{one.item.text}</h3>")[1].split("</figcaption>")[0]
        outside = any(not e.low <= m <= e.high for m, e in zip(r.model, r.shares, strict=True))
        assert ("it is shown to be off on" in text) == outside and f"lambda {r.lambda_:.2f}" in text


def test_what_few_of_the_other_people_answered_is_left_out(pilot: Pilot) -> None:
    other_P = np.flatnonzero(pilot.truth_P & (pilot.survey.people["q0"].to_numpy() >= 0))
    for n, there in ((9, False), (10, True)):
        answer_P = pilot.survey.people["q0"].to_numpy().copy()
        answer_P[other_P[n:]] = -1
        people = pilot.survey.people.with_columns(pl.Series("q0", answer_P, dtype=pl.Int16))
        found = replace(pilot, survey=replace(pilot.survey, people=people)).rectify(said(pilot))
        assert ("q0" in [one.item.id for one in found]) == there
