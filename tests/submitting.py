"""A real cluster from `ray start`, and jobs typed at it as a user types them.

Nothing here uses `ray stop`, which ends every Ray process of the machine: the head runs under
`ray start --block`, so that all of its processes are children of one that we started.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from conftest import NOT_INHERITED, ROOT

from valuealign.cluster import env

BIN = Path(sys.executable).parent
DASHBOARD = 8265
# Ray's workers listen on 10002 to 19999: a dashboard put there collides with them.
FREE_PORTS = range(20000, 32000)
START_SECONDS, JOB_SECONDS = 180, 600
NO_AGENT = "No available agent to submit job"


@dataclass(frozen=True)
class Head:
    """A running head: the environment of a shell that may talk to it, and its processes so far."""

    env: Mapping[str, str]
    cwd: Path
    pids: tuple[int, ...]


def submit(
    args: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float = JOB_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Type ``ray job submit ARGS`` in ``cwd``; what it prints is in ``stdout``, errors too.

    A dashboard answers before the agent that starts jobs is up, and waits ten seconds for it: on a busy
    machine that is too short, so what it then asks for, to try again, is done.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        done = subprocess.run(
            ["ray", "job", "submit", *args],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if NO_AGENT not in done.stdout or time.monotonic() > deadline:
            return done


@contextmanager
def ray_head(cwd: Path, *, num_cpus: int = 4, extra_env: Mapping[str, str] | None = None) -> Iterator[Head]:
    """`ray start --head` in ``cwd``, with the project's environment and a home, token and folder of its own."""
    with _scratch() as scratch:
        shell = shell_environment(scratch, extra_env or {})
        port = _dashboard(shell)
        command = ["ray", "start", "--head", "--block", "--port=0", f"--num-cpus={num_cpus}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}", f"--object-store-memory={256 * 2**20}"]
        # Its usual port, 52365, is among those that any connection may be given: whoever has it, no job starts.
        command += [f"--dashboard-agent-listen-port={_agent_port(port)}"]
        with _running(command, cwd, shell, port, scratch / "ray-start.log") as family:
            yield Head(env=shell, cwd=cwd, pids=tuple(process.pid for process in family))


@contextmanager
def head_of_line(line: str, *, num_cpus: int = 4) -> Iterator[Head]:
    """A head that a line of cluster.yaml starts, in a bare shell on a box whose ~/valuealign is the repository.

    The environment is that of a user's shell there. Of the line only the launcher's own file is left out, and a
    port that is taken is changed; what keeps the head small and in the foreground is added.
    """
    with _scratch() as scratch:
        box = scratch / "user"
        (box / ".valuealign").mkdir(parents=True)
        (box / "valuealign").symlink_to(ROOT)
        path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != BIN)
        bare = {"HOME": str(box), "PATH": path, "RAY_TMPDIR": f"{scratch}/ray"}
        bare |= {name: os.environ[name] for name in ("PYTHONPATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        shell = _printed('cd ~/valuealign && . .venv/bin/activate && eval "$(python -m valuealign.cluster.env)"', bare)
        port = _dashboard(shell)
        for asked, free in ((6379, next(p for p in (6379, *FREE_PORTS) if _is_free(p))), (DASHBOARD, port)):
            line = line.replace(f"port={asked}", f"port={free}")
        line = line.replace(" --autoscaling-config=~/ray_bootstrap_config.yaml", "").replace(
            "ray start", "exec ray start"
        )
        line += f" --dashboard-agent-listen-port={_agent_port(port)}"
        line += f" --block --num-cpus={num_cpus} --object-store-memory={256 * 2**20}"
        with _running(["sh", "-c", line], box, bare, port, scratch / "ray-start.log") as family:
            yield Head(env=shell, cwd=box, pids=tuple(process.pid for process in family))


@contextmanager
def _scratch() -> Iterator[Path]:
    # Short: Ray puts sockets below it, whose paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="va-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "ray").mkdir()
        yield Path(folder)


def _dashboard(shell: dict[str, str]) -> int:
    """A free port for the dashboard, the usual one if it is; ``shell`` is told of another."""
    port = next(p for p in (DASHBOARD, *FREE_PORTS) if _is_free(p))
    if port != DASHBOARD:
        shell["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    return port


def _agent_port(dashboard: int) -> int:
    return next(p for p in FREE_PORTS if p != dashboard and _is_free(p))


@contextmanager
def _running(
    command: Sequence[str], cwd: Path, shell: Mapping[str, str], port: int, log: Path
) -> Iterator[list[psutil.Process]]:
    """The head's processes, from when its dashboard answers; they are ended by their ids."""
    with log.open("w") as out:
        started = psutil.Popen(
            command, cwd=cwd, env=dict(shell), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    family: list[psutil.Process] = [started]
    try:
        _wait_for_the_dashboard(started, port, log)
        family += started.children(recursive=True)
        yield family
    finally:
        _end(family)


def shell_environment(scratch: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """What a shell has after activating the environment and asking the project for its variables."""
    shell = {name: value for name, value in os.environ.items() if name not in (*NOT_INHERITED, *env.SETTINGS)}
    shell |= {
        "PATH": f"{BIN}{os.pathsep}{shell['PATH']}",
        "VIRTUAL_ENV": str(BIN.parent),
        "RAY_TMPDIR": f"{scratch}/ray",
    }
    shell |= {"VALUEALIGN_HOME": str(scratch / "home"), **extra}
    return _printed('eval "$(python -m valuealign.cluster.env)"', shell)


def _printed(line: str, shell: Mapping[str, str]) -> dict[str, str]:
    """The environment after a line of the shell."""
    printed = subprocess.run(
        ["sh", "-c", f"{line} && env -0"], cwd=ROOT, env=dict(shell), capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in printed.stdout.split("\0") if line)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait_for_the_dashboard(started: psutil.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in log.read_text() or _is_free(port):
        assert started.poll() is None, f"ray start ended with {started.returncode}:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"no cluster after {START_SECONDS} s:\n{log.read_text()}"
        time.sleep(0.2)


def _end(family: list[psutil.Process]) -> None:
    """End the head and whatever it started, by process id."""
    processes = set(family)
    for process in family:
        try:
            processes.update(process.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    with suppress(psutil.NoSuchProcess):  # it ended of itself
        family[0].terminate()  # `ray start --block` ends its own children in order
    _, left = psutil.wait_procs(processes, timeout=15)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=15)
