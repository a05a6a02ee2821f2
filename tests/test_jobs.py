"""The jobs as a user types them: dry runs that touch nothing, mistakes that end with status 2 and a mend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from tiny import make_tiny

pytestmark = pytest.mark.ray

RUN_JOBS = ("align", "sweep_kto", "evaluate", "update", "prepare", "service")
ALL_JOBS = (*RUN_JOBS, "plan", "promote", "review", "demo")


def job(home: Path, name: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "VALUEALIGN_HOME": str(home)}
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


def refused(found: subprocess.CompletedProcess[str], *words: str) -> None:
    assert found.returncode == 2, found.stdout + found.stderr
    assert "Traceback" not in found.stderr
    for word in words:
        assert word in found.stderr, found.stderr


@pytest.mark.parametrize("name", ["align", "sweep_kto"])
def test_a_dry_run_prints_the_resolved_run_and_touches_nothing(home: Path, name: str) -> None:
    found = job(home, name, "kto.beta=0.3", "--dry-run")
    assert found.returncode == 0, found.stderr
    assert yaml.safe_load(found.stdout)["kto"]["beta"] == 0.3
    assert not list(home.iterdir())


@pytest.mark.parametrize("name", ALL_JOBS)
def test_help_teaches(home: Path, name: str) -> None:
    found = job(home, name, "--help")
    assert found.returncode == 0, found.stderr
    assert f"python jobs/{name}.py" in found.stdout
    if name in RUN_JOBS:
        assert "kto.lambda_d" in found.stdout and "--dry-run" in found.stdout
    assert not list(home.iterdir())


def test_a_misspelt_key_names_the_nearest_one(home: Path) -> None:
    refused(job(home, "align", "kto.lamda_d=1"), "kto.lamda_d", "did you mean 'kto.lambda_d'?")


def test_mistakes_end_with_status_2_and_nothing_half_written(home: Path, tmp_path: Path) -> None:
    """One process a mistake is slow, so this takes the ones that cross rooms; the rest are unit tests."""
    refused(job(home, "align", "model.path=nowhere"), "nowhere", "no such model folder", "mend:")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    (bare / "pytorch_model.bin").write_text("x")
    refused(job(home, "align", f"model.path={bare}"), "no safetensors", "pickled weights are not loaded")
    generic = ["survey.reader=generic", "survey.file=missing.csv", "survey.codebook=missing.yaml"]
    refused(job(home, "prepare", *generic, cwd=tmp_path), "missing", "mend:")
    refused(job(home, "update"), "there is no champion", "jobs/align.py")
    refused(job(home, "evaluate"), "demo", "mend:")
    refused(job(home, "promote", "demo", "v1"), "demo", "mend:")
    refused(job(home, "review", "--accept", "fb-none"), "fb-none")
    assert not (home / "runs").exists() and not (home / "registry" / "demo").exists()


def test_prepare_shows_that_weighting_repairs(home: Path) -> None:
    found = job(home, "prepare", "survey.people=2000")
    assert found.returncode == 0, found.stderr
    line = next(x for x in found.stdout.splitlines() if "known truth" in x)
    before, after = (float(word) for word in line.split() if word.startswith("0."))
    assert after < 0.7 * before


def test_a_stage_without_feedback_is_refused(home: Path, shared_data: Path, tmp_path: Path) -> None:
    data = ["survey.reader=generic", f"survey.file={shared_data / 'nonvoters_538' / 'nonvoters_data.csv'}"]
    data += [f"survey.codebook={ROOT / 'examples' / 'nonvoters.yaml'}", f"model.path={make_tiny(tmp_path / 'm')}"]
    refused(job(home, "align", *data), "kto.feedback", "stages='[distribution]'")
