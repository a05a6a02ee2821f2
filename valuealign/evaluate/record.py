"""The record of a judgement: figures as rows, and their JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from valuealign.types import Estimate

HELD_OUT = ("cells", "groups", "items")
# The headline first: no group named. Steering to groups comes second.
SPLITS = ("everyone", *HELD_OUT, "seen", "waves", "survey")
# The null that the gain is counted over: the strongest that uses nothing held out.
BASELINE = {
    "cells": "additive",
    "groups": "additive",
    "items": "training items",
    "everyone": "uniform",
    "seen": "marginal",
    "waves": "persistence",
    "survey": "uniform",
}
FLOOR, HALF, REGRESSION = "noise floor", "split-half", "regression"
BEHAVIOUR = "behaviour"
# What a model card holds of each of the survey's splits.
MAIN = ("jsd_bits", "total_variation", "gain(jsd_bits)", "dispersion", "raw_mass")
Kind = Literal["stage", "shuffled", "reworded", "null", "oracle", "floor", "half", "people", "gain", "difference"]


@dataclass(frozen=True)
class Row:
    """One figure: of whom, on which split and part, in which metric."""

    split: str
    part: str
    who: str
    metric: str
    kind: Kind
    estimate: Estimate
    note: str = ""


@dataclass(frozen=True)
class Portrait:
    """The answers to one question with no group named: people and every stage, shares [K].

    ``low`` and ``high`` [K] are 95 % intervals of the people's shares; ``split`` says whether the question
    was trained (``everyone``), never trained (``items``) or another survey's (``survey``).
    """

    item: str
    question: str
    options: tuple[str, ...]
    people: tuple[float, ...]
    stages: Mapping[str, tuple[float, ...]]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    split: str = "everyone"


@dataclass(frozen=True)
class Standing:
    """What ``who`` stands for: centred scores [V] of everyone and of each group, on ``theory``'s values in its order.

    ``structure`` is the theory's (``circle`` or ``list``). ``distance`` is the mean absolute difference from the
    people's scores over groups and values, in scale widths; ``circle_error`` (degrees) and ``circle_p`` say whether
    the circle shows (None: it cannot be seen, and ``why`` says so).
    """

    who: str
    theory: str
    structure: str
    values: tuple[str, ...]
    scores: tuple[float, ...]
    groups: Mapping[str, tuple[float, ...]]
    distance: float | None = None
    peak: str | None = None
    circle_error: float | None = None
    circle_p: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Tested:
    """One cell as it was judged: the Jensen-Shannon divergence (bits) of each stage, guess and of the floor."""

    split: str
    item: str
    group: str
    n_eff: float
    apart: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """All figures of a judgement. ``facts`` says what stands behind them (people, cells, intervals)."""

    part: str
    stages: tuple[str, ...]
    rows: tuple[Row, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    portraits: tuple[Portrait, ...] = ()
    tested: tuple[Tested, ...] = ()
    standings: tuple[Standing, ...] = ()

    def row(self, split: str, who: str, metric: str) -> Row:
        """One row; KeyError where there is none."""
        for row in self.rows:
            if (row.split, row.who, row.metric) == (split, who, metric):
                return row
        raise KeyError((split, who, metric))

    def figure(self, split: str, who: str, metric: str = "jsd_bits") -> Estimate:
        """The figure of ``who`` (a stage, a null, ``noise floor``, ``b - a``); KeyError where there is none."""
        return self.row(split, who, metric).estimate

    def joined(self, rows: Iterable[Row], **facts: Any) -> Evaluation:
        """The same record with more rows and facts: of sheets, of other ways to read answers."""
        return replace(self, rows=(*self.rows, *rows), facts={**self.facts, **facts})

    def with_behaviour(self, aucs: Mapping[str, Estimate], *, note: str = "") -> Evaluation:
        """The same record with each stage's behaviour AUC as rows of the split ``behaviour``."""
        kept = tuple(row for row in self.rows if row.split != BEHAVIOUR)
        more = tuple(Row(BEHAVIOUR, self.part, who, "auc", "stage", one, note) for who, one in aucs.items())
        return replace(self, rows=kept + more)

    def results(self, who: str) -> list[dict[str, Any]]:
        """The main figures of one stage as flat records, for a model card.

        Of the survey's splits those in ``MAIN``; of a sheet those whose metric names no part of it in brackets (a
        value, a split), or the first where all do. The others are in ``rows`` alone.
        """
        mine = [row for row in self.rows if row.who == who and math.isfinite(row.estimate.value)]
        first = {row.split: row.metric for row in reversed(mine)}
        plain = {row.split for row in mine if "(" not in row.metric}
        return [
            {"split": row.split, "metric": row.metric, "value": e.value, "low": e.low, "high": e.high}
            for row in mine
            for e in (row.estimate,)
            if (row.metric in MAIN if row.split in SPLITS else "(" not in row.metric)
            or (row.split not in plain and row.metric == first[row.split])
        ]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have figures, in their order."""
        there = {row.split for row in self.rows}
        return tuple(split for split in SPLITS if split in there)

    def to_json(self) -> str:
        """The whole record as JSON; a figure that does not exist is null."""
        return json.dumps(_plain(asdict(self)), ensure_ascii=False, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """The inverse of ``to_json``."""
        tree = json.loads(text)
        rows = tuple(Row(**{**row, "estimate": _estimate(row["estimate"])}) for row in tree["rows"])
        portraits = tuple(
            Portrait(
                item=one["item"],
                question=one["question"],
                options=tuple(one["options"]),
                people=tuple(one["people"]),
                stages={stage: tuple(shares) for stage, shares in one["stages"].items()},
                low=tuple(one["low"]),
                high=tuple(one["high"]),
                split=one["split"],
            )
            for one in tree["portraits"]
        )
        tested = tuple(Tested(**one) for one in tree["tested"])
        standings = tuple(Standing(**{key: _tuples(value) for key, value in one.items()}) for one in tree["standings"])
        return cls(tree["part"], tuple(tree["stages"]), rows, tree["facts"], portraits, tested, standings)

    def to_csv(self) -> str:
        """The rows as CSV with a header; an empty place where a figure does not exist."""
        rows = (
            [row.split, row.part, row.who, row.kind, row.metric, *map(_figure, (e.value, e.low, e.high)), e.n, row.note]
            for row in self.rows
            for e in (row.estimate,)
        )
        return _csv(["split", "part", "who", "kind", "metric", "value", "low", "high", "n", "note"], rows)

    def questions_csv(self) -> str:
        """The answers to every question that names no group, a line an option: shares of people and stages."""
        rows = []
        for one in self.portraits:
            unknown = [math.nan] * len(one.people)
            columns = one.people, one.low or unknown, one.high or unknown, *(one.stages[stage] for stage in self.stages)
            for option, *figures in zip(one.options, *columns, strict=True):
                rows.append([one.split, one.item, one.question, option, *map(_figure, figures)])
        return _csv(["split", "item", "question", "option", "people", "low", "high", *self.stages], rows)

    def cells_csv(self) -> str:
        """Every cell that was judged: the Jensen-Shannon divergence (bits) of stages, guesses and the floor."""
        who = list(dict.fromkeys(who for one in self.tested for who in one.apart))
        rows = (
            [one.split, one.item, one.group, repr(one.n_eff), *(_figure(one.apart.get(name, math.nan)) for name in who)]
            for one in self.tested
        )
        return _csv(["split", "item", "group", "n_eff", *who], rows)


def _figure(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def _plain(tree: Any) -> Any:
    """JSON knows no NaN: null stands for a figure that does not exist."""
    if isinstance(tree, Mapping):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree


def _tuples(tree: Any) -> Any:
    """Lists as tuples, null in them as NaN, and the same within a mapping."""
    if isinstance(tree, Mapping):
        return {key: _tuples(value) for key, value in tree.items()}
    return tuple(math.nan if one is None else one for one in tree) if isinstance(tree, list) else tree


def _estimate(tree: Mapping[str, Any]) -> Estimate:
    value, low, high = (math.nan if tree[key] is None else float(tree[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high, int(tree["n"]))
