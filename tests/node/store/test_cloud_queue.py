"""The queue of writes to the cloud: bounded, and never two writes at once on one key."""

from __future__ import annotations

import random

import pytest
from edgecache.node.store.cloud_queue import PUT_ATTEMPTS_MAX, REMOVALS_TOGETHER_MAX, Kind, Write, WriteQueue
from edgecache.protocol.keys import digest_of


def key(image: int, encoder: int = 0) -> bytes:
    return digest_of(b"image %d" % image) + digest_of(b"encoder %d" % encoder)


def data(size: int = 100) -> memoryview:
    return memoryview(bytes(size))


def queue(puts_bytes_max: int = 1000, removals_max: int = 5) -> WriteQueue:
    return WriteQueue(puts_bytes_max, removals_max)


def put(where: WriteQueue, *images: int, must_replace: bool = False, size: int = 100) -> None:
    for image in images:
        where.put(key(image), data(size), 0.0, must_replace=must_replace)


def names(writes: list[Write]) -> list[tuple[Kind, bytes]]:
    return [(write.kind, write.name) for write in writes]


def test_puts_go_in_the_order_in_which_they_came() -> None:
    made = queue()
    put(made, 1, 2)
    assert names(made.take()) == [(Kind.PUT, key(1))]
    assert names(made.take()) == [(Kind.PUT, key(2))]
    assert made.take() == []


def test_the_oldest_put_is_dropped_when_too_many_bytes_wait() -> None:
    made = queue(puts_bytes_max=1000)
    put(made, *range(12))
    assert (made.dropped_puts, made.queued_bytes) == (2, 1000)
    assert names(made.take()) == [(Kind.PUT, key(2))]


def test_what_is_under_way_counts_against_the_bound() -> None:
    made = queue(puts_bytes_max=1000)
    put(made, 1, size=900)
    taken = made.take()
    put(made, 2)
    assert not made.put(key(3), data(200), 0.0, must_replace=False)
    assert (made.dropped_puts, made.queued_bytes) == (2, 900)
    made.done(taken)
    assert made.put(key(4), data(200), 0.0, must_replace=False)


def test_a_payload_larger_than_the_whole_queue_is_refused() -> None:
    made = queue(puts_bytes_max=1000)
    assert not made.put(key(1), data(1001), 0.0, must_replace=False)
    assert len(made) == 0


def test_what_must_replace_an_older_payload_and_is_dropped_leaves_a_removal() -> None:
    made = queue(puts_bytes_max=100)
    put(made, 1, must_replace=True)
    put(made, 2)
    assert names(made.take()) == [(Kind.REMOVE, key(1))]


def test_a_later_put_of_a_key_takes_the_place_of_an_earlier_one() -> None:
    made = queue()
    put(made, 1, size=100)
    put(made, 1, size=50)
    assert made.queued_bytes == 50
    assert len(made.take()) == 1
    assert made.take() == []


def test_a_removal_takes_the_place_of_a_put_and_the_other_way_round() -> None:
    made = queue()
    put(made, 1)
    made.remove(Kind.REMOVE, key(1))
    put(made, 2)
    made.remove(Kind.REMOVE, key(2))
    put(made, 2)
    assert names(made.take()) == [(Kind.REMOVE, key(1))]
    assert names(made.take()) == [(Kind.PUT, key(2))]


@pytest.mark.parametrize(("kind", "name"), [(Kind.REMOVE_IMAGE, key(1)[:32]), (Kind.REMOVE_ENCODER, key(1)[32:])])
def test_the_removal_of_an_image_or_an_encoder_covers_the_puts_of_it_and_no_others(kind: Kind, name: bytes) -> None:
    made = queue()
    other = key(2, encoder=2)
    put(made, 1)
    made.put(other, data(), 0.0, must_replace=False)
    made.remove(kind, name)
    assert names(made.take()) == [(kind, name)]
    assert names(made.take()) == [(Kind.PUT, other)]


def test_removals_go_first_and_together() -> None:
    made = queue(removals_max=REMOVALS_TOGETHER_MAX + 10)
    put(made, 10_000)
    for image in range(REMOVALS_TOGETHER_MAX + 1):
        made.remove(Kind.REMOVE, key(image))
    assert len(made.take()) == REMOVALS_TOGETHER_MAX
    assert names(made.take()) == [(Kind.REMOVE, key(REMOVALS_TOGETHER_MAX))]
    assert names(made.take()) == [(Kind.PUT, key(10_000))]


