"""Preflight: what passes, fails with a mend or is skipped; and the whole list on a CPU cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from packaging.version import Version

from valuealign.errors import ClusterError, ConfigError, ModelError
from valuealign.preflight import CHECKS, Check, Site, Skip, checks, examine, failed, read_pins, record, table
from valuealign.preflight.packages import compare, installed
from valuealign.preflight.small import Killer, Setting
from valuealign.preflight.workers import losses

SETTING = Setting(Path("model"), True, "float32", 2, 0.0)
ALONE = [2.0 - 0.1 * step for step in range(8)]


def raising(error: Exception) -> Callable[[Any], str]:
    def look(site: Any) -> str:
        raise error

    return look


def quiet(line: str) -> None:
    """Progress that nobody reads."""


LIST = {
    "good": Check("is it good?", "mend it", lambda site: f"saw {site}"),
    "named": Check("?", "the check's mend", raising(ModelError("too old", where="box", mend="its own mend"))),
    "bare": Check("?", "the check's mend", raising(ModelError("too old"))),
    "strange": Check("?", "the check's mend", raising(RuntimeError("\n\nno driver\n  File somewhere\n"))),
    "mute": Check("?", "the check's mend", raising(ZeroDivisionError())),
    "later": Check("?", "m", lambda site: "never seen", ("good", "bare")),
    "elsewhere": Check("?", "m", raising(Skip("one GPU only"))),
    "after": Check("?", "m", lambda site: "seen", ("elsewhere", "good")),
}


def test_a_check_that_raises_has_failed_with_its_text_and_a_mend() -> None:
    said: list[str] = []
    found = {o.name: o for o in examine(LIST, "a site", progress=said.append)}
    assert list(found) == list(LIST), "a failure ends nothing"
    assert (found["good"].status, found["good"].said, found["good"].mend) == ("passed", "saw a site", "")
    assert found["named"][1:4] == ("failed", "box: too old", "its own mend")
    assert found["bare"][1:4] == ("failed", "too old", "the check's mend")
    assert found["strange"][1:4] == ("failed", "RuntimeError: no driver", "the check's mend")
    assert found["mute"][1:4] == ("failed", "ZeroDivisionError: no message", "the check's mend")
    assert found["later"][1:4] == ("skipped", "needs 'bare', which failed", "")
    assert found["elsewhere"][1:4] == ("skipped", "one GPU only", "")
    assert found["after"].status == "passed", "what was skipped holds nothing up"
    assert "1/8 good: is it good?" in said and "  failed  RuntimeError: no driver" in said


def test_the_table_has_every_check_its_mend_and_the_sum() -> None:
    found = examine(LIST, "a site", progress=quiet)
    lines = table(found)
    assert len(lines) == len(LIST) + 4 + 1
    assert lines[1].split()[:2] == ["named", "failed"] and lines[2].strip() == "mend: its own mend"
    assert lines[-1].startswith("2 passed, 4 failed, 2 skipped in ")
    assert not any("File somewhere" in line or "Traceback" in line for line in lines)
    assert failed(found) and not failed(found[:1]) and not failed([o for o in found if o.status == "skipped"])


def test_the_record_is_json() -> None:
    found = json.loads(json.dumps(record(examine(LIST, "a site", progress=quiet))))
    assert found["passed"] is False and len(found["checks"]) == len(LIST)
    assert {"name", "status", "said", "mend", "seconds"} == set(found["checks"][0])


def test_what_a_check_needs_stands_before_it() -> None:
    names = list(CHECKS)
    for number, check in enumerate(CHECKS.values()):
        assert set(check.needs) <= set(names[:number]) and check.mend


def test_the_pins_are_pyproject_s_own() -> None:
    pins = read_pins(ROOT / "pyproject.toml")
    written = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert len(pins) == len(written)
    assert all(f"=={pins[name]}" in next(w for w in written if w.startswith(name)) for name in ("torch", "ray"))
    assert compare(pins, installed(pins)).startswith(f"{len(pins)} as pinned")


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'\n", "[project]\ndependencies = ['torch>=2']\n", "[["])
def test_a_folder_without_pins_is_a_mistake(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match="whole copy of the repository"):
        read_pins(tmp_path / "pyproject.toml")


def test_older_and_missing_packages_are_named() -> None:
    pins = {name: Version(pin) for name, pin in {"torch": "2.13.0", "ray": "2.60.0", "peft": "0.9.1"}.items()}
    have = {"torch": Version("2.13.0+cu130"), "ray": Version("2.60.0"), "peft": Version("0.9.1")}
    assert compare(pins, have) == "3 as pinned or newer"
    # 0.10 is newer than 0.9.1, which no comparison of texts would find.
    assert "newer: peft 0.10.0 (pinned: 0.9.1)" in compare(pins, {**have, "peft": Version("0.10.0")})
    with pytest.raises(ConfigError, match=r"peft is missing; ray 2\.9\.0 < 2\.60\.0.*\n.*make setup"):
        compare(pins, {"torch": have["torch"], "ray": Version("2.9.0")})


def test_a_log_s_losses_in_the_order_done(tmp_path: Path) -> None:
    told = [{"event": "packed"}, *({"event": "step", "step": s, "loss": s / 2} for s in (1, 2, 2))]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, told)) + '\n{"event": "st')
    assert losses(tmp_path) == [(1, 0.5), (2, 1.0), (2, 1.0)]
    with pytest.raises(ModelError, match="no step was done"):
        losses(tmp_path / "elsewhere")


def done(*steps: int, off: float = 0.0) -> list[tuple[int, float]]:
    """The log of a run that did these steps; those done again are off by so much."""
    return [(s, ALONE[s - 1] + off * (s in steps[:i])) for i, s in enumerate(steps)]


def test_a_run_that_was_killed_went_on_and_ended_alike() -> None:
    said = checks.resumed(SETTING, done(1, 2, 3, 4, 3, 4, 5, 6, 7, 8), ALONE, killed=True)
    assert said == "killed after step 4, went on at 3: loss 1.3000, uninterrupted 1.3000"


@pytest.mark.parametrize(
    ("log", "killed", "words"),
    [
        (done(1, 2, 3, 4, 5, 6, 7, 8), True, "no worker was killed"),
        (done(1, 2, 3, 4, 3, 4, 5, 6, 7, 8), False, "no worker was killed"),
        (done(1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8), True, "began anew"),
        (done(1, 2, 3, 4, 3, 4, 5, 6, 7, 8, off=0.01), True, "after the kill is off by 0.01"),
        (done(1, 2, 3, 4, 4, 5, 6, 7), True, "7 steps were done of the interrupted run, not 8"),
        ([*done(1, 2, 3, 4, 3, 4, 5, 6, 7), (8, 1.4)], True, "of the interrupted run is off by 0.1"),
        ([*done(1, 2, 3, 4, 3, 4, 5, 6, 7), (8, float("nan"))], True, "is off by nan"),
    ],
)
def test_a_run_that_did_not_survive_is_told(log: list[tuple[int, float]], killed: bool, words: str) -> None:
    with pytest.raises((ClusterError, ModelError), match=words):
        checks.resumed(SETTING, log, ALONE, killed=killed)


def test_the_killer_kills_once(tmp_path: Path) -> None:
    codes = []
    for _ in range(2):
        process = os.fork()
        if process == 0:  # nothing but this, so that no thread of the parent is missed
            try:
                Killer((), tmp_path / "mark")((), ())
            finally:
                os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    assert codes == [-9, 0]
    assert Killer((), tmp_path / "mark")((), ()) == {}


class Taken:
    """A service where somebody else's application runs."""

    def running(self) -> tuple[str, ...]:
        return ("chat",)

    def start(self, config: Any, *, home: Path) -> str:
        raise AssertionError("left alone")

    stop = start


