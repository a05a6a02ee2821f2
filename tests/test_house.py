"""The shape of the house: who imports whom, where the heavy libraries live, what each room must have."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT

# Top to bottom: a room imports only what stands above it, or itself. A new room is added here on purpose.
ROOMS = (
    "types",
    "errors",
    "disk",
    "config",
    "runs",
    "weighting",
    "values",
    "objectives",
    "metrics",
    "surveys",
    "population",
    "splits",
    "dataset",
    "store",
    "model_card",
    "registry",
    "backup",
    "collect",
    "prompts",
    "signals",
    "packing",
    "pairing",
    "models",
    "reference",
    "engine",
    "learner",
    "online",
    "evaluate",
    "prepared",
    "planner",
    "report",
    "loop",
    "cluster",
    "compare",
    "preflight",
)

# Heavy libraries and the only places that import them (files, or folders with everything in them).
FLOORS = {
    "ray": ("valuealign/cluster/", "jobs/", "serve/app.py"),
    "deepspeed": ("valuealign/cluster/deepspeed_engine.py",),
    "transformers": ("valuealign/models/",),
    "peft": ("valuealign/models/",),
    "tokenizers": ("valuealign/models/",),
    "tensorboardX": ("valuealign/cluster/tracking.py",),
    "mlflow": ("valuealign/cluster/tracking.py",),
    "wandb": ("valuealign/cluster/tracking.py",),
}

# The doors: a package's dict, where one more file makes one more entry.
REGISTRIES = {
    "objectives": "OBJECTIVES",
    "surveys": "SURVEYS",
    "metrics": "METRICS",
    "signals": "SIGNALS",
    "values": "THEORIES",
}

LONGEST_FILE = 450  # lines
LONGEST_JOB = 100


class Import(NamedTuple):
    """One imported module, by its full name, and the line that imports it."""

    module: str
    line: int


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parsed(source: str) -> ast.Module:
    """Several tests look at each file."""
    return ast.parse(source)


def imports(source: str, module: str, *, is_package: bool) -> Iterator[Import]:
    """Every import of a file, those inside functions and under TYPE_CHECKING too."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from valuealign import config` names a room in its second half.
            yield from (Import(f"{stem}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield Import(node.args[0].value, node.lineno)


@functools.cache
def imports_of(path: Path) -> list[Import]:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    return list(imports(path.read_text(encoding="utf-8"), module, is_package=is_package))


def room_of(module: str) -> str | None:
    """The room of a module of valuealign; None for the package itself and for everything else."""
    parts = module.split(".")
    return parts[1] if parts[0] == "valuealign" and len(parts) > 1 else None


def looks_up(room: str, imported: str) -> bool:
    """Whether a room may import a module: what stands above it, itself, or what is no room."""
    other = room_of(imported)
    if other is None or other == room or other.startswith("__"):
        return True
    return other in ROOMS and ROOMS.index(other) < ROOMS.index(room)


VALUEALIGN = python_files("valuealign")
EVERYTHING = python_files("valuealign", "jobs", "serve")


def test_every_room_is_in_the_listing() -> None:
    present = {path.relative_to(ROOT / "valuealign").parts[0].removesuffix(".py") for path in VALUEALIGN}
    strangers = present - set(ROOMS) - {"__init__"}
    assert not strangers, f"rooms without a place in the listing: {sorted(strangers)}"


@pytest.mark.parametrize("path", VALUEALIGN, ids=relative)
def test_imports_go_downward_only(path: Path) -> None:
    room = path.relative_to(ROOT / "valuealign").parts[0].removesuffix(".py")
    if room == "__init__":
        wrong = [found for found in imports_of(path) if room_of(found.module)]
        assert not wrong, f"valuealign itself imports no room, or every import would load it: {wrong}"
        return
    wrong = [found for found in imports_of(path) if not looks_up(room, found.module)]
    assert not wrong, f"{relative(path)} imports what stands below it: {wrong}"
    beside = [found for found in imports_of(path) if found.module.split(".")[0] in ("jobs", "serve", "tests")]
    assert not beside, f"{relative(path)} imports its own callers: {beside}"


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_heavy_libraries_stay_on_their_floors(path: Path) -> None:
    name = relative(path)
    for found in imports_of(path):
        allowed = FLOORS.get(found.module.split(".")[0])
        if allowed is not None:
            assert any(name == place or (place.endswith("/") and name.startswith(place)) for place in allowed), (
                f"{name}:{found.line} imports {found.module}; allowed in {', '.join(allowed)}"
            )


def test_the_reader_of_imports_sees_them_all() -> None:
    """Else the tests above could not fail."""
    source = (
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from valuealign.loop import Gate\n"
        "def f():\n    import ray.train\n    from . import sibling\n    from ..cluster import sweep\n"
        "import importlib; importlib.import_module('deepspeed')\n"
        "from valuealign import report\n"
    )
    seen = {found.module for found in imports(source, "valuealign.signals.x", is_package=False)}
    assert {"valuealign.loop.Gate", "ray.train", "valuealign.signals.sibling", "valuealign.cluster.sweep"} <= seen
    assert {"deepspeed", "valuealign.report"} <= seen
    assert not looks_up("signals", "valuealign.loop.Gate") and not looks_up("signals", "valuealign.report")
    assert looks_up("signals", "valuealign.signals.sibling") and looks_up("signals", "valuealign.types.Cell")
    assert not looks_up("signals", "valuealign.unheard_of")


LOADED_BY = """
import sys
import {module}
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""


def loaded_by(module: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BY.format(module=module)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_objectives_load_no_heavy_library() -> None:
    loaded = loaded_by("valuealign.objectives")
    assert "valuealign" in loaded
    assert not loaded & set(FLOORS)


def test_environment_is_set_before_anything_heavy_loads() -> None:
    assert not loaded_by("valuealign.cluster.env") & {*FLOORS, "torch"}


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_files_stay_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{relative(path)} has {lines} lines: a room of it wants its own file"


@pytest.mark.parametrize("path", python_files("jobs"), ids=relative)
def test_jobs_are_thin(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_JOB * 1.2, f"{relative(path)} has {lines} lines: what it does belongs into valuealign/"


def public_definitions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Public functions and classes at a file's top level, and the public methods of those classes."""
    tree = parsed(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, kinds[:2]) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("path", VALUEALIGN, ids=relative)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(parsed(path.read_text(encoding="utf-8"))), f"{relative(path)} does not say what it is"
    if path.stem.startswith("_") and path.stem != "__init__":
        return  # a private file: its package's own business
    bare = [
        f"{name} (line {node.lineno})"
        for name, node in public_definitions(path)
        if not ast.get_docstring(node) and not _only_declares(node)
    ]
    assert not bare, f"{relative(path)}: {', '.join(bare)}"


def _only_declares(node: ast.AST) -> bool:
    """A protocol's method or an overload: its whole body is `...`."""
    body = getattr(node, "body", [])
    return len(body) == 1 and isinstance(body[0], ast.Expr) and getattr(body[0].value, "value", None) is ...


@pytest.mark.parametrize("room", REGISTRIES)
def test_every_file_of_a_package_is_behind_its_door(room: str) -> None:
    """A new entry is one file and one line: the file that no line names would never be run."""
    package = importlib.import_module(f"valuealign.{room}")
    entries = getattr(package, REGISTRIES[room])
    assert isinstance(entries, dict) and entries, f"{REGISTRIES[room]} is empty"
    assert all(isinstance(name, str) and name == name.strip() and name for name in entries)

    folder = ROOT / "valuealign" / room
    files = {path.stem: path for path in folder.glob("*.py")} | {
        path.parent.name: path for path in folder.glob("*/__init__.py")
    }
    reached, ahead = set[str](), ["__init__"]
    while ahead:
        name = ahead.pop()
        if name in files and name not in reached:
            reached.add(name)
            inside = [found.module for found in imports_of(files[name]) if room_of(found.module) == room]
            ahead += [module.split(".")[2] for module in inside if module.count(".") >= 2]
    unseen = set(files) - reached
    assert not unseen, f"nothing that valuealign/{room}/__init__.py imports leads to {sorted(unseen)}"
