"""Namespaces: what a secret makes of a digest."""

from __future__ import annotations

import pytest
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import digest_of
from edgecache.protocol.namespaces import Namespace, kept_as

SECRET = "a secret of many characters".replace(" ", "-")


def test_a_digest_is_salted_by_hmac_sha_256() -> None:
    # printf 'what do ya want for nothing?' | openssl dgst -sha256 -hmac JefeJefeJefeJefe
    salted = Namespace("Jefe" * 4).salted(b"what do ya want for nothing?")
    assert salted.hex() == "2ccd85dfc8d18cb5d84fef4b198554699fece6e8692c9147b0da983f5b7bd413"
    assert kept_as(digest_of(b"image"), None) == digest_of(b"image")


def test_another_secret_or_image_is_another_key() -> None:
    one, other = Namespace(SECRET), Namespace(SECRET + "2")
    images = [digest_of(b"one"), digest_of(b"other")]
    assert len({kept_as(image, namespace) for image in images for namespace in (None, one, other)}) == 6


@pytest.mark.parametrize(
    "secret", ["", "fifteen-chars..", "x" * 129, "sixteen chars...", "sixteen-chars..\n", "größer-als-ascii"]
)
def test_what_could_be_guessed_or_not_be_sent_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(InvalidValue, match=rf"^namespace of {len(secret)} characters: expected 16 to 128 ") as refusal:
        Namespace(secret)
    assert not secret or secret not in str(refusal.value)
    assert SECRET not in repr(Namespace(SECRET))
