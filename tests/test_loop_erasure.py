"""Erasure: the receipt names every manifest, version and interval; rebuilding learns the rest anew."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from looping import World, a_world
from typed import typed

from valuealign.config import load
from valuealign.errors import StoreError
from valuealign.loop import anchor, erase, trace
from valuealign.loop.canary import out
from valuealign.loop.lineage import Anchor
from valuealign.registry import Registry
from valuealign.store import Response, Store, new_id
from valuealign.types import Message


@pytest.fixture
def world(tmp_path: Path):
    with a_world(tmp_path) as made:
        yield made


def post(world: World, person: str, ask: str) -> str:
    asked = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", ask),), "power", person=person)
    response = world.store.add_response(asked)
    found = world.store.add_feedback(
        response.id, verdict="correction", correction=f"kindness in {ask}", person=person, principal=person
    )
    world.store.review([found.id], "accepted", who="reviewer")
    return found.id


@pytest.fixture
def taught(world: World) -> tuple[World, dict[str, list[str]]]:
    """Ann's feedback is in v3 and v5, Ben's in v3, Cy's in v4; v6 was refused. Each but the last served."""
    ids: dict[str, list[str]] = {"ann": [], "ben": [], "cy": []}
    for turn in ((("ann", "love"), ("ben", "work")), (("cy", "war"),), (("ann", "money"),)):
        for person, ask in turn:
            ids[person].append(post(world, person, ask))
        assert world.update().promoted
    ids["ben"].append(post(world, "ben", "sleep"))
    assert not world.update(world.trainer(champion=0.9)).promoted
    assert [v.id for v in world.registry.versions("demo")] == ["v1", "v2", "v3", "v4", "v5", "v6"]
    return world, ids


def test_the_receipt_names_all_that_a_person_reached(taught: tuple[World, dict[str, list[str]]]):
    world, ids = taught
    receipt = erase("ann", store=world.store, registry=world.registry, who="officer", key="k1")
    assert sorted(receipt.feedback) == sorted(ids["ann"]) and receipt.rows["feedback"] == 2
    cards = {v.id: v.card for v in world.registry.versions("demo")}
    assert sorted(receipt.manifests) == sorted(cards[v]["manifest"]["id"] for v in ("v3", "v5"))
    assert receipt.trained == ("demo@v3", "demo@v5") and receipt.descendants == ("demo@v4", "demo@v6")
    served = {(one.alias, one.version): one for one in receipt.served}
    assert set(served) == {("champion", "v3"), ("champion", "v4"), ("champion", "v5")}
    assert served["champion", "v3"].end == served["champion", "v4"].start and served["champion", "v5"].end is None
    assert receipt.serving == ("demo@champion",) and "--rebuild" in receipt.mend
    kept = world.registry.root.parent / "erasures" / f"{receipt.id}.models.json"
    assert json.loads(kept.read_text())["trained"] == ["demo@v3", "demo@v5"] and "ann" not in kept.read_text()
    assert not world.store.page_feedback(person="ann").items
    once_more = erase("ann", store=world.store, registry=world.registry, who="officer", key="k1")
    assert once_more.id == receipt.id and once_more.replayed and once_more.trained == receipt.trained


def test_a_receipt_keeps_what_it_said_after_folders_were_removed(taught: tuple[World, dict[str, list[str]]]):
    world, _ = taught
    receipt = erase("ann", store=world.store, registry=world.registry, who="officer", key="k1")
    file = world.registry.root.parent / "erasures" / f"{receipt.id}.models.json"
    written = file.read_bytes()
    for version in ("v3", "v4"):
        shutil.rmtree(world.registry.root / "demo" / version)
    again = erase("ann", store=world.store, registry=world.registry, who="officer", key="k1")
    assert again == replace(receipt, replayed=True) and file.read_bytes() == written
    (erased,) = world.store.erasures()
    now = trace(erased, world.registry)
    assert (now.trained, now.descendants, now.served) == (receipt.trained, receipt.descendants, receipt.served)
    file.write_text("{}")
    with pytest.raises(StoreError, match="cannot be read"):
        trace(erased, world.registry)