def test_the_number_of_removals_is_bounded() -> None:
    made = queue(removals_max=5)
    for image in range(7):
        made.remove(Kind.REMOVE, key(image))
    assert made.dropped_removals == 2
    assert [write.name for write in made.take()] == [key(image) for image in range(2, 7)]


def test_a_key_that_is_being_written_is_written_again_only_afterwards() -> None:
    made = queue()
    put(made, 1)
    first = made.take()
    put(made, 1)
    assert made.take() == []
    made.done(first)
    assert names(made.take()) == [(Kind.PUT, key(1))]


def test_a_put_waits_for_the_removal_of_its_image_that_is_under_way() -> None:
    made = queue()
    made.remove(Kind.REMOVE_IMAGE, key(1)[:32])
    removal = made.take()
    put(made, 1, 2)
    assert names(made.take()) == [(Kind.PUT, key(2))]
    assert made.take() == []
    made.done(removal)
    assert names(made.take()) == [(Kind.PUT, key(1))]


def test_withdrawn_is_what_waits_and_what_is_under_way_is_removed_afterwards() -> None:
    made = queue()
    put(made, 1, 2)
    first = made.take()
    made.withdraw(key(1))
    made.withdraw(key(2))
    made.withdraw(key(3))
    assert made.take() == []
    made.done(first)
    assert names(made.take()) == [(Kind.REMOVE, key(1))]
    assert made.take() == []


def test_an_image_can_be_withdrawn_too() -> None:
    made = queue()
    put(made, 1, 2)
    made.withdraw(key(1)[:32])
    assert names(made.take()) == [(Kind.PUT, key(2))]


def test_a_put_that_fails_is_tried_again_before_others_and_not_for_ever() -> None:
    made = queue()
    put(made, 1, 2)
    for _ in range(PUT_ATTEMPTS_MAX):
        taken = made.take()
        assert names(taken) == [(Kind.PUT, key(1))]
        made.failed(taken)
    assert (made.dropped_puts, made.queued_bytes) == (1, 100)
    assert names(made.take()) == [(Kind.PUT, key(2))]


def test_a_removal_that_fails_is_tried_for_as_long_as_it_takes() -> None:
    made = queue()
    made.remove(Kind.REMOVE, key(1))
    for _ in range(10 * PUT_ATTEMPTS_MAX):
        made.failed(made.take())
    assert names(made.take()) == [(Kind.REMOVE, key(1))]


def test_a_put_that_fails_when_a_later_word_waits_is_forgotten() -> None:
    made = queue()
    put(made, 1, size=100)
    first = made.take()
    put(made, 1, size=50)
    made.failed(first)
    assert (made.queued_bytes, made.dropped_puts) == (50, 0)


def test_pending_says_what_will_have_become_of_a_key() -> None:
    made = queue()
    assert made.pending(key(1)) is None
    put(made, 1)
    assert (made.pending(key(1)) or Write(Kind.REMOVE, b"")).kind is Kind.PUT
    made.take()
    assert (made.pending(key(1)) or Write(Kind.REMOVE, b"")).kind is Kind.PUT
    made.remove(Kind.REMOVE_IMAGE, key(1)[:32])
    assert (made.pending(key(1)) or Write(Kind.PUT, b"")).kind is Kind.REMOVE_IMAGE
    assert made.pending(key(2)) is None


@pytest.mark.parametrize("seed", range(20))
def test_its_bookkeeping_holds_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    made, under_way = queue(puts_bytes_max=1000, removals_max=5), []
    for _ in range(500):
        image, encoder = rng.randrange(4), rng.randrange(2)
        match rng.randrange(7):
            case 0 | 1:
                made.put(key(image, encoder), data(rng.randrange(1, 400)), 0.0, must_replace=rng.random() < 0.5)
            case 2:
                kind = rng.choice([Kind.REMOVE, Kind.REMOVE_IMAGE, Kind.REMOVE_ENCODER])
                whole = key(image, encoder)
                name = {Kind.REMOVE: whole, Kind.REMOVE_IMAGE: whole[:32], Kind.REMOVE_ENCODER: whole[32:]}[kind]
                made.remove(kind, name)
            case 3:
                made.withdraw(rng.choice([key(image, encoder), key(image)[:32]]))
            case 4:
                if taken := made.take():
                    under_way.append(taken)
            case 5 | 6:
                if under_way:
                    rng.choice([made.done, made.failed])(under_way.pop(rng.randrange(len(under_way))))
        made.check()
    for taken in under_way:
        made.done(taken)
    while taken := made.take():
        made.done(taken)
    assert (len(made), made.queued_bytes) == (0, 0)
