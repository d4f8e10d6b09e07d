"""An encoder for `module:tests.system.versioned:Encoder` whose version is in the environment, and what it makes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from edgecache.protocol.keys import EncoderIdentity
from numpy.typing import NDArray

SPEC = "module:tests.system.versioned:Encoder"
NAME = "test/versioned"
VARIABLE = "VERSIONED_ENCODER"
ENCODE_S = 0.01


def features(image: bytes, version: str) -> NDArray[np.float32]:
    """What that version makes of `image`: different for every image and version."""
    told = sha256(version.encode() + image).digest()
    return np.frombuffer(told, np.uint8).astype(np.float32).reshape(2, 16) + 1


def identity(version: str) -> EncoderIdentity:
    return EncoderIdentity(NAME, version, sha256(version.encode()).digest())


class Encoder:
    """Looks at no pixels, and takes a moment."""

    shape = (2, 16)

    def __init__(self) -> None:
        self._version = os.environ[VARIABLE]
        self.identity = identity(self._version)

    def encode_batch(self, images: Sequence[bytes]) -> list[NDArray[np.float32]]:
        time.sleep(ENCODE_S)
        return [features(image, self._version) for image in images]
