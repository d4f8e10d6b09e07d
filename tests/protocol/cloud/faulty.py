"""An object store in memory that fails on command, and the `Objects` that a test counts on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from edgecache.protocol.cloud.objects import Buffer as Buffer
from edgecache.protocol.cloud.objects import ObjectChanged, ObjectStoreError, Part

CHUNK_BYTES = 1000


class FaultyObjects:
    """Objects in a dict. Every call is counted by name; the faults are plain attributes."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []
        self.is_out = False
        """Every call fails."""
        self.hangs = False
        """No call is ever answered."""
        self.delay_s = 0.0
        """Each call takes so long."""
        self.breaks_after: list[int] = []
        """Each of the next downloads breaks after so many bytes."""
        self.failures_left = 0
        """So many calls fail, then they work."""
        self.waiting = 0
        self.waiting_max = 0

    def count(self, kind: str, prefix: str = "") -> int:
        """How many calls of `kind` there were for names that begin with `prefix`."""
        return sum(called == kind and name.startswith(prefix) for called, name in self.calls)

    async def _call(self, kind: str, name: str) -> None:
        self.calls.append((kind, name))
        if self.hangs:
            await asyncio.Event().wait()
        if self.delay_s:
            self.waiting += 1
            self.waiting_max = max(self.waiting, self.waiting_max)
            await asyncio.sleep(self.delay_s)
            self.waiting -= 1
        if self.is_out:
            raise ObjectStoreError(f"{kind} {name}: out of service")
        if self.failures_left > 0:
            self.failures_left -= 1
            raise ObjectStoreError(f"{kind} {name}: failed")

    async def open(self, name: str, start: int = 0, end: int | None = None, etag: str | None = None) -> Part | None:
        await self._call("open", name)
        data = self.held.get(name)
        if data is None:
            return None
        state = str(self.versions[name])
        if etag is not None and etag != state:
            raise ObjectChanged(name)
        breaks_after = self.breaks_after.pop(0) if self.breaks_after else None
        return Part(state, len(data), self._chunks(data[start:end], breaks_after))

    async def _chunks(self, data: bytes, breaks_after: int | None) -> AsyncIterator[Buffer]:
        for at in range(0, len(data), CHUNK_BYTES):
            chunk = data[at : at + CHUNK_BYTES]
            if breaks_after is not None and at + len(chunk) > breaks_after:
                raise ObjectStoreError("connection reset")
            yield chunk

    async def size(self, name: str) -> int | None:
        await self._call("size", name)
        return len(self.held[name]) if name in self.held else None

    async def put(self, name: str, data: Buffer) -> None:
        await self._call("put", name)
        self.held[name] = bytes(data)
        self.versions[name] = self.versions.get(name, 0) + 1

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            await self._call("delete", name)
            self.held.pop(name, None)

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        await self._call("list", prefix)
        for name in sorted(self.held):
            if name.startswith(prefix):
                yield name, len(self.held[name])
