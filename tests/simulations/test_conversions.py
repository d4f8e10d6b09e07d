"""Old features stand in for new ones after an upgrade, where a map was given, until the new ones are encoded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from edgecache.node.found import Found, Reach
from edgecache.node.service import Node
from edgecache.protocol.conversion import Conversion
from edgecache.protocol.features import Source
from edgecache.protocol.keys import FeatureKey, digest_of
from edgecache.simulations.cluster import Cluster, ModelledEncoder
from edgecache.simulations.memory_directory import MemoryDirectory
from edgecache.simulations.virtual_time import in_virtual_time
from numpy.typing import NDArray

from ..node.store.test_disk import opened

IMAGES = [b"photograph %d" % number for number in range(10)]
DIM = 8


class Upgraded(ModelledEncoder):
    """Makes of an image twice what version 1 makes of it."""

    def __init__(self, version: str = "2", encode_s: float = 0.06) -> None:
        super().__init__(version=version, encode_s=encode_s, dim=DIM)

    async def encode(self, image: bytes) -> NDArray[np.float32]:
        return np.float32(2) * await super().encode(image)


OLD, NEW = ModelledEncoder(dim=DIM), Upgraded()


def map_of(fidelity: float = 0.97) -> Conversion:
    source, target = OLD.known.identity, NEW.known.identity
    return Conversion(source, target, 2 * np.eye(DIM, dtype=np.float32), np.zeros(DIM, np.float32), fidelity, 0.99, 20)


def key(image: bytes) -> FeatureKey:
    return FeatureKey(digest_of(image), NEW.known.identity)


class Device:
    """One that was upgraded with features of version 1 in its memory, or on its disk."""

    def __init__(self, conversions: Sequence[Conversion], *, size: int = 1, has_disk: bool = False) -> None:
        self.directories = [MemoryDirectory() for _ in range(size)]
        self.cluster = Cluster(
            size,
            encoder=lambda index: ModelledEncoder(dim=DIM),
            conversions=conversions,
            disk=lambda index: opened(self.directories[index]) if has_disk else None,
        )

    async def filled(self) -> None:
        for image in IMAGES:
            await self.cluster.nodes[0].lookup.get(self.cluster.key(image), image)

    async def upgraded(self) -> Node:
        """The first device's node, with version 2; memory is kept, as it would be by its disk."""
        held = list(self.cluster.nodes[0].store.memory)
        await self.cluster.crash(0)
        self.cluster.encoders[0] = Upgraded()
        node = await self.cluster.restart(0)
        for payload in held:
            node.store.put(payload)
        await node.invalidate("modelled", "2")
        return node


def encoded(device: Device) -> list[bytes]:
    encoder = device.cluster.encoders[0]
    assert isinstance(encoder, Upgraded)
    return encoder.encoded


def is_true(found: Found | None, image: bytes) -> bool:
    assert found is not None
    rng = np.random.default_rng(int.from_bytes(digest_of(image)[:8], "little"))
    return np.allclose(found.payload.array(), 2 * rng.standard_normal((4, DIM), dtype=np.float32), atol=0.1)


@in_virtual_time
async def test_old_features_answer_by_hash_and_say_so_and_are_not_kept() -> None:
    device = Device([map_of()])
    async with device.cluster:
        await device.filled()
        node = await device.upgraded()
        for _ in range(2):
            for image in IMAGES:
                found = await node.lookup.get(key(image))
                assert is_true(found, image)
                assert found is not None
                assert (found.source, found.converted_from) == (Source.MEMORY, OLD.known.identity)
                assert 0.95 < found.payload.fidelity <= 0.97
                assert found.features().converted_from == "modelled@1"
                assert key(image).packed not in node.store
        assert node.stats.converted == 2 * len(IMAGES)
        assert await node.lookup.get_many([key(image) for image in IMAGES]) == {}
        assert encoded(device) == []


@in_virtual_time
async def test_without_a_map_old_features_are_gone_and_below_the_fidelity_asked_for_not_answered() -> None:
    for conversions, fidelity in (([], -1.0), ([map_of()], 0.98), ([map_of(0.9)], 0.95)):
        device = Device(conversions)
        async with device.cluster:
            await device.filled()
            node = await device.upgraded()
            assert await node.lookup.get(key(IMAGES[0]), min_fidelity=fidelity) is None
            found = await node.lookup.get(key(IMAGES[0]), IMAGES[0], min_fidelity=fidelity)
            assert found is not None
            assert (found.source, found.converted_from) == (Source.ENCODER, None)
            assert bool(conversions) == any(p.key.encoder == OLD.known.identity for p in node.store.memory)


