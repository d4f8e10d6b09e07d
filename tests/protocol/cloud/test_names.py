"""The names of objects."""

from __future__ import annotations

import json
import re

import pytest
from edgecache.protocol.cloud import names
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of

DIGEST = digest_of(b"a photograph")


@pytest.mark.parametrize("name", ["..", "../../etc/passwd", "a/b", "%2e%2e", "con", "~"])
def test_no_name_that_anybody_chose_is_part_of_an_objects_name(name: str) -> None:
    identity = EncoderIdentity(name, name, digest_of(b"weights"))
    key = FeatureKey(DIGEST, identity).packed
    for made in (names.feature(key), names.removed(key), names.pack(identity.digest, DIGEST)):
        assert re.fullmatch(r"[a-z]+/[0-9a-f]{64}/[0-9a-f]{64}", made)
    assert re.fullmatch(r"encoders/[0-9a-f]{64}\.json", names.encoder(identity.digest))


def test_encoders_that_differ_in_any_part_have_their_own_objects() -> None:
    identities = [
        EncoderIdentity("a", "1", digest_of(b"weights")),
        EncoderIdentity("b", "1", digest_of(b"weights")),
        EncoderIdentity("a", "2", digest_of(b"weights")),
        EncoderIdentity("a", "1", digest_of(b"other weights")),
    ]
    assert len({names.feature(FeatureKey(DIGEST, identity).packed) for identity in identities}) == 4


def test_a_name_tells_its_digest_and_strangers_are_not_taken_for_ours() -> None:
    key = FeatureKey(DIGEST, EncoderIdentity("a", "1", digest_of(b"weights"))).packed
    assert names.last_digest(names.feature(key)) == DIGEST
    assert names.feature(key).startswith(names.of_encoder(names.FEATURES, key[32:]))
    for stranger in ("", "features/x/y", names.feature(key) + ".tmp", names.feature(key).upper(), f"{'0' * 63}\n"):
        assert names.last_digest(stranger) is None


def test_an_encoder_is_described_by_name_version_and_fingerprint() -> None:
    identity = EncoderIdentity("edgecache/tiny", "1", digest_of(b"weights"))
    assert json.loads(names.described(identity)) == {
        "name": "edgecache/tiny", "version": "1", "fingerprint": digest_of(b"weights").hex(),
    }  # fmt: skip
