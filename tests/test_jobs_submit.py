"""`ray job submit`, typed exactly as the documents type it, at a head started as they start it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import ROOT
from submitting import Head, head_of_line, ray_head, submit

pytestmark = pytest.mark.ray

NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".valuealign", "__pycache__", "*.egg-info", ".*_cache")

WHERE = """
import os, ray, valuealign
ray.init()

@ray.remote
def package():
    import valuealign
    return valuealign.__file__

print("DRIVER", valuealign.__file__, "WORKER", ray.get(package.remote()), "FOLDER", os.getcwd())
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head in the repository's folder, as docs/cluster.md starts one."""
    with ray_head(ROOT) as running:
        yield running


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, somewhere else."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(ROOT, elsewhere, ignore=NOT_COPIED)
    (elsewhere / "jobs" / "where.py").write_text(WHERE, encoding="utf-8")
    return elsewhere


def test_exactly_as_typed_in_the_repository(head: Head) -> None:
    done = submit(["--", "python", "jobs/sweep_kto.py", "--dry-run"], cwd=ROOT, env=head.env)
    assert done.returncode == 0, done.stdout
    assert "succeeded" in done.stdout
    assert "lambda_d" in done.stdout, "the resolved run is printed"


def test_from_anywhere_without_a_working_directory(head: Head, tmp_path: Path) -> None:
    """The job runs where `ray start` ran, not where it is typed."""
    done = submit(["--", "python", "jobs/sweep_kto.py", "--dry-run"], cwd=tmp_path, env=head.env)
    assert done.returncode == 0, done.stdout


def test_with_a_working_directory_from_anywhere(head: Head, copy: Path) -> None:
    done = submit(["--working-dir", ".", "--", "python", "jobs/sweep_kto.py", "--dry-run"], cwd=copy, env=head.env)
    assert done.returncode == 0, done.stdout
    assert "lambda_d" in done.stdout


def test_a_working_directory_brings_its_own_code(head: Head, copy: Path) -> None:
    """Not the installed project's: in the job and in its workers alike."""
    done = submit(["--working-dir", ".", "--", "python", "jobs/where.py"], cwd=copy, env=head.env)
    assert done.returncode == 0, done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("DRIVER"))
    _, driver, _, worker, _, folder = line.split()
    assert not Path(driver).is_relative_to(ROOT) and driver == worker
    assert Path(driver).is_relative_to(folder)


def test_a_user_s_mistake_fails_the_job(head: Head) -> None:
    done = submit(["--", "python", "jobs/sweep_kto.py", "--dry-run", "kto.bta=1"], cwd=ROOT, env=head.env)
    assert done.returncode != 0
    assert "kto.beta" in done.stdout and "Traceback" not in done.stdout


def test_without_the_token_nothing_is_taken(head: Head, tmp_path: Path) -> None:
    other = tmp_path / "token"
    other.write_text("0" * 64, encoding="ascii")
    done = submit(
        ["--", "python", "jobs/sweep_kto.py", "--dry-run"],
        cwd=ROOT,
        env={**head.env, "RAY_AUTH_TOKEN_PATH": str(other)},
    )
    assert done.returncode != 0 and "succeeded" not in done.stdout


def test_cluster_yaml_s_head_takes_the_command_verbatim(tmp_path: Path) -> None:
    """`ray job submit -- python jobs/sweep_kto.py`, without flag or argument, in another folder; and it stops."""
    line = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["head_start_ray_commands"][-1]
    with head_of_line(line) as head:
        assert head.env["VALUEALIGN_HOME"] == str(head.cwd / ".valuealign")
        assert (head.cwd / ".valuealign" / "ray_token").is_file() and head.env["RAY_AUTH_MODE"] == "token"
        ready = submit(["--", "true"], cwd=tmp_path, env=head.env)  # tried again until the head takes jobs
        assert ready.returncode == 0, ready.stdout
        told = subprocess.run(["ray", "status"], env=dict(head.env), cwd=tmp_path, capture_output=True, text=True)
        assert "0.0/4.0 A40" in told.stdout and "0.0/4.0 GPU" in told.stdout, told.stdout + told.stderr
        typed = subprocess.Popen(
            ["ray", "job", "submit", "--", "python", "jobs/sweep_kto.py"],
            cwd=tmp_path,
            env={**head.env, "PYTHONUNBUFFERED": "1"},  # else Ray's client keeps lines back from a pipe
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert typed.stdout is not None
        said: list[str] = []
        while (line := typed.stdout.readline()) and "making the seed model" not in line:
            said.append(line)
        assert line, "".join(said)
        job = re.search(r"raysubmit_\w+", "".join(said))
        assert job is not None
        stopped = subprocess.run(
            ["ray", "job", "stop", job[0]], env=dict(head.env), cwd=tmp_path, capture_output=True, text=True
        )
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert "was stopped" in typed.communicate(timeout=60)[0]
    assert not [pid for pid in head.pids if psutil.pid_exists(pid)]


def test_the_head_is_alive_and_ends_whole(tmp_path: Path) -> None:
    """What starts a cluster in these tests ends it again, and only it."""
    with ray_head(ROOT, num_cpus=1) as running:
        names = {psutil.Process(pid).name() for pid in running.pids}
        assert {"raylet", "gcs_server"} <= names
    assert not [pid for pid in running.pids if psutil.pid_exists(pid)]
