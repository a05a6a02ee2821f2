"""Countries, joint and total-response margins, waves, post-stratification and design effects, against plain loops."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from valuealign.config import WeightingConfig
from valuealign.errors import WeightingError
from valuealign.surveys.codebook import Codebook
from valuealign.surveys.table import Survey
from valuealign.weighting import Margins, Weights, weigh

SEX = {"f": 0.52, "m": 0.48}
ORIGIN = {"Maori": 0.17, "Pacific": 0.09, "Asian": 0.16}
PARTS = {"AUS": 0.6, "FJI": 0.1, "NZL": 0.3}
JOINT = {"old & f": 0.2, "old & m": 0.18, "young & f": 0.32, "young & m": 0.3}


def sample(n: int = 900, seed: int = 0) -> Survey:
    """Three countries, sex, age and several origins, with uneven design weights."""
    rng = np.random.default_rng(seed)
    weight = rng.lognormal(0, 0.4, n)
    origins = [[name for name in ORIGIN if rng.random() < 0.3] for _ in range(n)]
    people = pl.DataFrame(
        {
            "person": [str(i) for i in range(n)],
            "weight": weight / weight.mean(),
            "country": rng.choice(list(PARTS), n, p=[0.3, 0.3, 0.4]),
            "sex": rng.choice(["f", "m"], n, p=[0.65, 0.35]),
            "age": rng.choice(["old", "young"], n, p=[0.6, 0.4]),
            "origin": pl.Series(origins, dtype=pl.List(pl.String)),
        }
    )
    return Survey(Codebook("s", "s", (), ()), people)


def fit(
    survey: Survey, margins: dict[str, dict[str, float]] | None, *, country: str | None = None, **keys: Any
) -> Weights:
    config = WeightingConfig(**{"trim": None, **keys})
    return weigh(
        survey, None if margins is None else Margins(margins), config, country=country, population_weights=False
    )


def ipf(start: np.ndarray, margins: list[list[tuple[np.ndarray, float]]], rounds: int = 400) -> np.ndarray:
    """Iterative proportional fitting by plain loops: each margin is a list of (who is in the level, share)."""
    w = start / start.mean()
    for _ in range(rounds):
        for margin in margins:
            for inside, share in margin:
                w[inside] *= share * len(w) / w[inside].sum()
            w *= len(w) / w.sum()
    return w


def single(survey: Survey, trait: str, shares: dict[str, float]) -> list[tuple[np.ndarray, float]]:
    values = np.array(survey.people[trait].to_list())
    return [(values == level, share) for level, share in shares.items()]


def response(survey: Survey, level: str, share: float) -> list[tuple[np.ndarray, float]]:
    has = np.array([level in mine for mine in survey.people["origin"].to_list()])
    return [(has, share), (~has, 1 - share)]


def joint(survey: Survey) -> list[tuple[np.ndarray, float]]:
    age, sex = (np.array(survey.people[name].to_list()) for name in ("age", "sex"))
    return [((age == "old") & (sex == "f"), 0.2), ((age == "old") & (sex == "m"), 0.18)] + [
        ((age == "young") & (sex == "f"), 0.32),
        ((age == "young") & (sex == "m"), 0.3),
    ]


def start(survey: Survey) -> np.ndarray:
    return survey.people["weight"].to_numpy().copy()


def shares(survey: Survey, weights: np.ndarray, trait: str) -> dict[str, float]:
    values = np.array(survey.people[trait].to_list())
    return {level: float(weights[values == level].sum() / weights.sum()) for level in sorted(set(values))}


def test_total_response_margins_equal_a_plain_ipf() -> None:
    survey = sample()
    found = fit(survey, {"origin": ORIGIN, "sex": SEX})
    wanted = ipf(start(survey), [*(response(survey, *one) for one in ORIGIN.items()), single(survey, "sex", SEX)])
    assert found.weights_P == pytest.approx(wanted, abs=1e-6)
    assert sum(ORIGIN.values()) < 1 and {gap.level for gap in found.gaps} == {*ORIGIN, *SEX}
    assert all(gap.after == pytest.approx(gap.target, abs=1e-8) for gap in found.gaps)


def test_joint_margins_equal_a_plain_ipf() -> None:
    survey = sample()
    found = fit(survey, {"age & sex": JOINT, "origin": ORIGIN})
    wanted = ipf(start(survey), [joint(survey), *(response(survey, *one) for one in ORIGIN.items())])
    assert found.weights_P == pytest.approx(wanted, abs=1e-6)


def test_a_single_joint_margin_is_post_stratified_as_by_hand() -> None:
    survey = sample()
    found = fit(survey, {"age & sex": JOINT}, method="poststratify")
    by_hand = start(survey)
    for inside, share in joint(survey):
        by_hand[inside] *= share * len(by_hand) / by_hand[inside].sum()
    assert found.weights_P == pytest.approx(by_hand, abs=1e-10)
    with pytest.raises(WeightingError, match="takes one margin, not 2"):
        fit(survey, {"age & sex": JOINT, "sex": SEX}, method="poststratify")
    with pytest.raises(WeightingError, match="takes one margin, not 0"):
        fit(survey, None, method="poststratify")
    with pytest.raises(WeightingError, match="have to meet age & sex, country at once"):
        fit(survey, {"age & sex": JOINT}, method="poststratify", country="country", everyone="equal")


def test_several_countries_leave_no_silent_choice() -> None:
    survey = sample()
    for everyone in (None, "country"):
        with pytest.raises(WeightingError) as caught:
            fit(survey, None, country="country", everyone=everyone)
        text = str(caught.value)
        assert all(word in text for word in ("survey.only", "adults", "equal", "AUS, FJI, NZL"))
    with pytest.raises(WeightingError, match="numbers of adults are not known"):
        fit(survey, None, country="country", everyone="adults")
    unknown = survey.people.with_columns(pl.when(pl.col("person") != "3").then("country").alias("country"))
    with pytest.raises(WeightingError, match="1 of 900 people have an unknown country"):
        fit(Survey(survey.codebook, unknown), None, country="country", everyone="equal")


def test_a_country_without_weight_is_named_and_breaks_nothing() -> None:
    survey = sample()
    people = survey.people.with_columns(weight=pl.when(pl.col("country") != "FJI").then("weight").otherwise(0.0))
    silent = Survey(survey.codebook, people.with_columns(pl.col("weight") / pl.col("weight").mean()))
    gone = (people["country"] == "FJI").to_numpy()
    for margins in (None, {"sex": SEX}, {"sex": SEX, "age": {"old": 0.5, "young": 0.5}}):
        found = fit(silent, margins, country="country", everyone="equal", trim=4.0)
        assert found.everyone == "adults of 2 countries counted equally: AUS, NZL"
        assert [note for note in found.notes if f"FJI ({gone.sum()} interviews)" in note and "weight 0" in note]
        assert (found.weights_P[gone] == 0).all() and found.weights_P.mean() == pytest.approx(1)
        kept = Survey(survey.codebook, silent.people.filter(~gone))
        alone = fit(kept, margins, country="country", everyone="equal", trim=4.0)
        assert found.weights_P[~gone] / found.weights_P.sum() == pytest.approx(alone.weights_P / alone.weights_P.sum())
        assert not alone.notes
    one = fit(silent, {"country & sex": {"AUS & f": 0.3, "AUS & m": 0.2, "NZL & f": 0.2, "NZL & m": 0.3}}, trim=4.0)
    assert (one.weights_P[gone] == 0).all()


def test_a_trimming_without_effect_is_said() -> None:
    survey = sample()
    assert fit(survey, None, trim=2.0).notes[0].startswith("Nothing was trimmed: weighting.trim (2)")
    assert not fit(survey, None, trim=50.0).notes and not fit(survey, {"sex": SEX}, trim=5.0).notes
    several = fit(survey, None, country="country", everyone="equal")
    assert several.rescaled and not fit(survey, None).rescaled


@pytest.mark.parametrize("everyone", [None, "country", "adults", "equal"])
def test_one_country_takes_any_choice_and_stays_as_it_is(everyone: str | None) -> None:
    survey = sample()
    alone = Survey(survey.codebook, survey.people.filter(pl.col("country") == "NZL"))
    found = fit(alone, None, country="country", everyone=everyone)
    assert np.array_equal(found.weights_P, start(alone)) and found.everyone == "the people of one country: NZL"


def test_countries_counted_equally_or_by_their_size(tmp_path: Path) -> None:
    survey = sample()
    equal = fit(survey, None, country="country", everyone="equal")
    assert shares(survey, equal.weights_P, "country") == pytest.approx(dict.fromkeys(PARTS, 1 / 3))
    assert equal.everyone == "adults of 3 countries counted equally: AUS, FJI, NZL"
    assert equal.weights_P.mean() == pytest.approx(1)
    file = tmp_path / "adults.csv"
    file.write_text("country,adults\nNZL,3900000\nUSA,258000000\nAUS,20000000\nFJI,600000\n")
    adults = fit(survey, None, country="country", everyone="adults", populations=file)
    assert shares(survey, adults.weights_P, "country") == pytest.approx(
        {"AUS": 20 / 24.5, "FJI": 0.6 / 24.5, "NZL": 3.9 / 24.5}
    )
    assert "each counted by its size" in adults.everyone
    # Within a country nothing but the scale changes.
    nz = (survey.people["country"] == "NZL").to_numpy()
    assert np.ptp(adults.weights_P[nz] / start(survey)[nz]) < 1e-12
    given = weigh(survey, None, WeightingConfig(everyone="adults"), country="country", population_weights=True)
    assert given.weights_P == pytest.approx(start(survey))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("country,people\n", "line 1: the header is"),
        ("country,adults\nNZL,many\n", "line 2: 'many' adults in 'NZL'"),
        ("country,adults\nNZL,-1\n", "line 2: '-1' adults"),
        ("country,adults\nNZL,1\nNZL,1\n", "line 3: the country 'NZL' twice"),
        ("country,adults\nNZL,1\nAUX,1\nFJI,1\n", "'AUS' of the survey is not listed"),
    ],
)
def test_a_mistake_in_the_populations_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "adults.csv").write_text(text)
    with pytest.raises(WeightingError, match=words):
        fit(sample(), None, country="country", everyone="adults", populations=tmp_path / "adults.csv")


def test_margins_leave_countries_their_size() -> None:
    survey = sample()
    found = fit(survey, {"sex": SEX}, country="country", everyone="equal")
    equal = dict.fromkeys(PARTS, 1 / 3)
    wanted = ipf(start(survey), [single(survey, "sex", SEX), single(survey, "country", equal)])
    assert found.weights_P == pytest.approx(wanted, abs=1e-6)
    both = {f"{name} & {sex}": share / 3 for name in PARTS for sex, share in SEX.items()}
    per_country = fit(survey, {"country & sex": both}, country="country", everyone="equal")
    nz = (survey.people["country"] == "NZL").to_numpy()
    female = (survey.people["sex"] == "f").to_numpy()
    w = per_country.weights_P
    assert w[nz & female].sum() / w[nz].sum() == pytest.approx(0.52) and w[nz].sum() / w.sum() == pytest.approx(1 / 3)
    uneven = {f"{name} & {sex}": share * PARTS[name] for name in PARTS for sex, share in SEX.items()}
    with pytest.raises(WeightingError, match=r"give AUS 0\.6000 of everyone, weighting\.everyone 0\.3333"):
        fit(survey, {"country & sex": uneven}, country="country", everyone="equal")


def panel() -> Survey:
    first, second = sample(500, 1).people, sample(700, 2).people
    tagged = [one.with_columns(pl.lit(wave).alias("wave")) for one, wave in ((first, "2018"), (second, "2020"))]
    return Survey(Codebook("s", "s", (), ()), pl.concat(tagged))


def test_every_wave_meets_the_margins_and_keeps_its_total() -> None:
    survey = panel()
    found = fit(survey, {"sex": SEX, "origin": ORIGIN}, country="country", everyone="equal")
    for wave in ("2018", "2020"):
        rows = (survey.people["wave"] == wave).to_numpy()
        one = Survey(survey.codebook, survey.people.filter(rows))
        w = found.weights_P[rows]
        assert w.sum() == pytest.approx(start(survey)[rows].sum())
        assert shares(one, w, "sex") == pytest.approx(SEX)
        assert shares(one, w, "country") == pytest.approx(dict.fromkeys(PARTS, 1 / 3))
    only_men = survey.people.with_columns(
        pl.when(pl.col("wave") == "2018").then(pl.lit("m")).otherwise("sex").alias("sex")
    )
    with pytest.raises(WeightingError, match="no respondent in wave 2018 has sex 'f'"):
        fit(Survey(survey.codebook, only_men), {"sex": SEX})


def test_countries_that_miss_a_wave_are_equal_over_all_waves() -> None:
    people = panel().people.filter((pl.col("wave") == "2018") | (pl.col("country") != "FJI"))
    survey = Survey(Codebook("s", "s", (), ()), people)
    found = fit(survey, None, country="country", everyone="equal")
    assert shares(survey, found.weights_P, "country") == pytest.approx(dict.fromkeys(PARTS, 1 / 3))


def test_trimming_is_within_a_country(tmp_path: Path) -> None:
    """A large country's mean weight may be far above the mean; its own people are trimmed against each other."""
    survey = sample()
    file = tmp_path / "adults.csv"
    file.write_text("country,adults\nNZL,1\nAUS,40\nFJI,1\n")
    keys: dict[str, Any] = {"country": "country", "everyone": "adults", "populations": file}
    free, found = fit(survey, {"sex": SEX}, **keys), fit(survey, {"sex": SEX}, trim=2.2, **keys)
    countries = np.array(survey.people["country"].to_list())
    assert found.weights_P.max() > 2.2
    above = 0
    for name in PARTS:
        mine = countries == name
        assert found.weights_P[mine].max() <= 2.2 * found.weights_P[mine].mean() * (1 + 1e-6)
        above += int((free.weights_P[mine] > 2.2 * free.weights_P[mine].mean()).sum())
    assert found.trimmed == above > 0 and free.trimmed == 0
    assert all(gap.after == pytest.approx(gap.target, abs=1e-8) for gap in found.gaps)


