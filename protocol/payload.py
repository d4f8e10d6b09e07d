"""Features as bytes: what is stored, sent, and handed out untouched.

A payload is quantised once, where it is made, and then rests and travels as it is. Layout, little-endian:

     0  magic "ECFP"        4  format version u32       8  checksum u64: xxh3 of everything from byte 16 on
    16  header bytes u32   20  tokens u32              24  dim u32         28  fidelity f32
    32  stored body bytes u64                          40  codec u8        41  compression u8
    42  name bytes u8      43  version bytes u8        44  knows u64           52  zeros
    64  image digest 32    96  encoder fingerprint 32  128 name, version, zeros up to a multiple of 64
     …  body: float32 or float16 (tokens, dim), or INT8: float32 scales (tokens,), then int8 codes (tokens, dim)

The header holds the whole key, so a payload cannot answer for another one; and the body starts at a multiple of 64, so
that `numpy.frombuffer` reads it where it lies. `knows` is the stamp of the last removal of this image or key that its
maker had heard of (`node/removals.py`); nearly always 0.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

import lz4.block
import numpy as np
import xxhash
from numpy.typing import NDArray

from .errors import CorruptPayload, InvalidValue
from .keys import DIGEST_BYTES, EncoderIdentity, FeatureKey
from .quantization import check_finite, cosine, dequantize, quantize

MAGIC = b"ECFP"
FORMAT_VERSION = 1
TOKENS_MAX = 65_536
DIM_MAX = 65_536
PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
FIDELITY_USUAL = 0.99
STAMP_MAX = 2**53
SAME_BYTES = 16  # format and checksum of everything else: payloads of one key that begin alike are the same

BEYOND_FLOAT16 = -math.inf  # the fidelity of features that float16 has no numbers for

_HEADER = struct.Struct("<4sIQIIIfQBBBBQ12x32s32s")
_FIDELITY_AT, _KNOWS_AT = 28, 44
_ALIGNMENT = 64
_CHECKED_FROM = SAME_BYTES

# lz4 shrinks INT8 ViT features by 0-4 %, and a reader pays for it each time: less than this is not worth having.
STORED_SHARE_MAX = 0.9
_SAMPLE_BYTES = 4096
_SCALE_SAFE_MAX = float(np.finfo(np.float32).max) / 128  # up to here no code can decode to infinity


class Codec(IntEnum):
    """How the values are written."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT8 = 2

    @property
    def label(self) -> str:
        """`float32`, `float16` or `int8`."""
        return self.name.lower()

    def body_bytes(self, tokens: int, dim: int) -> int:
        """Size of an uncompressed body."""
        if self is Codec.INT8:
            return tokens * 4 + tokens * dim
        return tokens * dim * (4 if self is Codec.FLOAT32 else 2)


