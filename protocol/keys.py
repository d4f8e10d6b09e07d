"""What names a feature: which image, seen by which encoder.

A cache that shortens its keys answers with another image's features sooner or later, and nobody notices. So a key is
two full SHA-256 digests: of the image's bytes, and of everything that decides what an encoder makes of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from .errors import InvalidValue

DIGEST_BYTES = 32
PACKED_KEY_BYTES = 2 * DIGEST_BYTES
ENCODER_NAME_CHARS_MAX = 200
ENCODER_VERSION_CHARS_MAX = 64

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})", re.ASCII)
# Visible ASCII; names without "@", which parts name from version in headers.
ENCODER_NAME_PATTERN: Final = r"[!-?A-~]+"
ENCODER_VERSION_PATTERN: Final = r"[!-~]+"
_NAME = re.compile(ENCODER_NAME_PATTERN, re.ASCII)
_VERSION = re.compile(ENCODER_VERSION_PATTERN, re.ASCII)


def digest_of(image: bytes) -> bytes:
    """The 32-byte SHA-256 digest of an image file's bytes: what `sha256sum photo.jpg` prints."""
    return sha256(image).digest()


def parse_digest(text: str) -> bytes:
    """The 32 bytes that `text` spells: 64 hexadecimal digits, with or without `sha256:` before them."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise InvalidValue(f"digest {_shown(text)}: expected 64 hexadecimal digits, 'sha256:' before them or not")
    return bytes.fromhex(match[1])


def format_digest(digest: bytes) -> str:
    """`sha256:` and 64 hexadecimal digits."""
    return f"sha256:{digest.hex()}"


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """Which encoder, exactly: two encoders that could give different features for one image have different identities.

    `fingerprint` is a SHA-256 over weights, preprocessing and output shape. Features that a user made elsewhere come
    without those; `EncoderIdentity.declared` stands on the user's word for name and version.
    """

    name: str
    version: str
    fingerprint: bytes
    digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > ENCODER_NAME_CHARS_MAX:
            raise InvalidValue(
                f"encoder name {_shown(self.name)}: "
                f"expected 1 to {ENCODER_NAME_CHARS_MAX} visible ASCII characters, no '@'"
            )
        if not _VERSION.fullmatch(self.version) or len(self.version) > ENCODER_VERSION_CHARS_MAX:
            raise InvalidValue(
                f"encoder version {_shown(self.version)}: "
                f"expected 1 to {ENCODER_VERSION_CHARS_MAX} visible ASCII characters"
            )
        if len(self.fingerprint) != DIGEST_BYTES:
            raise InvalidValue(f"encoder fingerprint of {len(self.fingerprint)} bytes: expected {DIGEST_BYTES}")
        # Neither name nor version can hold the NUL that ends it, so no two identities share this text.
        text = b"%s\0%s\0%s" % (self.name.encode(), self.version.encode(), self.fingerprint)
        object.__setattr__(self, "digest", sha256(text).digest())

    @classmethod
    def declared(cls, name: str, version: str) -> EncoderIdentity:
        """The identity of a user's own encoder, of which nothing is known but the name and version they give it."""
        return cls(name, version, sha256(b"declared by its user").digest())

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class FeatureKey:
    """The full name of a feature. `packed` is its 64 bytes: the image's digest, then the encoder identity's digest."""

    __slots__ = ("encoder", "packed")
    packed: Final[bytes]
    encoder: Final[EncoderIdentity]

    def __init__(self, digest: bytes, encoder: EncoderIdentity) -> None:
        if len(digest) != DIGEST_BYTES:
            raise InvalidValue(f"digest of {len(digest)} bytes: expected {DIGEST_BYTES}")
        self.encoder = encoder
        self.packed = digest + encoder.digest

    @property
    def digest(self) -> bytes:
        """The image's."""
        return self.packed[:DIGEST_BYTES]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeatureKey) and self.packed == other.packed

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        return f"FeatureKey({self.digest!r}, {self.encoder!r})"

    def __str__(self) -> str:
        return f"{self.digest.hex()[:8]}… by {self.encoder}"


def _shown(text: str) -> str:
    """`text` as it may stand in a message: short, and with nothing in it that a terminal would obey."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
