"""protocol/payload.py: what is refused of a user, of a peer and of a disk."""

from __future__ import annotations

import pickle
import re
import struct
from typing import Any

import lz4.block
import numpy as np
import pytest
import xxhash
from edgecache.protocol.errors import CorruptPayload, InvalidValue
from edgecache.protocol.keys import EncoderIdentity, FeatureKey
from edgecache.protocol.payload import (
    DIM_MAX,
    PAYLOAD_BYTES_MAX,
    TOKENS_MAX,
    Codec,
    encode,
    parse,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from .test_payload import CODECS, ENCODER, KEY, OTHER_KEY, smooth, usual

# -- what is refused of a user -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.ones(5, np.float32), r"shape \(5,\): expected \(tokens, dim\): reshape to \(1, 5\)"),
        (np.ones((1, 2, 3), np.float32), r"shape \(1, 2, 3\): expected \(tokens, dim\)"),
        (np.ones((), np.float32), r"shape \(\): expected \(tokens, dim\)"),
        (np.ones((2, 2), np.int32), "type int32"),
        (np.ones((2, 2), np.complex64), "type complex64"),
        (np.full((2, 2), "1"), "type <U1"),
        (np.ones((0, 4), np.float32), r"shape \(0, 4\)"),
        (np.ones((4, 0), np.float32), r"shape \(4, 0\)"),
        (np.ones((TOKENS_MAX + 1, 1), np.float32), rf"at most \({TOKENS_MAX}, {DIM_MAX}\)"),
        (np.ones((1, DIM_MAX + 1), np.float32), rf"at most \({TOKENS_MAX}, {DIM_MAX}\)"),
        (np.broadcast_to(np.float32(1), (TOKENS_MAX, 257)), f"at most {PAYLOAD_BYTES_MAX}"),
    ],
)
def test_features_of_another_form_are_refused_with_the_limit(array: NDArray[Any], complaint: str) -> None:
    with pytest.raises(InvalidValue, match=complaint):
        encode(array, KEY)


@pytest.mark.parametrize("codec", [None, *Codec])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_not_finite_is_refused_with_its_place(codec: Codec | None, bad: float, dtype: type) -> None:
    array: NDArray[Any] = np.ones((3, 4), dtype)
    array[1, 3] = bad
    with pytest.raises(InvalidValue, match="at token 1, column 3"):
        encode(array, KEY, codec=codec)


def test_float64_beyond_float32_is_refused() -> None:
    with pytest.raises(InvalidValue, match="at token 0, column 1"):
        encode(np.array([[1.0, 1e300]]), KEY)


def test_float16_says_where_its_numbers_end() -> None:
    with pytest.raises(InvalidValue, match=re.escape("value 70000.0: float16 ends at 65504")):
        encode(np.array([[1.0, 7e4]]), KEY, codec=Codec.FLOAT16)


# -- what is refused of a peer or a disk ---------------------------------------------------------------------------


def test_a_flip_of_any_single_bit_is_noticed() -> None:
    for codec in Codec:
        for array in (usual(2, 4), smooth(8, 16)):
            data = bytearray(encode(array, KEY, codec=codec).data)
            for bit in range(8 * len(data)):
                data[bit // 8] ^= 1 << bit % 8
                with pytest.raises(CorruptPayload):
                    parse(data)
                data[bit // 8] ^= 1 << bit % 8
            assert np.array_equal(parse(data).array(), encode(array, KEY, codec=codec).array())


@given(st.data(), CODECS)
def test_any_other_damage_is_noticed_too(data: st.DataObject, codec: Codec) -> None:
    whole = bytes(encode(usual(), KEY, codec=codec).data)
    at = data.draw(st.integers(0, len(whole) - 1))
    size = data.draw(st.integers(0, 40))
    damaged = whole[:at] + data.draw(st.binary(max_size=40)) + whole[at + size :]
    if damaged != whole:
        with pytest.raises(CorruptPayload):
            parse(damaged)


def test_any_truncation_and_any_extension_is_noticed() -> None:
    whole = bytes(encode(usual(), KEY).data)
    for size in range(len(whole)):
        with pytest.raises(CorruptPayload):
            parse(whole[:size])
        with pytest.raises(CorruptPayload):
            parse(_resigned(whole[:size])) if size >= 128 else parse(whole[:size])
    for more in (b"\0", b"\0" * 64, whole):
        with pytest.raises(CorruptPayload):
            parse(whole + more)
        with pytest.raises(CorruptPayload):
            parse(_resigned(whole + more))


@given(st.binary(max_size=400))
def test_garbage_is_no_payload(garbage: bytes) -> None:
    for data in (garbage, b"ECFP" + garbage, b"ECFP\x01\0\0\0" + garbage):
        with pytest.raises(CorruptPayload):
            parse(data)


def test_a_payload_answers_for_no_other_key() -> None:
    payload = encode(usual(), KEY)
    for other in (
        OTHER_KEY,
        FeatureKey(KEY.digest, EncoderIdentity("edgecache/tiny", "2", ENCODER.fingerprint)),
        FeatureKey(KEY.digest, EncoderIdentity("edgecache/tin", "1", ENCODER.fingerprint)),
        FeatureKey(KEY.digest, EncoderIdentity("edgecache/tiny", "1", bytes(32))),
    ):
        with pytest.raises(CorruptPayload, match="another key was asked for"):
            parse(payload.data, other.packed)


def test_a_pickle_is_not_executed() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("executed",))

    with pytest.raises(CorruptPayload, match="expected b'ECFP'"):
        parse(pickle.dumps([Bomb()] * 50, 0).ljust(256))


# Every forgery below carries a checksum that is right: the checksum guards against accidents, the checks against peers.


def _resigned(data: bytes | bytearray) -> bytes:
    return bytes(data[:8]) + struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(data[16:]))) + data[16:]


