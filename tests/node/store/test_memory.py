"""node/store/memory.py and node/eviction/lru.py: payloads within a bound."""

from __future__ import annotations

import random

import numpy as np
from edgecache.node.eviction.lru import LRU
from edgecache.node.store.memory import ENTRY_OVERHEAD_BYTES, MemoryStore
from edgecache.protocol import payload as payloads
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Payload

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


def test_the_books_balance_whatever_is_done() -> None:
    rng = random.Random(1)
    store = MemoryStore(20 * SIZE, LRU())
    for _ in range(3000):
        held = payload(rng.randrange(60), dim=rng.choice([8, 64, 300]))
        match rng.randrange(3):
            case 0:
                store.put(held)
            case 1:
                store.get(held.key.packed)
            case 2:
                store.remove(held.key.packed)
        store.check()
