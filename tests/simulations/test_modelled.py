"""simulations/modelled.py: features of the right size that know their image, and stores that hold only heads."""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import pytest
from edgecache.node.eviction.lru import LRU
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import EncoderUnavailable
from edgecache.protocol.keys import digest_of
from edgecache.simulations.devices import MODELS
from edgecache.simulations.modelled import (
    WAITING_IMAGES_MAX,
    Bodies,
    DeviceEncoder,
    FeatureModel,
    HeadOnly,
    HeadsStore,
)
from edgecache.simulations.virtual_time import in_virtual_time

ONE, OTHER = digest_of(b"one"), digest_of(b"other")


@pytest.mark.parametrize("shape", MODELS.values())
def test_a_modelled_payload_has_the_size_of_a_real_one_and_no_loss(shape: tuple[int, int]) -> None:
    model = FeatureModel(*shape)
    made = payloads.encode(model.array(ONE), model.key(ONE))
    assert made.compression is payloads.Compression.NONE
    assert made.nbytes == made.body_at + payloads.Codec.INT8.body_bytes(*shape)
    assert np.array_equal(made.array(), model.array(ONE))


@pytest.mark.parametrize("shape", MODELS.values())
def test_what_is_packed_without_quantising_is_what_quantising_makes(shape: tuple[int, int]) -> None:
    model = FeatureModel(*shape)
    for image in (ONE, OTHER, ONE):
        packed = model.pack(model.blank, model.key(image))
        made = payloads.encode(model.array(image), model.key(image))
        assert model.made(packed, image)
        assert (packed.key, packed.nbytes, packed.fidelity) == (made.key, made.nbytes, made.fidelity)
        assert np.allclose(packed.array(), made.array(), rtol=1e-6)


def test_it_knows_its_image_and_its_version() -> None:
    model, newer = FeatureModel(4, 8), FeatureModel(4, 8, version="2")
    made = payloads.encode(model.array(ONE), model.key(ONE))
    assert model.made(made, ONE)
    assert not model.made(made, OTHER)
    assert not newer.made(made, ONE)
    for wrong in (model.array(OTHER), newer.array(ONE)):  # right by its key, wrong by its body
        assert not model.made(payloads.encode(wrong, model.key(ONE)), ONE)


def test_a_store_of_heads_counts_whole_payloads_and_gives_them_back_byte_for_byte() -> None:
    model, bodies = FeatureModel(197, 768), Bodies()
    stores = [HeadsStore(10**7, LRU(), bodies) for _ in range(2)]
    tails = set()
    for digest in (ONE, OTHER):
        made = payloads.encode(model.array(digest), model.key(digest))
        for store in stores:
            store.put(made)
            held = store.get(made.key.packed)
            assert isinstance(held, HeadOnly)
            tails.add(id(held._tail))
            assert sys.getsizeof(held.head) < 400
            assert held.data == made.data
            assert held.nbytes == made.nbytes
            assert payloads.parse(held.data, made.key.packed).checksum == held.checksum
            assert model.made(held, digest)
            store.check()
    assert len(tails) == 1


def test_another_body_of_the_same_size_is_held_as_it_is() -> None:
    model = FeatureModel(4, 8)
    store = HeadsStore(10**6, LRU(), Bodies())
    other = payloads.encode(np.random.default_rng(1).standard_normal((4, 8), np.float32), model.key(OTHER))
    store.put(payloads.encode(model.array(ONE), model.key(ONE)))
    store.put(other)
    held = store.get(other.key.packed)
    assert held is not None
    assert held.data == other.data


@in_virtual_time
async def test_a_device_encodes_one_image_at_a_time() -> None:
    encoder, loop = DeviceEncoder(FeatureModel(4, 8), 0.1), asyncio.get_running_loop()
    await asyncio.gather(*(encoder.encode(b"%d" % number) for number in range(5)))
    assert loop.time() == pytest.approx(0.5)
    await asyncio.sleep(1)
    await encoder.encode(b"later")
    assert loop.time() == pytest.approx(1.6)


@in_virtual_time
async def test_when_too_many_wait_the_next_is_refused() -> None:
    encoder = DeviceEncoder(FeatureModel(4, 8), 0.1)
    waiting = [asyncio.ensure_future(encoder.encode(b"%d" % number)) for number in range(WAITING_IMAGES_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(EncoderUnavailable, match="64 images wait already"):
        await encoder.encode(b"one more")
    await asyncio.gather(*waiting)