class Compression(IntEnum):
    """What was done to the body after that."""

    NONE = 0
    LZ4 = 1


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """Checked bytes, and what their header says. Made by `encode` from an array or by `parse` from bytes."""

    held: memoryview | NDArray[np.uint8]
    """What holds the bytes. A view takes as much memory as a small payload, so `data` is made when it is asked for."""
    key: FeatureKey
    codec: Codec
    compression: Compression
    tokens: int
    dim: int
    fidelity: float
    checksum: int
    body_at: int
    knows: int = 0

    @property
    def data(self) -> memoryview:
        """The bytes, read-only."""
        held = self.held
        return (held.data if isinstance(held, np.ndarray) else held).toreadonly()

    @property
    def nbytes(self) -> int:
        """Size of the payload, header and all."""
        return len(self.held)

    def at(self, held: memoryview | NDArray[np.uint8]) -> Payload:
        """This payload where `held` has its bytes, which were copied there and are not changed any more."""
        return Payload(
            held, self.key, self.codec, self.compression, self.tokens, self.dim, self.fidelity,
            self.checksum, self.body_at, self.knows,
        )  # fmt: skip

    def knowing(self, knows: int) -> Payload:
        """This payload as one whose maker knew of the removal with that stamp: a copy, unless it says so already."""
        return self if knows == self.knows else self._with("<Q", _KNOWS_AT, knows=knows)

    def of_fidelity(self, fidelity: float) -> Payload:
        """A copy that says `fidelity`: of features that were not true to what the encoder makes before, either."""
        return self._with("<f", _FIDELITY_AT, fidelity=_float32_below(fidelity))

    def _with(self, form: str, at: int, **changed: float) -> Payload:
        data = bytearray(self.data)
        struct.pack_into(form, data, at, *changed.values())
        checksum = xxhash.xxh3_64_intdigest(memoryview(data)[_CHECKED_FROM:])
        struct.pack_into("<Q", data, 8, checksum)
        return replace(self, held=memoryview(data), checksum=checksum, **changed)  # type: ignore[arg-type]

    def array(self) -> NDArray[np.float32]:
        """The features, float32 (tokens, dim), C order, read-only; of an uncompressed float32 payload a view of it."""
        body = self._body()
        if self.codec is Codec.INT8:
            array = dequantize(*_int8_parts(body, self.tokens, self.dim))
        elif self.codec is Codec.FLOAT16:
            array = np.frombuffer(body, "<f2").astype(np.float32).reshape(self.tokens, self.dim)
        else:
            array = np.frombuffer(body, "<f4").reshape(self.tokens, self.dim)
        array.flags.writeable = False
        return array

    def mean_token(self, tokens_max: int) -> NDArray[np.float32]:
        """The mean of at most so many tokens, evenly spread: float32 (dim,)."""
        stride = -(-self.tokens // tokens_max)
        if self.codec is Codec.INT8:
            codes, scales = _int8_parts(self._body(), self.tokens, self.dim)
            some = dequantize(codes[::stride], scales[::stride])
        else:
            some = self.array()[::stride]
        mean: NDArray[np.float32] = some.mean(axis=0, dtype=np.float32)
        return mean

    def _body(self) -> memoryview | bytes:
        stored = self.data[self.body_at :]
        if self.compression is Compression.NONE:
            return stored
        size = self.codec.body_bytes(self.tokens, self.dim)
        try:
            body: bytes = lz4.block.decompress(stored, uncompressed_size=size)
        except lz4.block.LZ4BlockError as error:
            raise CorruptPayload(f"payload of {self.key}: lz4 body does not unpack: {error}") from None
        if len(body) != size:
            raise CorruptPayload(f"payload of {self.key}: lz4 body of {len(body)} bytes, expected {size}")
        return body


def encode(
    array: NDArray[np.floating], key: FeatureKey, *, codec: Codec | None = None, min_fidelity: float = FIDELITY_USUAL
) -> Payload:
    """The payload of `array` (tokens, dim) under `key`.

    Without a `codec`, the smallest whose measured cosine to `array` is at least `min_fidelity`. InvalidValue for a
    shape that is not (tokens, dim) within the limits, and for NaN and infinity, with their place.
    """
    values = _as_float32(array)
    tokens, dim = values.shape
    candidates = (codec,) if codec is not None else (Codec.INT8, Codec.FLOAT16, Codec.FLOAT32)
    for candidate in candidates:
        body, measured = _encode_body(values, candidate)
        fidelity = _float32_below(measured)
        if fidelity >= min_fidelity:
            break
    if fidelity == BEYOND_FLOAT16:
        raise InvalidValue(f"value {np.abs(values).max()}: float16 ends at 65504")
    compression = Compression.NONE
    if (smaller := _compressed(body)) is not None:
        body, compression = smaller, Compression.LZ4
    header = _header(key, candidate, compression, tokens, dim, fidelity, len(body))
    checksum = xxhash.xxh3_64(header[_CHECKED_FROM:])
    checksum.update(body)
    data = bytearray(header) + body
    struct.pack_into("<Q", data, 8, checksum.intdigest())
    return parse(data, key.packed)


def parse(data: bytes | bytearray | memoryview, expected: bytes | None = None) -> Payload:
    """The payload that `data` is, after every check; CorruptPayload says what is wrong.

    `expected` is the packed key that was asked for: the payload of another key is refused.
    """
    view = memoryview(data).toreadonly()
    if len(view) < _HEADER.size:
        raise CorruptPayload(f"payload of {len(view)} bytes: its header alone has {_HEADER.size}")
    (
        magic, version, checksum, body_at, tokens, dim, fidelity, body_bytes,
        codec_number, compression_number, name_bytes, version_bytes, knows, digest, fingerprint,
    ) = _HEADER.unpack_from(view)  # fmt: skip
    if magic != MAGIC:
        raise CorruptPayload(f"payload starts with {magic!r}, expected {MAGIC!r}")
    if version != FORMAT_VERSION:
        raise CorruptPayload(f"payload format version {version}: this node reads version {FORMAT_VERSION}")
    if xxhash.xxh3_64_intdigest(view[_CHECKED_FROM:]) != checksum:
        raise CorruptPayload("payload does not match its checksum")
    if body_at != _aligned(_HEADER.size + name_bytes + version_bytes) or len(view) != body_at + body_bytes:
        raise CorruptPayload(f"payload of {len(view)} bytes, its header says {body_at} + {body_bytes}")
    if not (1 <= tokens <= TOKENS_MAX and 1 <= dim <= DIM_MAX):
        raise CorruptPayload(f"shape ({tokens}, {dim}): at most ({TOKENS_MAX}, {DIM_MAX}) and at least (1, 1)")
    try:
        codec, compression = Codec(codec_number), Compression(compression_number)
        tokens, dim, body_at = _shape(tokens, dim, body_at)
        names = bytes(view[_HEADER.size : _HEADER.size + name_bytes + version_bytes])
        encoder = _identity(names[:name_bytes], names[name_bytes:], fingerprint)
    except ValueError as error:  # an InvalidValue too
        raise CorruptPayload(f"payload header: {error}") from None
    size = codec.body_bytes(tokens, dim)
    if size > PAYLOAD_BYTES_MAX:
        raise CorruptPayload(f"features of {size} bytes: at most {PAYLOAD_BYTES_MAX}")
    if compression is Compression.NONE and body_bytes != size:
        raise CorruptPayload(f"body of {body_bytes} bytes: {codec.label} ({tokens}, {dim}) has {size}")
    if not -1.0 <= fidelity <= 1.0:
        raise CorruptPayload(f"fidelity {fidelity}: a cosine is between -1 and 1")
    if knows > STAMP_MAX:
        raise CorruptPayload(f"stamp {knows} of a removal: at most {STAMP_MAX}")
    key = FeatureKey(digest, encoder)
    if expected is not None and key.packed != expected:
        raise CorruptPayload(f"payload of {key}: another key was asked for")
    payload = Payload(view, key, codec, compression, tokens, dim, fidelity, checksum, body_at, knows)
    _check_values(payload)
    return payload


def start_of_body(data: bytes | bytearray | memoryview) -> int:
    """Where the body begins of what is only a payload's beginning yet; CorruptPayload where that is none."""
    if len(data) < _HEADER.size:
        raise CorruptPayload(f"payload of {len(data)} bytes: its header alone has {_HEADER.size}")
    body_at: int = _HEADER.unpack_from(data)[3]
    if not _HEADER.size <= body_at <= len(data):
        raise CorruptPayload(f"header of {body_at} bytes in {len(data)}")
    return body_at


def _check_values(payload: Payload) -> None:
    body = payload._body()
    if payload.codec is Codec.INT8:
        scales = np.frombuffer(body, "<f4", payload.tokens)
        largest = scales.max()
        if not (scales.min() > 0 and largest < math.inf):
            raise CorruptPayload(f"payload of {payload.key}: a scale is zero, below zero, NaN or infinite")
        if largest > _SCALE_SAFE_MAX and not _is_finite(*_int8_parts(body, payload.tokens, payload.dim)):
            raise CorruptPayload(f"payload of {payload.key}: a code times its scale is infinite")
    else:
        values = np.frombuffer(body, "<f4" if payload.codec is Codec.FLOAT32 else "<f2")
        if not np.isfinite(values).all():
            raise CorruptPayload(f"payload of {payload.key}: a value is NaN or infinite")


def _is_finite(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(dequantize(codes, scales)).all())


def _as_float32(array: NDArray[np.floating]) -> NDArray[np.float32]:
    if array.ndim != 2:
        hint = f": reshape to (1, {array.shape[0]})" if array.ndim == 1 else ""
        raise InvalidValue(f"features of shape {array.shape}: expected (tokens, dim){hint}")
    if array.dtype.kind != "f":
        raise InvalidValue(f"features of type {array.dtype}: expected float32, float16 or float64")
    tokens, dim = array.shape
    if not (1 <= tokens <= TOKENS_MAX and 1 <= dim <= DIM_MAX):
        raise InvalidValue(f"features of shape {array.shape}: at most ({TOKENS_MAX}, {DIM_MAX}) and at least (1, 1)")
    if tokens * dim * 4 > PAYLOAD_BYTES_MAX:
        raise InvalidValue(f"features of {tokens * dim * 4} bytes as float32: at most {PAYLOAD_BYTES_MAX}")
    if array.dtype.itemsize > 4:
        check_finite(array)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(array, np.float32)
    return np.ascontiguousarray(array, np.float32)


def _encode_body(values: NDArray[np.float32], codec: Codec) -> tuple[bytes, float]:
    if codec is Codec.INT8:
        quantized = quantize(values)
        return quantized.scales.astype("<f4", copy=False).tobytes() + quantized.codes.tobytes(), quantized.fidelity
    check_finite(values)
    if codec is Codec.FLOAT32:
        return values.astype("<f4", copy=False).tobytes(), 1.0
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if not np.isfinite(halves).all():
        return halves.tobytes(), BEYOND_FLOAT16
    return halves.tobytes(), cosine(values, halves.astype(np.float32))


def _compressed(body: bytes) -> bytes | None:
    """The lz4 form of `body` if it gains enough; a sample decides first, since for most features it does not."""
    if len(body) > 4 * _SAMPLE_BYTES:
        step = len(body) // 4
        sample = b"".join(body[at : at + _SAMPLE_BYTES] for at in range(0, 4 * step, step))
        if len(lz4.block.compress(sample, store_size=False)) > STORED_SHARE_MAX * len(sample):
            return None
    smaller: bytes = lz4.block.compress(body, store_size=False)
    return smaller if len(smaller) <= STORED_SHARE_MAX * len(body) else None


def _header(
    key: FeatureKey, codec: Codec, compression: Compression, tokens: int, dim: int, fidelity: float, body_bytes: int
) -> bytes:
    name, version = key.encoder.name.encode(), key.encoder.version.encode()
    body_at = _aligned(_HEADER.size + len(name) + len(version))
    fixed = _HEADER.pack(
        MAGIC, FORMAT_VERSION, 0, body_at, tokens, dim, fidelity, body_bytes,
        codec, compression, len(name), len(version), 0, key.digest, key.encoder.fingerprint,
    )  # fmt: skip
    return (fixed + name + version).ljust(body_at, b"\0")


def _int8_parts(body: memoryview | bytes, tokens: int, dim: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scales = np.frombuffer(body, "<f4", tokens)
    codes = np.frombuffer(body, np.int8, tokens * dim, offset=4 * tokens).reshape(tokens, dim)
    return codes, scales


def _float32_below(fidelity: float) -> float:
    """What the header can say without flattery; maker and receiver know the fidelity as this number."""
    nearest = np.float32(fidelity)
    return float(nearest if float(nearest) <= fidelity else np.nextafter(nearest, np.float32(-math.inf)))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


@lru_cache(maxsize=256)
def _shape(tokens: int, dim: int, body_at: int) -> tuple[int, int, int]:
    """The same three numbers for all payloads of an encoder: each is 32 bytes, which every payload would have anew."""
    return tokens, dim, body_at


@lru_cache(maxsize=256)  # a cluster has a handful of encoders, and their identities are digests that take time to make
def _identity(name: bytes, version: bytes, fingerprint: bytes) -> EncoderIdentity:
    return EncoderIdentity(name.decode("ascii"), version.decode("ascii"), fingerprint)


assert _HEADER.size == 2 * _ALIGNMENT
assert DIGEST_BYTES == 32
