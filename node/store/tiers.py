"""The tiers of one node as one store: what is used moves up to memory, what memory evicts moves down to disk.

    get              memory, at once: the only step of a hit on a busy node
    get_from_disk    a hit is checked, and promoted to memory
    get_from_cloud   a hit is checked, and promoted to memory and disk
    put              memory now, the disk behind it; the cloud behind that, where the features are new to the cluster

A payload is checked whole where it enters from below (`protocol/payload.parse`, with the key that was asked for), so
damaged bytes are a miss, counted and removed. Everything that fails below is a miss as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...protocol.keys import DIGEST_BYTES
from ..eviction.policy import NO_FACTS, Facts
from .lower_tier import LowerTier

if TYPE_CHECKING:
    from ...protocol.keys import EncoderIdentity
    from ...protocol.payload import Payload
    from .memory import MemoryStore
    from .tier import Cloud, DiskTier, Tier

# The budget of I/O under way: reads have places (lower_tier.py), and of what is to be written the tiers hold so many
# bytes in memory together. A demotion beyond that is dropped: what comes faster than it can be written is not worth
# keeping everything else from being written.
QUEUED_BYTES_MAX = 64 * 1024 * 1024

# Between the entries of an encoder that is forgotten, others are answered: a disk of 1 TB may have six million.
REMOVED_TOGETHER = 500

# At the end what memory alone has is written, and what went from disk for that, and so on.
DEMOTE_ROUNDS_MAX = 4

# So many uses in memory are told to the disk at a time: about 2 ms of its policy.
USES_TOLD_MAX = 1000

# After a start each key on disk is a change: about 1 ms of the journal for so many.
CHANGES_TOLD_MAX = 500

# A disk that has not answered by then is not waited for. An SD card's garbage collection takes some 100 ms.
DISK_TIMEOUT_S = 0.5
CLOUD_TIMEOUT_S = 5.0


class Tiers:
    """Memory, and the disk and the cloud where there are such. Payloads go by their packed keys."""

    def __init__(
        self,
        memory: MemoryStore,
        *,
        disk: DiskTier | None = None,
        cloud: Cloud | None = None,
        is_wanted: Callable[[Payload], bool] = lambda payload: True,
        hour: Callable[[], int] | None = None,
    ) -> None:
        """`is_wanted` says of what comes from below whether it may still be answered: its version, its shape.

        `hour`: that of the day, of which memory's policy hears with each entry.
        """
        self.memory = memory
        self._is_wanted = is_wanted
        self._hour = hour
        self.disk = LowerTier(disk, is_wanted) if disk is not None else None
        self.cloud = LowerTier(cloud, is_wanted) if cloud is not None else None
        self._cloud = cloud
        self.is_disk_open = True
        """False while what the disk has may be out of date: it is written to, and answers nothing."""
        self._on_change: Callable[[bytes], None] | None = None
        self._used: dict[bytes, None] = {}  # in memory, since the disk was told
        # Bound once: a hit costs what it costs in memory.
        self.get = memory.get if disk is None else self._get_and_note
        self.peek = memory.peek
        if self.disk is not None:
            memory.on_evict = self._demote

    def tell_changes(self, hears: Callable[[bytes], None]) -> None:
        """From now on `hears` is told each key of which `in` may say something else, after that."""
        self._on_change = self.memory.on_change = hears
        if self.disk is not None:
            self.disk.tier.on_drop = hears

    async def open_disk(self) -> None:
        """What is on disk may be answered from now on."""
        self.is_disk_open = True
        if self.disk is not None and self._on_change is not None:
            for number, key in enumerate(self.disk.tier):
                self._on_change(key)
                if number % CHANGES_TOLD_MAX == 0:
                    await asyncio.sleep(0)

    @property
    def used_bytes(self) -> int:
        """Bytes of this device's memory and disk that features take."""
        return self.memory.used_bytes + (self.disk.tier.used_bytes if self.disk is not None else 0)

    @property
    def capacity_bytes(self) -> int:
        """Bytes of this device's memory and disk that features may take."""
        return self.memory.capacity_bytes + (self.disk.tier.capacity_bytes if self.disk is not None else 0)

    @property
    def lower(self) -> list[tuple[str, LowerTier[Tier]]]:
        """The tiers below memory that there are, by name, from the nearest down."""
        return [(name, tier) for name, tier in (("disk", self.disk), ("cloud", self.cloud)) if tier is not None]

    @property
    def cloud_told(self) -> Mapping[str, Any]:
        """What the cloud tier tells of itself; empty without one."""
        return self._cloud.told() if self._cloud is not None else {}

    @property
    def cloud_state(self) -> str | None:
        """`ok`, or `degraded` when it has not answered of late; None without a cloud."""
        if self._cloud is None:
            return None
        return "degraded" if self._cloud.is_degraded else "ok"

    def __contains__(self, key: bytes) -> bool:
        """Whether this device holds `key`."""
        return key in self.memory or self.is_on_disk(key)

    def is_on_disk(self, key: bytes) -> bool:
        """Whether `get_from_disk` is worth the wait."""
        return self.disk is not None and self.is_disk_open and key in self.disk.tier

    def _get_and_note(self, key: bytes) -> Payload | None:
        payload = self.memory.get(key)
        if payload is not None:
            self._used[key] = None
        return payload

    def tell_uses(self) -> None:
        """Tell the disk of some uses in memory: what is hot here must not look cold there, nor after a restart."""
        if self.disk is None or not self._used:
            return
        told = list(islice(self._used, USES_TOLD_MAX))
        for key in told:
            del self._used[key]
            self.disk.tier.touch(key)

    # -- up -----------------------------------------------------------------------------------------------------

    async def get_from_disk(
        self, key: bytes, timeout_s: float = DISK_TIMEOUT_S, facts: Facts = NO_FACTS
    ) -> Payload | None:
        """The payload of `key` from the disk, which is in memory from then on; its policy hears of the `facts`."""
        if self.disk is None or not self.is_on_disk(key):
            return None
        return await self.disk.get(key, timeout_s, partial(self._promote_from_disk, facts))

    async def get_from_cloud(
        self,
        key: bytes,
        timeout_s: float = CLOUD_TIMEOUT_S,
        *,
        instead_s: float | None = None,
        facts: Facts = NO_FACTS,
    ) -> Payload | None:
        """The payload of `key` from the cloud, which is in memory and on disk from then on.

        Who could encode the image in `instead_s` does not ask where that is likely to be faster.
        """
        if self.cloud is None or self._cloud is None or not self._cloud.pays(key, instead_s):
            return None
        return await self.cloud.get(key, timeout_s, partial(self._promote_from_cloud, facts))

    @property
    def cloud_miss_s(self) -> float:
        """How long the cloud is expected to take to say that it has not got something; 0 without one."""
        return self._cloud.miss_s if self._cloud is not None else 0.0

    async def is_in_cloud(self, key: bytes, timeout_s: float = CLOUD_TIMEOUT_S) -> bool:
        """Whether the cloud says that it has `key`."""
        if self._cloud is None or not self._cloud.pays(key, None):
            return False
        try:
            async with asyncio.timeout(timeout_s):
                return await self._cloud.has(key)
        except (OSError, TimeoutError):
            return False

    async def encoders_in_cloud(self, timeout_s: float = CLOUD_TIMEOUT_S) -> list[EncoderIdentity]:
        """The encoders of which the cloud says that it has features; none where it does not say so in time."""
        if self._cloud is None:
            return []
        try:
            async with asyncio.timeout(timeout_s):
                return await self._cloud.encoders()
        except (OSError, TimeoutError):
            return []

    def _promote_from_disk(self, facts: Facts, payload: Payload, took_s: float) -> Payload:
        self._used[payload.key.packed] = None
        if (newer := self.memory.peek(payload.key.packed)) is not None:
            return newer
        self._put_in_memory(payload, facts._replace(cost_ms=1000 * took_s))
        return payload

    def _promote_from_cloud(self, facts: Facts, payload: Payload, took_s: float) -> Payload:
        if (newer := self.memory.peek(payload.key.packed)) is not None:
            return newer
        self.put(payload, facts=facts._replace(cost_ms=1000 * took_s))
        return payload

    def _put_in_memory(self, payload: Payload, facts: Facts) -> bool:
        return self.memory.put(payload, facts if self._hour is None else facts._replace(hour=self._hour()))

    # -- down ---------------------------------------------------------------------------------------------------

    def put(self, payload: Payload, *, is_new: bool = False, facts: Facts = NO_FACTS) -> bool:
        """Keep `payload` in memory, and behind it on disk; whether this device keeps it.

        The `facts` are for memory's policy: what a miss would cost, who asked; the hour it is told in any case.
        Where it `is_new` to the cluster, made here or given by a user, it goes to the cloud as well: whoever gets it
        from there or from a peer does not send it there again.
        """
        key = payload.key.packed
        held = self.memory.peek(key)
        if held is not None and held.checksum == payload.checksum:
            self.memory.get(key)  # a use, and no reason to write the same bytes again
            kept, is_written = True, self.is_on_disk(key)
        else:
            kept, is_written = self._put_in_memory(payload, facts), False
        if self.disk is not None and not is_written:
            self.disk.counters.puts += 1
            kept = self._write(self.disk, payload) or kept
        if self.cloud is not None and is_new:
            self.cloud.counters.puts += 1
            self._write(self.cloud, payload)
        return kept

    def _demote(self, payload: Payload) -> None:
        """Memory has evicted `payload`; the disk gets it if it lost it, or could not take it when it came."""
        assert self.disk is not None
        if payload.key.packed not in self.disk.tier:
            self.disk.counters.demotions += 1
            # A copy: were it the slot itself that waits to be written, its eviction would make no room, and another go.
            self._write(self.disk, payload.at(memoryview(bytes(payload.data))))

    async def demote_all(self, timeout_s: float) -> None:
        """What memory alone has goes to disk before the end: what is hot is seldom evicted, so seldom written again."""
        if self.disk is None:
            return
        self.tell_uses()  # or what is written now would take the place of what is hot
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                # More than once, since what is written may take the place of what memory has as well: whatever comes to
                # the disk again soon after it went is worth more to its policy.
                for _ in range(DEMOTE_ROUNDS_MAX):
                    lost = [held for held in self.memory if held.key.packed not in self.disk.tier]
                    for payload in lost:
                        self._demote(payload)
                        self.disk.tier.touch(payload.key.packed)  # memory's policy has kept it to the last
                        if self.disk.tier.queued_bytes > QUEUED_BYTES_MAX // 8:
                            await self.disk.tier.flush()
                    if not lost:
                        break
                    await self.disk.tier.flush()

    def _write(self, lower: LowerTier[Tier], payload: Payload) -> bool:
        queued = sum(below.tier.queued_bytes for _, below in self.lower)
        lower.forget_reads(payload.key.packed)
        if queued + payload.nbytes > QUEUED_BYTES_MAX or not lower.tier.put(payload.key.packed, payload.data):
            lower.tier.remove(payload.key.packed)  # what it may have had is older
            lower.counters.dropped += 1
            return False
        lower.counters.bytes_in += payload.nbytes
        if self._on_change is not None:
            self._on_change(payload.key.packed)
        return True

    async def flush(self, key: bytes | None = None) -> bool:
        """Wait until what was put is durable on disk; whether it is, `key` in particular."""
        return self.disk is not None and await self.disk.tier.flush(key)

    # -- out ----------------------------------------------------------------------------------------------------

    def remove(self, key: bytes, reason: str = "forgotten") -> bool:
        """Forget `key` on this device, reads and writes under way included; whether it held it.

        What is in the cloud is everybody's: that is for `remove_from_cloud`, on the node that the user spoke to.
        """
        was_here = self.memory.remove(key, reason)
        if self.disk is not None:
            self.disk.forget_reads(key)
            was_here |= self.disk.tier.remove(key)
            if self._on_change is not None:
                self._on_change(key)
        self._withdraw(key)
        return was_here

    def remove_image(self, digest: bytes) -> int:
        """The same for every key of an image; how many this device held."""
        gone = sum(self.remove(key) for key in self.keys_of_image(digest))
        if self.disk is not None:
            self.disk.forget_reads(digest)
            self.disk.tier.remove_image(digest)
        self._withdraw(digest)
        return gone

    def _withdraw(self, name: bytes) -> None:
        if self.cloud is not None and self._cloud is not None:
            self.cloud.forget_reads(name)
            self._cloud.withdraw(name)

    async def remove_from_cloud(self, names: Sequence[bytes], timeout_s: float) -> int:
        """Remove keys and images from the cloud, for everybody; how many were found there within `timeout_s`."""
        return await self._cloud.remove_now(names, timeout_s) if self._cloud is not None else 0

    def remove_encoders_from_cloud(self, outdated: Iterable[EncoderIdentity]) -> None:
        """Remove everything of these encoders from the cloud, for everybody, some time."""
        if self._cloud is not None:
            for identity in outdated:
                self._cloud.remove_encoder(identity.digest)

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        """Every key of the image `digest` on this device, whichever encoder made the features."""
        keys = dict.fromkeys(self.memory.keys_of_image(digest))
        if self.disk is not None:
            keys.update(dict.fromkeys(self.disk.tier.keys_of_image(digest)))
        return list(keys)

    def remove_unwanted(self, name: bytes) -> list[bytes]:
        """Forget what is in memory of a key or image, and not wanted any more; the keys to be read for that from disk.

        To `read` them is enough: what is not wanted goes when it is read.
        """
        unread = []
        for key in self.keys_of_image(name) if len(name) == DIGEST_BYTES else [name]:
            held = self.memory.peek(key)
            if held is not None and not self._is_wanted(held):
                self.remove(key)
            elif held is None and self.disk is not None and key in self.disk.tier:
                unread.append(key)
        return unread

    def remove_outdated(self, is_current: Callable[[EncoderIdentity], bool], known: Sequence[EncoderIdentity]) -> int:
        """Forget what is of encoders that are not current any more; how many entries went.

        The disk tells encoders by digest alone, so there it is those of `known`; what escapes that is not `is_wanted`.
        """
        outdated = {identity.digest for identity in known if not is_current(identity)}
        stale = {payload.key.packed: None for payload in self.memory if not is_current(payload.key.encoder)}
        if self.disk is not None:
            stale.update((key, None) for key in self.disk.tier if key[DIGEST_BYTES:] in outdated)
        return sum(self.remove(key, "version") for key in stale)

    async def remove_encoder(self, encoder: bytes) -> int:
        """Forget everything of the encoder whose identity has that digest; how many entries this device held."""
        gone = 0
        for number, key in enumerate([key for key in self.keys() if key[DIGEST_BYTES:] == encoder], start=1):
            gone += self.remove(key)
            if number % REMOVED_TOGETHER == 0:
                await asyncio.sleep(0)
        return gone

    # -- all of it ----------------------------------------------------------------------------------------------

    def keys(self) -> list[bytes]:
        """Every key on this device, those in memory first."""
        keys = {payload.key.packed: None for payload in self.memory}
        if self.disk is not None:
            keys.update(dict.fromkeys(self.disk.tier))
        return list(keys)

    def by_worth(self) -> list[bytes]:
        """The same, the most valuable first."""
        keys = dict.fromkeys(self.memory.by_worth())
        if self.disk is not None:
            keys.update(dict.fromkeys(self.disk.tier.by_worth()))
        return list(keys)

    async def read(self, key: bytes) -> Payload | None:
        """The payload of `key` from wherever on this device it is; no use of it, and no promotion."""
        if (held := self.memory.peek(key)) is not None or self.disk is None or key not in self.disk.tier:
            return held
        return await self.disk.get(key, DISK_TIMEOUT_S, lambda payload, took_s: payload)

    async def encoders(self) -> AsyncIterator[EncoderIdentity]:
        """The encoders whose features are on disk: after a restart nobody else may know of them."""
        told: set[bytes] = set()
        for key in self.disk.tier if self.disk is not None else ():
            if key[DIGEST_BYTES:] not in told and (payload := await self.read(key)) is not None:
                told.add(key[DIGEST_BYTES:])
                yield payload.key.encoder

    async def close(self) -> None:
        """Write what waits, and end the tiers below memory."""
        for _, lower in self.lower:
            await lower.close()

    def check(self) -> None:
        """Assert that the bookkeeping agrees with what is held."""
        self.memory.check()
