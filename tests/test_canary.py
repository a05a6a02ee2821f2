"""The canary: what passed the gate serves a share first, until it is promoted or called back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from looping import World, a_world

from valuealign.config import load
from valuealign.errors import AliasMoved, UnknownVersion
from valuealign.loop.canary import call_back, compare, drawn, out, promote_canary
from valuealign.store import Response, new_id
from valuealign.types import Message


@pytest.fixture
def world(tmp_path: Path):
    with a_world(tmp_path) as made:
        made.config = load(None, ["name=demo", "gate.regression_margin=null", "update.canary=0.05"])
        made.feedback()
        yield made


def test_a_share_of_the_requests_is_drawn():
    ids = [new_id("req") for _ in range(4000)]
    assert 0.03 < sum(drawn(id, 0.05) for id in ids) / len(ids) < 0.07
    assert all(drawn(id, 0.05) == drawn(id, 0.05) for id in ids[:9]) and not any(drawn(id, 0.0) for id in ids)
    assert all(drawn(id, 0.5) for id in ids if drawn(id, 0.05)), "a larger share holds the smaller one"


def test_what_passed_is_canary_until_it_is_promoted(world: World):
    done = world.update()
    assert done.promoted and "5% of the requests" in done.reason
    assert world.registry.get("demo@champion").id == "v2" and out(world.registry, "demo").id == "v3"
    world.feedback()
    assert "a canary is out" in world.update().reason and len(world.calls) == 1
    promote_canary(world.registry, "demo", who="t", why="good")
    assert world.registry.get("demo@champion").id == "v3" and out(world.registry, "demo") is None
    assert world.registry.history("demo")[-1].figures["gate"], "the gate's figures are in the champion's history"
    assert world.update().promoted and out(world.registry, "demo").id == "v4"
    call_back(world.registry, "demo", who="t", why="bad")
    assert world.registry.get("demo@champion").id == "v3" and out(world.registry, "demo") is None
    for end in (promote_canary, call_back):
        with pytest.raises(UnknownVersion, match="no canary"):
            end(world.registry, "demo", who="t", why="")


def test_a_canary_that_was_promoted_and_rolled_back_is_none_again(world: World):
    world.update()
    promote_canary(world.registry, "demo", who="t", why="good")
    world.registry.rollback("demo", who="t", why="it was not")
    assert world.registry.get("demo").id == "v2" and out(world.registry, "demo") is None
    with pytest.raises(UnknownVersion, match="no canary"):
        promote_canary(world.registry, "demo", who="t", why="")
    world.feedback(correction="patience")
    assert world.update().promoted and out(world.registry, "demo").id == "v4", "and no update is held up"


def test_after_a_new_alignment_an_ended_canary_is_none(world: World):
    world.update()
    call_back(world.registry, "demo", who="t", why="bad")
    anew = world.registry.register(world.folder, name="demo", card={"base": "seed"})
    world.registry.move("demo", "champion", anew, expected="v2", who="t", why="a new wave")
    assert out(world.registry, "demo") is None, "what it was called back to is no canary"
    world.registry.move("demo", "canary", "v2", expected="v2", who="person", why="once more")
    assert out(world.registry, "demo").id == "v2", "unless somebody says so"


def test_a_canary_of_another_champion_is_not_promoted(world: World):
    world.update()
    world.registry.move("demo", "champion", "v1", expected="v2", who="person", why="by hand")
    with pytest.raises(AliasMoved, match="learned from v2"):
        promote_canary(world.registry, "demo", who="t", why="")


def test_a_canary_of_a_champion_that_moved_meanwhile_is_not_sent_out(world: World):
    ids = world.feedback()

    def raced(**asked: Any):
        world.registry.move("demo", "champion", "v1", expected="v2", who="person", why="by hand")
        return world.trainer()(**asked)

    done = world.update(raced)
    assert not done.promoted and "somebody moved" in done.reason and world.status(ids) == {"accepted"}
    assert world.registry.alias("demo", "canary") is None


@pytest.mark.parametrize("first", [True, False])
def test_an_update_leaves_another_updates_canary_out(world: World, first: bool):
    if not first:
        world.update()
        call_back(world.registry, "demo", who="t", why="bad")
    ids = world.feedback(correction="patience")

    def raced(**asked: Any):
        world.feedback(correction="courage")
        assert world.update().promoted, "the other one is faster"
        return world.trainer()(**asked)

    done = world.update(raced)
    assert not done.promoted and "sent out a canary" in done.reason and world.status(ids) == {"accepted"}
    assert out(world.registry, "demo").id != done.version.id


def test_it_is_compared_by_what_people_say_of_it(world: World):
    assert compare(world.store, world.registry, "demo") is None
    world.update()

    def judge(version: str, verdict: str, times: int) -> None:
        for _ in range(times):
            asked = Response(new_id("chat"), "chat", "demo", version, (Message("user", "?"),), "power")
            world.store.add_feedback(world.store.add_response(asked).id, verdict=verdict)

    judge("v3", "undesirable", 5)
    judge("v2", "desirable", 5)
    few = compare(world.store, world.registry, "demo")
    assert few.wanting == (1.0, 0.0) and not few.worse, "five answers are no evidence"
    judge("v3", "undesirable", 10)
    judge("v3", "desirable", 5)
    judge("v2", "desirable", 15)
    found = compare(world.store, world.registry, "demo")
    assert (found.canary, found.champion, found.wanting) == (20, 20, (0.75, 0.0)) and found.worse
    assert "the canary is worse" in str(found) and found.apart.value == pytest.approx(0.75)
