"""Targets against plain loops, groups, intervals and resamples."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import beta, binom

from valuealign.config import GroupsConfig
from valuealign.errors import ConfigError, SurveyError
from valuealign.population import (
    ShareTable,
    find_groups,
    membership,
    missing_countries,
    outcome_shares,
    population_shares,
    tabulate,
    truth_error,
)
from valuealign.population.table import MANY, intervals
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.table import Survey
from valuealign.types import EVERYONE, Group, Item, Option


def town(n: int = 600, seed: int = 0, persons: int | None = None) -> Survey:
    """Two items (3 and 2 options), two traits, holes everywhere; ``persons`` < n gives people several rows."""
    rng = np.random.default_rng(seed)
    items = tuple(Item(f"q{i}", f"Question {i}?", tuple(Option(k, f"o{k}") for k in range(3 - i))) for i in (0, 1))
    traits = (
        Trait("sex", "sex", ("f", "m"), {"f": "woman", "m": "man"}, {"f": "noun", "m": "noun"}),
        Trait("age", "age", ("young", "old"), {"young": "under 40", "old": "over 40"}),
    )
    weight = rng.uniform(0.2, 3, n)
    people = pl.DataFrame(
        {
            "person": [f"p{i % (persons or n)}" for i in range(n)],
            "weight": weight / weight.mean(),
            "sex": pl.Series(rng.choice(["f", "m", None], n, p=[0.5, 0.4, 0.1]).tolist(), dtype=pl.String),
            "age": rng.choice(["young", "old"], n, p=[0.9, 0.1]),
            "q0": pl.Series(rng.choice([0, 1, 2, None], n, p=[0.5, 0.2, 0.1, 0.2]).tolist(), dtype=pl.Int16),
            "q1": pl.Series(rng.choice([0, 1, None], n).tolist(), dtype=pl.Int16),
        }
    )
    return Survey(Codebook("town", "Town", items, traits), people)


def by_hand(
    survey: Survey, w: np.ndarray, item: str, k: int, group: Group, times: np.ndarray
) -> tuple[list[float], int, float]:
    mass, square, n = [0.0] * k, 0.0, 0
    for row, weight, count in zip(survey.people.iter_rows(named=True), w, times, strict=True):
        if row[item] is not None and all(row[t] == level for t, level in group.traits):
            mass[row[item]] += count * weight
            square += count * weight**2
            n += int(count)
    return [m / sum(mass) for m in mass], n, sum(mass) ** 2 / square


def village(n: int = 400, persons: int = 150, seed: int = 3) -> Survey:
    """As ``town``, with two outcomes, people in several levels of a trait, and persons who move between groups."""
    survey = town(n, seed, persons)
    rng = np.random.default_rng(seed)
    names = ("en", "fr", "mi")
    spoken = [None if draw < 0.1 else [one for one in names if rng.random() < 0.4] for draw in rng.random(n)]
    book = survey.codebook
    tongue = Trait("tongue", "tongue", names, {name: f"who speaks {name}" for name in names}, several=True)
    people = survey.people.with_columns(
        pl.Series("tongue", spoken, dtype=pl.List(pl.String)),
        pl.Series("q0", rng.choice([0, 1, 2, -1, -2, None], n).tolist(), dtype=pl.Int16),
    )
    return Survey(
        Codebook("village", "Village", book.items, (*book.traits, tongue), outcomes=("don't know", "refused")), people
    )


def inside(row: dict[str, object], group: Group) -> bool:
    """Whether a person belongs to a group, one trait after the other."""
    return all(
        level in value if isinstance(value := row[trait], list) else value == level for trait, level in group.traits
    )


@pytest.mark.parametrize("masked", [False, True])
def test_persons_with_several_rows_count_once(masked: bool) -> None:
    """n counts persons, n_eff is Kish's over their summed weights, shares stay those of rows."""
    survey = village()
    w = survey.people["weight"].to_numpy()
    groups = find_groups(survey, w, GroupsConfig(min_n_eff=1))
    assert max(len(group.traits) for group in groups) == 2 and len(groups) > 20
    draws = np.random.default_rng(0).integers(0, 3, 150)
    who = survey.people["person"].str.slice(1).cast(pl.Int64).to_numpy()
    times = draws[who] * (np.arange(len(w)) % 5 > 0) if masked else np.ones(len(w), dtype=np.int64)
    table = tabulate(survey, w, groups, multiplicity_P=times if masked else None)
    for g, group in enumerate(groups):
        for i, item in enumerate(survey.codebook.items):
            mass, weight_of, copies = [0.0] * len(item.options), dict[str, float](), dict[str, int]()
            for row, weight, count in zip(survey.people.iter_rows(named=True), w, times, strict=True):
                if count and row[item.id] is not None and row[item.id] >= 0 and inside(row, group):
                    mass[row[item.id]] += count * weight
                    weight_of[row["person"]] = weight_of.get(row["person"], 0.0) + weight
                    copies[row["person"]] = int(count)
            if not copies:
                assert table.n_GI[g, i] == 0 and table.n_eff_GI[g, i] == 0
                continue
            total = sum(mass)
            assert table.shares(item.id, group) == pytest.approx([one / total for one in mass])
            assert table.n_GI[g, i] == sum(copies.values())
            squares = sum(copies[person] * weight**2 for person, weight in weight_of.items())
            assert table.n_eff_GI[g, i] == pytest.approx(total**2 / squares)


