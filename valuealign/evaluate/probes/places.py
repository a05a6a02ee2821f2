"""Scenario probes: what a model chooses, where the survey asks what it says. docs/probes.md tells how to read them.

Shape letters: ``S`` scenarios, ``K`` options (padded with NaN), ``V`` values, ``C`` cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np

from valuealign.evaluate.probes.file import MOST_OPTIONS, Probes, Scenario
from valuealign.metrics import Floats, raw_mass, softmax
from valuealign.prompts import ask
from valuealign.types import Cell, Message

LISTED, LETTERED, SPOKEN, PAIRS = "listed", "lettered", "spoken", "pairs"
CHANGED = {
    LETTERED: "the options lettered, and a letter as the answer",
    SPOKEN: "no options shown: the answer as free advice",
    PAIRS: "two options at a time",
}
PLAIN, WATCHED, UNWATCHED = "plain", "watched", "unwatched"
LETTERS = "ABCD"


class Place(NamedTuple):
    """What one cell asks: a scenario in one of its wordings, its options in an order, in a format and a framing."""

    scenario: int
    asked: int
    order: tuple[int, ...]
    format: str = LISTED
    framing: str = PLAIN
    said: int = 0

    @property
    def forward(self) -> bool:
        """Whether the options stand in the file's order."""
        return self.order[0] < self.order[-1]


def probe_places(probes: Probes) -> tuple[Place, ...]:
    """All that is asked, each with its options in the file's order and in the reverse one.

    Plain and listed: every scenario in every wording. Watched and unwatched: the first wording, under each
    system turn. Changed formats: the first wording of the families that are not held out.
    """
    return tuple(place for s, scenario in enumerate(probes.scenarios) for place in _places(s, scenario, probes))


def _places(s: int, scenario: Scenario, probes: Probes) -> Iterator[Place]:
    forward = tuple(range(len(scenario.options)))
    both = forward, forward[::-1]
    yield from (Place(s, a, order) for a in range(len(scenario.asked)) for order in both)
    for framing, texts in ((WATCHED, probes.watched), (UNWATCHED, probes.unwatched)):
        yield from (Place(s, 0, order, LISTED, framing, said) for said in range(len(texts)) for order in both)
    if not scenario.held_out:
        yield from (Place(s, 0, order, LETTERED) for order in both)
        yield Place(s, 0, forward, SPOKEN)
        yield from (Place(s, 0, order, PAIRS) for pair in combinations(forward, 2) for order in (pair, pair[::-1]))


def probe_cell(probes: Probes, place: Place) -> Cell:
    """The place as a closed cell without masses: nobody trains on a probe by mistake."""
    scenario = probes.scenarios[place.scenario]
    question, texts = scenario.asked[place.asked], [scenario.options[k] for k in place.order]
    completions = tuple(texts)
    if place.format == SPOKEN:
        prompt: tuple[Message, ...] = (Message("user", question),)
    elif place.format == LETTERED:
        completions = tuple(LETTERS[: len(texts)])
        lines = [f"{letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False)]
        prompt = (Message("user", "\n".join((question, *lines, "Answer with the letter alone."))),)
    else:
        prompt = ask(question, texts)
    none = (0.0,) * len(completions)
    source = f"probe:{scenario.id}/{place.format}/{place.framing}"
    return Cell(
        (*framed(probes, place.framing, place.said), *prompt), completions, none, none, True, 0.0, source=source
    )


def framed(probes: Probes, framing: str, said: int = 0) -> tuple[Message, ...]:
    """The system turn of a framing; none for ``plain``."""
    texts = {PLAIN: (), WATCHED: probes.watched, UNWATCHED: probes.unwatched}[framing]
    return (Message("system", texts[said]),) if texts else ()


@dataclass(frozen=True)
class Answers:
    """What one model answered to ``probe_places``: raw log-probabilities (nats) of each cell's completions."""

    probes: Probes
    places: tuple[Place, ...]
    logps: Sequence[Floats]

    def __post_init__(self) -> None:
        assert len(self.places) == len(self.logps), "one answer for each cell of the probes"

    def shares(
        self,
        format: str = LISTED,
        framing: str = PLAIN,
        *,
        asked: int | None = None,
        said: int | None = None,
        forward: bool | None = None,
    ) -> Floats:
        """Mean shares [S, K] over the places of a kind, in the file's order of options; NaN: not asked.

        Listed and lettered: raw probabilities renormalised, as in the survey. Spoken: log-probabilities per
        character times the options' mean length, since nothing tells the model how long to be. Pairs: the
        shares whose log-ratios fit those of the pairs best (least squares); they are the shares themselves
        where a choice between two does not hang on what else could be had (Luce 1959, the choice axiom).
        """
        probes = self.probes
        total_SK, count_SK = np.zeros((2, len(probes.scenarios), MOST_OPTIONS))
        pairs_S = np.zeros(len(probes.scenarios), dtype=bool)
        for place, logp_K in zip(self.places, self.logps, strict=True):
            wanted = (asked in (None, place.asked), said in (None, place.said), forward in (None, place.forward))
            if (place.format, place.framing) == (format, framing) and all(wanted):
                order = list(place.order)
                total_SK[place.scenario, order] += self._worth(place, np.asarray(logp_K, dtype=np.float64))
                count_SK[place.scenario, order] += 1
                pairs_S[place.scenario] |= place.format == PAIRS
        mean_SK = np.divide(total_SK, count_SK, out=np.full_like(total_SK, np.nan), where=count_SK > 0)
        many_S1 = np.array([[len(one.options)] for one in probes.scenarios], dtype=np.float64)
        mean_SK[pairs_S] = softmax((mean_SK * (many_S1 - 1) / many_S1)[pairs_S])
        return mean_SK

    def _worth(self, place: Place, logp_K: Floats) -> Floats:
        """Shares of the options; of a pair, by how much each one's log-probability is ahead."""
        if place.format == PAIRS:
            return logp_K - logp_K[::-1]
        if place.format == SPOKEN:
            long_K = np.array([len(text) for text in self.probes.scenarios[place.scenario].options])
            logp_K = logp_K / long_K * long_K.mean()
        return softmax(logp_K)

    @cached_property
    def usual_SK(self) -> Floats:
        """The shares with options listed and no framing, over all wordings and both orders."""
        return self.shares()

    @cached_property
    def mass_S(self) -> Floats:
        """The raw probability that falls on the listed options at all, over all wordings and both orders."""
        masses: list[list[float]] = [[] for _ in self.probes.scenarios]
        for place, logp_K in zip(self.places, self.logps, strict=True):
            if place.format == LISTED and place.framing == PLAIN:
                masses[place.scenario].append(float(raw_mass(np.asarray(logp_K))))
        return np.array([np.mean(one) for one in masses])


def by_value(probes: Probes, shares_SK: Floats) -> Floats:
    """Each value's share in each scenario [S, V], less chance (1 / K); NaN where it has no option or was not asked."""
    found_SV = np.full((len(probes.scenarios), len(probes.values)), np.nan)
    for s, scenario in enumerate(probes.scenarios):
        columns = [probes.values.index(value) for value in scenario.values]
        found_SV[s, columns] = shares_SK[s, : len(columns)] - 1 / len(columns)
    return found_SV
