"""Frames between the node and its worker: what goes in comes out, and limits hold before a byte is kept."""

from __future__ import annotations

import io

import pytest
from edgecache.encoder import wire

MESSAGES: list[tuple[wire.Message, bytes]] = [
    (wire.Ready("edgecache/tiny", "1", b"\7" * 32, 64, 192), b""),
    (wire.Failed("out of memory", is_final=False), b""),
    (wire.Encode([3, 0, 2]), b"abcde"),
    (wire.Encoded([None, wire.Fault("UndecodableImage", "truncated")]), b"\0" * 8),
]


def written(message: wire.Message, body: bytes) -> bytes:
    stream = io.BytesIO()
    wire.write(stream, message, [body[:2], memoryview(body)[2:]])
    return stream.getvalue()


@pytest.mark.parametrize(("message", "body"), MESSAGES)
def test_a_frame_is_read_as_it_was_written(message: wire.Message, body: bytes) -> None:
    stream = io.BytesIO(written(message, body) * 2)
    assert wire.read(stream) == (message, body)
    assert wire.read(stream) == (message, body)
    assert wire.read(stream) is None


@pytest.mark.parametrize("cut", range(len(written(*MESSAGES[2]))))
def test_a_stream_that_ends_within_a_frame_has_ended(cut: int) -> None:
    assert wire.read(io.BytesIO(written(*MESSAGES[2])[:cut])) is None


@pytest.mark.parametrize(
    "lengths", [(wire.HEAD_BYTES_MAX + 1, 0), (0, wire.BODY_BYTES_MAX + 1), (2**32 - 1, 2**32 - 1)]
)
def test_lengths_past_the_limits_are_refused(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"at most {wire.HEAD_BYTES_MAX}"):
        wire.lengths_of(wire.LENGTHS.pack(*lengths))


@pytest.mark.parametrize("head", [b"", b"\xc1", b"\x80", b"\x81\xa4type\xa5other", b"junk"])
def test_a_head_that_is_no_message_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        wire.message_of(head)