def test_n_eff_of_groups_is_over_persons() -> None:
    """The same 300 people asked three times are worth no more than 300."""
    survey = town(900, persons=300)
    names = [group.name for group in find_groups(survey, np.ones(900), GroupsConfig(min_n_eff=301))]
    assert names == ["everyone"]
    assert "sex=f" in [group.name for group in find_groups(survey, np.ones(900), GroupsConfig(min_n_eff=200))]


def test_outcomes_are_shares_of_those_asked() -> None:
    survey = village()
    w = survey.people["weight"].to_numpy()
    groups = find_groups(survey, w, GroupsConfig(min_n_eff=1))
    shares_GIO = outcome_shares(survey, w, groups)
    assert shares_GIO.shape == (len(groups), 2, 2)
    for g, group in enumerate(groups):
        masses = dict.fromkeys((0, 1, 2, -1, -2), 0.0)
        for row, weight in zip(survey.people.iter_rows(named=True), w, strict=True):
            if row["q0"] is not None and inside(row, group):
                masses[row["q0"]] += weight
        total = sum(masses.values())
        assert shares_GIO[g, 0] == pytest.approx([masses[-1] / total, masses[-2] / total])
    assert (shares_GIO[:, 1] == 0).all()
    assert np.isnan(outcome_shares(survey, w, (Group((("age", "ancient"),)),))).all()


@pytest.mark.parametrize("resampled", [False, True])
def test_shares_equal_plain_loops(resampled: bool) -> None:
    survey = town()
    w = survey.people["weight"].to_numpy()
    groups = find_groups(survey, w, GroupsConfig(min_n_eff=1))
    times = np.random.default_rng(1).integers(0, 3, len(w)) if resampled else np.ones(len(w))
    table = tabulate(survey, w, groups, multiplicity_P=times if resampled else None)
    assert table.shares_GIK.shape == (len(groups), 2, 3)
    for group in groups:
        for item in survey.codebook.items:
            target = table.target(item.id, group)
            shares, n, n_eff = by_hand(survey, w, item.id, len(item.options), group, times)
            assert target.shares == pytest.approx(shares) and target.n == n and target.n_eff == pytest.approx(n_eff)
    assert np.isnan(table.shares_GIK[:, 1, 2]).all(), "beyond an item's own options"


def test_groups_come_in_order_with_their_phrases() -> None:
    survey = town()
    w = survey.people["weight"].to_numpy()
    groups = find_groups(survey, w, GroupsConfig(min_n_eff=1))
    assert [len(group.traits) for group in groups] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert groups[0] == EVERYONE and groups[0].text == ""
    assert [group.text for group in groups[1:6]] == [
        "a woman",
        "a man",
        "someone under 40",
        "someone over 40",
        "a woman under 40",
    ]
    assert groups[5].name == "age=young & sex=f"


