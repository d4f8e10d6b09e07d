"""A payload told as its difference from another: frames of a camera that stands still have features that differ little.

Of two INT8 payloads of one shape, each code of the newer is expected to be the older one's at the newer scale, and what
it is more or less than that, modulo 256, is mostly near zero where little has moved: zstd then takes a half to three
quarters of what it leaves of the payload itself (`docs/benchmarks.md`). A difference is the newer payload's header and
scales as they are, and then the codes' differences, coded. With the very same base at hand that is all of the payload,
to the byte: its checksum says so after it was put together, and where it does not, the whole is asked for.

Whoever asks names what it has of what came before in the same stream; whoever has that too, and sends less so, does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .coding import WINDOW_BYTES_MAX, Buffer, pack, pays, unpack
from .errors import CorruptPayload, RemoteProtocolError
from .payload import SAME_BYTES, Codec, Compression, Payload, start_of_body

# Larger ones are passed over: that both sides need less than a millisecond, beside all else that an event loop does.
BODY_BYTES_MAX = WINDOW_BYTES_MAX
# What is saved at least, so that it is worth the time of both.
DIFFERENCE_SHARE_MAX = 0.8
# A half is saved where it is of use at all, and the sender takes so long: links below some 60 MB/s gain by it.
GAIN = 2.0
SECONDS_PER_BYTE = 5e-9


def is_worth_it(bytes_per_s: float) -> bool:
    """Whether to ask for differences on a link of that pace."""
    return pays(bytes_per_s, GAIN, SECONDS_PER_BYTE)


def may_be_base(base: Payload) -> bool:
    """Whether differences from `base` can be told."""
    is_plain = base.codec is Codec.INT8 and base.compression is Compression.NONE
    return is_plain and base.nbytes - base.body_at <= BODY_BYTES_MAX


def same(payload: Payload) -> bytes:
    """What tells this very payload from all others of its key: its first 16 bytes."""
    return bytes(payload.data[:SAME_BYTES])


def difference(base: Payload, payload: Payload) -> bytes | None:
    """`payload`, for who has `base`; None where that is not possible, or not much shorter."""
    if not (may_be_base(base) and may_be_base(payload)):
        return None
    if (base.tokens, base.dim) != (payload.tokens, payload.dim):
        return None
    scales, codes = _parts(payload.data[payload.body_at :], payload.tokens, payload.dim)
    expected = _expected(base, scales)
    start = payload.body_at + scales.nbytes
    coded = pack((codes.view(np.uint8) - expected.view(np.uint8)).data)
    if start + len(coded) > DIFFERENCE_SHARE_MAX * payload.nbytes:
        return None
    return bytes(payload.data[:start]) + coded


def applied(base: Payload, told: Buffer) -> bytes:
    """The payload that `told` makes of `base`, to be checked as any other; CorruptPayload where it makes none."""
    body_at = start_of_body(told)
    start = body_at + 4 * base.tokens
    if start >= len(told):
        raise CorruptPayload(f"difference of {len(told)} bytes: header and scales alone have {start}")
    view = memoryview(told)
    scales = np.frombuffer(view[body_at:start], "<f4")
    size = base.tokens * base.dim
    try:
        coded = unpack(view[start:], size, ratio_max=size)
    except RemoteProtocolError as error:
        raise CorruptPayload(f"difference: {error}") from None
    if len(coded) != size:
        raise CorruptPayload(f"difference of {len(coded)} codes from features with {size}")
    expected = _expected(base, scales).view(np.uint8)
    codes = np.frombuffer(coded, np.uint8).reshape(expected.shape) + expected
    return b"".join((view[:start], codes.data))


def _expected(base: Payload, scales: NDArray[np.float32]) -> NDArray[np.int8]:
    """The codes of `base` at other `scales`, int8 (tokens, dim): each a float32 product, so that all devices agree."""
    former, codes = _parts(base.data[base.body_at :], base.tokens, base.dim)
    with np.errstate(all="ignore"):  # scales that are none: what comes of them fails the checksum
        factors = np.nan_to_num(former / scales, nan=0.0, posinf=0.0, neginf=0.0)
        expected: NDArray[np.int8] = np.clip(np.rint(codes * factors[:, None]), -127, 127).astype(np.int8)
    return expected


def _parts(body: Buffer, tokens: int, dim: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    scales = np.frombuffer(body, "<f4", tokens)
    return scales, np.frombuffer(body, np.int8, tokens * dim, offset=4 * tokens).reshape(tokens, dim)
