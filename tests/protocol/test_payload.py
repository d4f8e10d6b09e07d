"""Features as bytes: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import xxhash
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.payload import (
    STORED_SHARE_MAX,
    Codec,
    Compression,
    encode,
    parse,
)
from edgecache.protocol.quantization import quantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

ENCODER = EncoderIdentity("edgecache/tiny", "1", digest_of(b"weights"))
KEY = FeatureKey(digest_of(b"a photograph"), ENCODER)
OTHER_KEY = FeatureKey(digest_of(b"another photograph"), ENCODER)
NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="@"), min_size=1, max_size=200)
KEYS = st.builds(
    FeatureKey,
    st.binary(min_size=32, max_size=32),
    st.builds(EncoderIdentity, NAMES, NAMES.map(lambda name: name[:64]), st.binary(min_size=32, max_size=32)),
)
SHAPES = npst.array_shapes(min_dims=2, max_dims=2, max_side=40)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = npst.arrays(np.float32, SHAPES, elements=FINITE)
CODECS = st.sampled_from(Codec)


def usual(tokens: int = 4, dim: int = 16) -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal((tokens, dim), np.float32)


def smooth(tokens: int = 16, dim: int = 64) -> NDArray[np.float32]:
    """Features that lz4 shrinks well."""
    return np.tile(np.array([1, 2, 3, 4], np.float32), (tokens, dim // 4))


# -- what goes in comes out ----------------------------------------------------------------------------------------


@given(ARRAYS, KEYS)
def test_float32_comes_back_bit_for_bit(array: NDArray[np.float32], key: FeatureKey) -> None:
    payload = parse(bytes(encode(array, key, codec=Codec.FLOAT32).data), key.packed)
    assert payload.array().tobytes() == array.tobytes()
    assert (payload.key, payload.fidelity, payload.codec) == (key, 1.0, Codec.FLOAT32)


@given(ARRAYS)
def test_int8_comes_back_within_half_a_scale(array: NDArray[np.float32]) -> None:
    payload = parse(bytes(encode(array, KEY, codec=Codec.INT8).data), KEY.packed)
    scales = quantize(array).scales[:, None].astype(np.float64)
    off = np.abs(payload.array().astype(np.float64) - array)
    assert (off <= scales / 2 + np.abs(array) * 2.0**-22).all()


@given(npst.arrays(np.float16, SHAPES, elements=st.floats(width=16, allow_nan=False, allow_infinity=False)))
def test_float16_keeps_what_has_a_float16(array: NDArray[np.float16]) -> None:
    payload = parse(bytes(encode(array, KEY, codec=Codec.FLOAT16).data), KEY.packed)
    assert np.array_equal(payload.array(), array.astype(np.float32))


@given(ARRAYS, st.sampled_from([None, *Codec]), st.floats(-1, 1))
def test_maker_and_receiver_say_the_same(array: NDArray[np.float32], codec: Codec | None, min_fidelity: float) -> None:
    try:
        made = encode(array, KEY, codec=codec, min_fidelity=min_fidelity)
    except InvalidValue:
        assert codec is Codec.FLOAT16
        assert np.abs(array).max() > 65504
        return
    got = parse(bytes(made.data))
    assert (got.fidelity, got.codec, got.compression) == (made.fidelity, made.codec, made.compression)
    assert got.array().tobytes() == made.array().tobytes()
    if codec is None:
        assert got.fidelity >= min_fidelity


def test_the_smallest_codec_that_is_good_enough_is_taken() -> None:
    array = usual(8, 64)
    assert encode(array, KEY).codec is Codec.INT8
    assert encode(array, KEY, min_fidelity=0.99999).codec is Codec.FLOAT16
    assert encode(array, KEY, min_fidelity=1.0).codec is Codec.FLOAT32
    assert encode(array * 1e6, KEY, min_fidelity=0.99999).codec is Codec.FLOAT32  # float16 ends at 65504


@given(st.integers(0, 10_000), st.floats(0.9, 1.0))
def test_a_fidelity_is_never_rounded_up(seed: int, min_fidelity: float) -> None:
    array = np.random.default_rng(seed).standard_normal((2, 9), np.float32)
    payload = encode(array, KEY, min_fidelity=min_fidelity)
    assert payload.fidelity >= min_fidelity
    if payload.codec is Codec.INT8:
        assert payload.fidelity <= quantize(array).fidelity
        assert payload.fidelity == pytest.approx(quantize(array).fidelity, abs=1e-7)


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("make", [usual, smooth])
def test_an_array_is_float32_in_c_order_and_read_only(codec: Codec, make: Any) -> None:
    array = encode(make(16, 64), KEY, codec=codec).array()
    assert array.dtype == np.float32
    assert array.shape == (16, 64)
    assert array.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


@pytest.mark.parametrize("name_chars", [1, 60, 61, 62, 63, 64, 200])
def test_the_body_lies_at_a_multiple_of_64_and_is_read_where_it_lies(name_chars: int) -> None:
    key = FeatureKey(KEY.digest, EncoderIdentity("n" * name_chars, "1", bytes(32)))
    array = usual()
    data = bytes(encode(array, key, codec=Codec.FLOAT32).data)
    payload = parse(data)
    assert payload.body_at % 64 == 0
    assert np.shares_memory(payload.array(), np.frombuffer(data, np.uint8))
    assert np.array_equal(np.frombuffer(data, "<f4", offset=payload.body_at).reshape(4, 16), array)


def test_the_header_is_what_the_format_says() -> None:
    payload = encode(usual(), KEY, codec=Codec.INT8)
    data = bytes(payload.data)
    assert data[:16] == b"ECFP" + struct.pack("<IQ", 1, xxhash.xxh3_64_intdigest(data[16:]))
    assert struct.unpack_from("<IIIfQ", data, 16) == (192, 4, 16, payload.fidelity, 4 * 4 + 4 * 16)
    assert data[40:64] == bytes([Codec.INT8, Compression.NONE, len("edgecache/tiny"), 1]) + bytes(20)
    assert data[64:128] == KEY.digest + ENCODER.fingerprint
    assert data[128:192] == b"edgecache/tiny1".ljust(64, b"\0")
    assert np.array_equal(np.frombuffer(data, "<f4", 4, offset=192), quantize(usual()).scales)


# -- compression ---------------------------------------------------------------------------------------------------


@given(npst.arrays(np.float32, SHAPES, elements=st.sampled_from([0.0, 1.0, 2.5, -3.0])), CODECS)
def test_compression_is_kept_only_where_it_saves_a_tenth(array: NDArray[np.float32], codec: Codec) -> None:
    payload = encode(array, KEY, codec=codec)
    full = codec.body_bytes(*array.shape)
    stored = payload.nbytes - payload.body_at
    if payload.compression is Compression.NONE:
        assert stored == full
    else:
        assert stored <= STORED_SHARE_MAX * full
    assert parse(bytes(payload.data)).array().tobytes() == payload.array().tobytes()


def test_usual_features_are_not_compressed_and_repetitive_ones_are() -> None:
    assert encode(usual(196, 768), KEY).compression is Compression.NONE
    repetitive = encode(smooth(196, 768), KEY)
    assert repetitive.compression is Compression.LZ4
    assert repetitive.nbytes < 196 * 768 / 50
