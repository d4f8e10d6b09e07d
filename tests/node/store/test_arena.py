"""node/store/arena.py: slots are used again when nobody looks at them any more, and not before."""

from __future__ import annotations

import errno
import mmap
import threading
from pathlib import Path

import numpy as np
import pytest
from edgecache.node.store.arena import ARRIVING_BYTES_MAX, Arena
from edgecache.node.store.extents import PAGE_BYTES
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import Payload

MIB = 1024 * 1024
MINE = EncoderIdentity.declared("mine", "1")


def payload(image: int, tokens: int = 16) -> Payload:
    array = np.random.default_rng(image).standard_normal((tokens, 64), dtype=np.float32)
    return payloads.encode(array, FeatureKey(image.to_bytes(32), MINE))


def address_of(payload: Payload) -> int:
    """Where its bytes begin."""
    return int(np.frombuffer(payload.data, np.uint8).ctypes.data)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_system_that_gives_no_such_addresses_is_said_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refused)
    with pytest.raises(InvalidValue, match="memory of 1048576 bytes: no 4194304 bytes of addresses for it: Cannot"):
        Arena(MIB)


def test_a_payload_lies_in_the_arena_as_it_was() -> None:
    arena, made = Arena(MIB), payload(1)
    kept = arena.place(made, MIB)
    assert kept is not None
    assert kept.data is not made.data
    assert (kept.data, kept.key, kept.fidelity, kept.checksum) == (made.data, made.key, made.fidelity, made.checksum)
    assert kept.data.readonly
    assert np.array_equal(kept.array(), made.array())
    assert arena.used_bytes == arena.footprint(kept)
    arena.check()


def test_what_arrives_in_a_slot_is_kept_there_without_a_copy() -> None:
    arena, made = Arena(MIB), payload(1)
    slot = arena.arriving(made.nbytes, MIB)
    slot[:] = made.data
    arrived = payloads.parse(slot)
    kept = arena.place(arrived, MIB)
    assert kept is not None
    assert np.shares_memory(np.frombuffer(kept.data, np.uint8), np.frombuffer(slot, np.uint8))
    assert not isinstance(kept.held, memoryview)  # which would weigh as much as a small payload
    assert arena.used_bytes == arena.footprint(made)


def test_part_of_a_slot_is_copied() -> None:
    arena, made = Arena(MIB), payload(1)
    slot = arena.arriving(made.nbytes + 64, MIB)
    slot[: made.nbytes] = made.data
    arrived = payloads.parse(slot[: made.nbytes])
    kept = arena.place(arrived, MIB)
    assert kept is not None
    assert kept is not arrived


@pytest.mark.parametrize("size", [ARRIVING_BYTES_MAX + 1, 500_000])
def test_what_is_announced_and_too_large_arrives_elsewhere(size: int) -> None:
    arena = Arena(4 * MIB)
    elsewhere = arena.arriving(size, 400_000)
    elsewhere[:] = bytes(size)
    assert arena.used_bytes == 0


def test_a_slot_is_free_when_its_last_view_is_gone_and_not_before() -> None:
    arena, made = Arena(MIB), payload(1)
    kept = arena.place(made, MIB)
    assert kept is not None
    being_sent = kept.data[10:]
    read_by_a_user = np.frombuffer(kept.data, np.uint8)
    address = address_of(kept)
    del kept
    assert arena.used_bytes > 0
    other = arena.place(payload(2), MIB)
    assert other is not None
    assert address_of(other) != address
    assert being_sent == made.data[10:]
    del being_sent
    assert arena.used_bytes > arena.footprint(other)
    assert bytes(read_by_a_user) == bytes(made.data)
    del read_by_a_user
    assert arena.used_bytes == arena.footprint(other)
    arena.check()


def test_a_slot_may_be_let_go_on_another_thread() -> None:
    arena = Arena(MIB)
    for _ in range(200):
        held = [arena.place(payload(1), MIB)]
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
    assert arena.used_bytes == 0
    arena.check()


def test_memory_is_taken_when_it_is_used_and_given_back_when_it_is_not() -> None:
    before = resident()
    arena = Arena(256 * MIB)
    assert resident() - before < 8 * MIB
    slots = []
    for _ in range(64):
        slot = arena.allocate(MIB, 256 * MIB)
        assert slot is not None
        slot[:] = 1
        slots.append(slot)
    assert 60 * MIB < resident() - before < 80 * MIB
    assert slots[0][:4].tobytes() == b"\1\1\1\1"
    del slots[32:], slot
    arena.trim(32 * MIB)
    assert arena.resident_bytes == 32 * MIB
    assert resident() - before < 48 * MIB
    assert all(slot[-1] == 1 for slot in slots)


def test_small_payloads_that_keep_a_block_are_named_and_can_be_moved() -> None:
    arena = Arena(16 * MIB)
    kept = [arena.place(payload(image), MIB) for image in range(700)]
    few = {held.key.packed: held for held in kept[:350:8] if held is not None}
    rest = kept[350:]
    del kept
    named = arena.sparse()
    assert named
    assert set(named) <= few.keys()
    before = arena.resident_bytes
    for key in named:
        moved = arena.moved(few[key])
        assert moved is not None
        few[key] = moved
    arena.trim(0)
    assert arena.resident_bytes < before
    assert rest[0] is not None
    assert rest[0].data == payload(350).data
    arena.check()


def test_small_payloads_are_moved_together() -> None:
    arena = Arena(MIB)
    kept = [arena.place(payload(image), MIB) for image in range(200)]
    few = {payload.key.digest: payload for payload in kept[::8] if payload is not None}
    data = {digest: bytes(payload.data) for digest, payload in few.items()}
    del kept
    before = arena.resident_bytes
    for digest in list(few):
        moved = arena.moved(few[digest])
        assert moved is not None
        few[digest] = moved
    arena.trim(0)
    assert {digest: bytes(payload.data) for digest, payload in few.items()} == data
    assert arena.resident_bytes <= before // 8 + 2 * PAGE_BYTES
    assert arena.moved(payload(1, tokens=2000)) is None
    arena.check()
