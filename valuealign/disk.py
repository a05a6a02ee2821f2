"""What a disk does not take, in words: around whatever a run writes stands ``with writing(path)``."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from valuealign.errors import DiskError, ValuealignError

_AGAIN = "and give the same command again: a run goes on from its last checkpoint"
_ROOM, _PLACE = f"make room {_AGAIN}", f"let this user write there {_AGAIN}"
_UNWRITTEN = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("this user's quota is used up", _ROOM),
    errno.EFBIG: ("files may not grow so large here", f"raise the limit (`ulimit -f`) {_AGAIN}"),
    errno.EROFS: ("the disk can only be read", f"mount it for writing {_AGAIN}"),
    errno.EACCES: ("this user may not write there", _PLACE),
    errno.EPERM: ("this user may not write there", _PLACE),
    errno.EIO: ("the disk fails", "the system's log (`dmesg`) says more"),
    errno.ESTALE: ("the shared folder went away", f"mount it {_AGAIN}"),
    errno.ENOENT: ("its folder went away", f"leave the run's folder where it is until it ends, {_AGAIN}"),
    errno.ENOTDIR: ("a file is where a folder should be", f"move the file away {_AGAIN}"),
    errno.EEXIST: ("a file is where a folder should be", f"move the file away {_AGAIN}"),
    errno.EISDIR: ("a folder is where a file should be", f"move the folder away {_AGAIN}"),
}
# By these words of the system, which nothing else says, the reason is known whoever says them.
_SURE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# What torch's and safetensors' own writers begin with; they tell the reason in the system's words, or not at all.
_WRITERS = ("inline_container", "PytorchStreamWriter", "Parent directory", "Error while serializing: I/O error")
_FULL = 2**20  # bytes; a disk with less than these left that did not take a file is said to be full


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes ``path``, or files below it: raises DiskError where the disk does not take it.

    Errors about anything else pass as they are.
    """
    try:
        yield
    except Exception as error:
        unwritten = disk_error(error, path)
        if unwritten is None or unwritten is error:
            raise
        raise unwritten from error


def disk_error(error: BaseException, path: Path) -> DiskError | None:
    """What an error that came while ``path`` was written says of the disk; None if it is about something else."""
    link: BaseException | None = error
    silent = False
    while link is not None:
        if isinstance(link, ValuealignError):
            return link if isinstance(link, DiskError) else None
        writer = any(word in str(link) for word in _WRITERS)
        code = link.errno if isinstance(link, OSError) else None
        if code not in _UNWRITTEN:
            told = _UNWRITTEN if writer else _SURE
            code = next((number for number in told if os.strerror(number) in str(link)), None)
        if code is not None:
            what, mend = _UNWRITTEN[code]
            return _unwritten(Path(getattr(link, "filename", None) or path), what, mend)
        silent |= writer
        # An archive that is closed half-written raises anew: the reason is what came before.
        link = link.__cause__ or (link.__context__ if writer else None)
    if not silent:
        return None
    if _free(path) < _FULL:
        return _unwritten(path, *_UNWRITTEN[errno.ENOSPC])
    return _unwritten(path, str(error).strip().splitlines()[0], f"look at the disk and at its limits {_AGAIN}")


def _unwritten(path: Path, what: str, mend: str) -> DiskError:
    return DiskError(f"it cannot be written: {what}", where=str(path), mend=mend)


def _free(path: Path) -> int:
    """Bytes left where ``path`` is, or would be."""
    there = next(place for place in (path, *path.parents) if place.exists())
    return shutil.disk_usage(there).free
