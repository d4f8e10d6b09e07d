"""The packs of an object store, as far as this node knows them: which image is where in which.

The indexes of all packs of an encoder are read once and kept, 48 bytes a feature, so that a library of 100,000 features
is 5 MB here, tells without a question what it has, and each feature is one range read away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ...protocol.cloud import names
from ...protocol.cloud.download import download
from ...protocol.cloud.pack import PackIndex
from ...protocol.cloud.pack_reading import read_index
from ...protocol.errors import CorruptPayload
from ...protocol.keys import DIGEST_BYTES
from ...protocol.payload import PAYLOAD_BYTES_MAX

if TYPE_CHECKING:
    from ...protocol.cloud.objects import Buffer, Objects

# A library is built once in a while; who builds one may restart the nodes that should see it at once.
REFRESH_S = 300.0
INDEX_BYTES_MAX = 16 * 1024 * 1024
REMOVED_MAX = 65_536
_READS_TOGETHER = 8

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a payload lies."""

    pack: str
    start: int
    end: int


@dataclass(slots=True)
class _Packs:
    """What is known of the packs of one encoder."""

    read_at: float
    indexes: dict[str, PackIndex] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    removed: set[bytes] = field(default_factory=set)


class Packs:
    """Finds features in packs."""

    def __init__(self, objects: Objects, now: Callable[[], float]) -> None:
        self._objects = objects
        self._now = now
        self._known: dict[bytes, _Packs] = {}
        self._reading: dict[bytes, asyncio.Task[None]] = {}

    @property
    def features(self) -> int:
        """How many features the packs hold that are known."""
        return sum(len(index) for packs in self._known.values() for index in packs.indexes.values())

    @property
    def nbytes(self) -> int:
        """What the indexes take in memory."""
        return sum(index.nbytes for packs in self._known.values() for index in packs.indexes.values())

    def find(self, key: bytes) -> Place | None:
        """Where `key` is, as far as that is known here."""
        digest, packs = key[:DIGEST_BYTES], self._known.get(key[DIGEST_BYTES:])
        if packs is None or digest in packs.removed:
            return None
        for name, index in packs.indexes.items():
            if (place := index.find(digest)) is not None:
                return Place(name, place[0], place[0] + place[1])
        return None

    async def look(self, key: bytes) -> Place | None:
        """The same, once it is known which packs there are. ObjectStoreError when that cannot be told now."""
        encoder = key[DIGEST_BYTES:]
        packs = self._known.get(encoder)
        if packs is None:
            await self.refresh(encoder)
        elif self._now() - packs.read_at > REFRESH_S:
            self._reading_of(encoder)  # and meanwhile on with what is known
        return self.find(key)

    async def read(self, key: bytes) -> Buffer | None:
        """The payload of `key`; None when no pack has it. ObjectStoreError when that cannot be told now."""
        if (place := await self.look(key)) is None:
            return None
        data = await download(self._objects, place.pack, place.start, place.end, bytes_max=PAYLOAD_BYTES_MAX)
        if data is None:  # deleted, as by a rule that expires it
            self._known[key[DIGEST_BYTES:]].indexes.pop(place.pack, None)
        return data

    async def refresh(self, encoder: bytes) -> None:
        """Learn which packs of `encoder` there are now. ObjectStoreError when that cannot be told."""
        await asyncio.shield(self._reading_of(encoder))

    def forget(self, key: bytes) -> None:
        """Do not find `key` any more."""
        if (packs := self._known.get(key[DIGEST_BYTES:])) is not None and len(packs.removed) < REMOVED_MAX:
            packs.removed.add(key[:DIGEST_BYTES])

    def forget_encoder(self, encoder: bytes) -> None:
        """Forget what packs of `encoder` there are."""
        self._known.pop(encoder, None)

    async def close(self) -> None:
        """End what is being read."""
        tasks = tuple(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- inside -------------------------------------------------------------------------------------------------

    def _reading_of(self, encoder: bytes) -> asyncio.Task[None]:
        task = self._reading.get(encoder)
        if task is None:
            task = self._reading[encoder] = asyncio.ensure_future(self._read_indexes(encoder))
            task.add_done_callback(lambda done: self._ended(encoder, done))
        return task

    def _ended(self, encoder: bytes, task: asyncio.Task[None]) -> None:
        del self._reading[encoder]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("packs in the cloud cannot be read: %s", error)

    async def _read_indexes(self, encoder: bytes) -> None:
        """Learn which packs there are now, read the indexes of the new ones, and which features were removed."""
        old = self._known.get(encoder)
        packs = _Packs(self._now())
        async for name, _ in self._objects.list(names.of_encoder(names.REMOVED, encoder)):
            if (digest := names.last_digest(name)) is not None and len(packs.removed) < REMOVED_MAX:
                packs.removed.add(digest)
        new: list[tuple[str, int]] = []
        async for name, size in self._objects.list(names.of_encoder(names.PACKS, encoder)):
            if names.last_digest(name) is None or (old is not None and name in old.unusable):
                continue
            if old is not None and name in old.indexes:
                packs.indexes[name] = old.indexes[name]
            else:
                new.append((name, size))
        if old is not None:
            packs.removed |= old.removed
            packs.unusable = old.unusable
        self._known[encoder] = packs
        for at in range(0, len(new), _READS_TOGETHER):
            batch = new[at : at + _READS_TOGETHER]
            indexes = await asyncio.gather(*(self._index(name, size, encoder, packs) for name, size in batch))
            packs.indexes.update((name, index) for (name, _), index in zip(batch, indexes, strict=True) if index)

    async def _index(self, name: str, size: int, encoder: bytes, packs: _Packs) -> PackIndex | None:
        if self.nbytes > INDEX_BYTES_MAX:
            _log.warning("pack %s… is not used: the indexes of packs take %d bytes", name[-64:][:8], INDEX_BYTES_MAX)
            return None
        try:
            return await read_index(self._objects, name, size, encoder)
        except CorruptPayload as error:
            packs.unusable.add(name)
            _log.warning("pack %s… is not used: %s", name[-64:][:8], error)
            return None
