"""How many go together, who goes first, and that nobody waits for ever: on made-up time."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from edgecache.encoder.batching import BUCKETS_BYTES, Batcher

SMALL, LARGE = 1000, BUCKETS_BYTES[-1] + 1


def batcher(images_max: int = 8, bytes_max: int = 1 << 30) -> Batcher[str]:
    return Batcher(target_s=0.25, images_max=images_max, bytes_max=bytes_max)


def called(batches: Batcher[str], each_s: float, calls: int = 1) -> list[int]:
    """The sizes of full calls in which an image takes `each_s`."""
    sizes = []
    for call in range(calls):
        for number in range(100):
            batches.add(0.0, f"{call} {number}", SMALL)
        taken = batches.take(1.0)
        batches.took(each_s * len(taken), len(taken))
        sizes.append(len(taken))
        batches.clear()
    return sizes


@pytest.mark.parametrize(("each_s", "settles"), [(0.001, 8), (0.05, 5), (0.12, 2), (3.0, 1)])
def test_a_call_has_as_many_as_fit_into_the_target(each_s: float, settles: int) -> None:
    sizes = called(batcher(), each_s, calls=12)
    assert sizes[-3:] == [settles] * 3


def test_after_a_slow_moment_calls_grow_again_and_never_more_than_twofold() -> None:
    batches = batcher(images_max=64)
    assert called(batches, 10.0, calls=7)[-1] == 1
    sizes = called(batches, 0.001, calls=8)
    assert sizes[-1] == 64
    assert all(after <= 2 * before for before, after in pairwise(sizes))


def test_alone_it_goes_at_once_and_in_order() -> None:
    batches = batcher()
    assert batches.take(0.0) == []
    for name in "abc":
        batches.add(0.0, name, SMALL)
    assert batches.take(0.0) == ["a", "b", "c"]
    assert len(batches) == batches.waiting_bytes == 0


def test_small_images_do_not_wait_behind_large_ones_until_those_have_waited_long_enough() -> None:
    batches = batcher()
    for nbytes, each_s in ((SMALL, 0.01), (LARGE, 1.0)):  # it has seen some of both
        for _ in range(30):
            batches.add(0.0, "seen", nbytes)
            batches.take(0.0)
            batches.took(each_s, 1)
    batches.add(0.0, "large", LARGE)
    batches.add(0.1, "small", SMALL)
    assert batches.take(0.2) == ["small"]
    now, waited = 0.2, 0
    while True:  # small ones keep coming, each waiting 50 ms
        batches.add(now - 0.05, "small again", SMALL)
        if batches.take(now) == ["large"]:
            break
        now, waited = now + 0.05, waited + 1
        assert waited < 200, "the large one starves"
    assert 3 < now < 7  # its ratio passes theirs, 6, after five seconds


def test_sizes_do_not_mix_and_a_call_has_so_many_bytes_at_most() -> None:
    batches = batcher(bytes_max=3 * SMALL)
    for number in range(5):
        batches.add(0.0, f"small {number}", SMALL)
    batches.add(0.0, "large", LARGE)  # by itself more than the limit: it goes alone
    calls = [batches.take(0.0) for _ in range(3)]
    assert sorted(calls, key=len) == [["large"], ["small 3", "small 4"], ["small 0", "small 1", "small 2"]]


def test_whoever_leaves_is_forgotten_and_the_books_agree() -> None:
    chance, batches = random.Random(0), batcher()
    waiting: dict[str, int] = {}
    for step in range(2000):
        name, nbytes = f"{step}", chance.choice((SMALL, 100_000, 1_000_000, LARGE))
        batches.add(step / 100, name, nbytes)
        waiting[name] = nbytes
        if chance.random() < 0.3:
            gone = chance.choice(list(waiting))
            batches.remove(gone)
            batches.remove(gone)
            del waiting[gone]
        if chance.random() < 0.3:
            taken = batches.take(step / 100)
            for item in taken:
                del waiting[item]
            if taken:
                batches.took(chance.random(), len(taken))
        assert len(batches) == len(waiting)
        assert batches.waiting_bytes == sum(waiting.values())
    assert batches.clear() == sorted(waiting, key=int)
    assert len(batches) == batches.waiting_bytes == 0