@pytest.mark.parametrize("margins", [{"sex": SEX, "origin": ORIGIN}, None])
def test_a_stated_design_effect_is_held_with_the_margins(margins: dict[str, dict[str, float]] | None) -> None:
    survey = sample()
    free = fit(survey, margins)
    wanted = 1 + 0.7 * (free.design_effect - 1) if margins is None else free.design_effect - 0.04
    found = fit(survey, margins, design_effect=wanted)
    assert wanted - 0.02 < found.design_effect <= wanted < free.design_effect
    assert all(gap.after == pytest.approx(gap.target, abs=1e-8) for gap in found.gaps)
    assert found.trimmed > 0 and found.weights_P.mean() == pytest.approx(1)
    untouched = fit(survey, margins, design_effect=free.design_effect + 0.1)
    assert untouched.weights_P == pytest.approx(free.weights_P) and untouched.trimmed == 0


def test_a_design_effect_out_of_reach_says_what_was_reached() -> None:
    with pytest.raises(WeightingError) as caught:
        fit(sample(), {"sex": {"f": 0.2, "m": 0.8}}, design_effect=1.05)
    reached = float(str(caught.value).split("reached is ")[1].split("\n")[0])
    # Weights constant within each sex are the evenest that meet the margin.
    women = (sample().people["sex"] == "f").mean()
    assert reached == pytest.approx(0.2**2 / women + 0.8**2 / (1 - women), abs=0.03)  # type: ignore[operator]


