"""node/store/memory.py: payloads within a bound, on the heap and in an arena."""

from __future__ import annotations

import random

import numpy as np
import pytest
from edgecache.node.eviction.feature_sketch import similarity
from edgecache.node.eviction.lfu import LFU
from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.policy import NO_FACTS, Facts
from edgecache.node.eviction.s3_fifo import S3FIFO
from edgecache.node.store.arena import Arena
from edgecache.node.store.memory import ENTRY_OVERHEAD_BYTES, Heap, MemoryStore
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Codec, Payload

MINE, OTHER = EncoderIdentity.declared("mine", "1"), EncoderIdentity.declared("other", "1")


def payload(image: int, dim: int = 64, encoder: EncoderIdentity = MINE) -> Payload:
    key = FeatureKey(image.to_bytes(32), encoder)
    return payloads.encode(np.random.default_rng(image).standard_normal((1, dim)), key)


SIZE = payload(0).nbytes + ENTRY_OVERHEAD_BYTES


def test_the_entry_not_used_for_longest_goes_first() -> None:
    store = MemoryStore(3 * SIZE, LRU())
    one, two, three, four = (payload(number) for number in range(4))
    for held in (one, two, three):
        assert store.put(held)
    assert store.get(one.key.packed) is one
    assert store.put(four)
    assert two.key.packed not in store
    assert {held.key for held in store} == {one.key, three.key, four.key}
    assert store.evictions == 1


def test_a_look_that_is_no_use_does_not_save_an_entry() -> None:
    store = MemoryStore(2 * SIZE, LRU())
    one, two = payload(1), payload(2)
    store.put(one)
    store.put(two)
    assert store.peek(one.key.packed) is one
    store.put(payload(3))
    assert one.key.packed not in store


def test_what_is_larger_than_the_store_is_refused_and_evicts_nothing() -> None:
    store = MemoryStore(SIZE, LRU())
    store.put(payload(1))
    assert not store.put(payload(2, dim=4096))
    assert len(store) == 1


def test_the_policy_hears_of_another_capacity() -> None:
    store = MemoryStore(20 * SIZE, S3FIFO(20 * SIZE))
    store.resize(10 * SIZE, "pressure")
    store.settle()
    fresh = MemoryStore(10 * SIZE, S3FIFO(10 * SIZE))
    for image in range(40):
        store.put(payload(image))
        fresh.put(payload(image))
    assert {held.key for held in store} == {held.key for held in fresh}


def test_a_policy_that_wants_to_hears_how_alike_features_are() -> None:
    heard: list[int | None] = []

    class Curious(LRU[bytes]):
        wants_sketches = True

        def admit(self, key: bytes, size: int = 1, facts: Facts = NO_FACTS) -> None:
            super().admit(key, size, facts)
            heard.append(facts.sketch)

    store = MemoryStore(20 * SIZE, Curious())
    tokens = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
    for image, features in enumerate((tokens, tokens + 0.1, -tokens)):
        store.put(payloads.encode(features, FeatureKey(image.to_bytes(32), MINE)))
    one, near, far = (sketch for sketch in heard if sketch is not None)
    assert similarity(one, near) > similarity(one, far) == 0


def test_a_key_put_again_replaces_its_payload() -> None:
    store = MemoryStore(10 * SIZE, LRU())
    store.put(payload(1))
    wider = payload(1, dim=128)
    store.put(wider)
    assert store.get(wider.key.packed) is wider
    assert len(store) == 1
    store.check()


def test_every_encoders_features_of_an_image_are_found() -> None:
    store = MemoryStore(10 * SIZE, LRU())
    mine, other = payload(1), payload(1, encoder=OTHER)
    for held in (mine, other, payload(2)):
        store.put(held)
    assert set(store.keys_of_image(mine.key.digest)) == {mine.key.packed, other.key.packed}