def _forged(codec: Codec = Codec.INT8, body: bytes | None = None, **fields: Any) -> bytes:
    """A payload of 4 × 16 features with some of its header's fields as a forger wants them."""
    if body is None:
        body = bytes(encode(usual(), KEY, codec=codec).data[192:])
    said: dict[str, Any] = {
        "magic": b"ECFP", "version": 1, "body_at": 192, "tokens": 4, "dim": 16, "fidelity": 0.5,
        "body_bytes": len(body), "codec": codec, "compression": 0, "name_bytes": 14, "version_bytes": 1,
        "names": b"edgecache/tiny1",
    } | fields  # fmt: skip
    header = struct.pack(
        "<4sIQIIIfQBBBB20x32s32s", said["magic"], said["version"], 0, said["body_at"], said["tokens"], said["dim"],
        said["fidelity"], said["body_bytes"], said["codec"], said["compression"], said["name_bytes"],
        said["version_bytes"], KEY.digest, ENCODER.fingerprint,
    )  # fmt: skip
    return _resigned((header + said["names"]).ljust(192, b"\0") + body)


def _int8_body(scales: list[float], codes: NDArray[np.int8] | None = None) -> bytes:
    codes = np.ones((4, 16), np.int8) if codes is None else codes
    return np.array(scales, "<f4").tobytes() + codes.tobytes()


def test_a_forger_who_changes_nothing_makes_a_payload() -> None:
    for codec in Codec:
        assert np.allclose(parse(_forged(codec), KEY.packed).array(), usual(), atol=0.02)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"magic": b"ECFQ"}, "starts with b'ECFQ'"),
        ({"version": 2}, "format version 2: this node reads version 1"),
        ({"version": 0xFFFFFFFF}, "format version 4294967295"),
        ({"tokens": 0}, r"shape \(0, 16\)"),
        ({"dim": 0}, r"shape \(4, 0\)"),
        ({"tokens": 0xFFFFFFFF}, r"shape \(4294967295, 16\)"),
        ({"tokens": 0xFFFFFFFF, "dim": 0xFFFFFFFF}, "shape"),
        ({"tokens": TOKENS_MAX, "dim": DIM_MAX}, "at most 67108864"),
        ({"tokens": 16, "dim": 4}, "body of 80 bytes"),
        ({"tokens": 5}, "body of 80 bytes"),
        ({"codec": 3}, "3 is not a valid Codec"),
        ({"codec": Codec.FLOAT32}, "body of 80 bytes"),
        ({"compression": 2}, "2 is not a valid Compression"),
        ({"compression": 1}, "lz4 body"),
        ({"body_bytes": 79}, "its header says"),
        ({"body_bytes": 2**64 - 1}, "its header says"),
        ({"body_at": 128}, "its header says"),
        ({"body_at": 256}, "its header says"),
        ({"body_at": 0xFFFFFFFF}, "its header says"),
        ({"name_bytes": 255, "version_bytes": 255}, "its header says"),
        ({"name_bytes": 0}, "encoder name"),
        ({"version_bytes": 0}, "encoder version"),
        ({"names": "edgecache/tin\xfc1".encode("latin-1")}, "ascii"),
        ({"names": b"edgecache\0tiny1"}, "encoder name"),
        ({"names": b"edgecache@tiny1"}, "encoder name"),
        ({"fidelity": float("nan")}, "fidelity nan"),
        ({"fidelity": float("inf")}, "fidelity inf"),
        ({"fidelity": 1.0001}, "fidelity 1.0001"),
        ({"fidelity": -1.5}, "fidelity -1.5"),
    ],
)
def test_a_header_that_lies_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CorruptPayload, match=complaint):
        parse(_forged(body=bytes(encode(usual(), KEY, codec=Codec.INT8).data[192:]), **fields))


