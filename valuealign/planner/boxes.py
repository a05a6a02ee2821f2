"""Machines to plan for: their memory, their arithmetic, and how their GPUs are joined."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from valuealign.errors import ConfigError, nearest

GB = 1e9
USABLE = 0.9  # of a GPU's memory; the rest is the CUDA context, NCCL and fragmentation
CPU = "cpu"


class Gpu(NamedTuple):
    """A GPU as its maker sells it: memory in GB, peak dense TFLOP/s without sparsity, how several are joined.

    ``float32`` is without TF32, as torch multiplies unless told otherwise. ``sends`` is GB/s in each direction to the
    others of its box: PCIe 4.0 of 16 lanes, or NVLink. From NVIDIA's data sheets (L4 2023, A40 2021, L40S 2023,
    A100 2022, H100 and H200 2024; SXM where there is a choice). They print bf16 with sparsity for most, which is
    twice the dense figure, and both directions of a link together.
    """

    memory: float
    bfloat16: float
    float32: float
    link: Literal["PCIe", "NVLink"]
    sends: float


GPUS = {
    "L4": Gpu(24, 121, 30.3, "PCIe", 31.5),
    "A40": Gpu(48, 149.7, 37.4, "PCIe", 31.5),
    "L40S": Gpu(48, 362, 91.6, "PCIe", 31.5),
    "A100-40": Gpu(40, 312, 19.5, "NVLink", 300),
    "A100-80": Gpu(80, 312, 19.5, "NVLink", 300),
    "H100": Gpu(80, 989, 67, "NVLink", 450),
    "H200": Gpu(141, 989, 67, "NVLink", 450),
}


class Box(NamedTuple):
    """A machine: how many GPUs, of which kind, and the memory of each in bytes (as sold, 1e9 a GB).

    The kind ``cpu`` is this machine without any: one process in the host's memory.
    """

    gpus: int
    memory: float
    kind: str

    @property
    def pcie(self) -> bool:
        """Whether several GPUs talk over PCIe alone."""
        return self.gpus > 1 and GPUS[self.kind].link == "PCIe"


BOXES = {f"{n}x{kind}": Box(n, gpu.memory * GB, kind) for kind, gpu in GPUS.items() for n in (1, 2, 4, 8)}


def find_box(name: str) -> Box:
    """The box of a name like ``4xA40``, or this machine for ``cpu``. Raises ConfigError naming the nearest."""
    if name == CPU:
        return Box(1, float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), CPU)
    if name not in BOXES:
        raise ConfigError(f"unknown box '{name}'", where="--box", mend=nearest(name, (*BOXES, CPU)))
    return BOXES[name]
