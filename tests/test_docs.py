"""The documents name what is there: every key, every job, every route, and no file that is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT
from serving import Echo, service

from valuealign.config import RunConfig, keys

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py") if not path.name.startswith("_"))
KEYS = {key: default for key, default, _ in keys(RunConfig)}


def documented_keys() -> dict[str, str]:
    """Key -> default, as the tables of docs/configuration.md have them."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `([a-z0-9_.]+)` \| `([^`]*)` \|", text, flags=re.MULTILINE))


def shown(default: object) -> str:
    if isinstance(default, list):
        return "[" + ", ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in default) + "]"
    return str(default)


def the_map() -> list[str]:
    """The paths of the README's map."""
    section = README.partition("\n## Map\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)


def test_every_key_is_documented_with_its_default() -> None:
    documented = documented_keys()
    assert not KEYS.keys() - documented.keys(), "docs/configuration.md lacks keys"
    assert not documented.keys() - KEYS.keys(), "docs/configuration.md has keys that are none"
    stale = {
        key: f"docs say {documented[key]}, the default is {shown(default)}"
        for key, default in KEYS.items()
        if documented[key] != shown(default)
    }
    assert not stale


EVALUATE = re.findall(r'click\.option\(\s*"(--[a-z-]+)"', (ROOT / "jobs" / "evaluate.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("option", EVALUATE)
def test_every_option_of_an_evaluation_is_in_a_command_of_the_docs(option: str) -> None:
    assert len(EVALUATE) > 6
    commands = [
        line
        for path in (ROOT / "docs").glob("*.md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "python jobs/evaluate.py " in line
    ]
    assert any(f" {option} " in line for line in commands), f"no command in docs/ shows {option}"


@pytest.mark.parametrize("job", JOBS)
def test_every_job_is_in_the_readme(job: str) -> None:
    assert f"jobs/{job}" in README


def test_what_the_map_names_exists() -> None:
    assert len(the_map()) > len(JOBS)
    missing = [path for path in the_map() if not (ROOT / path).exists()]
    assert not missing, f"README's map names what is not there: {missing}"


def test_the_map_has_every_room() -> None:
    rooms = {
        f"valuealign/{path.name}" + ("/" if path.is_dir() else "")
        for path in (ROOT / "valuealign").iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").is_file()
    }
    assert rooms <= set(the_map()), f"not in README's map: {sorted(rooms - set(the_map()))}"


def test_every_route_is_documented(tmp_path: Path) -> None:
    app, store, _ = service(tmp_path, Echo())
    store.close()
    text = re.sub(r"\{\w+\}", "{id}", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    routes = app.openapi()["paths"]
    assert "/v1/feedback" in routes
    # A parameter's name is the code's affair: /v1/feedback/{feedback_id} may be documented as {id}.
    plain = {re.sub(r"\{\w+\}", "{id}", path): {m.upper() for m in methods} for path, methods in routes.items()}
    missing = [path for path in plain if not re.search(re.escape(path) + r"(?![\w/{])", text)]
    assert not missing, f"docs/api.md lacks {missing}"
    for path, methods in plain.items():
        if "POST" in methods:
            assert f"POST {path}" in text


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    broken = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_commands_name_jobs_and_keys_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    strangers = set(re.findall(r"\bjobs/(\w+\.py)", text)) - {*JOBS, "_job.py"}
    assert not strangers, f"no such jobs: {strangers}"
    sections = {key.split(".")[0] for key in KEYS if "." in key}
    named = re.findall(rf"\b((?:{'|'.join(sorted(sections))})\.[a-z_.]+[a-z])=", text)
    misspelt = "kto.betta"  # docs/configuration.md shows what happens then
    assert not {key for key in named if key not in KEYS and key != misspelt}
