"""The few things the disk tier asks of a file system, so that tests and simulations can give another one.

The real one reaches every file through one descriptor of its directory and never through a symlink, allocates a file
whole when it makes it, and is this process's alone (flock). Blocking calls: they belong on a thread. OSError as the
disk says it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

LOCK_FILE = "lock"


class File(Protocol):
    """An open file of fixed size."""

    nbytes: int

    def read(self, nbytes: int, offset: int) -> bytes:
        """What is there; shorter only past the end."""

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        """Put `parts` there, one after the other."""

    def sync(self) -> None:
        """Return when all that was written would survive a power cut."""


class Directory(Protocol):
    """The files of one store."""

    def names(self) -> list[str]:
        """The regular files, sorted."""

    def create(self, name: str, nbytes: int) -> File:
        """A new file of zeros, whose space nobody can take any more."""

    def open(self, name: str) -> File:
        """A file that is there, to read and write."""

    def size(self, name: str) -> int:
        """Its size in bytes."""

    def rename(self, old: str, new: str) -> None:
        """Also over a file that is there."""

    def remove(self, name: str) -> None:
        """The file goes; what has it open may go on reading."""

    def sync(self) -> None:
        """Return when every file made, renamed or removed would be so after a power cut."""

    def close(self) -> None:
        """Let another process have the directory."""


class _RealFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.nbytes = os.fstat(descriptor).st_size

    def read(self, nbytes: int, offset: int) -> bytes:
        content = os.pread(self._descriptor, nbytes, offset)
        if len(content) == nbytes or not content:
            return content
        pieces = [content]  # a signal, or more than the kernel reads at once
        while (missing := nbytes - sum(map(len, pieces))) and (
            piece := os.pread(self._descriptor, missing, offset + nbytes - missing)
        ):
            pieces.append(piece)
        return b"".join(pieces)

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        written = os.pwritev(self._descriptor, parts, offset)
        if written < sum(map(len, parts)):
            whole = memoryview(b"".join(parts))
            while written < len(whole):
                written += os.pwrite(self._descriptor, whole[written:], offset + written)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def __del__(self) -> None:
        # Not earlier than the last thread that reads has let go of it: the number could be another file's by then.
        os.close(self._descriptor)


class RealDirectory:
    """A directory of the machine's, made if it is not there. BlockingIOError when another process has it."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._lock = self._open(LOCK_FILE, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._lock)
                raise
        except OSError:
            os.close(self._descriptor)
            raise

    def names(self) -> list[str]:
        with os.scandir(self._descriptor) as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))

    def create(self, name: str, nbytes: int) -> File:
        descriptor = self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
            return _RealFile(descriptor)
        except BaseException:
            os.close(descriptor)
            self.remove(name)
            raise

    def open(self, name: str) -> File:
        descriptor = self._open(name, os.O_RDWR | os.O_NONBLOCK)  # a fifo put here would hold the start for ever
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", name)
        return _RealFile(descriptor)

    def size(self, name: str) -> int:
        return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_size

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self._descriptor)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._lock)
        os.close(self._descriptor)

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._descriptor)


def held_bytes(path: Path) -> int:
    """What the file system has given to the files in `path`; 0 where there is no such directory."""
    try:
        with os.scandir(path) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    except OSError:
        return 0