def test_total_response_mistakes_are_named() -> None:
    survey = sample()
    with pytest.raises(WeightingError, match="no respondent has origin 'Martian'"):
        fit(survey, {"origin": {"Martian": 0.1}})
    with pytest.raises(WeightingError, match="takes no part in a joint margin"):
        fit(survey, {"origin & sex": {"Maori & f": 1.0}})
    with pytest.raises(WeightingError, match="616 respondents have no origin 'Maori', whose share is 1"):
        fit(survey, {"origin": {"Maori": 1.0}})
    with pytest.raises(WeightingError, match="shares of 'sex' sum to 0.900000"):
        fit(survey, {"sex": {"f": 0.5, "m": 0.4}})
    all_in = survey.people.with_columns(pl.lit(["Maori"]).alias("origin"))
    with pytest.raises(WeightingError, match="every respondent has origin 'Maori'"):
        fit(Survey(survey.codebook, all_in), {"origin": {"Maori": 0.2}})
    unknown = survey.people.with_columns(pl.when(pl.col("person") != "5").then("origin").alias("origin"))
    with pytest.raises(WeightingError, match=r"respondent 5 has an unknown origin \(1 such"):
        fit(Survey(survey.codebook, unknown), {"origin": ORIGIN})


def test_joint_and_total_response_margins_are_read(tmp_path: Path) -> None:
    file = tmp_path / "margins.csv"
    file.write_text("trait,level,share\nage&sex,old &f,0.4\nage & sex,young & m,0.6\norigin,A & B,0.9\norigin,C,0.3\n")
    margins = Margins.read(file, several=frozenset({"origin"}))
    assert margins.shares == {"age & sex": {"old & f": 0.4, "young & m": 0.6}, "origin": {"A & B": 0.9, "C": 0.3}}
    with pytest.raises(WeightingError, match="shares of 'origin' sum to 1.200000"):
        Margins.read(file)