def test_groups_obey_their_settings() -> None:
    survey = town()
    w = survey.people["weight"].to_numpy()
    assert find_groups(survey, w, GroupsConfig(crossings=0)) == (EVERYONE,)
    names = [group.name for group in find_groups(survey, w, GroupsConfig(traits=("age",), min_n_eff=1))]
    assert names == ["everyone", "age=young", "age=old"]
    big = find_groups(survey, w, GroupsConfig(min_n_eff=60))
    assert "age=old" not in [group.name for group in big] and "sex=f" in [group.name for group in big]
    kept = [group.name for group in find_groups(survey, w, GroupsConfig(min_n_eff=1, max_groups=3))]
    assert kept == ["everyone", "sex=f", "age=young"]
    with pytest.raises(ConfigError, match="did you mean 'age'"):
        find_groups(survey, w, GroupsConfig(traits=("aeg",)))


def test_exact_crossings() -> None:
    survey = village()
    w = survey.people["weight"].to_numpy()

    def named(*crossed: tuple[str, ...], **more: float) -> list[str]:
        config = GroupsConfig(crossed=crossed, traits=("age",), crossings=0, **{"min_n_eff": 1, **more})
        return [group.name for group in find_groups(survey, w, config)]

    assert named(("tongue",), ("sex",)) == ["everyone", "tongue=en", "tongue=fr", "tongue=mi", "sex=f", "sex=m"]
    assert named(("sex", "age"))[1:3] == ["age=young & sex=f", "age=old & sex=f"], "the first trait changes last"
    assert named(("sex", "age"), ("age", "sex")) == named(("sex", "age")), "a crossing once"
    deep = named(("age", "sex", "tongue"))
    assert len(deep) == 1 + 2 * 2 * 3 and deep[1] == "age=young & sex=f & tongue=en"
    assert named((), ("age",)) == ["everyone", "age=young", "age=old"] and named() == ["everyone"]
    group = find_groups(survey, w, GroupsConfig(crossed=(("tongue", "sex"),), min_n_eff=1))[1]
    assert group.text == "a woman who speaks en"
    with pytest.raises(ConfigError, match="groups.crossed: the survey has no trait 'tonge'\n  mend: did you mean 't"):
        named(("sex", "tonge"))
    with pytest.raises(ConfigError, match="'sex' twice"):
        named(("sex", "sex"))


def test_membership_and_population_shares() -> None:
    survey = village()
    w = survey.people["weight"].to_numpy()
    groups = find_groups(survey, w, GroupsConfig(min_n_eff=1))
    member_PG = membership(survey, groups)
    rows = list(survey.people.iter_rows(named=True))
    assert member_PG.tolist() == [[inside(row, group) for group in groups] for row in rows]
    assert population_shares(survey, w, groups) == pytest.approx(w @ member_PG / w.sum())


def test_nobody_answered_is_no_target() -> None:
    survey = town()
    empty = Group((("age", "ancient"),))
    table = tabulate(survey, survey.people["weight"].to_numpy(), (EVERYONE, empty))
    assert np.isnan(table.shares("q0", empty)).all() and table.n_GI[1].sum() == 0 and table.n_eff_GI[1].sum() == 0
    with pytest.raises(SurveyError, match="nobody of 'age=ancient' answered 'q0'"):
        table.target("q0", empty)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    true = np.array([0.6, 0.3, 0.1])
    rng = np.random.default_rng(5)
    survey = town(300)
    inside = []
    for _ in range(300):
        people = survey.people.with_columns(pl.Series("q0", rng.choice(3, 300, p=true), dtype=pl.Int16))
        target = tabulate(Survey(survey.codebook, people), np.ones(300), (EVERYONE,)).target("q0", EVERYONE)
        assert all(
            low <= share <= high for low, share, high in zip(target.low, target.shares, target.high, strict=True)
        )
        inside.append((np.array(target.low) <= true) & (true <= np.array(target.high)))
    assert 0.92 < np.mean(inside) < 0.98


