"""People's published distributions of answers, put to models with and without a group named.

Shape letters: ``A`` distributions (a question asked of a group), ``C`` cells, ``K`` options (padded with
NaN), ``Q`` questions, ``G`` groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from valuealign.errors import AnswerError
from valuealign.evaluate.benchmarks.benchmark import as_item
from valuealign.evaluate.benchmarks.means import grouped_rows, numbered
from valuealign.evaluate.record import Kind, Row
from valuealign.evaluate.sheet import Heard, Sheet
from valuealign.metrics import Floats, raw_mass, softmax
from valuealign.prompts import ask
from valuealign.types import Cell, Item

RAW_MASS = "probability on the options at all, before it is renormalised over them (1 is best)"


class Asked(NamedTuple):
    """A question put to a group. ``question`` is its key and ``family`` what intervals resample (the same for
    questions of the same words); ``phrase`` names the group in a prompt, empty for everybody.

    ``shares`` [K] are the people's; NaN marks an option that is offered but outside the comparison, such
    as a refusal; ``refused`` is the people's share of such options among all (NaN: not known). ``positions`` [K] are
    places on a scale, NaN or empty where there are none.
    """

    question: str
    family: str
    text: str
    options: tuple[str, ...]
    group: str
    phrase: str
    shares: tuple[float, ...]
    positions: tuple[float, ...] = ()
    refused: float = np.nan


class Figure(NamedTuple):
    """A mean over distributions of ``measure(model, people, positions)``, all [A, K] in, [A] out.

    ``named``: the group is named in the prompt. ``of`` says which distributions count (None: all).
    ``per_group``: first the mean of each group's, then that over groups. ``worst`` adds the group that fares worst.
    """

    metric: str
    text: str
    measure: Callable[[Floats, Floats, Floats], Floats]
    named: bool
    lower_is_better: bool
    bounds: tuple[float, float] = (0.0, 1.0)
    of: Callable[[Asked], bool] | None = None
    per_group: bool = False
    worst: bool = False

    @property
    def worst_metric(self) -> str:
        """The name of the figure of the group that fares worst."""
        return f"{self.metric}_worst_group"


class _Placed(NamedTuple):
    """The cells, the family of each, and of each distribution the cell with its group named and that without."""

    cells: tuple[Cell, ...]
    families: tuple[str, ...]
    named_A: NDArray[np.intp]
    unnamed_A: NDArray[np.intp]


@dataclass(frozen=True)
class Published:
    """All distributions of a benchmark, with a cell for each different prompt."""

    name: str
    asked: tuple[Asked, ...]

    @cached_property
    def _placed(self) -> _Placed:
        cells: list[Cell] = []
        families: list[str] = []
        place: dict[tuple[str, tuple[str, ...], str], int] = {}
        index = np.zeros((2, len(self.asked)), dtype=np.intp)
        for a, one in enumerate(self.asked):
            for i, (phrase, group) in enumerate(((one.phrase, one.group), ("", "everyone"))):
                key = (one.text, one.options, phrase)
                if key not in place:
                    place[key] = len(cells)
                    cells.append(closed_cell(one.text, one.options, phrase, group, self.name, one.positions))
                    families.append(one.family)
                index[i, a] = place[key]
        return _Placed(tuple(cells), tuple(families), index[0], index[1])

    @property
    def cells(self) -> tuple[Cell, ...]:
        """What is asked: each question of each group, and of nobody in particular."""
        return self._placed.cells

    @cached_property
    def people_AK(self) -> Floats:
        """The people's shares."""
        return padded([one.shares for one in self.asked])

    @cached_property
    def positions_AK(self) -> Floats:
        """Places on the scale; all NaN for a nominal question."""
        return padded([one.positions or (np.nan,) * len(one.shares) for one in self.asked])

    def answers_AK(self, logps: Sequence[Floats], *, named: bool) -> Floats:
        """A model's shares of the options that are compared, renormalised over them."""
        raw_AK = padded(logps)[self._placed.named_A if named else self._placed.unnamed_A]
        return softmax(np.where(np.isnan(self.people_AK), np.nan, raw_AK[:, : self.people_AK.shape[1]]))

    def raw_mass_rows(self, heard: Heard) -> list[Row]:
        """How much probability falls on the options, over all cells."""
        values = {who: raw_mass(padded(logps)) for who, logps in heard.logps.items()}
        return grouped_rows(self.name, "raw_mass", values, numbered(self._placed.families), bounds=(0.0, 1.0))

    def refusal_rows(self, metric: str, heard: Heard, of: Callable[[Asked], bool]) -> list[Row]:
        """What of the answer to a question that names no group falls on options outside the comparison, beside the
        people's own share. Every question whose people ``of`` names counts, those that offer no such option as 0."""
        at_N = [a for a, one in enumerate(self.asked) if of(one) and not np.isnan(one.refused)]
        outside_NK = np.zeros((len(at_N), self.people_AK.shape[1]), dtype=bool)
        for n, a in enumerate(at_N):
            outside_NK[n, : len(self.asked[a].options)] = np.isnan(self.asked[a].shares)
        family_N = numbered([self.asked[a].family for a in at_N])
        values = {}
        for who, logps in heard.logps.items():
            share_NK = softmax(padded(logps)[self._placed.unnamed_A[at_N]][:, : outside_NK.shape[1]])
            values[who] = np.where(outside_NK, share_NK, 0.0).sum(-1)
        people = {"people": np.array([self.asked[a].refused for a in at_N])}
        rows = grouped_rows(self.name, metric, values, family_N, bounds=(0.0, 1.0))
        return rows + grouped_rows(self.name, metric, people, family_N, bounds=(0.0, 1.0), kind="people")

    def figure_rows(self, figure: Figure, heard: Heard) -> list[Row]:
        """The figure of everybody who answered, paired differences, and that of answers without a model."""
        cluster_A, group_A = numbered([a.family for a in self.asked]), numbered([a.group for a in self.asked])
        in_A = np.array([figure.of is None or figure.of(one) for one in self.asked])

        def measured(model_AK: Floats) -> Floats:
            return np.where(in_A, figure.measure(model_AK, self.people_AK, self.positions_AK), np.nan)

        def rows(values: dict[str, Floats], kind: Kind, note: str = "") -> list[Row]:
            weight_A = np.ones(len(in_A))
            if figure.per_group:
                known_A = ~np.isnan(next(iter(values.values())))
                weight_A = 1 / np.maximum(np.bincount(group_A, known_A), 1)[group_A]
            return grouped_rows(
                self.name, figure.metric, values, cluster_A, weight_A, bounds=figure.bounds, kind=kind, note=note
            )

        found = {w: measured(self.answers_AK(logps, named=figure.named)) for w, logps in heard.logps.items()}
        if not found or not in_A.any():
            return []
        out = rows(found, "stage")
        out += rows({"uniform": measured(softmax(self.people_AK * 0.0))}, "null", "every option alike")
        if figure.named:
            others = measured(self._others_AK(in_A))
            out += rows({"other groups": others}, "null", "the mean of the other groups' people: no model")
        return out + (self._worst_rows(figure, found, cluster_A, group_A) if figure.worst else [])

    def _others_AK(self, in_A: NDArray[np.bool_]) -> Floats:
        """The mean of the other groups' shares of the same question; NaN where there is no other."""
        question_A = numbered([one.question for one in self.asked])
        own_AK = np.where(in_A[:, None], np.nan_to_num(self.people_AK), 0.0)
        sum_QK = np.zeros((question_A.max() + 1, own_AK.shape[1]))
        np.add.at(sum_QK, question_A, own_AK)
        count_A = np.bincount(question_A, in_A)[question_A] - in_A
        mean_AK = (sum_QK[question_A] - own_AK) / np.maximum(count_A, 1)[:, None]
        return np.where((count_A[:, None] > 0) & ~np.isnan(self.people_AK), mean_AK, np.nan)

    def _worst_rows(
        self, figure: Figure, found: dict[str, Floats], cluster_A: NDArray[np.intp], group_A: NDArray[np.intp]
    ) -> list[Row]:
        groups = list(dict.fromkeys(one.group for one in self.asked))
        out = []
        for who, value_A in found.items():
            known_A = ~np.isnan(value_A)
            count_G = np.bincount(group_A, known_A)
            mean_G = np.bincount(group_A, np.where(known_A, value_A, 0.0)) / np.maximum(count_G, 1)
            bad_G = np.where(count_G > 0, mean_G if figure.lower_is_better else -mean_G, -np.inf)
            worst = int(bad_G.argmax())
            value = {who: np.where(group_A == worst, value_A, np.nan)}
            out += grouped_rows(
                self.name, figure.worst_metric, value, cluster_A, bounds=figure.bounds, note=groups[worst]
            )
        return out


