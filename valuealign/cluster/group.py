"""A few processes on the cluster that do the same thing together, without Ray Train: what preflight looks with."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import ray
import torch
import torch.distributed as dist

from valuealign.errors import ClusterError

T = TypeVar("T")
ANSWER_SECONDS = 240.0  # to start and to import, on a slow disk
MEET_SECONDS = 900.0  # until a process waits no longer for the others; whoever asks has less patience


class Size(NamedTuple):
    """What the connected cluster has."""

    boxes: int
    cpus: float
    gpus: int


def size() -> Size:
    """The connected cluster's size."""
    held = ray.cluster_resources()
    boxes = sum(1 for node in ray.nodes() if node["Alive"])
    return Size(boxes, float(held.get("CPU", 0.0)), int(held.get("GPU", 0)))


class Group:
    """``workers`` processes, each with so many CPUs and GPUs; they start at the first call.

    A group in which something failed is over: its processes may wait for each other for ever.
    """

    def __init__(self, workers: int, *, cpus: float, gpus: float) -> None:
        kind = ray.remote(num_cpus=cpus, num_gpus=gpus)(_Member)
        self._members: list[Any] = [kind.remote() for _ in range(workers)]
        self._connected = False
        self.over = False

    def each(self, function: Callable[..., T], *arguments: Any, seconds: float = ANSWER_SECONDS) -> list[T]:
        """What ``function(*arguments)`` returns in every process, by rank.

        Raises what it raises in one of them, and ClusterError where one dies or gives no answer in time.
        """
        return self._ask([member.call.remote(function, arguments) for member in self._members], seconds)

    def first(self, function: Callable[..., T], *arguments: Any, seconds: float = ANSWER_SECONDS) -> T:
        """What ``function(*arguments)`` returns in the process of rank 0. Raises as ``each``."""
        found: list[T] = self._ask([self._members[0].call.remote(function, arguments)], seconds)
        return found[0]

    def connect(self) -> None:
        """Make the processes one process group: NCCL between GPUs, else gloo. Raises as ``each``."""
        if self._connected:
            return
        address, port = self.first(_address)
        world = len(self._members)
        joins = [m.call.remote(_join, (rank, world, address, port)) for rank, m in enumerate(self._members)]
        self._ask(joins, ANSWER_SECONDS)
        self._connected = True

    def close(self) -> None:
        """End the processes."""
        for member in self._members:
            ray.kill(member)
        self._members, self.over = [], True

    def _ask(self, calls: list[Any], seconds: float) -> list[Any]:
        try:
            found: list[Any] = ray.get(calls, timeout=seconds)
            return found
        except ray.exceptions.RayTaskError as error:
            self.close()
            raise getattr(error, "cause", None) or error from None
        except ray.exceptions.GetTimeoutError:
            _, waiting = ray.wait(calls, num_returns=len(calls), timeout=0)
            self.close()
            raise ClusterError(
                f"{len(waiting)} of {len(calls)} workers gave no answer in {seconds:.0f} s",
                mend="`ray status` shows whether the cluster had room for them; if it had, they wait for each other, "
                "and NCCL_DEBUG=INFO in the environment of `ray start` tells for what",
            ) from None
        except ray.exceptions.RayActorError as error:
            self.close()
            raise ClusterError(
                f"a worker died: {str(error).strip().splitlines()[0]}",
                mend="the logs under /tmp/ray/session_latest/logs say more (often it is the host's memory)",
            ) from None


class _Member:
    """One process of a group."""

    def call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        return function(*arguments)


def _address() -> tuple[str, int]:
    """Where the processes meet: this one's box, and a port that is free there."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), int(probe.getsockname()[1])


def _join(rank: int, world: int, address: str, port: int) -> None:
    """Enter the process group; Ray shows a process only the GPU that it reserved."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(0)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=MEET_SECONDS))
