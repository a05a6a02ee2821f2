"""Where preflight looks: the cluster, a group of its processes, a folder on shared storage, the project's service."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from packaging.version import Version

from valuealign.config import RunConfig
from valuealign.errors import ModelError
from valuealign.preflight.outcome import Progress
from valuealign.preflight.small import Setting

if TYPE_CHECKING:
    from valuealign.cluster.group import Group, Size

WORKERS_WITHOUT_GPU = 2
CPUS = 0.5  # reserved for a process, as a run's default has it


class Service(Protocol):
    """The project's service on the connected cluster, as ``serve.app`` has it."""

    def start(self, config: RunConfig, *, home: Path) -> str:
        """Serve the champion of a home; the URL."""
        ...

    def stop(self) -> None:
        """Take it down."""
        ...

    def running(self) -> tuple[str, ...]:
        """The applications that Ray Serve runs there now."""
        ...


@dataclass
class Site:
    """``out`` lies where all boxes can write, ``home`` is kept; ``model`` is the user's own (None: a tiny one).

    The cluster is joined or started when first needed, and the group of processes too.
    """

    out: Path
    home: Path
    pins: Mapping[str, Version]
    service: Callable[[], Service]
    progress: Progress = print
    model: Path | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _size: Size | None = None
    _group: Group | None = None
    _setting: Setting | None = None

    def size(self) -> Size:
        """The cluster's size. Raises ConfigError if the one that RAY_ADDRESS names is out of reach."""
        if self._size is None:
            from valuealign.cluster.group import size
            from valuealign.cluster.session import cluster

            self._stack.enter_context(cluster())
            self._size = size()
        return self._size

    def group(self) -> Group:
        """Processes, one a GPU (two where there is none); those of before unless something failed in them."""
        if self._group is None or self._group.over:
            from valuealign.cluster.group import Group

            gpus = self.size().gpus
            self._group = Group(gpus or WORKERS_WITHOUT_GPU, cpus=CPUS, gpus=1.0 if gpus else 0.0)
        return self._group

    def release(self) -> None:
        """End the group's processes: what comes next needs their GPUs."""
        if self._group is not None and not self._group.over:
            self._group.close()
        self._group = None

    def setting(self) -> Setting:
        """The model, in bf16 on GPUs, else in fp32; and who trains it. Raises ModelError for a folder that is none."""
        if self._setting is None:
            from valuealign.preflight.workers import given, tiny

            gpus = self.size().gpus
            folder = given(self.model) if self.model else tiny(self.home)
            self._setting = Setting(
                folder=folder,
                tiny=self.model is None,
                dtype="bfloat16" if gpus else "float32",
                workers=gpus or WORKERS_WITHOUT_GPU,
                gpus=1.0 if gpus else 0.0,
            )
        return self._setting

    def folder(self, name: str) -> Path:
        """A fresh folder of a check's own. Raises ModelError where it cannot be made."""
        made = self.out / name
        try:
            made.mkdir(parents=True)
        except OSError as error:
            mend = "set VALUEALIGN_HOME to a folder that you may write to"
            raise ModelError(f"cannot be made ({error.strerror})", where=str(made), mend=mend) from None
        return made

    def close(self) -> None:
        """End what was started."""
        if self._size is not None:
            self.release()
        self._stack.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
