"""What the benchmarks say of the machine they ran on, and how they round what they print."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

GIB = 2**30


def hardware() -> str:
    """The cores this process may use, their name, and the memory."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{len(os.sched_getaffinity(0))} cores of {name or platform.machine()}, {memory:.0f} GiB"


def peak_gib() -> float:
    """This process's largest resident memory (getrusage's begins with that of the process that started this one)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) / GIB


def rounded(value: Any) -> Any:
    """Floats to four places, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value
