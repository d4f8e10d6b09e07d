"""An encoder for real nodes that takes a modelled one's time: `module:edgecache.simulations.sleeping:encoder`.

`EDGECACHE_MODELLED=vit-b16:0.05` says which features it makes, and how many seconds each takes. With it a cluster of
real processes is comparable with a simulated one, and any machine can play a fleet of slow devices.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import InvalidValue
from ..protocol.keys import EncoderIdentity, digest_of
from .devices import model_named
from .modelled import FeatureModel

VARIABLE = "EDGECACHE_MODELLED"


class SleepingEncoder:
    """Sleeps for each image, one after the other, and makes what `FeatureModel` makes of it."""

    def __init__(self, model: FeatureModel, encode_s: float) -> None:
        self._model = model
        self._encode_s = encode_s

    @property
    def identity(self) -> EncoderIdentity:
        """The modelled encoder's."""
        return self._model.identity

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, dim) of every feature."""
        return self._model.description.shape

    def encode_batch(self, images: Sequence[bytes]) -> list[NDArray[np.float32]]:
        """The features of each image; nothing is decoded."""
        time.sleep(self._encode_s * len(images))
        return [self._model.array(digest_of(image)) for image in images]


def encoder() -> SleepingEncoder:
    """The encoder that the variable describes; InvalidValue."""
    text = os.environ.get(VARIABLE, "vit-b16:0.05")
    name, _, seconds = text.partition(":")
    try:
        encode_s = float(seconds)
    except ValueError:
        encode_s = -1.0
    if not 0 <= encode_s < 60:
        raise InvalidValue(f"{VARIABLE}={text!r}: expected a model and seconds such as vit-b16:0.05")
    return SleepingEncoder(FeatureModel(*model_named(name)), encode_s)
