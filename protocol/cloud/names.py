"""What the objects of an object store are called.

    features/ENCODER/IMAGE      one payload
    packs/ENCODER/PACK          many payloads of one encoder (pack.py)
    encoders/ENCODER.json       which encoder that is: name, version, fingerprint
    removed/ENCODER/IMAGE       an empty object: not to be read out of a pack any more

ENCODER is the digest of an encoder's whole identity and IMAGE that of an image, 64 hexadecimal digits each: a packed
key is all it takes to name an object, the name is never shortened, and no text that anybody chose is part of it.
"""

from __future__ import annotations

import json
import re

from ..errors import InvalidValue
from ..keys import DIGEST_BYTES, EncoderIdentity

FEATURES, PACKS, REMOVED, ENCODERS = "features/", "packs/", "removed/", "encoders/"

_DIGITS = re.compile(r"[0-9a-f]{64}", re.ASCII)


def feature(key: bytes) -> str:
    """The object of a packed key."""
    return _of_key(FEATURES, key)


def removed(key: bytes) -> str:
    """What says that `key` was removed, though packs that hold it may remain."""
    return _of_key(REMOVED, key)


def pack(encoder: bytes, digest: bytes) -> str:
    """A pack of features of the encoder whose identity has the digest `encoder`."""
    return f"{PACKS}{encoder.hex()}/{digest.hex()}"


def encoder(digest: bytes) -> str:
    """What describes the encoder whose identity has that digest."""
    return f"{ENCODERS}{digest.hex()}.json"


def of_encoder(kind: str, encoder: bytes) -> str:
    """What the names of all objects of one encoder and kind (FEATURES, PACKS, REMOVED) begin with."""
    return f"{kind}{encoder.hex()}/"


def last_digest(name: str) -> bytes | None:
    """The digest that `name` ends with; None for a name that is not ours."""
    last = name.rpartition("/")[2]
    return bytes.fromhex(last) if _DIGITS.fullmatch(last) else None


def described(identity: EncoderIdentity) -> bytes:
    """What `encoder(identity.digest)` holds: for nodes that have not heard of it, and for rules that expire."""
    told = {"name": identity.name, "version": identity.version, "fingerprint": identity.fingerprint.hex()}
    return json.dumps(told).encode()


def identity(description: bytes, digest: bytes) -> EncoderIdentity | None:
    """The encoder that is described so; None for what is no description of the one whose identity has that digest."""
    try:
        told = json.loads(description)
        described = EncoderIdentity(told["name"], told["version"], bytes.fromhex(told["fingerprint"]))
    except (ValueError, TypeError, KeyError, RecursionError, InvalidValue):
        return None
    return described if described.digest == digest else None


def _of_key(kind: str, key: bytes) -> str:
    return f"{kind}{key[DIGEST_BYTES:].hex()}/{key[:DIGEST_BYTES].hex()}"
