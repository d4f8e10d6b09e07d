"""An encoder for `module:tests.bench.sleeping:Encoder` that takes its time without the processor's: no other is slower.

Real encoders of five nodes on one machine would share its cores, and a figure would say how many it has.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from edgecache.protocol.keys import EncoderIdentity
from numpy.typing import NDArray

SPEC = "module:tests.bench.sleeping:Encoder"
VARIABLE = "SLEEPING_ENCODER_S"


class Encoder:
    """151 KB of features as INT8, one image at a time."""

    identity = EncoderIdentity("bench/sleeping", "1", sha256(b"sleeping").digest())
    shape = (197, 768)

    def __init__(self) -> None:
        self._encode_s = float(os.environ[VARIABLE])
        self._array = np.random.default_rng(1).standard_normal(self.shape, dtype=np.float32)

    def encode_batch(self, images: Sequence[bytes]) -> list[NDArray[np.float32]]:
        """The same for every image, but for a factor."""
        time.sleep(self._encode_s * len(images))
        return [self._array * np.float32(1 + sha256(image).digest()[0] / 256) for image in images]
