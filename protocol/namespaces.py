"""Namespaces: features that only those find who know a secret.

Whoever may ask a cluster can ask for an image whose digest they know, and learn from the answer, or from how fast it
comes, whether it has been seen. In a namespace the digest is salted with the secret. Peers, disks and clouds know the
image by that name alone, which nobody without the secret can make.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field

from .errors import InvalidValue

SECRET_CHARS_MIN, SECRET_CHARS_MAX = 16, 128

SECRET_PATTERN = rf"[!-~]{{{SECRET_CHARS_MIN},{SECRET_CHARS_MAX}}}"
_SECRET = re.compile(SECRET_PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace, named by its secret alone: visible ASCII, long enough that nobody guesses it."""

    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _SECRET.fullmatch(self.secret):  # and not shown: it may be a secret with a line end too many
            raise InvalidValue(
                f"namespace of {len(self.secret)} characters: "
                f"expected {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} visible ASCII characters"
            )

    def salted(self, digest: bytes) -> bytes:
        """The 32 bytes under which features of the image with `digest` are kept: HMAC-SHA-256 (RFC 2104)."""
        return hmac.digest(self.secret.encode(), digest, "sha256")


def kept_as(digest: bytes, namespace: Namespace | None) -> bytes:
    """The digest that the keys of an image have within `namespace`, or where there is none."""
    return digest if namespace is None else namespace.salted(digest)
