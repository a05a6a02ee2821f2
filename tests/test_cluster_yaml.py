"""cluster.yaml passes Ray's own schema, and the checks that Ray's schema leaves out."""

from __future__ import annotations

import copy
import re
import subprocess
from typing import Any

import pytest
import yaml
from conftest import ROOT

TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")

# The keys of Ray's local provider; its schema lets any other key pass unread.
LOCAL_PROVIDER = {"type", "head_ip", "worker_ips"}


def several_boxes() -> dict[str, Any]:
    """The commented variant, laid over the file as its comment says."""
    _, _, comment = TEXT.partition("# Several boxes:")
    lines = [line[2:] for line in comment.splitlines() if line.startswith("# ")]
    start = next(i for i, line in enumerate(lines) if line.startswith("max_workers:"))
    return {**yaml.safe_load(TEXT), **yaml.safe_load("\n".join(lines[start:]))}


VARIANTS = {"one box": yaml.safe_load(TEXT), "several boxes": several_boxes()}


def accepted(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("variant", VARIANTS)
def test_ray_accepts_it(variant: str) -> None:
    prepared = accepted(VARIANTS[variant])
    boxes = len(VARIANTS[variant]["provider"]["worker_ips"])
    assert prepared["max_workers"] == boxes
    node_types = prepared["available_node_types"]
    assert sum(kind.get("max_workers", 0) for kind in node_types.values()) == boxes


def test_ray_refuses_a_misspelt_key() -> None:
    """The schema is really asked."""
    with pytest.raises(Exception, match="head_start_ray_command"):
        accepted({**VARIANTS["one box"], "head_start_ray_command": []})


@pytest.mark.parametrize("variant", VARIANTS)
def test_provider_has_known_keys_only(variant: str) -> None:
    provider = VARIANTS[variant]["provider"]
    assert set(provider) == LOCAL_PROVIDER and provider["type"] == "local"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_box_is_its_own(variant: str) -> None:
    provider = VARIANTS[variant]["provider"]
    boxes = [provider["head_ip"], *provider["worker_ips"]]
    assert len(set(boxes)) == len(boxes) == VARIANTS[variant]["max_workers"] + 1


def starts(config: dict[str, Any], key: str) -> list[str]:
    return [command for command in config[key] if "ray start" in command]


@pytest.mark.parametrize("variant", VARIANTS)
def test_ray_starts_in_the_repository_with_its_environment(variant: str) -> None:
    """A job without a working directory runs where `ray start` ran."""
    config = VARIANTS[variant]
    commands = starts(config, "head_start_ray_commands") + starts(config, "worker_start_ray_commands")
    assert len(commands) == (1 if variant == "one box" else 2)
    for command in commands:
        before, _, _ = command.partition("ray start")
        steps = [step.strip() for step in before.split("&&")]
        assert steps[0] == "cd ~/valuealign" and "~/valuealign" in config["file_mounts"]
        assert ". .venv/bin/activate" in steps
        assert 'eval "$(python -m valuealign.cluster.env)"' in steps, "the token and the settings of the project"
        assert "--num-gpus=4" in command and """--resources='{"A40": 4}'""" in command


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_box_that_allows_fewer_open_files_starts_all_the_same(variant: str) -> None:
    config = VARIANTS[variant]
    for command in starts(config, "head_start_ray_commands") + starts(config, "worker_start_ray_commands"):
        found = re.search(r"&& (\S*[^&]*ulimit -n [^&]*) && ray start", command)
        assert found is not None
        shell = ["sh", "-c", f"ulimit -n 1000 && {found[1]} && ulimit -n"]
        done = subprocess.run(shell, capture_output=True, text=True)
        # Who may raise the limit all the same gets what was asked.
        assert done.returncode == 0 and done.stdout.strip() in ("1000", "65536"), done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_boxes_keep_what_they_make_in_one_place(variant: str) -> None:
    """The place stands before the token is read there; boxes that share nothing else share it."""
    config = VARIANTS[variant]
    commands = starts(config, "head_start_ray_commands") + starts(config, "worker_start_ray_commands")
    homes = {re.search(r"&& export VALUEALIGN_HOME=(\S+) && eval ", command) for command in commands}
    assert None not in homes
    (home,) = {found[1] for found in homes if found}
    assert home.startswith("~/") == (variant == "one box"), "a home folder is a box's own"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_dashboard_listens_on_loopback(variant: str) -> None:
    """Whoever reaches the dashboard may run jobs."""
    (command,) = starts(VARIANTS[variant], "head_start_ray_commands")
    assert re.search(r"--head\b.*--dashboard-host=127\.0\.0\.1 --dashboard-port=8265\b", command)
    assert "disabled" not in TEXT


def test_workers_join_the_head_s_port() -> None:
    config = VARIANTS["several boxes"]
    (head,) = starts(config, "head_start_ray_commands")
    (worker,) = starts(config, "worker_start_ray_commands")
    port = re.search(r"--port=(\d+)", head)
    assert port is not None and f"--address=$RAY_HEAD_IP:{port[1]}" in worker


def test_what_is_made_here_does_not_travel() -> None:
    config = VARIANTS["one box"]
    assert {".venv", ".valuealign", ".git"} <= set(config["rsync_exclude"])
    assert all((ROOT / source).exists() for source in config["file_mounts"].values())
    assert any("make setup" in command for command in config["setup_commands"])
