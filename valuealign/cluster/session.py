"""The Ray cluster that a job runs on: the one it was sent to, the one already joined, or its own."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import ray

from valuealign.cluster.env import make_token
from valuealign.errors import ConfigError

GCS_PORT = "RAY_GCS_SERVER_PORT"  # read by Ray when it starts a cluster


@contextlib.contextmanager
def cluster(**options: Any) -> Iterator[None]:
    """Be on a cluster while the block runs; one that was started here ends with it.

    ``RAY_ADDRESS`` (set in every submitted job) names the cluster to join. ``options`` go to
    ``ray.init`` when a cluster is started. Raises ConfigError if the named cluster is out of reach.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        try:
            ray.init(address=address, runtime_env=_told(address), **quiet)
        except ConnectionError as error:
            raise ConfigError(
                f"no Ray cluster answers: {str(error).splitlines()[0]}",
                where=f"RAY_ADDRESS={address}",
                mend="start the head, or unset RAY_ADDRESS to start a cluster for this job alone",
            ) from None
    else:
        _start({**quiet, **options})
    try:
        yield
    finally:
        ray.shutdown()


def _start(options: dict[str, Any]) -> None:
    make_token()
    port, before = _free_port(), os.environ.get(GCS_PORT)
    os.environ[GCS_PORT] = str(port)
    try:
        ray.init(address="local", runtime_env=_told(f"127.0.0.1:{port}"), **options)
    finally:
        if before is None:
            del os.environ[GCS_PORT]
        else:
            os.environ[GCS_PORT] = before


def _told(address: str) -> dict[str, Any]:
    """Actors are told their cluster's address: where several clusters share a machine, the one that
    frees a stopped trial's resources would otherwise not know which to ask, and never free them."""
    return {} if address == "auto" else {"env_vars": {"RAY_ADDRESS": address}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