@pytest.mark.parametrize("in_arena", [False, True])
def test_the_books_balance_whatever_is_done(in_arena: bool) -> None:
    rng = random.Random(1)
    capacity = 100_000 if in_arena else 20 * SIZE
    store = MemoryStore(capacity, LRU(), Arena(200_000) if in_arena else Heap())
    sent: list[memoryview] = []  # some of what is evicted is still being sent
    for step in range(3000):
        held = payload(rng.randrange(200), dim=rng.choice([8, 64, 300, 3000]))
        match rng.randrange(12):
            case 0 | 1 | 2 | 3 | 4:
                store.put(held)
            case 5 | 6 | 7:
                found = store.get(held.key.packed)
                if found is not None and in_arena:
                    sent = [*sent[-3:], found.data]
            case 8 | 9:
                store.remove(held.key.packed)
            case 10:
                arrived = store.arriving(held.nbytes)
                arrived[:] = held.data
                store.put(payloads.parse(arrived))
            case 11 if step % 5 == 0:
                store.resize(rng.choice([capacity // 2, capacity * 3 // 4, capacity]), "resized")
        store.settle(steps_max=rng.randrange(8))
        store.check()


# -- in an arena ------------------------------------------------------------------------------------------------

MIB = 1024 * 1024


def in_arena(capacity: int = 4 * MIB) -> MemoryStore:
    return MemoryStore(capacity, LRU(), Arena(capacity))


def shaped(image: int, tokens: int) -> Payload:
    """The payload of some features (tokens, 64), as long as an INT8 one is."""
    return payloads.encode(NOISE[:tokens], FeatureKey(image.to_bytes(32), MINE), codec=Codec.INT8)


NOISE = np.random.default_rng(0).standard_normal((9000, 64), dtype=np.float32)


@pytest.mark.parametrize("tokens", [[2200], [12], [10, 60, 450], [12, 300, 2200, 9000]])
def test_a_full_store_uses_its_capacity_whatever_the_sizes(tokens: list[int]) -> None:
    capacity = 6 * MIB
    store, rng = in_arena(capacity), random.Random(1)
    used = []
    image = 0
    while store.evictions < 1500:
        image += 1
        store.put(shaped(image, rng.choice(tokens)))
        assert store.resident_bytes <= capacity
        used.append(store.used_bytes / capacity)
    settled = used[-1000:]
    # Entries of 600 KB are a tenth of this capacity each, so what is left before the next one is more than 3 % of it.
    assert sum(settled) / len(settled) >= (0.97 if max(tokens) < 9000 else 0.93)
    store.check()


def test_what_little_entries_of_another_size_leave_between_them_is_used_again() -> None:
    store, rng = MemoryStore(8 * MIB, LFU(), Arena(8 * MIB)), random.Random(1)
    lost = []
    for step in range(12_000):
        image = int(15_000 * rng.random() ** 2)  # LFU keeps what was used often, of whatever size
        if store.get(image.to_bytes(32) + MINE.digest) is None:
            store.put(shaped(image, 10 + step // 2000 * 12))
        if step > 8000:
            lost.append(1 - store.utilisation)
            assert store.resident_bytes <= store.capacity_bytes
    assert max(lost) < 0.06
    assert sum(lost) / len(lost) < 0.04
    store.check()


def test_few_are_evicted_at_once() -> None:
    store = in_arena()
    evicted = []
    for image in range(400):
        before = store.evictions
        store.put(payload(image, dim=60_000))
        evicted.append(store.evictions - before)
    assert max(evicted) <= 2
    assert store.evicted == {"capacity": sum(evicted)}


def test_what_is_evicted_while_it_is_sent_keeps_its_bytes() -> None:
    store = in_arena()
    first = payload(0, dim=60_000)
    store.put(first)
    kept = store.get(first.key.packed)
    assert kept is not None
    being_sent = kept.data
    del kept
    for image in range(1, 200):
        store.put(payload(image, dim=60_000))
    assert first.key.packed not in store
    assert being_sent == first.data
    assert store.pinned_bytes >= first.nbytes
    del being_sent
    assert store.pinned_bytes == 0


def test_a_reader_that_takes_nothing_does_not_empty_the_store() -> None:
    store = in_arena()
    being_sent = []
    refused = 0
    for image in range(400):
        made = payload(image, dim=60_000)
        if not store.put(made):
            refused += 1
        elif (kept := store.get(made.key.packed)) is not None:
            being_sent.append(kept.data)
        store.check()
    assert refused > 0
    assert store.used_bytes > 0.4 * store.capacity_bytes
    being_sent.clear()
    assert store.put(payload(1000, dim=60_000))


def test_what_is_only_announced_evicts_nothing() -> None:
    store = in_arena()
    for image in range(100):
        store.put(payload(image, dim=60_000))
    held, evictions = len(store), store.evictions
    announced = [store.arriving(60_000) for _ in range(100)]
    assert (len(store), store.evictions) == (held, evictions)
    del announced


def test_a_store_that_shrinks_gives_memory_back_in_small_steps_and_grows_again() -> None:
    for dim in (60_000, 800):
        store = in_arena()
        image = 0
        while store.evictions < 50:
            store.put(payload(image, dim=dim))
            image += 1
        before = store.used_bytes
        store.resize(MIB, "pressure")
        store.put(payload(image, dim=dim))
        assert store.used_bytes > before - 400_000  # not all at once
        steps = 0
        while not store.settle(steps_max=16):
            assert store.resident_bytes <= 4 * MIB
            steps += 1
        assert steps > 2
        assert store.resident_bytes <= MIB
        assert store.used_bytes > 0.85 * MIB  # and no more than needs be
        assert store.evicted["pressure"] > 10
        store.check()
        store.resize(4 * MIB, "pressure")
        while store.used_bytes < 3.5 * MIB:
            image += 1
            assert store.put(payload(image, dim=dim))
        store.check()


def test_a_capacity_beyond_what_the_arena_has_addresses_for_is_refused() -> None:
    with pytest.raises(InvalidValue, match="memory of 9000000 bytes: between 1250 and 8388608"):
        in_arena().resize(9_000_000, "resized")
