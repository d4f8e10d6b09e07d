"""Random days of a cluster: everything goes wrong at once, and the promises are checked all the while.

    A wrong answer        no bytes but those of the image, the encoder and the version that were asked for
    An old entry          none of a version that its holder knows to be outdated
    A call that hangs     every call ends by its deadline, whoever is dead, cut off, slow or stopped
    A lasting quarrel     some time after the last fault, all agree on members, ring, versions and removals, and hold
                          nothing that is outdated or was removed, wherever the nodes were then;
                          and each knows what each other holds; then every node answers what was ever acknowledged as
                          durable, and for an image that all want at once there is one lease at most

The seed decides everything, so a seed that fails is a bug report.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np

from ..node.eviction.lru import LRU
from ..node.membership import State
from ..node.service import HOUSEKEEPING_S
from ..node.store.disk import DiskStore
from ..node.store.threads import NoThreads
from ..node.tasks import Tasks
from ..node.versions import AnotherVersionIsCurrent
from ..protocol import payload as payloads
from ..protocol.errors import EncoderUnavailable
from ..protocol.keys import EncoderIdentity, FeatureKey, digest_of
from . import virtual_time
from .cluster import Cluster
from .memory_directory import MemoryDirectory
from .modelled import DeviceEncoder, FeatureModel
from .world import PROGRAM, InvariantBroken

DEVICES_MIN, DEVICES_MAX = 3, 8
ENCODE_S = 0.05
IMAGES = 40
ASK_EVERY_S = 0.05
FAULT_EVERY_S = 4.0
# With an image all waiting for others is a share of an encode; a put has 0.5 s for each device that hangs, and without
# an image peers have 2 s.
DEADLINE_S = 2.5 + DEVICES_MAX * 0.5
CONVERGES_WITHIN_S = 90.0
USERS_ENCODER, KEPT_ENCODER = "mine", "kept"
DISK_BYTES = 8 * 1024 * 1024  # nothing has to go from it
LEASED_IMAGES = 10


def soak(seed: int, minutes: float = 2.0) -> dict[str, int]:
    """One random day; how often each thing happened. InvariantBroken names the seed."""
    return virtual_time.run(Soak(seed, minutes).run())


class Soak:
    """Who asks, what goes wrong, and what must hold."""

    def __init__(self, seed: int, minutes: float) -> None:
        self._seed = seed
        self._seconds = minutes * 60
        self._rng = random.Random(f"{seed}:soak")
        self._model = FeatureModel(4, 16)
        self._version = 1
        self._happened: dict[str, int] = {}
        self._broken: InvariantBroken | None = None
        self._calls: Tasks[None] = Tasks()
        self._mending: Tasks[None] = Tasks()
        self._directories: dict[int, MemoryDirectory] = {}
        self._has_disks = self._rng.random() < 0.5
        self._durable: list[payloads.Payload] = []
        self._copied: set[bytes] = set()
        self._cluster = Cluster(
            self._rng.randint(DEVICES_MIN, DEVICES_MAX - 2),
            seed=seed,
            memory_bytes=self._rng.choice([20_000, 200_000, 2_000_000]),  # some evict all the time, some never
            encoder=lambda index: DeviceEncoder(self._model, ENCODE_S),
            disk=self._disk,
        )

    def _disk(self, index: int) -> DiskStore | None:
        if not self._has_disks:
            return None
        disk = DiskStore(
            lambda: self._directories.setdefault(index, MemoryDirectory()),
            DISK_BYTES,
            LRU,
            threads=NoThreads(),
            entries_max=10_000,
            now=asyncio.get_running_loop().time,
        )
        disk.start()
        return disk

    async def run(self) -> dict[str, int]:
        """Questions every 50 ms and a fault every few seconds; then peace, and a look at what is left."""
        async with self._cluster as cluster:
            asking = asyncio.ensure_future(self._ask_again_and_again())
            faults: list[Callable[[], Coroutine[Any, Any, None]]] = [
                self._crash, self._crash, self._split, self._cut_one_way, self._slow_down, self._stop, self._leave,
                self._join, self._invalidate, self._invalidate, self._forget,
            ]  # fmt: skip
            ends_at = asyncio.get_running_loop().time() + self._seconds
            while asyncio.get_running_loop().time() < ends_at and self._broken is None:
                await asyncio.sleep(self._rng.uniform(0, 2 * FAULT_EVERY_S))
                self._mending.start(self._rng.choice(faults)())
            await asyncio.gather(*self._mending)
            asking.cancel()
            await asyncio.gather(*self._calls)
            cluster.network.heal()
            await self._check_agreement()
            await self._check_what_is_durable()
            await self._check_leases()
            if self._broken is not None:
                raise self._broken
        return dict(sorted(self._happened.items()))

    # -- questions ----------------------------------------------------------------------------------------------

    async def _ask_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / ASK_EVERY_S))
            question = self._rng.choice(
                [self._get, self._get, self._get_by_hash, self._put, self._get_of_users, self._put_durably]
            )
            if (index := self._any_running()) is not None:
                self._calls.start(self._within_deadline(question, index, self._rng.randrange(IMAGES)))

    async def _within_deadline(
        self, question: Callable[[int, bytes], Awaitable[None]], index: int, number: int
    ) -> None:
        node, name = self._cluster.nodes[index], question.__name__.strip("_")
        try:
            async with asyncio.timeout(DEADLINE_S):
                await question(index, b"image %d" % number)
            self._count(name)
        except TimeoutError:
            if self._cluster.nodes[index] is node and self._cluster.is_running(index):
                self._break(f"n{index} did not end {name} within {DEADLINE_S} s")

    async def _get(self, index: int, image: bytes) -> None:
        try:
            found = await self._cluster.nodes[index].lookup.get(
                self._model.key(digest_of(image)), image, stream=PROGRAM
            )
        except EncoderUnavailable:
            return
        if found is None:
            self._break(f"n{index} has no answer for an image at hand")
        elif not self._model.made(found.payload, digest_of(image)):
            self._break(f"n{index} answered {found.payload.key} for {image!r}, or other features than its")

    async def _get_by_hash(self, index: int, image: bytes) -> None:
        found = await self._cluster.nodes[index].lookup.get(self._model.key(digest_of(image)), stream=PROGRAM)
        if found is not None and not self._model.made(found.payload, digest_of(image)):
            self._break(f"n{index} answered {found.payload.key} for {image!r} by its hash, or other features")

    async def _put(self, index: int, image: bytes) -> None:
        version = self._rng.choice([self._version, self._version, max(1, self._version - 1)])  # some are late
        stored = await self._cluster.nodes[index].lookup.put(_made_elsewhere(image, version), stream=PROGRAM)
        if stored.copies > 1:
            self._copied.add(stored.payload.key.packed)

    async def _put_durably(self, index: int, image: bytes) -> None:
        node = self._cluster.nodes[index]
        if not self._has_disks or not node.lasting.has_recalled.is_set():
            return
        number = self._happened.get("durable put", 0)
        self._count("durable put")
        stored = await node.lookup.put(_made_elsewhere(b"kept %d" % number, 1, KEPT_ENCODER))
        is_durable = await node.lookup.make_durable(stored.payload)
        if is_durable and self._cluster.nodes[index] is node and self._cluster.is_running(index):
            self._durable.append(stored.payload)  # whoever asked has been told

    async def _get_of_users(self, index: int, image: bytes) -> None:
        node, version = self._cluster.nodes[index], max(1, self._version - self._rng.randrange(2))
        wanted = _made_elsewhere(image, version)
        try:
            node.versions.check_current(USERS_ENCODER, str(version))  # as its HTTP face does
        except AnotherVersionIsCurrent:
            if wanted.key.packed in node.store:
                self._break(f"n{index} holds {wanted.key}, though it knows a newer version")
            return
        found = await node.lookup.get(wanted.key)
        if found is not None and found.payload.knowing(0).data != wanted.data:
            self._break(f"n{index} answered {found.payload.key} for {wanted.key}, or other features")

    # -- what goes wrong ----------------------------------------------------------------------------------------

    async def _crash(self) -> None:
        if (index := self._any_running(spare=2)) is not None:
            self._count("crash")
            if (directory := self._directories.get(index)) is not None:  # as it is now: what waits is lost
                is_power_cut = self._rng.random() < 0.5
                left = directory.after_power_cut(self._rng) if is_power_cut else directory.reopened()
            await self._cluster.crash(index)
            if directory is not None:
                self._directories[index] = left
            await asyncio.sleep(self._rng.expovariate(1 / 5))
            await self._cluster.restart(index)

    async def _leave(self) -> None:
        if (index := self._any_running(spare=2)) is not None:
            self._count("leave")
            await self._cluster.leave(index)
            if index in self._directories:
                self._directories[index] = self._directories[index].reopened()
            await asyncio.sleep(self._rng.expovariate(1 / 5))
            await self._cluster.restart(index)

    async def _join(self) -> None:
        if len(self._cluster.nodes) < DEVICES_MAX:
            self._count("join")
            await self._cluster.join()

    async def _split(self) -> None:
        self._count("split")
        names = [node.name for node in self._cluster.nodes]
        left = self._rng.sample(names, len(names) // 2)
        for one in left:
            for other in names:
                if other not in left:
                    self._cluster.network.cut(one, other)
        await asyncio.sleep(self._rng.expovariate(1 / 8))
        self._cluster.network.heal()

    async def _cut_one_way(self) -> None:
        self._count("one-way cut")
        one, other = self._rng.sample([node.name for node in self._cluster.nodes], 2)
        self._cluster.network.cut_one_way(one, other)
        await asyncio.sleep(self._rng.expovariate(1 / 8))
        self._cluster.network.heal()

    async def _slow_down(self) -> None:
        self._count("slow device")
        name = self._rng.choice(self._cluster.nodes).name
        self._cluster.network.slow_down(name, 0.3)
        await asyncio.sleep(self._rng.expovariate(1 / 8))
        self._cluster.network.slow_down(name, 0.0)

    async def _stop(self) -> None:
        self._count("stopped process")
        name = self._rng.choice(self._cluster.nodes).name
        self._cluster.network.freeze(name)
        await asyncio.sleep(self._rng.expovariate(1 / 4))
        self._cluster.network.thaw(name)

    async def _invalidate(self) -> None:
        if (index := self._any_running()) is not None:
            self._count("invalidation")
            self._version += 1
            await self._cluster.nodes[index].invalidate(USERS_ENCODER, str(self._version))

    async def _forget(self) -> None:
        if (index := self._any_running()) is not None:
            self._count("removal")
            await self._cluster.nodes[index].lookup.forget([digest_of(b"image %d" % self._rng.randrange(IMAGES))])

    def _any_running(self, spare: int = 0) -> int | None:
        running = [index for index in range(len(self._cluster.nodes)) if self._cluster.is_running(index)]
        return self._rng.choice(running) if len(running) > spare else None

    # -- in the end ---------------------------------------------------------------------------------------------

    async def _check_agreement(self) -> None:
        nodes = self._cluster.nodes
        try:
            await self._cluster.until(self._agree, CONVERGES_WITHIN_S)
        except TimeoutError:
            alive = {n.name: sum(m.state is State.ALIVE for m in n.membership.all()) + 1 for n in nodes}
            known = {n.name: {e: str(c.version) for e, c in n.versions.current().items()} for n in nodes}
            self._break(f"no agreement {CONVERGES_WITHIN_S:g} s after the last fault: {alive} alive, versions {known}")
        for node in nodes:
            for held in [await node.store.read(key) for key in node.store.keys()]:  # noqa: SIM118
                if held is None:
                    continue
                if not node.versions.is_current(held.key.encoder):
                    self._break(f"{node.name} still holds {held.key}")
                if any(not other.removals.allows(held) for other in nodes):
                    self._break(f"{node.name} still holds {held.key}, which was removed")
        await asyncio.sleep(2 * HOUSEKEEPING_S)  # each node has seen who is in the ring
        try:
            await self._cluster.until(lambda: all(node.moving.is_done for node in nodes), CONVERGES_WITHIN_S)
        except TimeoutError:
            self._break(f"keys still move {CONVERGES_WITHIN_S:g} s after all agree")
        try:
            await self._cluster.until(self._cluster.has_told, CONVERGES_WITHIN_S)
        except TimeoutError:
            self._break(f"some directory is still wrong {CONVERGES_WITHIN_S:g} s after the last change")
        self._check_holders()

    def _check_holders(self) -> None:
        """Each key is with its owner and its replica, where no device had to evict anything.

        Of what one device alone holds, and nobody was told is copied, the maker may have crashed while it sent copies.
        """
        nodes = {node.id: node for node in self._cluster.nodes}
        if any(node.store.memory.evicted["capacity"] for node in nodes.values()):
            return
        self._count("looked where keys are")
        held = Counter(key for node in nodes.values() for key in node.store.keys())  # noqa: SIM118
        for node in nodes.values():
            for key in node.store.keys():  # noqa: SIM118
                if held[key] == 1 and key not in self._copied:
                    continue
                for holder in node.ring().holders(key):
                    if key not in nodes[holder].store:
                        self._break(f"{node.name} holds {key[:4].hex()}, and its holder {nodes[holder].name} does not")

    async def _check_what_is_durable(self) -> None:
        for node in self._cluster.nodes:
            for kept in self._durable:
                found = await node.lookup.get(kept.key)
                if found is None or found.payload.data != kept.data:
                    self._break(f"{node.name} does not answer {kept.key}, which was acknowledged as durable")

    async def _check_leases(self) -> None:
        nodes = self._cluster.nodes
        for number in range(LEASED_IMAGES):
            image = b"image that all want %d" % number
            key = self._model.key(digest_of(image))
            asking = asyncio.gather(*(node.lookup.get(key, image) for node in nodes))
            while not asking.done():
                if (leases := sum(node.desk.is_leased(key.packed) for node in nodes)) > 1:
                    self._break(f"{leases} leases to encode one image")
                await asyncio.sleep(0.002)
            await asking
            encoded = sum(image in encoder.encoded for encoder in self._cluster.encoders if encoder is not None)
            self._count("image that all want at once")
            self._count("encode of such an image", encoded)

    def _agree(self) -> bool:
        nodes = self._cluster.nodes
        rings = {tuple(sorted(node.cluster()["ring"]["virtual_nodes"].items())) for node in nodes}
        current = {
            tuple(sorted((name, now.version) for name, now in node.versions.current().items())) for node in nodes
        }
        removed = {node.removals.sum for node in nodes}
        return len(rings) == len(current) == len(removed) == 1 and self._cluster.has_met()

    def _count(self, what: str, times: int = 1) -> None:
        self._happened[what] = self._happened.get(what, 0) + times

    def _break(self, what: str) -> None:
        if self._broken is None:
            now = asyncio.get_running_loop().time()
            self._broken = InvariantBroken(f"{what}, at {now:.3f} s (seed {self._seed})")


def _made_elsewhere(image: bytes, version: int, encoder: str = USERS_ENCODER) -> payloads.Payload:
    """A user's own features of an image: different for each version."""
    key = FeatureKey(digest_of(image), EncoderIdentity.declared(encoder, str(version)))
    told = digest_of(image + b" %d" % version)
    return payloads.encode(np.frombuffer(told, np.uint8).astype(np.float32).reshape(4, 8) + 1, key)
