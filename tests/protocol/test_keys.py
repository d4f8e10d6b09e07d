"""What names a feature, and what does not."""

from __future__ import annotations

from hashlib import sha256

import pytest
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import (
    PACKED_KEY_BYTES,
    EncoderIdentity,
    FeatureKey,
    digest_of,
    format_digest,
    parse_digest,
)
from hypothesis import given
from hypothesis import strategies as st

DIGITS = "00ff" * 16
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
NAMES = st.text(VISIBLE.filter(lambda c: c != "@"), min_size=1, max_size=12)
VERSIONS = st.text(VISIBLE, min_size=1, max_size=12)
IDENTITIES = st.builds(EncoderIdentity, NAMES, VERSIONS, st.binary(min_size=32, max_size=32))


@pytest.mark.parametrize("text", [DIGITS, DIGITS.upper(), f"sha256:{DIGITS}", f"sha256:{DIGITS.upper()}"])
def test_a_digest_is_64_digits_of_either_case_with_or_without_its_algorithm(text: str) -> None:
    assert parse_digest(text) == bytes.fromhex(DIGITS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        DIGITS[:63],
        DIGITS + "0",
        DIGITS[:63] + "g",
        DIGITS[:63] + "\0",
        DIGITS + "\n",
        " " + DIGITS,
        "0x" + DIGITS[2:],
        "../../etc/passwd",
        "../" * 20 + "etc/passwd",
        DIGITS.replace("0", "\u0660"),  # digits, says str.isdigit
        DIGITS.replace("f", "\uff46"),  # letters that NFKC would make ASCII
        f"SHA256:{DIGITS}",
        f"sha512:{DIGITS}",
        f"sha256:sha256:{DIGITS}",
        f"sha256: {DIGITS}",
    ],
)
def test_anything_else_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidValue, match="expected 64 hexadecimal digits"):
        parse_digest(text)


def test_what_is_refused_is_shown_short_and_harmless() -> None:
    with pytest.raises(InvalidValue) as refused:
        parse_digest("\x1b[2J\r\n" + "é" * 5000)
    assert str(refused.value).isprintable()
    assert str(refused.value).isascii()
    assert len(str(refused.value)) < 600


@given(st.binary(min_size=32, max_size=32))
def test_a_digest_is_read_as_it_is_written(digest: bytes) -> None:
    assert parse_digest(format_digest(digest)) == digest


def test_the_digest_of_an_image_is_that_of_sha256sum() -> None:
    assert format_digest(digest_of(b"")).startswith("sha256:e3b0c44298fc1c149afbf4c8996fb924")


@given(IDENTITIES, IDENTITIES)
def test_two_encoders_share_an_identity_only_if_they_are_the_same(a: EncoderIdentity, b: EncoderIdentity) -> None:
    assert (a.digest == b.digest) == (a == b)


def test_moving_a_character_between_name_and_version_makes_another_encoder() -> None:
    fingerprint = bytes(32)
    cuts = [EncoderIdentity("abcd"[:cut], "abcd"[cut:], fingerprint).digest for cut in (1, 2, 3)]
    assert len(set(cuts)) == 3


@pytest.mark.parametrize("name", ["", "a b", "a@b", "a\0b", "a\n", "ä", "x" * 201])
def test_a_name_is_short_visible_ascii_without_an_at(name: str) -> None:
    with pytest.raises(InvalidValue, match="encoder name"):
        EncoderIdentity(name, "1", bytes(32))


@pytest.mark.parametrize("version", ["", "1 2", "1\0", "1\n", "١", "x" * 65])
def test_a_version_is_short_visible_ascii(version: str) -> None:
    with pytest.raises(InvalidValue, match="encoder version"):
        EncoderIdentity("name", version, bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_fingerprints_and_digests_have_32_bytes(size: int) -> None:
    with pytest.raises(InvalidValue, match=f"{size} bytes"):
        EncoderIdentity("name", "1", bytes(size))
    with pytest.raises(InvalidValue, match=f"{size} bytes"):
        FeatureKey(bytes(size), EncoderIdentity.declared("name", "1"))


def test_a_declared_encoder_is_not_one_with_weights() -> None:
    assert EncoderIdentity.declared("name", "1") == EncoderIdentity.declared("name", "1")
    weighed = EncoderIdentity("name", "1", sha256(b"weights").digest())
    assert EncoderIdentity.declared("name", "1").digest != weighed.digest


@given(st.binary(min_size=32, max_size=32), IDENTITIES, st.binary(min_size=32, max_size=32), IDENTITIES)
def test_a_packed_key_is_two_whole_digests(
    digest: bytes, encoder: EncoderIdentity, other_digest: bytes, other_encoder: EncoderIdentity
) -> None:
    key, other = FeatureKey(digest, encoder), FeatureKey(other_digest, other_encoder)
    assert key.packed == digest + encoder.digest
    assert len(key.packed) == PACKED_KEY_BYTES
    assert (key == other) == (key.packed == other.packed)
    assert (key == other) == (digest == other_digest and encoder == other_encoder)
    assert key == FeatureKey(digest, encoder)
    assert hash(key) == hash(FeatureKey(digest, encoder))


def test_a_key_shows_eight_digits_of_its_digest() -> None:
    assert str(FeatureKey(bytes.fromhex(DIGITS), EncoderIdentity.declared("vit", "2"))) == "00ff00ff… by vit@2"
