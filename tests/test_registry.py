"""The registry: versions never change, numbers are never shared, aliases remember where they were."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from valuealign.errors import AliasMoved, RegistryError, UnknownVersion
from valuealign.registry import Registry
from valuealign.store import Store


@pytest.fixture
def registry(tmp_path: Path):
    store = Store.open(tmp_path / "valuealign.db")
    yield Registry(tmp_path / "registry", store)
    store.close()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "README.md").write_text("what the adapter library wrote")
    return folder


def lay(registry: Registry, adapter: Path, n: int = 1, name: str = "demo"):
    return [registry.register(adapter, name=name, card={"base": "seed", "note": i}) for i in range(n)]


def move(registry: Registry, to: str, expected: str | None, alias: str = "champion"):
    return registry.move("demo", alias, to, expected=expected, who="tester", why="test")


def test_a_version_holds_the_files_their_hashes_and_a_card(registry: Registry, adapter: Path):
    results = [{"split": "items", "jsd": 0.031}, {"split": "groups", "jsd": 0.04}]
    first = registry.register(adapter, name="demo", card={"base": "seed", "results": results, "all_figures": "x.json"})
    second = registry.register(adapter, name="demo", card={"base": "seed"}, parent=first)
    assert (first.id, second.id, second.ref, second.parent) == ("v1", "v2", "demo@v2", "v1")
    assert sorted(p.name for p in first.path.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "card.json",
    ]  # fmt: skip
    card = json.loads((first.path / "card.json").read_text())
    assert set(card["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert card["created"] and card["parent"] is None
    readme = (first.path / "README.md").read_text()
    assert "| split | jsd |" in readme and "| items | 0.0310 |" in readme and "Base model: seed" in readme
    assert "These are the main figures; all of them: x.json." in readme
    assert "main figures" not in (second.path / "README.md").read_text()
    assert registry.versions("demo") == [first, second]
    assert not list((registry.root / "demo").glob(".aside*"))


def test_concurrent_registrations_get_different_numbers(registry: Registry, adapter: Path):
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda i: registry.register(adapter, name="demo", card={"i": i}), range(24)))
    assert sorted(v.number for v in versions) == list(range(1, 25))
    assert {v.number: v.card["i"] for v in versions} == {v.number: v.card["i"] for v in registry.versions("demo")}


@pytest.mark.parametrize("bad", ["adapter_model.bin", "model.pt", "code.py", "folder", "link.json"])
def test_only_plain_safe_files_are_taken(registry: Registry, adapter: Path, tmp_path: Path, bad: str):
    if bad == "folder":
        (adapter / bad).mkdir()
    elif bad == "link.json":
        (tmp_path / "secret.json").write_text("{}")
        (adapter / bad).symlink_to(tmp_path / "secret.json")
    else:
        (adapter / bad).write_bytes(b"x")
    with pytest.raises(RegistryError, match="only plain .safetensors") as caught:
        lay(registry, adapter)
    assert caught.value.where.endswith(bad)
    assert registry.versions("demo") == []


def test_a_folder_without_weights_or_with_a_bad_name_is_refused(registry: Registry, adapter: Path, tmp_path: Path):
    with pytest.raises(RegistryError, match="no such folder"):
        registry.register(tmp_path / "nowhere", name="demo", card={})
    with pytest.raises(RegistryError, match="cannot name"):
        registry.register(adapter, name="../demo", card={})
    with pytest.raises(UnknownVersion):
        registry.register(adapter, name="demo", card={}, parent="v7")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(RegistryError, match="no .safetensors"):
        lay(registry, adapter)
    assert registry.names() == []


@pytest.mark.parametrize("harm", ["change", "rewrite", "swap", "add", "remove"])
def test_a_changed_version_is_not_served(registry: Registry, adapter: Path, harm: str):
    (version,) = lay(registry, adapter)
    assert registry.get("demo@v1") == version
    weights = version.path / "adapter_model.safetensors"
    if harm == "change":
        weights.chmod(0o644)
        weights.write_bytes(b"WEIGHTS")
    elif harm in ("rewrite", "swap"):  # of the same length, and with the time that it had
        time.sleep(0.05)  # longer than a tick of the file system's clock
        before, place = weights.stat(), weights if harm == "rewrite" else adapter / "other.safetensors"
        if harm == "rewrite":
            weights.chmod(0o644)
        place.write_bytes(b"WEIGHTS")
        place.replace(weights)
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif harm == "add":
        (version.path / "extra.json").write_text("{}")
    else:
        weights.unlink()
    with pytest.raises(RegistryError, match="not what was registered|was added|is missing"):
        registry.get("demo@v1")
    with pytest.raises(RegistryError):
        registry.verify(version)


def test_a_reference_names_one_version_or_says_what_there_is(registry: Registry, adapter: Path):
    with pytest.raises(UnknownVersion, match="no model is registered yet"):
        registry.get("demo")
    lay(registry, adapter, 2)
    move(registry, "v2", None)
    for ref in ("demo", "demo@champion", "demo@v2", "v2", "champion"):
        assert registry.get(ref).id == "v2"
    assert registry.get("v1", name="demo").id == "v1"
    with pytest.raises(UnknownVersion, match="no version 'v3' of 'demo'") as caught:
        registry.get("demo@v3")
    assert "v1, v2, champion" in caught.value.mend
    with pytest.raises(UnknownVersion, match="no alias 'canary'"):
        registry.get("demo@canary")
    with pytest.raises(UnknownVersion, match="no model 'dem'") as caught:
        registry.get("dem@v1")
    assert "did you mean 'demo'" in caught.value.mend
    for bad in ("demo@../v1", "../demo@v1", "demo@", "demo@v1/.."):
        with pytest.raises(UnknownVersion):
            registry.get(bad)
    lay(registry, adapter, name="other")
    with pytest.raises(UnknownVersion):
        registry.get("v1")


def test_moves_check_what_was_seen_and_where_they_go(registry: Registry, adapter: Path):
    lay(registry, adapter, 2)
    with pytest.raises(UnknownVersion):
        move(registry, "v9", None)
    with pytest.raises(RegistryError, match="look like a version"):
        move(registry, "v1", None, alias="v2")
    move(registry, "v1", None)
    with pytest.raises(AliasMoved):
        move(registry, "v2", "v2")
    assert registry.alias("demo").version == "v1"
    assert [m.to_version for m in registry.history("demo")] == ["v1"]


def test_rollbacks_go_back_step_by_step(registry: Registry, adapter: Path):
    lay(registry, adapter, 4)
    for to, seen in (("v1", None), ("v2", "v1"), ("v3", "v2")):
        move(registry, to, seen)
    back = [registry.rollback("demo", who="t", why="bad").version for _ in range(2)]
    assert back == ["v2", "v1"]
    with pytest.raises(UnknownVersion, match="nothing to roll back to"):
        registry.rollback("demo", who="t", why="bad")
    move(registry, "v4", "v1")
    assert registry.previous("demo").id == "v1"
    assert registry.rollback("demo", who="t", why="bad").version == "v1"
    kinds = [(m.kind, m.from_version, m.to_version) for m in registry.history("demo")]
    assert kinds == [
        ("move", None, "v1"), ("move", "v1", "v2"), ("move", "v2", "v3"), ("rollback", "v3", "v2"),
        ("rollback", "v2", "v1"), ("move", "v1", "v4"), ("rollback", "v4", "v1"),
    ]  # fmt: skip
    with pytest.raises(UnknownVersion, match="no alias 'canary'"):
        registry.rollback("demo", "canary", who="t", why="bad")


def test_erased_weights_are_gone_and_the_card_stays(registry: Registry, adapter: Path):
    first, second, third = lay(registry, adapter, 3)
    for to, seen in (("v1", None), ("v2", "v1"), ("v3", "v2")):
        move(registry, to, seen)
    with pytest.raises(RegistryError, match="champion points at it"):
        registry.erase_weights("demo@v3", who="officer")
    registry.erase_weights("demo@v2", who="officer")
    registry.erase_weights("demo@v2", who="officer")  # nor does a second time harm
    assert second.erased and not list(second.path.glob("*.safetensors")) and not first.erased
    with pytest.raises(UnknownVersion, match="were erased"):
        registry.get("demo@v2")
    with pytest.raises(UnknownVersion, match="were erased"):
        move(registry, "v2", "v3")
    assert [one.card["note"] for one in registry.versions("demo")] == [0, 1, 2]
    registry.verify(second)
    (second.path / "adapter_config.json").chmod(0o644)
    (second.path / "adapter_config.json").write_text("[]")
    with pytest.raises(RegistryError, match="not what was registered"):
        registry.verify(second)
    with pytest.raises(UnknownVersion):
        registry.erase_weights("demo@v9", who="officer")


def test_a_rollback_passes_over_what_was_erased(registry: Registry, adapter: Path):
    lay(registry, adapter, 4)
    for to, seen in (("v1", None), ("v2", "v1"), ("v3", "v2"), ("v2", "v3"), ("v4", "v2")):
        move(registry, to, seen)
    registry.erase_weights("demo@v3", who="officer")
    assert registry.previous("demo").id == "v2"
    for to in ("v2", "v1"):
        registry.rollback("demo", who="t", why="back")
        assert registry.get("demo").id == to
    assert registry.previous("demo") is None


def test_a_number_that_served_is_not_given_again(registry: Registry, adapter: Path):
    *_, last = lay(registry, adapter, 3)
    for to, seen in (("v1", None), ("v3", "v1"), ("v1", "v3")):
        move(registry, to, seen)
    shutil.rmtree(last.path)
    assert lay(registry, adapter)[0].id == "v4"