@pytest.mark.parametrize("options", [2, 4, 10])
@pytest.mark.parametrize("n", [30, 60, 200])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_an_interval_covers_whatever_the_number_of_options(options: int, n: int, share: float) -> None:
    """Every count that n people can give, weighed by its probability: no simulation."""
    count = np.arange(n + 1)
    shares_GIK = np.full((n + 1, 1, options), np.nan)
    shares_GIK[:, 0, 0] = count / n
    shares_GIK[:, 0, 1:] = (1 - count[:, None] / n) / (options - 1)
    item = Item("q", "Q?", tuple(Option(k, f"o{k}") for k in range(options)))
    n_GI = np.full((n + 1, 1), n)
    table = ShareTable((item,), tuple(Group((("town", str(x)),)) for x in count), shares_GIK, n_GI, n_GI.astype(float))
    low, high = intervals(*table.posterior(), shares_GIK)
    covered = binom.pmf(count, n, share)[(low[:, 0, 0] <= share) & (share <= high[:, 0, 0])].sum()
    assert 0.93 < covered < 0.98


def test_intervals_are_those_of_a_beta() -> None:
    """By the closed form, by the inverse of the incomplete beta function, and at the change between them."""
    rng = np.random.default_rng(0)
    alpha, one = np.exp(rng.uniform(-1, 9, 3000)), np.exp(rng.uniform(-1, 9, 3000))
    alpha[:500] = rng.uniform(MANY, MANY + 0.1, 500)
    low, high = intervals(alpha, one, alpha / (alpha + one))
    limits = np.array([beta(alpha, one).ppf(level) for level in (0.025, 0.975)])
    error = np.abs(np.array([low, high]) - limits) / (limits[1] - limits[0])
    mean = alpha / (alpha + one)
    error[np.array([limits[0] > mean, limits[1] < mean])] = 0  # widened to hold the share
    many = (alpha >= MANY) & (one >= MANY)
    assert error[:, many].max() < 0.003 and error[:, ~many].max() < 1e-9 and many.sum() > 1000
    wide = intervals(np.array([0.5, np.nan]), np.array([60.5, np.nan]), np.array([0.0, np.nan]))
    assert wide[0][0] == 0 < wide[1][0] < 0.05 and np.isnan(wide[0][1]) and np.isnan(wide[1][1])


def test_truth_error_needs_a_truth() -> None:
    with pytest.raises(SurveyError, match="not known"):
        truth_error(town(), np.ones(600))


def test_countries_that_targets_lack_equal_plain_loops() -> None:
    rng = np.random.default_rng(4)
    country = [("A", "B", "C", "D")[n % 4] for n in range(400)]
    sex = ["f" if c == "A" or n % 3 else "m" for n, c in enumerate(country)]
    asked = {"q0": {"A", "B", "C"}, "q1": {"A", "C"}, "q2": {"A", "B", "C"}}
    people = pl.DataFrame(
        {
            "person": [str(n) for n in range(400)],
            "weight": [0.0 if c == "D" else 1.0 for c in country],
            "country": country,
            "sex": sex,
            **{
                name: pl.Series(
                    [
                        int(rng.integers(0, 2))
                        if c in countries and not (name == "q2" and c == "B" and s == "m")
                        else None
                        for c, s in zip(country, sex, strict=True)
                    ],
                    dtype=pl.Int16,
                )
                for name, countries in asked.items()
            },
        }
    )
    items = tuple(Item(name, name, (Option(0, "no"), Option(1, "yes"))) for name in asked)
    traits = tuple(Trait(name, name, levels, {}) for name, levels in (("country", tuple("ABCD")), ("sex", ("f", "m"))))
    survey = Survey(Codebook("s", "s", items, traits, country="country"), people)
    f, m, b = (Group((pair,)) for pair in (("sex", "f"), ("sex", "m"), ("country", "B")))
    found = missing_countries(survey, people["weight"].to_numpy(), (EVERYONE, f, m, b))
    assert found is not None
    assert found.items == {"q1": ("B",)} and found.groups == {m: ("A",)}
    assert found.pairs == 1, "men, of q2"
    counts = {
        name: np.array([people.filter(pl.col(name).is_not_null(), country=c).height for c in "ABC"])
        for name in ("q0", "q2")
    }
    shift = {name: np.abs(n / n.sum() - 1 / 3) for name, n in counts.items()}
    assert found.shift == pytest.approx(max(map(max, shift.values()))) and found.item == "q2" and found.country == "B"
    assert missing_countries(survey, people["weight"].to_numpy() * (people["country"] == "A").to_numpy(), (f,)) is None
