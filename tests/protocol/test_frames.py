"""Frames: cut anywhere, in turn, and never larger than they may be."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterable

import numpy as np
import pytest
import zstandard
from edgecache.protocol.coding import Coder
from edgecache.protocol.errors import RemoteProtocolError
from edgecache.protocol.frames import (
    BODY_BYTES_MAX,
    CHUNK_BYTES,
    DATA,
    HEAD_BYTES_MAX,
    HEADER_BYTES,
    SHORT_BYTES_MAX,
    Frame,
    FrameReader,
    FrameWriter,
    uninitialized,
)
from hypothesis import given, settings
from hypothesis import strategies as st

BLOB_MAX = 10 * CHUNK_BYTES
Said = tuple[int, int, bytes, int, bytes]  # kind, stream, head, blob bytes, piece

FRAMES = st.lists(
    st.tuples(
        st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=30), st.integers(0, BLOB_MAX), st.binary()
    ),
    max_size=12,
)


def _said(frames: Iterable[Frame]) -> list[Said]:
    return [(f.kind, f.stream, bytes(f.head), f.blob_bytes, bytes(f.piece)) for f in frames]


def _wire(kind: int, stream: int, head: bytes, blob_bytes: int, piece: bytes) -> bytes:
    return struct.pack("<IBBHII", len(head) + len(piece), kind, 0, len(head), stream, blob_bytes) + head + piece


def _taken(writer: FrameWriter, bytes_wanted: int = 2**40) -> bytes:
    return b"".join(writer.take(bytes_wanted))


def _blobs(frames: Iterable[Frame]) -> dict[int, bytes]:
    blobs: dict[int, bytes] = {}
    for frame in frames:
        blobs[frame.stream] = blobs.get(frame.stream, b"") + bytes(frame.piece)
    return blobs


# -- reading -------------------------------------------------------------------------------------------------------


@given(FRAMES, st.data())
def test_a_stream_may_be_cut_anywhere(frames: list[Said], data: st.DataObject) -> None:
    wire = b"".join(_wire(*frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    reader, got = FrameReader(BLOB_MAX), []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        got += _said(reader.feed(wire[start:end]))
    assert got == frames
    assert reader.is_between_frames


def test_a_stream_may_come_byte_by_byte() -> None:
    frames: list[Said] = [
        (10, 1, b"head", 0, b""),
        (17, 2, b"", 7, b"piece"),
        (DATA, 2, b"", 0, b"of"),
        (3, 9, b"", 0, b""),
    ]
    reader, got = FrameReader(BLOB_MAX), []
    for byte in b"".join(_wire(*frame) for frame in frames):
        got += _said(reader.feed(bytes([byte])))
    assert got == frames


def test_the_largest_frame_fits_and_the_buffer_is_never_full() -> None:
    largest: Said = (17, 1, b"h" * HEAD_BYTES_MAX, CHUNK_BYTES, b"p" * CHUNK_BYTES)
    wire = 3 * _wire(*largest)
    reader, got = FrameReader(BLOB_MAX), []
    while wire:
        count = min(len(buffer := reader.buffer()), len(wire))
        assert count
        buffer[:count] = wire[:count]
        wire = wire[count:]
        got += _said(reader.received(count))
    assert got == 3 * [largest]


def test_where_many_small_frames_come_at_once_they_are_read_together() -> None:
    small: Said = (17, 1, b"h", 3000, b"p" * 3000)
    reader, wire = FrameReader(BLOB_MAX), 40 * _wire(*small)
    reads, got = [], []
    while wire:
        count = min(len(buffer := reader.buffer()), len(wire))
        buffer[:count], wire = wire[:count], wire[count:]
        reads.append(count)
        got += _said(reader.received(count))
    assert got == 40 * [small]
    assert len(reads) <= 4


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ((0xFFFFFFFF, 10, 0, 0, 1, 0), f"frame of 4294967295 bytes, at most {BODY_BYTES_MAX}"),
        ((BODY_BYTES_MAX + 1, 10, 0, 0, 1, 0), f"frame of {BODY_BYTES_MAX + 1} bytes"),
        ((0xFFFFFFFF, 255, 255, 65535, 0xFFFFFFFF, 0xFFFFFFFF), "frame of 4294967295 bytes"),
        ((4, 10, 0, 5, 1, 0), "frame of 4 bytes with a head of 5"),
        ((0, 10, 0, 1, 1, 0), "frame of 0 bytes with a head of 1"),
        ((4, 10, 2, 4, 1, 0), "frame coded by 2: there are 0 and 1"),
        ((0x02010316, 0, 1, 0, 1, 0), r"at most 327679 \(it speaks TLS: is its node run with --cluster-key\?\)"),
        ((int.from_bytes(b"GET ", "little"), 0, 47, 0, 1, 0), r"\(it speaks HTTP: this is the port for peers\)"),
        ((4, 11, 0, 4, 1, 0xFFFFFFFF), f"blob of 4294967295 bytes, at most {BLOB_MAX}"),
        ((4, 11, 0, 4, 1, BLOB_MAX + 1), f"blob of {BLOB_MAX + 1} bytes"),
    ],
)
def test_a_header_beyond_a_limit_is_refused_before_anything_is_allocated_for_it(
    header: tuple[int, ...], complaint: str
) -> None:
    reader = FrameReader(BLOB_MAX)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match=complaint):
            reader.feed(struct.pack("<IBBHII", *header))
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_is_frames_within_the_limits(garbage: bytes) -> None:
    try:
        frames = FrameReader(BLOB_MAX).feed(garbage)
    except RemoteProtocolError:
        return
    assert sum(HEADER_BYTES + len(f.head) + len(f.piece) for f in frames) <= len(garbage)
    assert all(f.blob_bytes <= BLOB_MAX for f in frames)


# -- coded ---------------------------------------------------------------------------------------------------------


def _slow_link() -> Coder:
    coder = Coder()
    coder.told(1000)
    return coder


def _uneven(size: int) -> bytes:
    """Bytes that can be coded, and not to nothing."""
    return np.random.default_rng(size).integers(0, 32, size, np.uint8).tobytes()


@given(st.integers(1, 3 * CHUNK_BYTES), st.data())
@settings(max_examples=30)
def test_a_coded_blob_arrives_as_it_was_wherever_the_stream_is_cut(size: int, data: st.DataObject) -> None:
    writer, reader, blob = FrameWriter(2 * BLOB_MAX), FrameReader(BLOB_MAX), _uneven(size)
    writer.coder = _slow_link()
    writer.send(11, 7, b"head", [blob[: size // 3], blob[size // 3 :]], size)
    wire = _taken(writer)
    assert size < 2 * SHORT_BYTES_MAX or len(wire) < 0.8 * size
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    frames: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        frames += reader.feed(wire[start:end])
        assert reader.split() is None or len(wire) > size  # it can only be unpacked whole
    assert _blobs(frames) == {7: blob}
    assert (bytes(frames[0].head), frames[0].blob_bytes) == (b"head", size)
    assert reader.is_between_frames


def test_a_coded_frame_that_unpacks_to_more_than_a_chunk_is_refused() -> None:
    body = zstandard.ZstdCompressor().compress(_uneven(CHUNK_BYTES + 1))
    with pytest.raises(RemoteProtocolError, match=f"unpack to {CHUNK_BYTES + 1}: at most {CHUNK_BYTES}"):
        FrameReader(BLOB_MAX).feed(struct.pack("<IBBHII", len(body), 11, 1, 0, 1, BLOB_MAX) + body)


# -- writing -------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 4 * CHUNK_BYTES)), min_size=1, max_size=8),
    st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=30),
)
def test_whatever_is_sent_and_however_it_is_taken_every_blob_arrives_whole(
    messages: list[tuple[bytes, int]], takes: list[int]
) -> None:
    writer, reader = FrameWriter(2 * BLOB_MAX), FrameReader(BLOB_MAX)
    blobs = {stream: bytes([stream]) * size for stream, (_, size) in enumerate(messages)}
    frames: list[Frame] = []
    for stream, (head, size) in enumerate(messages):
        half = size // 2
        parts = [part for part in (blobs[stream][:half], blobs[stream][half:]) if part]
        writer.send(17, stream, head, parts, size)
        frames += reader.feed(_taken(writer, takes.pop()) if takes else b"")
    while writer.pending_bytes:
        frames += reader.feed(_taken(writer, takes.pop() if takes else 1))
    assert writer.pending_messages == 0
    assert reader.is_between_frames
    assert _blobs(frames) == blobs
    opening = {f.stream: (bytes(f.head), f.blob_bytes) for f in frames if f.kind != DATA}
    assert opening == dict(enumerate(messages))
    assert all(len(f.piece) <= CHUNK_BYTES for f in frames)


def test_a_small_answer_is_behind_no_more_than_what_was_taken_already() -> None:
    writer, reader = FrameWriter(3 * BLOB_MAX), FrameReader(BLOB_MAX)
    for stream in (1, 2, 3):
        writer.send(11, stream, b"", [bytes(BLOB_MAX)], BLOB_MAX)
    first = _taken(writer, 3 * CHUNK_BYTES)
    writer.send(12, 4, b"")
    frames = reader.feed(first + _taken(writer))
    assert [f.stream for f in frames][:5] == [1, 2, 3, 4, 1]


def test_short_messages_alternate_with_the_chunks_of_large_ones_however_many_those_are() -> None:
    writer, reader = FrameWriter(3 * BLOB_MAX), FrameReader(BLOB_MAX)
    for stream in (1, 2, 3):
        writer.send(11, stream, b"", [bytes(BLOB_MAX)], BLOB_MAX)
    for stream in (4, 5):
        writer.send(11, stream, b"", [bytes(SHORT_BYTES_MAX)], SHORT_BYTES_MAX)
    frames = reader.feed(_taken(writer))
    assert [f.stream for f in frames][:6] == [4, 1, 5, 2, 3, 1]


def test_large_answers_take_turns() -> None:
    writer, reader = FrameWriter(2 * BLOB_MAX), FrameReader(BLOB_MAX)
    writer.send(11, 1, b"", [bytes(BLOB_MAX)], BLOB_MAX)
    writer.send(11, 2, b"", [bytes(2 * CHUNK_BYTES)], 2 * CHUNK_BYTES)
    frames = reader.feed(_taken(writer))
    assert [f.stream for f in frames] == [1, 2, 1, 2] + (BLOB_MAX // CHUNK_BYTES - 2) * [1]


def test_no_more_blobs_are_under_way_than_the_other_side_has_room_for() -> None:
    writer, reader = FrameWriter(3 * CHUNK_BYTES), FrameReader(BLOB_MAX)
    sizes = {1: 2, 2: 2, 3: 1, 4: 9, 5: 3}  # chunks
    for stream, chunks in sizes.items():
        writer.send(11, stream, b"", [bytes([stream]) * chunks * CHUNK_BYTES], chunks * CHUNK_BYTES)
    frames = reader.feed(_taken(writer, 1)) + reader.feed(_taken(writer))
    left: dict[int, int] = {}
    for frame in frames:
        if frame.kind != DATA:
            left[frame.stream] = sizes[frame.stream]
            assert len(left) == 1 or sum(sizes[stream] for stream in left) <= 3
        left[frame.stream] -= 1
        if not left[frame.stream]:
            del left[frame.stream]
    assert _blobs(frames) == {stream: bytes([stream]) * chunks * CHUNK_BYTES for stream, chunks in sizes.items()}


def test_only_what_has_not_begun_can_be_dropped() -> None:
    writer, reader = FrameWriter(2 * BLOB_MAX), FrameReader(BLOB_MAX)
    for stream in (1, 2):
        writer.send(17, stream, b"", [bytes(3 * CHUNK_BYTES)], 3 * CHUNK_BYTES)
    writer.send(10, 3, b"small")
    begun = _taken(writer, CHUNK_BYTES)
    assert not writer.drop(1)
    assert writer.drop(2)
    assert not writer.drop(2)
    assert not writer.drop(3)
    assert not writer.drop(99)
    assert writer.pending_bytes == 2 * CHUNK_BYTES
    assert set(_blobs(reader.feed(begun + _taken(writer)))) == {1, 3}
    assert writer.pending_bytes == 0


def test_a_large_blob_is_not_copied() -> None:
    writer, blob = FrameWriter(2 * BLOB_MAX), bytearray(BLOB_MAX)
    writer.send(11, 1, b"", [blob], BLOB_MAX)
    pieces = [buffer for buffer in writer.take(2**40) if isinstance(buffer, memoryview)]
    assert sum(map(len, pieces)) == BLOB_MAX
    assert all(piece.obj is blob for piece in pieces)


def test_small_messages_are_one_buffer() -> None:
    writer = FrameWriter(2 * BLOB_MAX)
    for stream in range(100):
        writer.send(11, stream, b"", [bytes(100), bytes(200)], 300)
    assert len(writer.take(1)) == 1
    assert writer.take(1) == []


def test_a_head_too_long_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="head of 65536 bytes, at most 65535"):
        FrameWriter(1).send(10, 1, bytes(HEAD_BYTES_MAX + 1))


def test_memory_for_what_is_announced_is_bytes_that_can_be_written() -> None:
    room = uninitialized(5)
    room[:] = b"hello"
    assert bytes(room.toreadonly()) == b"hello"
    assert room.format == "B"
