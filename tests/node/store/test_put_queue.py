"""node/store/put_queue.py: what waits for the disk."""

from __future__ import annotations

from edgecache.node.store.put_queue import PutQueue


def filled(*sizes: int) -> PutQueue:
    queue = PutQueue()
    for number, size in enumerate(sizes):
        queue.add(b"%d" % number, memoryview(bytes(size)))
    return queue


def keys(queue: PutQueue, bytes_max: int) -> list[bytes]:
    return [key for key, _ in queue.batch(bytes_max)]


def test_a_batch_is_what_waits_longest_and_at_least_one() -> None:
    queue = filled(100, 200, 300)
    assert keys(queue, 299) == [b"0"]
    assert keys(queue, 300) == [b"0", b"1"]
    assert keys(queue, 1) == [b"0"]
    queue.check()


def test_the_last_word_on_a_key_waits_last() -> None:
    queue = filled(100, 200)
    queue.add(b"0", None)
    assert keys(queue, 1000) == [b"1", b"0"]
    assert (queue.nbytes, queue.accepted) == (200, 3)
    put = queue.get(b"0")
    assert put is not None
    assert put.data is None
    queue.check()


def test_what_came_while_it_was_written_stays() -> None:
    queue = filled(100)
    [(key, put)] = queue.batch(1000)
    queue.add(key, memoryview(bytes(50)))
    queue.done(key, put)
    assert (key in queue, queue.nbytes, queue.written) == (True, 50, 1)
    [(key, put)] = queue.batch(1000)
    queue.done(key, put)
    assert (len(queue), queue.nbytes, queue.written) == (0, 0, 2)


def test_giving_up_counts_puts_and_not_removals() -> None:
    queue = filled(1, 2)
    queue.add(b"gone", None)
    assert queue.clear() == 2
    assert (len(queue), queue.nbytes, queue.written) == (0, 0, 3)