def test_a_choice_that_cannot_be_made_is_refused() -> None:
    people = pl.DataFrame({"person": ["a", "b"], "weight": [1.0, 1.0], "land": ["X", "Y"]})
    for config, words in (
        (WeightingConfig(everyone="equal"), "names no country"),
        (WeightingConfig(everyone="adults", populations=Path("sizes.csv")), "names no country"),
        (WeightingConfig(populations=Path("sizes.csv")), "have no use"),
        (WeightingConfig(everyone="equal", populations=Path("sizes.csv")), "have no use"),
    ):
        with pytest.raises(WeightingError, match=words) as caught:
            weigh(SimpleNamespace(people=people), None, config, country=None, population_weights=False)
        assert caught.value.mend


def test_a_panel_is_worth_its_persons() -> None:
    """Three people in two waves each: their rows add up before Kish."""
    people = pl.DataFrame(
        {"person": ["a", "b", "c"] * 2, "weight": [1.0, 2.0, 3.0, 3.0, 2.0, 1.0], "wave": list("xxxyyy")}
    )
    found = weigh(SimpleNamespace(people=people), None, WeightingConfig(), country=None, population_weights=False)
    assert found.n_eff == pytest.approx(12**2 / (4**2 * 3)) and found.design_effect == pytest.approx(1.0)