def test_who_reached_nothing_gets_a_receipt_that_says_so(taught: tuple[World, dict[str, list[str]]]):
    world, _ = taught
    receipt = erase("zoe", store=world.store, registry=world.registry, who="officer")
    assert not receipt.trained and not receipt.served and receipt.mend == "no version had learned from it"
    refused = erase("ben", store=world.store, registry=world.registry, who="officer")
    assert "demo@v6" in refused.trained, "a refused candidate was trained on it too"


def test_rebuilding_learns_the_rest_anew_from_before(taught: tuple[World, dict[str, list[str]]]):
    world, ids = taught
    assert "nothing to rebuild" in world.rebuild().reason
    erase("ann", store=world.store, registry=world.registry, who="officer")
    done = world.rebuild()
    assert done.promoted and done.version.id == "v7" and done.version.parent == "v2"
    call = world.calls[-1]
    assert call["start"].id == "v2" and {k: v.id for k, v in call["also"].items()} == {"stage1": "v1", "champion": "v5"}
    assert sorted(c.prompt[0].content for c in call["cells"]) == ["war", "work"]
    card = world.registry.get("demo@champion").card
    assert card["manifest"]["feedback"] == sorted([ids["ben"][0], *ids["cy"]]) and not call["ask"].get("earlier")
    assert "nothing to rebuild" in world.rebuild().reason, "what was rebuilt holds nothing that was erased"
    # The rebuilt version is traced like any other.
    receipt = erase("cy", store=world.store, registry=world.registry, who="officer")
    assert "demo@v7" in receipt.trained and receipt.serving == ("demo@champion",)
    # Ben's refused item is still free, and no part of a rebuilding.
    assert world.store.feedback(ids["ben"][1]).status == "accepted"


def test_a_rebuild_keeps_out_what_the_champion_had_not_learned_and_nothing_else(world: World):
    """Drawn anew from all, it would hold out what the champion had trained on."""
    world.config = load(None, ["name=demo", "gate.regression_margin=null", "update.held_out=0.25"])
    post(world, "ann", "love")
    assert world.update().promoted
    for some in (WORDS[:12], WORDS[12:]):
        for word in some:
            post(world, f"who asked of {word}", word)
        assert world.update().promoted
    first, second = (world.registry.get(f"demo@{one}").card["manifest"]["held_out"] for one in ("v4", "v5"))
    assert len(first) == 3 and not second, "nine prompts are too few to keep one out"
    erase("ann", store=world.store, registry=world.registry, who="officer")
    done = world.rebuild()
    assert done.promoted and done.version.card["manifest"]["held_out"] == first
    assert len(world.calls[-1]["cells"]) == 18 and len(world.calls[-1]["ask"]["held out"]) == 3


WORDS = (
    "boats", "cats", "dust", "elms", "frost", "gulls", "hail", "ivory", "jam", "kites", "lakes", "moss",
    "needles", "oats", "pearls", "quilts", "roads", "salt", "tides", "umber", "vines",
)  # fmt: skip


def test_a_rebuilt_candidate_passes_the_gate_or_stays(taught: tuple[World, dict[str, list[str]]]):
    world, _ = taught
    erase("ann", store=world.store, registry=world.registry, who="officer")
    done = world.rebuild(world.trainer(champion=0.9))
    assert not done.promoted and "jobs/promote.py demo v2" in done.reason
    assert world.registry.get("demo@champion").id == "v5"


def test_where_nothing_is_left_the_version_before_serves(world: World):
    post(world, "ann", "love")
    assert world.update().promoted
    erase("ann", store=world.store, registry=world.registry, who="officer")
    done = world.rebuild()
    assert done.promoted and world.registry.get("demo@champion").id == "v2" and len(world.calls) == 1
    assert world.registry.history("demo")[-1].to_version == "v2"


def test_an_erasure_during_an_update_lets_it_promote_nothing(world: World):
    post(world, "ann", "love")

    def slow(**asked: Any):
        erase("ann", store=world.store, registry=world.registry, who="officer")
        return world.trainer()(**asked)

    with pytest.raises(StoreError, match="lease"):
        world.update(slow)
    assert world.registry.get("demo@champion").id == "v2"
    assert [version.id for version in world.registry.versions("demo")] == ["v1", "v2"], "nothing holds what it learned"


