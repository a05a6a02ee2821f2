"""A disk that is full, or a place that cannot be written to: said in words, and the last checkpoint stays good."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import feather
from safetensors.torch import load_file, save_file
from test_sweep import steps_of
from test_worker import FolderCheckpoints, local, make_run
from tiny import make_tiny

from valuealign.cluster.log import RunLog
from valuealign.cluster.worker import NoCheckpoints, work
from valuealign.disk import writing
from valuealign.errors import ConfigError, DiskError
from valuealign.models.adapters import WEIGHTS

NUMBERS = np.arange(50_000, dtype=np.float64)
WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: path.write_text("x" * NUMBERS.nbytes),
    "numpy": lambda path: np.savez(path, a=NUMBERS),
    "torch": lambda path: torch.save({"a": torch.from_numpy(NUMBERS)}, path),
    "torch's old form": lambda path: torch.save(torch.from_numpy(NUMBERS), path, _use_new_zipfile_serialization=False),
    "safetensors": lambda path: save_file({"a": torch.from_numpy(NUMBERS)}, path),
    "arrow": lambda path: feather.write_feather(pa.table({"a": NUMBERS}), path, compression="uncompressed"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model"))


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The system's limit on the size of a file, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("writer", WRITERS)
def test_whichever_library_writes_a_disk_that_refuses_is_said_so(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    with pytest.raises(DiskError, match="cannot be written") as error, files_no_larger_than(60_000), writing(path):
        WRITERS[writer](path)
    assert str(tmp_path) in error.value.where and "go" in error.value.mend
    # torch's own writer of archives loses the reason; it says that it failed.
    assert ("files may not grow so large" in error.value.what) or writer == "torch"
    (tmp_path / "taken").write_text("a file")
    for place in (tmp_path / "taken" / "file.npz", tmp_path / "nowhere" / "file.npz"):
        with pytest.raises(DiskError, match="cannot be written"), writing(place):
            WRITERS[writer](place)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "can only be read"),
        (errno.EACCES, "this user may not write there"),
    ],
)
def test_each_reason_has_its_words_and_its_mend(code: int, words: str, tmp_path: Path) -> None:
    seen = []
    for raised in (
        OSError(code, os.strerror(code)),
        RuntimeError(
            f"[enforce fail at inline_container.cc:747] . open file failed with strerror: {os.strerror(code)}"
        ),
    ):
        with pytest.raises(DiskError, match=words) as error, writing(tmp_path / "here"):
            raise raised
        assert error.value.where == str(tmp_path / "here") and "goes on from its last checkpoint" in error.value.mend
        assert error.value.__cause__ is raised
        seen.append(str(error.value))
    assert len(set(seen)) == 1
    with pytest.raises(DiskError) as error, writing(tmp_path / "here"):
        raise OSError(code, "no", str(tmp_path / "there"))
    assert error.value.where == str(tmp_path / "there"), "the file itself, where it is named"


def test_what_is_no_matter_of_the_disk_passes_as_it_is(tmp_path: Path) -> None:
    others = (ValueError("no space"), ConfigError("wrong key"), ConnectionResetError(104, "reset"), RuntimeError("NaN"))
    for other in (*others, DiskError("inner", where="there")):
        with pytest.raises(type(other)) as error, writing(tmp_path):
            raise other
        assert error.value is other
    handled = KeyError("a bug")
    handled.__context__ = FileNotFoundError(errno.ENOENT, "looked for, not found, and gone on without")
    with pytest.raises(KeyError), writing(tmp_path):
        raise handled


@pytest.mark.parametrize("taken", ["trained", "scores", "cache"])
def test_a_run_says_which_of_its_places_cannot_be_written(taken: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("a file where the run wants a folder")
    run = make_run(model, tmp_path)
    with pytest.raises(DiskError, match="a file is where a folder should be") as error:
        work(run, local, NoCheckpoints())
    assert str(tmp_path / taken) in error.value.where


class Renamed(FolderCheckpoints):
    """Checkpoints that are written aside and renamed, as a run's are."""

    def __init__(self, folder: Path, before: Callable[[int], None] = lambda number: None) -> None:
        super().__init__(folder)
        self.before, self.number = before, 0

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None:
        self.number += 1
        self.before(self.number)
        aside = self.folder.with_name("aside")
        write(aside)
        self.folder.mkdir(parents=True, exist_ok=True)
        aside.rename(self.folder / str(len(list(self.folder.glob("*")))))


