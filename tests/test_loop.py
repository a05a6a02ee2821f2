"""The loop: what a gate lets through, and where feedback ends, whatever happens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from valuealign.config import RunConfig, load
from valuealign.errors import GateError, StoreError, UnknownVersion
from valuealign.loop import Candidate, gate, update
from valuealign.registry import Registry, Version
from valuealign.signals.feedback import feedback_cells
from valuealign.store import Feedback, Judged, Response, Store, new_id
from valuealign.types import Cell, Message

ITEMS, GROUPS = 12, 5


class Exam:
    """Takes the first "log-probability" of each cell for its distance: tests then set distances directly."""

    keys = tuple(("cells", f"q{i}", f"g{g}") for i in range(ITEMS) for g in range(GROUPS))

    def distances(self, logps: Sequence[np.ndarray], part: str = "select"):
        assert part == "select", "a gate must not look at the report part"
        return np.array([logp_K[0] for logp_K in logps]), self.keys


def distances(shift: float = 0.0, *, by_item: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    base_IG = np.random.default_rng(99).uniform(0.02, 0.08, (ITEMS, GROUPS))
    item_I = rng.permutation(np.linspace(-by_item, by_item, ITEMS))
    return [np.array([d, 0.0]) for d in (base_IG + shift + item_I[:, None]).ravel()]


def cell(*, correction: bool = True) -> Cell:
    ask = (Message("user", "What matters?"),)
    return (
        Cell(ask, ("kindness", "power"), (1.0, 0.0), (0.0, 1.0))
        if correction
        else Cell(ask, ("power",), (0.0,), (1.0,))
    )


def candidate(
    folder: Path = Path(), *, champion: float = 0.0, stage1: float = 0.0, by_item: float = 0.0, **scores: Any
) -> Candidate:
    """A candidate whose distance is larger than the champion's and the stage-1 model's by so much."""
    logps = {"candidate": distances(by_item=by_item), "champion": distances(-champion), "stage1": distances(-stage1)}
    before = scores.get("before", [np.array([-9.0, -2.0])])
    return Candidate(
        folder, logps, before, scores.get("after", [np.array([-3.0, -6.0])]), results=scores.get("results")
    )


def outcome(found) -> list[bool]:
    return [check.passed for check in found.checks]


def test_an_equal_model_that_learned_passes():
    found = gate(candidate(), [cell()], Exam(), margin=0.01)
    assert found.passed and outcome(found) == [True] * 4
    lost, _, learned, preferred = (check.figure for check in found.checks)
    assert (lost.value, lost.high, lost.n) == (0.0, 0.0, ITEMS * GROUPS)
    assert learned.value == pytest.approx(6.0 - -4.0)  # (-3 - -9) - (-6 - -2)
    assert (preferred.value, preferred.n) == (1.0, 1)


def test_distance_may_not_be_lost_to_the_champion_nor_step_by_step_to_stage_one():
    assert outcome(gate(candidate(champion=0.02), [cell()], Exam(), margin=0.01))[:2] == [False, True]
    # Each update may lose a little to its champion; the sum of them is held against stage 1.
    assert outcome(gate(candidate(champion=0.004, stage1=0.02), [cell()], Exam(), margin=0.01))[:2] == [True, False]


def test_the_upper_bound_decides_not_the_mean():
    unsure = gate(candidate(by_item=0.03), [cell()], Exam(), margin=0.01)
    assert abs(unsure.checks[0].figure.value) < 1e-9 and not unsure.checks[0].passed
    # Spread over items counts as items: with 60 independent cells the same spread would pass.
    spread_I = np.linspace(-0.03, 0.03, ITEMS)
    standard_error = spread_I.std(ddof=1) / np.sqrt(ITEMS)
    assert unsure.checks[0].figure.high == pytest.approx(2.201 * standard_error, rel=0.12)  # t, 11 degrees of freedom


def test_what_was_corrected_must_move_the_right_way():
    worse = gate(candidate(after=[np.array([-10.0, -1.5])]), [cell()], Exam(), margin=0.01)
    assert outcome(worse) == [True, True, False, True] and not worse.passed
    was_preferred = candidate(before=[np.array([-2.0, -9.0])], after=[np.array([-5.0, -4.0])])
    assert outcome(gate(was_preferred, [cell()], Exam(), margin=0.01))[2:] == [False, False]
    thumb = candidate(before=[np.array([-2.0])], after=[np.array([-4.0])])
    assert outcome(gate(thumb, [cell(correction=False)], Exam(), margin=0.01)) == [True] * 3


def test_a_candidate_that_cannot_be_judged_is_an_error_not_a_pass():
    few = Exam()
    few.keys = tuple(("cells", "q0", f"g{i}") for i in range(ITEMS * GROUPS))
    broken = candidate()
    cases = {
        "fewer than two items": (candidate(), few),
        "no scores of stage1": (
            Candidate(Path(), {k: v for k, v in broken.logps.items() if k != "stage1"}, [], []),
            Exam(),
        ),
        "not scored before and after": (candidate(after=[]), Exam()),
        "not finite": (candidate(after=[np.array([np.nan, 0.0])]), Exam()),
        "not scored on the same cells": (candidate(champion=np.nan), Exam()),
    }
    for words, (made, exam) in cases.items():
        with pytest.raises(GateError, match=words):
            gate(made, [cell()], exam, margin=0.01)


# Feedback becomes cells


def judged(verdict: str, correction: str | None = None, *, ask: str = "What matters?", answer: str = "power") -> Judged:
    response = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", ask),), answer)
    return Judged(Feedback(new_id("fb"), response.id, verdict, correction, "accepted", "now"), response)


def test_feedback_cells_say_what_people_said():
    rows = [
        judged("correction", "kindness"), judged("undesirable"), judged("correction", "kindness"),
        judged("desirable", ask="And?"), judged("correction", "power"),
    ]  # fmt: skip
    correction, answer, good = feedback_cells(rows)
    assert (correction.completions, correction.desirable, correction.undesirable) == (
        ("kindness", "power"),
        (2, 0),
        (0, 2),
    )
    # Somebody rejected the answer, and somebody "corrected" it to itself: both masses stay.
    assert (answer.completions, answer.desirable, answer.undesirable) == (("power",), (1,), (1,))
    assert (good.prompt, good.desirable, good.undesirable) == ((Message("user", "And?"),), (1,), (0,))
    assert [c.n_eff for c in (correction, answer, good)] == [2, 2, 1] and not correction.closed


# The whole update


@dataclass
class World:
    store: Store
    registry: Registry
    folder: Path
    config: RunConfig = field(default_factory=lambda: load(None, ["name=demo"]))
    calls: list[Mapping[str, Any]] = field(default_factory=list)

    def feedback(self, n: int = 1) -> list[str]:
        ids = []
        for _ in range(n):
            asked = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", "What matters?"),), "power")
            response = self.store.add_response(asked)
            ids.append(self.store.add_feedback(response.id, verdict="correction", correction="kindness").id)
        self.store.review(ids, "accepted", who="reviewer")
        return ids

    def trainer(self, **made: Any):
        def train(*, start: Version, cells: Sequence[Cell], also: Mapping[str, Version]) -> Candidate:
            self.calls.append({"start": start, "cells": list(cells), "also": dict(also)})
            return candidate(self.folder, **made)

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

    def status(self, ids: list[str]) -> set[str]:
        return {self.store.feedback(i).status for i in ids}


@pytest.fixture
def world(tmp_path: Path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    store = Store.open(tmp_path / "valuealign.db")
    registry = Registry(tmp_path / "registry", store)
    for alias in ("stage1", "champion"):
        version = registry.register(folder, name="demo", card={"base": "seed", "data_hash": "d"})
        registry.move("demo", alias, version, expected=None, who="t", why="start")
    yield World(store, registry, folder)
    store.close()


def test_a_good_candidate_serves_and_its_feedback_is_used(world: World):
    ids, lines = world.feedback(2), []
    done = world.update(world.trainer(results=[{"x": 1.0}]), progress=lines.append)
    assert done.promoted and done.version.id == "v3" and done.gate.passed and done.feedback == 2
    (call,) = world.calls
    assert call["start"].id == "v2" and {k: v.id for k, v in call["also"].items()} == {"stage1": "v1"}
    assert [c.desirable for c in call["cells"]] == [(2.0, 0.0)]
    assert world.registry.get("demo").id == "v3" and world.status(ids) == {"used"}
    card = world.registry.get("demo@v3").card
    assert (
        card["parent"] == "v2"
        and card["base"] == "seed"
        and card["data_hash"] == "d"
        and card["results"] == [{"x": 1.0}]
    )
    assert card["manifest"]["feedback"] == sorted(ids) and len(card["manifest"]["sha256"]) == 64
    assert [row["passed"] for row in card["gate"]] == [True] * 4
    assert world.registry.history("demo")[-1].figures["gate"] == card["gate"]
    events = [event.event for event in world.store.audit()]
    order = ["manifest.claimed", "version.registered", "gate.passed", "alias.move", "manifest.used"]
    assert [event for event in events if event in order][-5:] == order
    assert any("passed: survey distance" in line for line in lines)
    assert not world.update().promoted and len(world.calls) == 1  # nothing is learned twice


def test_a_refused_candidate_is_kept_but_does_not_serve(world: World):
    ids = world.feedback()
    done = world.update(world.trainer(champion=0.05))
    assert not done.promoted and done.version.id == "v3" and "survey distance lost to champion" in done.reason
    assert world.registry.get("demo").id == "v2" and world.status(ids) == {"accepted"}
    assert world.registry.get("demo@v3").card["gate"][0]["passed"] is False
    assert world.update().promoted and world.status(ids) == {"used"}


def test_a_trainer_that_fails_leaves_everything_as_it_was(world: World):
    ids = world.feedback()

    def broken(**_: Any) -> Candidate:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        world.update(broken)
    assert [v.id for v in world.registry.versions("demo")] == ["v1", "v2"]
    assert world.store.audit()[-1].detail["why"].endswith("out of memory")
    assert world.update().promoted and world.status(ids) == {"used"}


def test_an_update_that_dies_gives_its_feedback_back_when_the_lease_ends(world: World):
    ids = world.feedback()
    assert world.store.claim("demo", who="dead", lease_s=0.2) is not None
    waiting = world.update()
    assert not waiting.promoted and waiting.version is None and "nothing to learn" in waiting.reason
    time.sleep(0.3)
    assert world.update().promoted and world.status(ids) == {"used"}


def test_a_long_training_keeps_its_lease(world: World):
    world.feedback()

    def slow(**asked: Any) -> Candidate:
        time.sleep(0.9)
        assert world.store.claim("demo", who="other", lease_s=9) is None
        return world.trainer()(**asked)

    assert world.update(slow, lease_s=0.3).promoted


def test_who_lost_the_lease_promotes_nothing(world: World):
    world.feedback()

    def robbed(**asked: Any) -> Candidate:
        with world.store._write() as connection:
            connection.exec_driver_sql("UPDATE manifests SET status = 'released'")
        return world.trainer()(**asked)

    with pytest.raises(StoreError, match="lease"):
        world.update(robbed)
    assert world.registry.get("demo").id == "v2"


def test_a_champion_that_moved_meanwhile_wins(world: World):
    ids = world.feedback()

    def raced(**asked: Any) -> Candidate:
        world.registry.move("demo", "champion", "v1", expected="v2", who="person", why="by hand")
        return world.trainer()(**asked)

    done = world.update(raced)
    assert not done.promoted and "somebody moved" in done.reason
    assert world.registry.get("demo").id == "v1" and world.status(ids) == {"accepted"}


def test_there_must_be_a_champion(world: World):
    world.config = load(None, ["name=nobody"])
    with pytest.raises(UnknownVersion, match="no champion"):
        world.update()
