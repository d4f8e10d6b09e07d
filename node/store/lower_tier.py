"""A tier below memory: reads of it that share their answers, have places, and are given up in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ...protocol import payload as payloads
from ...protocol.errors import CorruptPayload
from ...protocol.keys import DIGEST_BYTES
from ..tasks import Tasks

if TYPE_CHECKING:
    from ...protocol.payload import Payload
    from .tier import Tier

# Each tier has its own places, so that a cloud which hangs takes none of the disk's. A disk of an edge device is busy
# with 16 reads, and a WAN has 16 payloads of 151 KB in flight at 20 ms and 1 Gbit/s.
READS_MAX = 16
# Who would wait behind so many is told to look elsewhere: it would be no faster here.
READS_WAITING_MAX = 256

_TierT = TypeVar("_TierT", bound="Tier", covariant=True)
# Takes in what was read, and how many seconds that took; gives what is to be answered.
Promote = Callable[["Payload", float], "Payload"]


@dataclass(slots=True)
class TierCounters:
    """What became of each step that led to one tier below memory; they only grow."""

    hits: int = 0
    """Reads that gave a good payload, each once however many waited for it; it was promoted to memory."""
    misses: int = 0
    corrupt: int = 0
    """Reads that gave bytes which are not the payload that was asked for; they were removed."""
    failures: int = 0
    """Reads that ended in an error."""
    late: int = 0
    """Waits for a read that were given up."""
    shed: int = 0
    """Reads not begun because too many waited."""
    puts: int = 0
    """Payloads given to the tier when they came to this node."""
    demotions: int = 0
    """Payloads given to it when memory evicted them; most are there already."""
    dropped: int = 0
    """Payloads not given to it because too many bytes waited to be written, or not taken by it."""
    bytes_in: int = 0
    bytes_out: int = 0


class LowerTier(Generic[_TierT]):
    """A tier below memory, the reads of it that are under way, and what became of all of them."""

    def __init__(self, tier: _TierT, is_wanted: Callable[[Payload], bool]) -> None:
        self.tier = tier
        self.counters = TierCounters()
        self._is_wanted = is_wanted
        self._places = asyncio.Semaphore(READS_MAX)
        self._reads: dict[bytes, asyncio.Task[Payload | None]] = {}
        self._tasks: Tasks[Payload | None] = Tasks()

    async def get(self, key: bytes, timeout_s: float, promote: Promote) -> Payload | None:
        """The checked payload of `key`, or None; who asks for the same at the same time shares one read."""
        task = self._reads.get(key)
        if task is None:
            if len(self._tasks) >= READS_WAITING_MAX:
                self.counters.shed += 1
                return None
            task = self._reads[key] = self._tasks.start(self._read(key, promote))
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            self.counters.late += 1
            return None
        return None if task.cancelled() else task.result()

    async def _read(self, key: bytes, promote: Promote) -> Payload | None:
        me = asyncio.current_task()
        now = asyncio.get_running_loop().time
        counters, started = self.counters, now()
        try:
            async with self._places:
                data = await self.tier.get(key)
            if data is None or self._reads.get(key) is not me:  # forgotten or replaced meanwhile
                counters.misses += 1
                return None
            payload = payloads.parse(data, key)
        except CorruptPayload:
            counters.corrupt += 1
            self.tier.remove(key)
            return None
        except OSError:
            counters.failures += 1
            return None
        finally:
            if self._reads.get(key) is me:
                del self._reads[key]
        if not self._is_wanted(payload):
            counters.misses += 1
            self.tier.remove(key)
            return None
        counters.hits += 1
        counters.bytes_out += payload.nbytes
        return promote(payload, now() - started)

    @property
    def reads(self) -> int:
        """Reads that are under way, or wait for their place."""
        return len(self._tasks)

    def forget_reads(self, name: bytes) -> None:
        """What reads of `name`, a key or an image, find from now on is out of date."""
        if name in self._reads:
            del self._reads[name]
        elif len(name) == DIGEST_BYTES:
            for key in [key for key in self._reads if key.startswith(name)]:
                del self._reads[key]

    async def close(self) -> None:
        """End the reads, and the tier."""
        await self._tasks.close()
        await self.tier.close()
