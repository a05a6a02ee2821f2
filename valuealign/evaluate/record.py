"""The record of a judgement: figures as rows, and their JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from valuealign.types import Estimate

HELD_OUT = ("cells", "groups", "items")
SPLITS = (*HELD_OUT, "everyone", "seen", "waves", "survey")
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
FLOOR, HALF = "noise floor", "split-half"
BEHAVIOUR = "behaviour"
Kind = Literal["stage", "shuffled", "reworded", "null", "oracle", "floor", "half", "gain", "difference"]


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
    """The answers to one question with no group named: people and every stage, shares [K]."""

    item: str
    question: str
    options: tuple[str, ...]
    people: tuple[float, ...]
    stages: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Evaluation:
    """All figures of a judgement. ``facts`` says what stands behind them (people, cells, intervals)."""

    part: str
    stages: tuple[str, ...]
    rows: tuple[Row, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    portraits: tuple[Portrait, ...] = ()

    def row(self, split: str, who: str, metric: str) -> Row:
        """One row; KeyError where there is none."""
        for row in self.rows:
            if (row.split, row.who, row.metric) == (split, who, metric):
                return row
        raise KeyError((split, who, metric))

    def figure(self, split: str, who: str, metric: str = "jsd_bits") -> Estimate:
        """The figure of ``who`` (a stage, a null, ``noise floor``, ``b - a``); KeyError where there is none."""
        return self.row(split, who, metric).estimate

    def with_behaviour(self, aucs: Mapping[str, Estimate], *, note: str = "") -> Evaluation:
        """The same record with each stage's behaviour AUC as rows of the split ``behaviour``."""
        kept = tuple(row for row in self.rows if row.split != BEHAVIOUR)
        more = tuple(Row(BEHAVIOUR, self.part, who, "auc", "stage", one, note) for who, one in aucs.items())
        return replace(self, rows=kept + more)

    def results(self, who: str) -> list[dict[str, Any]]:
        """The figures of one stage as flat records, for a model card."""
        return [
            {"split": row.split, "metric": row.metric, "value": e.value, "low": e.low, "high": e.high}
            for row in self.rows
            if row.who == who and math.isfinite((e := row.estimate).value)
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
            )
            for one in tree["portraits"]
        )
        return cls(tree["part"], tuple(tree["stages"]), rows, tree["facts"], portraits)

    def to_csv(self) -> str:
        """The rows as CSV with a header; an empty place where a figure does not exist."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["split", "part", "who", "kind", "metric", "value", "low", "high", "n", "note"])
        for row in self.rows:
            one = row.estimate
            figures = [repr(x) if math.isfinite(x) else "" for x in (one.value, one.low, one.high)]
            writer.writerow([row.split, row.part, row.who, row.kind, row.metric, *figures, one.n, row.note])
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


def _estimate(tree: Mapping[str, Any]) -> Estimate:
    value, low, high = (math.nan if tree[key] is None else float(tree[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high, int(tree["n"]))
