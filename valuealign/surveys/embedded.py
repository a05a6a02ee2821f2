"""The embedded population: a synthetic public whose true answer shares are known.

Every person has a profile over Schwartz's ten values: a public mean, a pull towards one side of the
circle of values that depends on age, sex and region (with crossed effects), the person's own pull,
and noise. Answers follow from the profile through an ordered probit. Given age, sex and region all
of it is Gaussian, so the true share of every answer is computed exactly, with no draw.
docs/embedded-population.md tells the story; all wording is the project's own.

Shape letters: ``P`` people, ``V`` values in circle order, ``C`` cells (age x sex x region), ``I``
items, ``K`` options.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.special import ndtr

from valuealign.config import SurveyConfig, WeightingConfig
from valuealign.surveys import _yaml
from valuealign.surveys.codebook import Codebook
from valuealign.surveys.codebook_yaml import read_codebook
from valuealign.surveys.table import Survey
from valuealign.types import Cell, Group, Item, Message
from valuealign.values import THEORIES
from valuealign.weighting import Margins, weigh

HERE = Path(__file__).parent
VALUES = THEORIES["schwartz10"].values

# The public's mean of each value: what most people hold high or low nearly everywhere
# (benevolence, self-direction and universalism on top, power at the bottom).
PUBLIC = {
    "self-direction": 0.45, "stimulation": -0.45, "hedonism": -0.05, "achievement": -0.1, "power": -0.95,
    "security": 0.3, "conformity": 0.0, "tradition": -0.25, "benevolence": 0.65, "universalism": 0.4,
}  # fmt: skip

# Population shares of age, then of sex given age, then of region given age (as a census would have them).
AGE = {"18-34": 0.27, "35-49": 0.25, "50-64": 0.26, "65+": 0.22}
FEMALE_BY_AGE = {"18-34": 0.49, "35-49": 0.50, "50-64": 0.51, "65+": 0.56}
REGION_BY_AGE = {
    "18-34": {"city": 0.42, "coast": 0.22, "hills": 0.13, "plains": 0.23},
    "35-49": {"city": 0.34, "coast": 0.23, "hills": 0.17, "plains": 0.26},
    "50-64": {"city": 0.26, "coast": 0.24, "hills": 0.23, "plains": 0.27},
    "65+": {"city": 0.20, "coast": 0.27, "hills": 0.27, "plains": 0.26},
}

# The deliberate bias of the sample: how much likelier than others these people are to be asked.
SAMPLED = {"65+": 3.0, "50-64": 1.8, "35-49": 1.1, "18-34": 0.8, "female": 1.5, "male": 1.0,
           "city": 1.8, "coast": 1.0, "hills": 0.9, "plains": 0.6}  # fmt: skip

# Pulls of a group on its members' profiles as (openness over conservation, self-enhancement over
# self-transcendence); the two axes stand at right angles in the circle.
PULL: Mapping[tuple[str, ...], tuple[float, float]] = {
    ("18-34",): (0.75, 0.35),
    ("35-49",): (0.25, 0.15),
    ("50-64",): (-0.25, -0.15),
    ("65+",): (-0.75, -0.35),
    ("female",): (-0.05, -0.30),
    ("male",): (0.05, 0.30),
    ("city",): (0.35, 0.15),
    ("coast",): (0.15, -0.25),
    ("hills",): (-0.40, -0.10),
    ("plains",): (-0.10, 0.25),
    # Crossed effects, which no sum of single traits can know.
    ("18-34", "hills"): (-1.05, -0.14),
    ("65+", "hills"): (0.77, 0.14),
    ("65+", "city"): (0.70, 0.63),
    ("18-34", "plains"): (0.14, 0.70),
    ("50-64", "coast"): (0.63, -0.49),
    ("18-34", "female"): (0.28, -0.56),
    ("65+", "male"): (-0.21, -0.56),
    ("female", "plains"): (0.63, -0.35),
    ("male", "plains"): (-0.56, 0.35),
    ("male", "coast"): (0.07, 0.49),
}
AXES = (np.deg2rad(36.0), np.deg2rad(126.0))  # stimulation's angle; that of achievement to power

# Standard deviations: a person's own pull (each axis), a value of a person, a person's habit of
# agreeing, one answer, and one person's liking of one answer to a request.
PERSON_PULL, VALUE_NOISE, AGREEING, ANSWER_NOISE, LIKING_NOISE = 0.45, 0.35, 0.25, 0.8, 0.7
LOADING = 1.1
MISSING = 0.02
# How many requests each person judges, and how clearly they must (dis)like an answer to say so.
JUDGED, CLEAR = 6, 0.25


class Public(NamedTuple):
    """A drawn sample: ``cell_P`` indexes ``cells()``; ``profile_PV``; ``answer_PI`` is an option index or -1."""

    cell_P: np.ndarray
    profile_PV: np.ndarray
    answer_PI: np.ndarray


class Request(NamedTuple):
    """A request for advice and its answers, each keyed to the value that it expresses."""

    text: str
    answers: tuple[str, ...]
    values: tuple[str, ...]


def read(config: SurveyConfig, seed: int) -> Survey:
    """The embedded survey: ``config.people`` biased respondents, true margins and true shares.

    Deterministic in (people, seed). ``config.rows`` keeps the first rows only.
    """
    book = codebook()
    public = draw(config.people, seed)
    ages, sexes, regions = (np.array(column) for column in zip(*cells(), strict=True))
    people = pl.DataFrame(
        {
            "person": [f"p{number:06d}" for number in range(config.people)],
            "weight": np.ones(config.people),
            **{item.id: public.answer_PI[:, i] for i, item in enumerate(book.items)},
            "age": ages[public.cell_P],
            "sex": sexes[public.cell_P],
            "region": regions[public.cell_P],
        }
    ).with_columns(pl.when(pl.col(item.id) >= 0).then(pl.col(item.id)).cast(pl.Int16) for item in book.items)
    people = people if config.rows is None else people.head(config.rows)
    return Survey(codebook=book, people=people, margins=margins(), truth=truth())


def numbers(survey: Survey) -> np.ndarray:
    """Each row's place [P] in the full sample, which its person id holds."""
    return survey.people["person"].str.slice(1).cast(pl.Int64).to_numpy()