@pytest.mark.parametrize("scale", [0.0, -0.0, -1.0, float("nan"), float("inf"), float("-inf")])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(CorruptPayload, match="a scale is zero, below zero, NaN or infinite"):
        parse(_forged(body=_int8_body([1.0, 1.0, scale, 1.0])))


@pytest.mark.parametrize("code", [-128, -127, 2, 127])
def test_a_scale_whose_values_would_be_infinite_is_refused(code: int) -> None:
    codes = np.ones((4, 16), np.int8)
    assert np.isfinite(parse(_forged(body=_int8_body([3e38] * 4, codes))).array()).all()
    codes[2, 5] = code
    with pytest.raises(CorruptPayload, match="infinite"):
        parse(_forged(body=_int8_body([3e38] * 4, codes)))


@pytest.mark.parametrize("codec", [Codec.FLOAT32, Codec.FLOAT16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(codec: Codec, bad: float) -> None:
    array = usual().astype("<f4" if codec is Codec.FLOAT32 else "<f2")
    array[2, 3] = bad
    with pytest.raises(CorruptPayload, match="a value is NaN or infinite"):
        parse(_forged(codec, array.tobytes()))


@pytest.mark.parametrize("size", [0, 1, 79, 81, 100_000])
def test_a_compressed_body_of_another_size_is_refused(size: int) -> None:
    body = lz4.block.compress(bytes(size), store_size=False)
    with pytest.raises(CorruptPayload, match="lz4 body"):
        parse(_forged(body=body, compression=1))


def test_a_compression_bomb_unpacks_no_further_than_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    unpack = lz4.block.decompress

    def watched(data: bytes, uncompressed_size: int) -> Any:
        sizes.append(uncompressed_size)
        return unpack(data, uncompressed_size=uncompressed_size)

    monkeypatch.setattr(lz4.block, "decompress", watched)
    bomb = lz4.block.compress(bytes(200 * 1024 * 1024), store_size=False)
    with pytest.raises(CorruptPayload, match="lz4 body"):
        parse(_forged(body=bomb, compression=1))
    with pytest.raises(CorruptPayload, match="at most 67108864"):
        parse(_forged(body=bomb, compression=1, tokens=TOKENS_MAX, dim=3200))
    assert sizes == [4 * 4 + 4 * 16]


@given(st.binary(max_size=200))
def test_a_compressed_body_of_garbage_is_refused_or_decodes_to_finite_features(body: bytes) -> None:
    try:
        array = parse(_forged(body=body, compression=1)).array()
    except CorruptPayload:
        return
    assert array.shape == (4, 16)
    assert np.isfinite(array).all()


@settings(max_examples=300)
@given(st.data())
def test_whatever_a_forger_writes_is_refused_or_decodes_to_finite_features(data: st.DataObject) -> None:
    forged = bytearray(_forged(data.draw(CODECS)))
    for _ in range(data.draw(st.integers(1, 4))):
        forged[data.draw(st.integers(0, len(forged) - 1))] = data.draw(st.integers(0, 255))
    try:
        payload = parse(_resigned(forged))
    except CorruptPayload:
        return
    array = payload.array()
    assert array.shape == (payload.tokens, payload.dim)
    assert np.isfinite(array).all()


@pytest.mark.parametrize("codec", Codec)
def test_the_mean_token_is_that_of_some_tokens_evenly_spread(codec: Codec) -> None:
    payload = encode(usual(tokens=10), KEY, codec=codec)
    np.testing.assert_allclose(payload.mean_token(10), payload.array().mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(payload.mean_token(4), payload.array()[::3].mean(axis=0), rtol=1e-5)