def site(tmp_path: Path, **change: Any) -> Site:
    how: dict[str, Any] = {"pins": {}, "service": Taken, "progress": quiet, **change}
    return Site(tmp_path / "out", tmp_path / "home", **how)


class Size:
    boxes, cpus, gpus = 1, 4.0, 0


def test_a_gpu_that_the_cluster_does_not_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = site(tmp_path, _size=Size())
    monkeypatch.setattr(checks, "GPU_DEVICES", (str(tmp_path / "nvidia0"),))
    assert checks.ray(here) == "1 box(es), 4 CPUs, 0 GPUs"
    (tmp_path / "nvidia0").touch()
    with pytest.raises(ClusterError, match="--num-gpus"):
        checks.ray(here)


def test_what_is_served_already_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(Skip, match="serves chat, which is left alone"):
        checks.serve(site(tmp_path, _size=Size()))


def test_one_gpu_has_nobody_to_talk_to(tmp_path: Path) -> None:
    alone = Size()
    alone.gpus = 1
    with pytest.raises(Skip, match="no other"):
        checks.collectives(site(tmp_path, _size=alone))


def test_the_job_s_exit_status_and_output(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    import preflight as job

    found = CliRunner().invoke(job.preflight, ["--only", "packages", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["checks"][0]["name"] == "packages"
    assert "1/1 packages" in found.stderr and not list((home / "preflight").iterdir())

    loud = {**CHECKS, "packages": Check("?", "m", lambda site: print("(raylet) by the way") or "seen")}
    monkeypatch.setattr(job, "CHECKS", loud)
    found = CliRunner().invoke(job.preflight, ["--only", "packages", "--json"])
    assert json.loads(found.stdout)["passed"] and "by the way" in found.stderr, "standard output is the JSON's alone"

    broken = {**CHECKS, "packages": Check("?", "mend them", raising(RuntimeError("broken")))}
    monkeypatch.setattr(job, "CHECKS", broken)
    found = CliRunner().invoke(job.preflight, ["--only", "packages"])
    assert found.exit_code == 1 and "mend: mend them" in found.output and "1 failed in 0 s" in found.output
    assert CliRunner().invoke(job.preflight, ["--only", "pakages"]).exit_code == 2
    (home / "file").touch()
    monkeypatch.setenv("VALUEALIGN_HOME", str(home / "file"))
    found = CliRunner().invoke(job.preflight, ["--only", "packages"])
    assert found.exit_code == 2 and "VALUEALIGN_HOME" in found.stderr


def test_the_job_s_help_loads_nothing_heavy() -> None:
    code = "import sys; sys.path.insert(0, 'jobs'); import preflight; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"ray", "torch", "deepspeed", "transformers", "peft", "serve"} & set(done.stdout.split())


@pytest.mark.ray
def test_a_group_in_which_something_failed_is_over(ray_cluster: None, tmp_path: Path) -> None:
    from valuealign.cluster.group import Group

    group = Group(2, cpus=0.5, gpus=0.0)
    assert len({*group.each(os.getpid), group.first(os.getpid)}) == 2
    with pytest.raises(ModelError, match="no step was done") as raised:
        group.each(losses, tmp_path)
    assert type(raised.value) is ModelError and raised.value.mend and group.over
    slow = Group(1, cpus=0.5, gpus=0.0)
    slow.each(os.getpid)
    with pytest.raises(ClusterError, match="1 of 1 workers gave no answer in 1 s"):
        slow.each(time.sleep, 60, seconds=1)
    dying = Group(1, cpus=0.5, gpus=0.0)
    with pytest.raises(ClusterError, match="a worker died"):
        dying.each(os._exit, 1)
    assert slow.over and dying.over


@pytest.mark.ray
def test_the_whole_list_on_a_cpu(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve import app

    monkeypatch.setenv("VALUEALIGN_DB", str(tmp_path / "users-own.db"))
    pins = read_pins(ROOT / "pyproject.toml")
    with Site(tmp_path / "out", tmp_path / "home", pins, lambda: app, progress=print) as here:
        found = examine(CHECKS, here)
    print("\n".join(table(found)))
    assert [(o.name, o.status) for o in found] == [(name, "passed") for name in CHECKS], table(found)
    said = {o.name: o.said for o in found}
    assert "gloo, 2 ranks" in said["collectives"] and "float32" in said["packing"]
    assert "killed after step 4" in said["resume"]
    moved = re.search(r"had moved them by ([\d.e-]+)", said["serve"])
    assert moved and float(moved[1]) > 0.05, "else the base alone would have answered as well"
    assert not (tmp_path / "users-own.db").exists() and not app.running()
