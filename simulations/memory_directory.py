"""A directory in memory that fails as disks fail (`node.store.directory.Directory`).

It knows what has been synced. `after_power_cut` gives the directory that a restart could find: what was synced, and of
every write since then the whole, nothing, or some of its sectors, in no order; of files made, renamed or removed since
the directory was synced, either state. Faults are set from outside: `free_bytes`, `error`.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence

SECTOR_BYTES = 512


class MemoryFile:
    """Bytes, and the writes that are not synced."""

    def __init__(self, directory: MemoryDirectory, content: bytearray) -> None:
        self.nbytes = len(content)
        self.content = content
        self.unsynced: list[tuple[int, bytes]] = []
        self.durable = bytearray(content)
        self._directory = directory

    def read(self, nbytes: int, offset: int) -> bytes:
        """What is there."""
        self._directory.raise_read_error()
        return bytes(self.content[offset : offset + nbytes])

    def write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        """Now, and durable after `sync`."""
        self._directory.raise_error()
        written = b"".join(parts)
        assert offset + len(written) <= self.nbytes, "a record beyond its segment"
        self.content[offset : offset + len(written)] = written
        self.unsynced.append((offset, written))

    def sync(self) -> None:
        """What was written is durable."""
        self._directory.raise_error()
        for offset, written in self.unsynced:
            self.durable[offset : offset + len(written)] = written
        self.unsynced.clear()

    def after_power_cut(self, rng: random.Random) -> bytearray:
        """The content that a restart could find."""
        found = bytearray(self.durable)
        for offset, written in rng.sample(self.unsynced, len(self.unsynced)):
            fate = rng.choice(("whole", "nothing", "torn"))
            for at in range(0, len(written), SECTOR_BYTES) if fate != "nothing" else ():
                if fate == "whole" or rng.random() < 0.5:
                    sector = written[at : at + SECTOR_BYTES]
                    found[offset + at : offset + at + len(sector)] = sector
        return found


class MemoryDirectory:
    """The files of one store."""

    def __init__(self, files: dict[str, bytearray] | None = None) -> None:
        self.free_bytes: int | None = None
        """What can still be allocated; None for all one wants."""
        self.error: int | None = None
        """The errno of every write from now on."""
        self.read_error: int | None = None
        """The errno of every read from now on."""
        self._files = {name: MemoryFile(self, content) for name, content in (files or {}).items()}
        self._durable = dict(self._files)

    def raise_error(self) -> None:
        """If writes fail now."""
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))

    def raise_read_error(self) -> None:
        """If reads fail now."""
        if self.read_error is not None:
            raise OSError(self.read_error, os.strerror(self.read_error))

    def names(self) -> list[str]:
        """The files, sorted."""
        return sorted(self._files)

    def create(self, name: str, nbytes: int) -> MemoryFile:
        """A file of zeros."""
        self.raise_error()
        if name in self._files:
            raise FileExistsError(errno.EEXIST, name)
        if self.free_bytes is not None:
            if nbytes > self.free_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.free_bytes -= nbytes
        self._files[name] = MemoryFile(self, bytearray(nbytes))
        return self._files[name]

    def open(self, name: str) -> MemoryFile:
        """A file that is there."""
        self.size(name)
        return self._files[name]

    def size(self, name: str) -> int:
        """Its size."""
        if name not in self._files:
            raise FileNotFoundError(errno.ENOENT, name)
        return self._files[name].nbytes

    def rename(self, old: str, new: str) -> None:
        """Over what is there."""
        self.raise_error()
        self._files[new] = self._files.pop(old)

    def remove(self, name: str) -> None:
        """It is gone."""
        self.raise_error()
        self.size(name)
        file = self._files.pop(name)
        if self.free_bytes is not None:
            self.free_bytes += file.nbytes

    def sync(self) -> None:
        """Which files there are is durable."""
        self.raise_error()
        self._durable = dict(self._files)

    def close(self) -> None:
        """Nothing to let go of."""

    def reopened(self) -> MemoryDirectory:
        """After kill -9: everything that was written is there."""
        return MemoryDirectory({name: bytearray(file.content) for name, file in self._files.items()})

    def after_power_cut(self, rng: random.Random) -> MemoryDirectory:
        """A directory that a restart could find."""
        names = [name for name in self._files if name in self._durable or rng.random() < 0.5]
        names += [name for name in self._durable if name not in self._files and rng.random() < 0.5]
        files = {name: self._files.get(name) or self._durable[name] for name in names}
        return MemoryDirectory({name: file.after_power_cut(rng) for name, file in files.items()})