def test_a_rebuild_starts_from_a_version_that_still_has_its_weights(taught: tuple[World, dict[str, list[str]]]):
    world, _ = taught
    erase("cy", store=world.store, registry=world.registry, who="officer")
    world.registry.erase_weights("demo@v3", who="officer")
    assert world.rebuild().promoted and world.calls[-1]["start"].id == "v2"


def test_erasing_by_command(home):
    store = Store.open(home / "valuealign.db")
    registry = Registry(home / "registry", store)
    folder = home / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    asked = Response(new_id("chat"), "chat", "demo", "v1", (Message("user", "?"),), "power", person="ann")
    fb = store.add_feedback(store.add_response(asked).id, verdict="undesirable", person="ann").id
    version = registry.register(folder, name="demo", card={"manifest": {"id": "man-1", "feedback": [fb]}})
    registry.move("demo", "champion", version, expected=None, who="t", why="start")
    assert "1 feedback items" in typed("erase", "ann", "--dry-run").stdout and store.feedback(fb)
    told = typed("erase", "ann").stdout
    assert "versions trained on it: demo@v1" in told and "demo@champion was v1" in told and "--rebuild" in told
    assert not store.page_feedback(person="ann").items
    assert "demo@v1" in typed("erase", "--list").stdout
    assert "nobody is named" in typed("erase").stderr
    assert "demo@champion" not in typed("erase", "--weights", "demo@v1", "--dry-run").stderr and not version.erased
    refused = typed("erase", "--weights", "demo@v1")
    assert refused.returncode == 2 and "champion points at it" in refused.stderr
    clean = registry.register(folder, name="demo", card={})
    registry.move("demo", "champion", clean, expected="v1", who="t", why="anew")
    assert "the card stays" in typed("erase", "--weights", "demo@v1").stdout and version.erased
    assert "demo@v1" in typed("erase", "--list").stdout, "what learned from it is still known"
    assert "(weights erased)" in typed("promote", "demo").stdout
    store.close()


def test_the_anchor_is_as_old_as_the_peoples_answers(world: World):
    found = anchor(world.registry, "demo")
    assert found is not None and not found.known and found.version == "demo@v1" and found.days() == 0
    folder = world.folder
    card = {"config": {"survey": {"fieldwork": "2024-05-15"}}}
    asked = world.registry.register(folder, name="demo", card=card)
    world.registry.move("demo", "stage1", asked, expected="v1", who="t", why="a new wave")
    newer = anchor(world.registry, "demo")
    assert (
        isinstance(newer, Anchor)
        and newer.known
        and str(newer.since) == "2024-05-15"
        and newer.days(date(2026, 11, 29)) == 928
    )
    assert "when the people were asked" in str(newer) and anchor(world.registry, "nobody") is None


def test_a_champion_that_moved_during_a_rebuild_wins(taught: tuple[World, dict[str, list[str]]]):
    world, _ = taught
    erase("ann", store=world.store, registry=world.registry, who="officer")

    def raced(**asked: Any):
        world.registry.move("demo", "champion", "v1", expected="v5", who="person", why="by hand")
        return world.trainer()(**asked)

    done = world.rebuild(raced)
    assert not done.promoted and "somebody moved" in done.reason and world.registry.get("demo@champion").id == "v1"


def test_an_erasure_during_a_rebuild_lets_it_promote_nothing(taught: tuple[World, dict[str, list[str]]]):
    world, _ = taught
    erase("ann", store=world.store, registry=world.registry, who="officer")

    def slow(**asked: Any):
        erase("cy", store=world.store, registry=world.registry, who="officer")
        return world.trainer()(**asked)

    with pytest.raises(StoreError, match="run it again"):
        world.rebuild(slow)
    assert world.registry.get("demo@champion").id == "v5" and world.registry.versions("demo")[-1].id == "v6"
    assert world.rebuild().promoted and [c.prompt[0].content for c in world.calls[-1]["cells"]] == ["work"]


def test_a_canary_that_learned_from_it_is_called_back(world: World):
    world.config = load(None, ["name=demo", "gate.regression_margin=null", "update.canary=0.1"])
    post(world, "ann", "love")
    assert world.update().promoted and out(world.registry, "demo").id == "v3"
    receipt = erase("ann", store=world.store, registry=world.registry, who="officer")
    assert receipt.serving == ("demo@canary",)
    assert "nothing to rebuild" in world.rebuild().reason and out(world.registry, "demo") is None
