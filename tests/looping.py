"""A loop without a model: a store, a registry, an exam and a trainer whose figures a test sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from valuealign.config import GateConfig, RunConfig, load
from valuealign.loop import Candidate, rebuild, update
from valuealign.registry import Registry, Version
from valuealign.store import Response, Store, new_id
from valuealign.types import Cell, Message

ITEMS = 12
GROUPS = ("everyone", "sex=f", "sex=m", "age=old", "age=old & sex=f")
RULES = GateConfig(regression_margin=None)
SURVEY = 7  # checks of the survey: distance and worst group against two, spread on two sides, KL


class Exam:
    """Takes the first "log-probability" of each cell for its distance, and answers with shares whose log-odds are the
    second: tests then set distances directly."""

    keys = tuple(("cells", f"q{i}", group) for i in range(ITEMS) for group in GROUPS)

    def distances(self, logps: Sequence[np.ndarray], part: str = "select"):
        assert part == "select", "a gate must not look at the report part"
        return np.array([logp_K[0] for logp_K in logps]), self.keys

    def shares(self, logps: Sequence[np.ndarray], part: str = "select"):
        assert part == "select", "a gate must not look at the report part"
        first_C = 1 / (1 + np.exp(-np.array([logp_K[1] for logp_K in logps])))
        return np.stack([first_C, 1 - first_C], axis=1), self.keys


def distances(shift: float = 0.0, *, by_item: float = 0.0, group: Mapping[str, float] = {}, odds: float = 0.0):
    rng = np.random.default_rng(0)
    base_IG = np.random.default_rng(99).uniform(0.02, 0.08, (ITEMS, len(GROUPS)))
    item_I = rng.permutation(np.linspace(-by_item, by_item, ITEMS))
    more_G = np.array([group.get(name, 0.0) for name in GROUPS])
    return [np.array([d, odds]) for d in (base_IG + shift + item_I[:, None] + more_G).ravel()]


def cell(*, correction: bool = True, ask: str = "What matters?") -> Cell:
    prompt = (Message("user", ask),)
    return (
        Cell(prompt, ("kindness", "power"), (1.0, 0.0), (0.0, 1.0))
        if correction
        else Cell(prompt, ("power",), (0.0,), (1.0,))
    )


LEARNED, IGNORED = np.array([-3.0, -6.0]), np.array([-9.0, -2.0])


def candidate(
    folder: Path = Path(), *, champion: float = 0.0, stage1: float = 0.0, by_item: float = 0.0, **scores: Any
) -> Candidate:
    """A candidate whose distance is larger than the champion's and the stage-1 model's by so much."""
    mine = distances(by_item=by_item, group=scores.get("group", {}), odds=scores.get("odds", 0.0))
    logps = {"candidate": mine, "champion": distances(-champion), "stage1": distances(-stage1)}
    before = scores.get("before", [IGNORED])
    return Candidate(
        folder,
        logps,
        before,
        scores.get("after", [LEARNED]),
        results=scores.get("results"),
        asked=scores.get("asked", {}),
    )


@dataclass
class World:
    store: Store
    registry: Registry
    folder: Path
    config: RunConfig = field(default_factory=lambda: load(None, ["name=demo", "gate.regression_margin=null"]))
    calls: list[Mapping[str, Any]] = field(default_factory=list)

    def feedback(self, n: int = 1, **said: Any) -> list[str]:
        ids = []
        for _ in range(n):
            asked = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", "What matters?"),), "power")
            response = self.store.add_response(asked)
            said = {"verdict": "correction", "correction": "kindness"} | said
            ids.append(self.store.add_feedback(response.id, **said).id)
        self.store.review(ids, "accepted", who="reviewer")
        return ids

    def trainer(self, **made: Any):
        def train(
            *, start: Version, cells: Sequence[Cell], also: Mapping[str, Version], ask: Mapping[str, Sequence[Cell]]
        ) -> Candidate:
            self.calls.append({"start": start, "cells": list(cells), "also": dict(also), "ask": dict(ask)})
            sets = {
                who: {name: [LEARNED if who == "candidate" else IGNORED] * len(some) for name, some in ask.items()}
                for who in ("start", "champion", "stage1", "candidate")
            }
            scores = {"before": [IGNORED] * len(cells), "after": [LEARNED] * len(cells), "asked": sets}
            return candidate(self.folder, **scores | made)

        return train

    def update(self, trainer: Any = None, **more: Any):
        return update(
            self.config,
            store=self.store,
            registry=self.registry,
            trainer=trainer or self.trainer(),
            exam=Exam(),
            who="t",
            **more,
        )

    def rebuild(self, trainer: Any = None):
        how: dict[str, Any] = {"store": self.store, "registry": self.registry, "exam": Exam(), "who": "t"}
        return rebuild(self.config, trainer=trainer or self.trainer(), **how)

    def status(self, ids: list[str]) -> set[str]:
        return {self.store.feedback(i).status for i in ids}


@contextmanager
def a_world(place: Path) -> Iterator[World]:
    """v1 is stage1, v2 the champion; nothing was posted."""
    folder = place / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    store = Store.open(place / "valuealign.db")
    registry = Registry(place / "registry", store)
    for alias in ("stage1", "champion"):
        version = registry.register(folder, name="demo", card={"base": "seed", "data_hash": "d"})
        registry.move("demo", alias, version, expected=None, who="t", why="start")
    yield World(store, registry, folder)
    store.close()