@cache
def codebook() -> Codebook:
    """Items, scales and traits (``embedded.yaml``)."""
    return read_codebook(HERE / "embedded.yaml")


@cache
def cells() -> tuple[tuple[str, str, str], ...]:
    """(age, sex, region) of every cell."""
    return tuple(product(AGE, ("female", "male"), REGION_BY_AGE["18-34"]))


@cache
def cell_shares() -> np.ndarray:
    """Population share [C] of every cell."""
    return np.array(
        [
            AGE[age] * (FEMALE_BY_AGE[age] if sex == "female" else 1 - FEMALE_BY_AGE[age]) * REGION_BY_AGE[age][region]
            for age, sex, region in cells()
        ]
    )


@cache
def margins() -> Margins:
    """The population's true margins of age, sex and region."""
    shares: dict[str, dict[str, float]] = {"age": {}, "sex": {}, "region": {}}
    for cell, share in zip(cells(), cell_shares(), strict=True):
        for trait, level in zip(shares, cell, strict=True):
            shares[trait][level] = shares[trait].get(level, 0.0) + float(share)
    return Margins(shares, where="embedded population")


@cache
def truth() -> Mapping[str, tuple[float, ...]]:
    """True shares of everyone for each item id, exact (no draw)."""
    return {item.id: true_shares(item, Group()) for item in codebook().items}


def true_shares(item: Item, group: Group) -> tuple[float, ...]:
    """True shares [K] of ``item`` in ``group``, exact: a mixture of the cells' ordered probits."""
    inside_C = np.array(
        [set(group.traits) <= set(zip(("age", "sex", "region"), cell, strict=True)) for cell in cells()]
    )
    weight_C = cell_shares() * inside_C
    shares_CK = _option_shares(item)
    return tuple((weight_C @ shares_CK / weight_C.sum()).tolist())


@cache
def draw(people: int, seed: int) -> Public:
    """The sample of (people, seed): cells by biased sampling, then profiles, then answers."""
    rng = np.random.default_rng([seed, people, 0x7075626C])
    chance_C = cell_shares() * np.array([np.prod([SAMPLED[level] for level in cell]) for cell in cells()])
    cell_P = rng.choice(len(chance_C), size=people, p=chance_C / chance_C.sum())
    own_PA = rng.normal(0, PERSON_PULL, (people, 2))
    profile_PV = _cell_profiles()[cell_P] + own_PA @ _circle() + rng.normal(0, VALUE_NOISE, (people, len(VALUES)))
    agreeing_P = rng.normal(0, AGREEING, people)
    answers = [_answers(item, profile_PV, agreeing_P, rng) for item in codebook().items]
    return Public(cell_P, profile_PV, np.stack(answers, axis=1))


