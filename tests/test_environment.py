"""prepare_environment: sets what is not set, and nothing a user or a running cluster chose."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NOT_INHERITED, ROOT

from valuealign.cluster import env
from valuealign.errors import ConfigError


@pytest.fixture(autouse=True)
def bare(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that nothing has prepared; monkeypatch puts everything back."""
    for name in [*NOT_INHERITED, *env.SETTINGS, "TORCH_EXTENSIONS_DIR", "DS_ACCELERATOR"]:
        monkeypatch.setenv(name, "")  # noted for putting back, then removed
        monkeypatch.delenv(name)


def test_sets_all_and_says_what(home: Path) -> None:
    fresh = env.prepare_environment()
    assert {**env.SETTINGS, "RAY_AUTH_MODE": "token"}.items() <= fresh.items()
    assert all(os.environ[name] == value for name, value in fresh.items())
    assert fresh["TORCH_EXTENSIONS_DIR"] == str(home / "torch_extensions")
    assert env.prepare_environment() == {}, "a second call has nothing to set"


def test_leaves_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "HF_HUB_OFFLINE" not in env.prepare_environment()
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_the_token_is_its_owner_s_alone_and_stays(home: Path) -> None:
    path = Path(env.prepare_environment()["RAY_AUTH_TOKEN_PATH"])
    assert path.parent == home and stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text(encoding="ascii")
    assert len(token) == 2 * env.TOKEN_BYTES
    del os.environ["RAY_AUTH_TOKEN_PATH"], os.environ["RAY_AUTH_MODE"]
    assert env.prepare_environment()["RAY_AUTH_TOKEN_PATH"] == str(path)
    assert path.read_text(encoding="ascii") == token
    assert [entry.name for entry in home.iterdir()] == ["ray_token"], "nothing lies beside it"


def test_a_dry_run_touches_no_file(home: Path) -> None:
    env.prepare_environment(token_file=False)
    assert not list(home.iterdir())
    env.make_token()
    assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text(encoding="ascii")


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_ADDRESS", "127.0.0.1:6379"), ("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "abc")],
)
def test_a_cluster_s_own_token_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    fresh = env.prepare_environment()
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"} & set(fresh)
    assert not (home / "ray_token").exists()


@pytest.mark.parametrize("gpu", [True, False])
def test_the_accelerator_is_named_only_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    device = tmp_path / "device"
    if gpu:
        device.touch()
    monkeypatch.setattr(env, "GPU_DEVICES", (str(device),))
    assert env.prepare_environment().get("DS_ACCELERATOR") == (None if gpu else "cpu")


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VALUEALIGN_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="VALUEALIGN_HOME"):
        env.prepare_environment()


def test_a_shell_gets_the_same(tmp_path: Path) -> None:
    """eval "$(python -m valuealign.cluster.env)", with a blank and a quote in the home's name."""
    home = tmp_path / "a home's"
    script = f'eval "$({shlex.quote(sys.executable)} -m valuealign.cluster.env)" && env -0'
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=ROOT,
        env={**os.environ, "VALUEALIGN_HOME": str(home)},
        capture_output=True,
        check=True,
    )
    shell = dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)
    assert shell["VALUEALIGN_HOME"] == str(home) and shell["RAY_AUTH_TOKEN_PATH"] == str(home / "ray_token")
    assert env.SETTINGS.items() <= shell.items()


def test_a_shell_is_told_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "valuealign.cluster.env"],
        cwd=ROOT,
        env={**os.environ, "VALUEALIGN_HOME": str(tmp_path / "file")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not done.stdout
    assert "mend:" in done.stderr and "Traceback" not in done.stderr
