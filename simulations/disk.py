"""A disk of a device in memory: as large and as fast as the device's, least recently used out first."""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator

from ..protocol.keys import DIGEST_BYTES
from .devices import Device
from .links import Channel
from .modelled import Bodies

_BODY_AT = struct.Struct("<I")  # at byte 16 of a payload


class Held:
    """Payloads by key that share their bodies."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._parts: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, key: object) -> bool:
        return key in self._parts

    def __iter__(self) -> Iterator[bytes]:
        return iter(tuple(self._parts))

    def get(self, key: bytes) -> bytes | None:
        """The bytes of `key`, which is the last to go now."""
        parts = self._parts.get(key)
        if parts is None:
            return None
        self.touch(key)
        return b"".join(parts)

    def touch(self, key: bytes) -> None:
        """`key`, if it is held, is the last to go now."""
        if key in self._parts:
            self._parts.move_to_end(key)

    def put(self, key: bytes, data: memoryview) -> None:
        """Hold `data` under `key`."""
        self.remove(key)
        self._parts[key] = self._bodies.split(data, _BODY_AT.unpack_from(data, 16)[0])
        self.used_bytes += len(data)

    def remove(self, key: bytes) -> bool:
        """Forget `key`; whether it was there."""
        parts = self._parts.pop(key, None)
        self.used_bytes -= sum(map(len, parts or ()))
        return parts is not None

    def remove_oldest(self) -> bytes:
        """Forget what was used longest ago; its key."""
        oldest = next(iter(self._parts))
        self.remove(oldest)
        return oldest

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        """Those that are of the image."""
        return [key for key in self._parts if key[:DIGEST_BYTES] == digest]


class ModelledDisk:
    """A node's disk (`tier.DiskTier`), of which the least recently used goes. It outlives the node, as disks do."""

    def __init__(self, capacity_bytes: int, device: Device, bodies: Bodies) -> None:
        self.capacity_bytes = capacity_bytes
        self.queued_bytes = 0
        self.evictions = 0
        self.trouble: str | None = None
        self.on_drop: Callable[[bytes], None] | None = None
        self._held = Held(bodies)
        self._device = device
        self._reading = Channel(device.disk_read_bytes_per_s)
        self._writing = Channel(device.disk_write_bytes_per_s)

    @property
    def used_bytes(self) -> int:
        """Bytes that its entries take."""
        return self._held.used_bytes

    @property
    def file_bytes(self) -> int:
        """The same: this disk has no files."""
        return self._held.used_bytes

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._held)

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        """Those that are of the image."""
        return self._held.keys_of_image(digest)

    async def get(self, key: bytes) -> bytes | None:
        """The bytes of `key`, after a seek and the time that reading them takes."""
        data = self._held.get(key)
        if data is None:
            return None
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._device.disk_seek_s + self._reading.carry(now, len(data)) - now)
        return data

    def put(self, key: bytes, data: memoryview) -> bool:
        """Take `data` in, and write it behind."""
        size = len(data)
        if size > self.capacity_bytes:
            return False
        self._held.put(key, data)
        while self._held.used_bytes > self.capacity_bytes:
            gone = self._held.remove_oldest()
            self.evictions += 1
            if self.on_drop is not None:
                self.on_drop(gone)
        self.queued_bytes += size
        loop = asyncio.get_running_loop()
        loop.call_at(self._writing.carry(loop.time(), size), self._was_written, size)
        return True

    def _was_written(self, size: int) -> None:
        self.queued_bytes -= size

    def remove(self, key: bytes) -> bool:
        """Forget `key`."""
        return self._held.remove(key)

    def remove_image(self, digest: bytes) -> int:
        """Forget every key of an image."""
        return sum(self._held.remove(key) for key in self._held.keys_of_image(digest))

    async def ready(self) -> None:
        """It is known at once what is there."""

    def touch(self, key: bytes) -> None:
        """`key` was used."""
        self._held.touch(key)

    def by_worth(self) -> list[bytes]:
        """The keys, those used last first."""
        return list(self._held)[::-1]

    def uses(self) -> Iterator[bytes]:
        """The keys in the order of their last uses."""
        return iter(list(self._held))

    async def flush(self, key: bytes | None = None) -> bool:
        """Until everything is written."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._writing.carry(loop.time(), 0) - loop.time() if self.queued_bytes else 0)
        return key is None or key in self._held

    async def close(self) -> None:
        """Nothing to end."""