def closed_cell(
    text: str, options: Sequence[str], phrase: str, group: str, name: str, positions: Sequence[float] = ()
) -> Cell:
    """A question as a cell with flat masses, so that nobody trains on a benchmark by mistake."""
    k = len(options)
    flat, places = (1 / k,) * k, tuple(positions)
    return Cell(
        ask(text, options, phrase), tuple(options), flat, (0.0,) * k, True, group=group, source=f"benchmark:{name}",
        positions=() if any(np.isnan(places)) else places,
    )  # fmt: skip


def padded(rows: Sequence[Sequence[float] | Floats]) -> Floats:
    """Rows of different length as one array, NaN behind their ends."""
    out = np.full((len(rows), max((len(row) for row in rows), default=0)), np.nan)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


def questions_of(asked: Iterable[Asked]) -> dict[str, Item]:
    """Each question once, by its key, with the options that are compared."""
    return {
        one.question: as_item(
            one.question,
            one.text,
            [option for option, share in zip(one.options, one.shares, strict=True) if not np.isnan(share)],
        )
        for one in asked
    }


def need_choice(asked: Sequence[Asked], path: Path, *, ordered: bool) -> None:
    """Raises AnswerError where no figure can be made of a file: for what was looked for, and what is there."""
    kept, _ = without_choice(asked)
    if not kept:
        raise AnswerError(
            "nothing can be compared: looked for people's shares of two options or more, "
            f"found {len(asked):,} distributions, none of them such",
            where=str(path),
            mend="bring the published file, with its options and shares",
        )
    if ordered and not any(one.positions for one in kept):
        raise AnswerError(
            "nothing can be compared: looked for options with different ordinal values, "
            f"found {len(kept):,} distributions, all of whose options have the same",
            where=str(path),
            mend="bring questions whose answers have an order",
        )


def without_choice(asked: Sequence[Asked]) -> tuple[tuple[Asked, ...], str]:
    """The distributions with at least two options to compare, and a note on how many are left out."""
    kept = tuple(one for one in asked if sum(not np.isnan(share) for share in one.shares) >= 2)
    left = len(asked) - len(kept)
    return kept, f"{left:,} distributions over a single option, or of nobody, were left out" if left else ""


def distribution_sheet(published: Published, title: str, figures: Sequence[Figure], notes: Sequence[str] = ()) -> Sheet:
    """The sheet of a benchmark whose figures are means over distributions."""
    metrics = {figure.metric: figure.text for figure in figures}
    metrics |= {
        figure.worst_metric: f"the same for the group that fares worst (named in the note): {figure.text}"
        for figure in figures
        if figure.worst
    }

    def judge(heard: Heard) -> tuple[Row, ...]:
        rows = [row for figure in figures for row in published.figure_rows(figure, heard)]
        return tuple(rows + published.raw_mass_rows(heard))

    return Sheet(
        published.name,
        title,
        {**metrics, "raw_mass": RAW_MASS},
        judge,
        published.cells,
        notes=tuple(filter(None, notes)),
    )
