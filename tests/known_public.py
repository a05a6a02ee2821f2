"""A public whose true shares are known, its exam, and models that are known: what tests of judging share."""

from __future__ import annotations

import functools

import numpy as np
import polars as pl

from valuealign.config import GroupsConfig, SplitsConfig
from valuealign.evaluate import Exam, build_exam
from valuealign.population import find_groups
from valuealign.splits import Splits, split
from valuealign.surveys.codebook import Codebook, Trait
from valuealign.surveys.table import Survey
from valuealign.types import Item, Option

PEOPLE, ITEMS, SEED = 4000, 24, 7
CONFIG = SplitsConfig(items=0.5, groups=0.3, cells=0.2)
PLACES = (0.0, 1.0, 2.0, 5.0)  # unequal spacing
Logps = list[np.ndarray]


def public() -> tuple[Survey, dict[tuple[str, str, str], np.ndarray]]:
    """A public whose answers follow sex and age, and its true shares by (item, sex, age)."""
    rng = np.random.default_rng(SEED)
    sexes, ages = ("f", "m"), ("old", "mid", "young")
    traits = (
        Trait("age", "age", ages, {age: f"{age} in years" for age in ages}),
        Trait("sex", "sex", sexes, {"f": "female", "m": "male"}),
    )
    items, columns, truth = [], {}, {}
    sex_P, age_P = rng.choice(sexes, PEOPLE), rng.choice(ages, PEOPLE, p=[0.5, 0.3, 0.2])
    for i in range(ITEMS):
        nominal, options = i % 6 == 5, 3 if i % 4 == 3 else 4
        texts = ("red", "green", "blue", "grey") if nominal else ("never", "seldom", "often", "always")
        given = tuple(Option(k, texts[k], None if nominal else PLACES[k]) for k in range(options))
        items.append(Item(f"q{i:02}", f"Question {i}?", given, ordinal=not nominal))
        base, by_sex, by_age = (
            rng.normal(0, 0.8, options),
            rng.normal(0, 0.6, (2, options)),
            rng.normal(0, 0.6, (3, options)),
        )
        answers = np.zeros(PEOPLE, dtype=np.int16)
        for s, sex in enumerate(sexes):
            for a, age in enumerate(ages):
                power = np.exp(base + by_sex[s] + by_age[a])
                truth[f"q{i:02}", sex, age] = power / power.sum()
                mine = (sex_P == sex) & (age_P == age)
                answers[mine] = rng.choice(options, mine.sum(), p=power / power.sum())
        columns[f"q{i:02}"] = pl.Series(answers).cast(pl.Int16)
    people = pl.DataFrame(
        {"person": [f"{n:05}" for n in range(PEOPLE)], "weight": np.ones(PEOPLE), "age": age_P, "sex": sex_P, **columns}
    )
    return Survey(Codebook("test", "A test", tuple(items), traits), people), truth


class World:
    """The survey, its exam, and the answers of models that are known."""

    def __init__(self) -> None:
        self.survey, self.true = public()
        self.weights = np.random.default_rng(1).uniform(0.5, 1.5, PEOPLE)
        self.groups = find_groups(self.survey, self.weights, GroupsConfig(min_n_eff=30.0))
        self.splits: Splits = split(self.survey, self.weights, self.groups, CONFIG, seed=SEED)
        self.exam: Exam = build_exam(self.survey, self.weights, self.groups, self.splits, bootstrap=60, seed=SEED)
        self.share = {
            (s, a): float(((self.survey.people["sex"] == s) & (self.survey.people["age"] == a)).mean())
            for s in ("f", "m")
            for a in ("old", "mid", "young")
        }

    def population(self, item: str, group: str) -> np.ndarray:
        """The public's own shares (no sample)."""
        wanted = dict(pair.split("=") for pair in group.split(" & ")) if group != "everyone" else {}
        inside = [(s, a) for s, a in self.share if wanted.get("sex", s) == s and wanted.get("age", a) == a]
        total = sum(self.share[one] for one in inside)
        return np.sum([self.true[item, *one] * self.share[one] for one in inside], axis=0) / total

    def answers(self, shares: dict[tuple[str, str], np.ndarray] | None = None, *, group: str | None = None) -> Logps:
        """A model that answers with these shares (default: the public's), all of its mass on the options."""
        found = []
        for cell in self.exam.cells:
            item = cell.source.removeprefix("survey:")
            p = shares[item, cell.group] if shares else self.population(item, group or cell.group)
            found.append(np.log(np.maximum(p, 1e-12)))
        return found

    def truth(self, part: str) -> dict[tuple[str, str], np.ndarray]:
        """The exam's own truth of a part, for a model that copies it."""
        found = {}
        for panel in self.exam.panels:
            if panel.part == part:
                for item, group, shares in zip(panel.items, panel.groups, panel.truth_CK, strict=True):
                    found[item, group] = shares[~np.isnan(shares)]
        return found


@functools.cache
def the_world() -> World:
    """One for all tests of a process: nobody changes it, but a copy."""
    return World()
