"""A job or benchmark as it is typed, run in this process: no interpreter and no imports of its own to wait for."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

JOBS = Path(__file__).parents[1] / "jobs"
BENCHMARKS = JOBS.with_name("benchmarks")


def benchmark(name: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON that ``python benchmarks/NAME.py ARGUMENTS`` ends with, and all that it prints."""
    done = _run(BENCHMARKS / f"{name}.py", arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def typed(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``python jobs/NAME.py ARGUMENTS`` ends with and prints; an error that the job does not foresee is raised."""
    return _run(JOBS / f"{name}.py", arguments)


def _run(script: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    argv, path, status = sys.argv, sys.path[:], 0
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))  # as for a script
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            err.write(ended.code)
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv, sys.path[:] = argv, path
    return subprocess.CompletedProcess(sys.argv, status, out.getvalue(), err.getvalue())