def feedback(people: int | Survey, seed: int, *, weights_P: np.ndarray | None = None) -> list[Cell]:
    """Open requests with answers that the embedded public of (people, seed) marked desirable or undesirable.

    Each person judges a few requests and says of one answer each whether it is desirable, or
    undesirable, or nothing where the liking is lukewarm: by how high the answer's value stands in
    the person's profile. Masses are sums of ``weights_P`` (default: raked to the true margins), so
    they speak for the population, not for the biased sample. One cell a request, ``closed=False``.
    """
    number = people if isinstance(people, int) else people.people.height
    public = draw(number, seed)
    if weights_P is None:
        sample = read(SurveyConfig(people=number), seed)
        weights_P = weigh(sample, margins(), WeightingConfig(), country=None, population_weights=False).weights_P
    rng = np.random.default_rng([seed, number, 0x66656564])
    judged_PR = np.argsort(rng.random((number, len(requests()))), axis=1)[:, :JUDGED]
    found = []
    for r, request in enumerate(requests()):
        judges = np.flatnonzero((judged_PR == r).any(axis=1))
        answer = rng.integers(len(request.answers), size=len(judges))
        value = np.array([VALUES.index(name) for name in request.values])[answer]
        liking = public.profile_PV[judges, value] + rng.normal(0, LIKING_NOISE, len(judges))
        masses = [
            tuple(np.bincount(answer[said], weights_P[judges[said]], len(request.answers)).tolist())
            for said in (liking > CLEAR, liking < -CLEAR)
        ]
        found.append(
            Cell(
                prompt=(Message("user", request.text),),
                completions=request.answers,
                desirable=masses[0],
                undesirable=masses[1],
                n_eff=_worth(weights_P[judges]),
                source=f"feedback:embedded-{r:02d}",
            )
        )
    return found


@cache
def requests() -> tuple[Request, ...]:
    """The requests of ``embedded_feedback.yaml``."""
    found = []
    for text, node in _yaml.read(HERE / "embedded_feedback.yaml").pairs():
        pairs = node.pairs()
        found.append(Request(text, tuple(answer.text() for _, answer in pairs), tuple(value for value, _ in pairs)))
    return tuple(found)


def _worth(weights: np.ndarray) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def _circle() -> np.ndarray:
    """[2, V]: how a unit of each axis raises each value (Schwartz's circle: a sinusoid)."""
    angle_V = np.arange(len(VALUES)) * 2 * np.pi / len(VALUES)
    return np.stack([np.cos(angle_V - axis) for axis in AXES])


def _cell_profiles() -> np.ndarray:
    """Mean profiles [C, V]."""
    pull_CA = np.array(
        [np.sum([pull for who, pull in PULL.items() if set(who) <= set(cell)], axis=0) for cell in cells()]
    )
    return np.asarray(np.array([PUBLIC[value] for value in VALUES]) + pull_CA @ _circle())


def _thresholds(item: Item) -> np.ndarray:
    """Cut points [K-1]: evenly spaced, moved a little from item to item (golden-ratio steps in -0.4..0.4)."""
    place = [other.id for other in codebook().items].index(item.id)
    shift = ((place * 0.618034) % 1.0 - 0.5) * 0.8
    k = len(item.options)
    return np.asarray((np.arange(1, k) - k / 2) * (4.0 / k) + shift)


def _measured(item: Item) -> np.ndarray:
    """[V]: the weights of the item's values, which sum to its loading; negative for a reversed item."""
    place_V = np.array([value in item.values for value in VALUES], dtype=float)
    return np.asarray(item.key * LOADING * place_V / place_V.sum())


def _option_shares(item: Item) -> np.ndarray:
    """Exact answer shares [C, K] of every cell."""
    by_V = _measured(item)
    mean_C = _cell_profiles() @ by_V
    variance = (
        PERSON_PULL**2 * float(((_circle() @ by_V) ** 2).sum())
        + VALUE_NOISE**2 * float((by_V**2).sum())
        + AGREEING**2
        + ANSWER_NOISE**2
    )
    below = np.asarray(ndtr((_thresholds(item)[None, :] - mean_C[:, None]) / np.sqrt(variance)))
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


def _answers(item: Item, profile_PV: np.ndarray, agreeing_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Option indices [P], -1 where the person skipped the question (by pure chance)."""
    people = len(profile_PV)
    leaning_P = profile_PV @ _measured(item) + agreeing_P + rng.normal(0, ANSWER_NOISE, people)
    chosen_P = np.searchsorted(_thresholds(item), leaning_P)
    return np.where(rng.random(people) < MISSING, -1, chosen_P).astype(np.int16)