@pytest.mark.parametrize("with_image", [True, False])
def test_who_asks_again_has_it_encoded_at_once(with_image: bool) -> None:
    @in_virtual_time
    async def story() -> None:
        device = Device([map_of()])
        async with device.cluster:
            await device.filled()
            node = await device.upgraded()
            asked_at = asyncio.get_running_loop().time()
            first = await node.lookup.get(key(IMAGES[0]), IMAGES[0])
            assert first is not None
            assert first.converted_from is not None
            assert asyncio.get_running_loop().time() - asked_at < 0.05, "sooner than an encode"
            second = await node.lookup.get(key(IMAGES[0]), IMAGES[0] if with_image else None)
            assert is_true(second, IMAGES[0])
            assert second is not None
            assert (second.source, second.converted_from) == (Source.ENCODER, None)
            third = await node.lookup.get(key(IMAGES[0]))
            assert third is not None
            assert (third.source, third.converted_from) == (Source.MEMORY, None)

    story()


@in_virtual_time
async def test_what_stood_in_is_encoded_when_the_encoder_is_idle_the_latest_first() -> None:
    device = Device([map_of()])
    async with device.cluster:
        await device.filled()
        node = await device.upgraded()
        for image in IMAGES:
            assert (await node.lookup.get(key(image), image)).converted_from is not None  # type: ignore[union-attr]
        assert encoded(device) == []
        await asyncio.sleep(1.5)
        await node.lookup.get(key(b"another"), b"another")  # somebody wants the encoder
        await asyncio.sleep(1.5)
        assert encoded(device) == [b"another"]
        await asyncio.sleep(3)
        assert encoded(device) == [b"another", *reversed(IMAGES)]
        for image in IMAGES:
            found = await node.lookup.get(key(image))
            assert is_true(found, image)
            assert found is not None
            assert found.converted_from is None


@in_virtual_time
async def test_what_stands_in_is_neither_shared_nor_does_it_settle_a_lease() -> None:
    device = Device([map_of()], size=3)
    async with device.cluster as cluster:
        await device.filled()
        await cluster.crash(1)
        cluster.encoders[1] = Upgraded()
        await cluster.restart(1)  # with nothing in memory
        node = await device.upgraded()
        await cluster.until(cluster.has_met)
        loop = asyncio.get_running_loop()
        for image in IMAGES:
            found = await node.lookup.get(key(image), image)
            assert found is not None
            assert found.converted_from is not None
            assert not any(key(image).packed in other.store for other in cluster.nodes)
            asked_at = loop.time()
            made = await cluster.nodes[1].lookup.get(key(image), image)
            assert made is not None
            assert (made.source, made.converted_from) == (Source.ENCODER, None)
            assert loop.time() - asked_at < 1.2 * 0.06 + 0.01, "no lease was waited for"


@in_virtual_time
async def test_what_was_removed_does_not_stand_in() -> None:
    device = Device([map_of()])
    async with device.cluster:
        await device.filled()
        node = await device.upgraded()
        await node.lookup.forget([digest_of(IMAGES[0])])
        assert await node.lookup.get(key(IMAGES[0])) is None
        await node.lookup.forget([key(IMAGES[1]).packed])
        assert await node.lookup.get(key(IMAGES[1])) is None


@in_virtual_time
async def test_old_features_on_disk_stand_in_too() -> None:
    device = Device([map_of()], has_disk=True)
    async with device.cluster as cluster:
        await device.filled()
        await asyncio.sleep(1)
        await cluster.crash(0)
        device.directories[0] = device.directories[0].reopened()
        cluster.encoders[0] = Upgraded()
        node = await cluster.restart(0)
        await asyncio.sleep(5)
        await node.invalidate("modelled", "2")
        assert node.store.disk is not None
        for image in IMAGES:
            node.store.memory.remove(FeatureKey(digest_of(image), OLD.known.identity).packed)
        found = await node.lookup.get(key(IMAGES[0]), reach=Reach.LOCAL)
        assert is_true(found, IMAGES[0])
        assert found is not None
        assert found.source is Source.DISK


@in_virtual_time
async def test_who_wants_the_real_ones_gets_them() -> None:
    device = Device([map_of()])
    async with device.cluster:
        await device.filled()
        node = await device.upgraded()
        found = await node.lookup.get(key(IMAGES[0]), IMAGES[0], may_stand_in=False)
        assert found is not None
        assert (found.source, found.converted_from) == (Source.ENCODER, None)