def test_half_a_line_that_a_full_disk_left_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "step", "stage": "kto", "step": 1}\n{"event": "st')
    RunLog(tmp_path, 1, trackers=(), hyper={})
    assert (tmp_path / "log.jsonl").read_text().endswith('"st'), "another rank's log is rank 0's affair"
    log = RunLog(tmp_path, 0, trackers=(), hyper={})
    log.event({"event": "step", "step": 2})
    assert steps_of(tmp_path) == [1, 2]


@contextmanager
def small_disk(at: Path, mib: int) -> Iterator[Path]:
    """A disk of a few MiB, in a mount namespace that is the tests' own (.ci/netless makes one)."""
    with suppress(PermissionError):
        if Path("/proc/self/ns/mnt").readlink() == Path("/proc/1/ns/mnt").readlink():
            pytest.skip("no mount namespace of the tests' own: run them under .ci/netless")
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "small", at], capture_output=True).returncode:
        pytest.skip("this machine lets the tests mount nothing")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk but for ``leave`` bytes; with what."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        with suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        stream.truncate(stream.tell() - leave)
    return ballast


@pytest.mark.ray
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_run_whose_disk_takes_no_more_goes_on_from_its_last_checkpoint(how: str, model: Path, tmp_path: Path) -> None:
    """At the third checkpoint; with room again the run ends as one that was never interrupted, to the bit."""
    whole = make_run(model, tmp_path / "whole", score={})
    work(whole, local, NoCheckpoints())
    with small_disk(tmp_path / "disk", mib=8) as disk:

        def spoil(number: int) -> None:
            if number == 3:
                fill(disk, 16_384) if how == "full" else remount(disk, "ro")

        cut = replace(whole, out=disk / "run", cache=tmp_path / "cache")
        words = "the disk is full" if how == "full" else "can only be read"
        with pytest.raises(DiskError, match=words) as error:
            work(cut, local, Renamed(disk / "kept", spoil))
        assert str(disk) in error.value.where and "same command again" in error.value.mend
        (disk / "ballast").unlink() if how == "full" else remount(disk, "rw")
        assert [one.name for one in sorted((disk / "kept").iterdir())] == ["0", "1"], "two good ones, and no third"
        work(cut, local, Renamed(disk / "kept"))
        assert steps_of(cut.out).count(1) == 2, "each stage began once"
        for stage in ("distribution", "kto"):
            one, two = (load_file(run.trained(stage) / WEIGHTS) for run in (whole, cut))
            assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_full_disk_under_ray_train(ray_cluster: None, model: Path, tmp_path: Path) -> None:
    """What the worker says of the disk is what the training ends with; with room again it goes on."""
    from valuealign.cluster.train import fit

    with small_disk(tmp_path / "disk", mib=16) as disk:
        run = make_run(model, disk / "run", score={})
        how = {"checkpoint_every": 50, "workers": 1, "cpus_per_worker": 0.5, "max_failures": 0}
        stage = replace(run.stages[0], epochs=200, learning_rate=0.001)
        run = replace(run, stages=(stage,), cache=tmp_path / "cache", train=run.train.model_copy(update=how))

        def spoil() -> None:
            while not any(step >= 110 for step in steps_of(run.out)):
                time.sleep(0.02)
            fill(disk, 16_384)

        spoiling = threading.Thread(target=spoil, daemon=True)
        spoiling.start()
        with pytest.raises(DiskError, match="the disk is full") as error:
            fit(run, name="full", progress=lambda _: None)
        assert str(disk) in error.value.where
        spoiling.join()
        (disk / "ballast").unlink()
        fit(run, name="full", progress=lambda _: None)
        steps = steps_of(run.out)
        assert steps.count(1) == 1 and steps[-1] == stage.steps, "from its last checkpoint, not from its beginning"
        assert sorted(set(steps)) == list(range(1, stage.steps + 1))
