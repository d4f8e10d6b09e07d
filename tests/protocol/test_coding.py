"""What is coded, when, and what does not unpack."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import zstandard
from edgecache.protocol.coding import (
    CODED_BYTES_MIN,
    PACE_MAX,
    RATIO_MAX,
    SAMPLE_BYTES,
    SAMPLES_MIN,
    TOLD_BELOW_BYTES_PER_S,
    TRIED_EACH,
    Coder,
    PaceMeter,
    pays,
    unpack,
)
from edgecache.protocol.errors import RemoteProtocolError

MBIT = 1e6 / 8
SIZE = 100_000
NOISE = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()
# Six bits of each byte are used, about as in features of which one value is far from the rest.
FEATURES = (np.random.default_rng(0).integers(0, 64, SIZE, np.uint8)).tobytes()


def clock(*, each_s: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += each_s


def coder(bytes_per_s: float, *, took_s: float = SIZE * 2e-9) -> Coder:
    ticks = clock(each_s=took_s)
    made = Coder(lambda: next(ticks))
    made.told(int(bytes_per_s))
    return made


def code(made: Coder, data: bytes = FEATURES) -> bytes | None:
    return made.coded([data], len(data))


def test_coding_pays_on_a_slow_link_and_not_on_a_fast_one() -> None:
    """1.08 × at 600 MB/s pays below 190 Mbit/s, 1.48 × below 850: what two kinds of features give."""
    for gain, limit in ((1.08, 203), (1.48, 889)):
        assert pays((limit - 2) * MBIT, gain, 1 / 600e6)
        assert not pays((limit + 2) * MBIT, gain, 1 / 600e6)
    assert not pays(1, 1.0, 1e-9)


def test_what_was_coded_is_unpacked_whatever_parts_it_was_in() -> None:
    made = coder(10 * MBIT)
    parts: list[bytes | memoryview] = [FEATURES[:10], FEATURES[10:70_000], memoryview(FEATURES)[70_000:]]
    coded = made.coded(parts, SIZE)
    assert coded is not None
    assert len(coded) < 0.8 * SIZE
    assert unpack(coded, SIZE) == FEATURES


def test_nothing_is_coded_before_the_pace_is_known_nor_what_is_small() -> None:
    assert code(Coder()) is None
    assert code(coder(10 * MBIT), FEATURES[: CODED_BYTES_MIN - 1]) is None
    assert code(coder(10 * MBIT), FEATURES[:CODED_BYTES_MIN]) is not None


def test_a_link_that_gets_faster_is_sent_to_uncoded() -> None:
    made = coder(10 * MBIT)
    assert code(made) is not None
    made.told(int(5000 * MBIT))
    assert code(made) is None
    made.told(int(10 * MBIT))
    assert code(made) is not None


def test_what_gains_nothing_is_sent_as_it_is_and_tried_seldom() -> None:
    made = coder(100 * MBIT)
    tried = 0
    for _ in range(10 * TRIED_EACH):
        before = made.gain
        assert code(made, NOISE) is None
        tried += made.gain != before
    assert tried < 30
    for _ in range(30 * TRIED_EACH):  # other features come, which gain
        coded = code(made)
    assert coded is not None


def test_a_slow_processor_codes_on_slower_links_only() -> None:
    slow = coder(100 * MBIT, took_s=SIZE * 50e-9)
    coded = [code(slow) for _ in range(50)]
    assert coded[0] is not None
    assert coded[-1] is None
    slowest = coder(5 * MBIT, took_s=SIZE * 50e-9)
    assert all(code(slowest) is not None for _ in range(50))


def test_blank_features_are_sent_as_they_are() -> None:
    assert code(coder(10 * MBIT), bytes(SIZE)) is None


# -- the receiver ---------------------------------------------------------------------------------------------


def test_the_pace_is_told_when_it_is_known_and_when_it_changes() -> None:
    meter = PaceMeter()
    first = [meter.came(SAMPLE_BYTES // 2, 0.0005) for _ in range(2 * SAMPLES_MIN)]
    assert first == [None] * (2 * SAMPLES_MIN - 1) + [pytest.approx(SAMPLE_BYTES / 0.001, rel=0.01)]
    assert all(meter.came(SAMPLE_BYTES, 0.001) is None for _ in range(100))
    told = [pace for _ in range(50) if (pace := meter.came(SAMPLE_BYTES, 0.1)) is not None]
    assert told == [pytest.approx(SAMPLE_BYTES / 0.1, rel=0.01)]


def test_a_stall_of_the_event_loop_is_not_the_link() -> None:
    meter = PaceMeter()
    for at in range(100):
        assert meter.came(SAMPLE_BYTES, 0.5 if at % 3 == 2 else 1e-5) is None


def test_a_fast_link_is_never_spoken_of_unless_it_was_slow() -> None:
    meter = PaceMeter()
    assert all(meter.came(SAMPLE_BYTES, 0.0) is None for _ in range(10))
    slow = PaceMeter()
    assert [slow.came(SAMPLE_BYTES, 0.1) for _ in range(SAMPLES_MIN)][-1] is not None
    told = [pace for _ in range(100) if (pace := slow.came(SAMPLE_BYTES, 0.0)) is not None]
    assert told
    assert TOLD_BELOW_BYTES_PER_S < told[-1] <= PACE_MAX


# -- what others send -----------------------------------------------------------------------------------------


def forged(size: int, body: bytes = b"") -> bytes:
    """The header of a zstd frame (RFC 8878, section 3.1.1.1) that says it is of one segment of `size` bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0b1110_0000]) + struct.pack("<Q", size) + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x28\xb5\x2f\xfd",
        b"no such thing at all",
        forged(0),
        forged(2**63),
        forged(2**64 - 1),
        forged(SIZE + 1, bytes(SIZE)),
        forged(SIZE, bytes(SIZE)),
        struct.pack("<II", 0x184D2A50, 4000) + bytes(4000),  # a skippable frame
        zstandard.ZstdCompressor(write_content_size=False).compress(FEATURES),
        zstandard.ZstdCompressor().compress(FEATURES)[:-1],
        zstandard.ZstdCompressor().compress(FEATURES) + b"\0",
        2 * zstandard.ZstdCompressor().compress(FEATURES[:1000]),
        zstandard.ZstdCompressor().compress(bytes(SIZE)),  # within the size, beyond the ratio
        zstandard.ZstdCompressor().compress(bytes(2**26)),
    ],
    ids=range(15),
)
def test_what_is_not_one_frame_of_a_size_within_the_limits_is_refused_and_takes_no_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match=f"{len(data)} coded bytes that"):
            unpack(data, SIZE)
        assert tracemalloc.get_traced_memory()[1] < 2 * SIZE
    finally:
        tracemalloc.stop()


def test_a_window_larger_than_any_frame_is_refused() -> None:
    head = b"\x28\xb5\x2f\xfd" + bytes([0b1000_0000, (31 - 10) << 3]) + struct.pack("<I", SIZE)  # of 2 GiB
    with pytest.raises(RemoteProtocolError, match="coded bytes that"):
        unpack(head + bytes(SIZE // RATIO_MAX), SIZE)


def test_damage_is_refused_or_gives_as_many_bytes() -> None:
    coded = bytearray(zstandard.ZstdCompressor(level=1).compress(FEATURES))
    chance = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(coded)
        damaged[chance.integers(len(coded))] ^= 1 << int(chance.integers(8))
        try:
            assert len(unpack(damaged, SIZE)) <= SIZE
        except RemoteProtocolError:
            continue
