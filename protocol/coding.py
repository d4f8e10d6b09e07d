"""Entropy coding of what is sent, where the link is slower than that: zstd, a frame's part of a blob at a time.

INT8 features are all but noise to a dictionary coder, but their codes are not spread evenly: zstd's entropy coding
takes 7 to 25 % off them, at some 500 MB/s there and 900 back (`docs/benchmarks.md`). So it pays below about 300 Mbit/s,
on a slow device at less, and costs time above. Who receives measures the link, while more is known to be on its way,
and tells the sender; the sender knows what it gains and what it costs here, and decides for each frame.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

import zstandard

from .errors import RemoteProtocolError

LEVEL = 1  # 3 to 12 gain the same on features, and take longer
CODED_BYTES_MIN = 4096
# What is not at least so much smaller is not worth the receiver's time.
CODED_SHARE_MAX = 0.97
# A frame of bytes that unpack to more is refused: unpacking takes time by what comes out. Blank features are sent as
# they are.
RATIO_MAX = 64
WINDOW_BYTES_MAX = 512 * 1024  # that a frame's part of a blob never needs

# What is assumed before anything was coded: somewhat more than features give, so that it is tried.
GAIN_UNKNOWN = 1.25
SECONDS_PER_BYTE_UNKNOWN = 2e-9
# Unpacking takes 0.6 of packing; the rest is doubt.
BOTH_SIDES = 1.75
TRIED_EACH = 64  # frames, where it does not pay by what is known: others come
_WEIGHT = 0.2  # of the newest in a moving average

# Fewer bytes say more of the event loop than of the link; and the median of some samples nothing of its stalls.
SAMPLE_BYTES = 32 * 1024
SAMPLES, SAMPLES_MIN = 7, 3
# A link that is faster from the start is none of the sender's business: 1 Gbit/s.
TOLD_BELOW_BYTES_PER_S = 125e6
TOLD_CHANGE = 1.25
PACE_MAX = 2**40

Buffer = bytes | bytearray | memoryview


def pays(bytes_per_s: float, gain: float, seconds_per_byte: float) -> bool:
    """Whether what coding saves on a link is more than what it costs the sender, and then the receiver."""
    return (1 - 1 / gain) / bytes_per_s > BOTH_SIDES * seconds_per_byte


class Coder:
    """The sender's side of one connection: codes what pays, as far as that is known."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """`clock`: of the processor's time, in which others' use of it does not count."""
        self.gain = GAIN_UNKNOWN
        self.seconds_per_byte = SECONDS_PER_BYTE_UNKNOWN
        self._clock = clock
        self._bytes_per_s: float | None = None
        self._passed_over = 0

    def told(self, bytes_per_s: int) -> None:
        """What is sent arrives at this pace."""
        self._bytes_per_s = float(bytes_per_s)

    def coded(self, parts: Sequence[Buffer], size: int) -> bytes | None:
        """`parts`, `size` bytes together, coded; None where they are to be sent as they are."""
        if size < CODED_BYTES_MIN or self._bytes_per_s is None:
            return None
        if not pays(self._bytes_per_s, self.gain, self.seconds_per_byte):
            self._passed_over += 1
            if self._passed_over % TRIED_EACH or self._bytes_per_s > TOLD_BELOW_BYTES_PER_S:
                return None
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        compressor = _zstd.compressor
        started = self._clock()
        coded = compressor.compress(data)
        took = (self._clock() - started) / size
        self.seconds_per_byte += _WEIGHT * (took - self.seconds_per_byte)
        self.gain += _WEIGHT * (min(size / len(coded), RATIO_MAX) - self.gain)
        return coded if size / RATIO_MAX <= len(coded) <= CODED_SHARE_MAX * size else None


class PaceMeter:
    """The receiver's side: how fast bytes come while more of them are on their way."""

    def __init__(self) -> None:
        self._bytes = 0
        self._seconds = 0.0
        self._samples: deque[float] = deque(maxlen=SAMPLES)  # bytes a second
        self._told: float | None = None

    @property
    def pace(self) -> float | None:
        """Bytes a second, as last told; None where the link is fast, or not known."""
        return self._told

    def came(self, count: int, seconds: float) -> int | None:
        """`count` bytes came, `seconds` after those before them; the pace, when the sender should be told it."""
        self._bytes += count
        self._seconds += seconds
        if self._bytes < SAMPLE_BYTES:
            return None
        self._samples.append(min(self._bytes / max(self._seconds, 1e-9), PACE_MAX))
        self._bytes, self._seconds = 0, 0.0
        if len(self._samples) < SAMPLES_MIN:
            return None
        pace = median(self._samples)
        if self._told is None:
            if pace >= TOLD_BELOW_BYTES_PER_S:
                return None
        elif self._told / TOLD_CHANGE < pace < self._told * TOLD_CHANGE:
            return None
        self._told = pace
        return max(1, int(pace))


class _Zstd(threading.local):
    """The library's contexts, half a megabyte each, which no two threads may use at once."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()
        self.compressor.compress(
            bytes(CODED_BYTES_MIN)
        )  # the first time takes ten times as long, and would be measured


_zstd = _Zstd()


def pack(data: Buffer) -> bytes:
    """`data` coded, whatever that gains."""
    return _zstd.compressor.compress(data)


def unpack(data: Buffer, bytes_max: int, ratio_max: int = RATIO_MAX) -> bytes:
    """What was packed; RemoteProtocolError when that is no such thing, or more than it may be, before it is made."""
    try:
        told = zstandard.get_frame_parameters(data)
        size = told.content_size  # 2**64 - 1 where it is not told
        if not 0 < size <= min(bytes_max, ratio_max * len(data)) or told.window_size > WINDOW_BYTES_MAX:
            raise RemoteProtocolError(
                f"{len(data)} coded bytes that unpack to {size}: at most {bytes_max}, and {ratio_max} times as many"
            )
        return _zstd.decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"{len(data)} coded bytes that do not unpack: {error}") from None
