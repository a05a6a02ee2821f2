"""What the tests share: a home of their own, one Ray cluster, the real survey files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import postgres as postgres
from postgres import postgres_url as postgres_url

from valuealign.cluster.env import prepare_environment

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
RAY_TIMEOUT, PROVE_TIMEOUT = 900, 3600  # seconds

# The user's own cluster and tokens are none of the tests' business.
NOT_INHERITED = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_JOB_HEADERS",
    "RAY_TMPDIR",
)

_scratch: list[str] = []


def pytest_configure() -> None:
    """Before any test module imports ray: a scratch home, and the environment that jobs get too."""
    for name in NOT_INHERITED:
        os.environ.pop(name, None)
    # Short, and not pytest's own folder: Ray puts sockets below it, whose paths may have 107 bytes.
    scratch = tempfile.mkdtemp(prefix="va-", dir="/tmp")
    _scratch.append(scratch)
    os.environ["VALUEALIGN_HOME"] = str(Path(scratch) / "home")
    prepare_environment()


def pytest_unconfigure() -> None:
    while _scratch:
        shutil.rmtree(_scratch.pop(), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first, then those with a cluster, then proofs; the slower ones get more time."""
    for item in items:
        seconds = PROVE_TIMEOUT if _rank(item) == 2 else RAY_TIMEOUT
        if _rank(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds))
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return 2 if item.get_closest_marker("prove") else 1 if item.get_closest_marker("ray") else 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty VALUEALIGN_HOME of this test's own (of this process; a cluster's workers keep theirs)."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("VALUEALIGN_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def session_home() -> Path:
    """The home that all tests of a session share: what is costly to make is cached here."""
    return Path(_scratch[-1]) / "home"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real survey files beside the repository; skips where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data: the real survey files lie beside the repository, not in it")
    return SHARED_DATA


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one Ray cluster of a session: four logical CPUs, started here and ended here."""
    import ray

    from valuealign.cluster.session import cluster

    assert not ray.is_initialized(), "a test started a cluster of its own in this process"
    with cluster(
        num_cpus=4,
        include_dashboard=True,  # without it Ray Train's cleaner complains all the time
        dashboard_host="127.0.0.1",
        object_store_memory=256 * 2**20,
        _temp_dir=str(Path(_scratch[-1]) / "ray"),
    ):
        yield
