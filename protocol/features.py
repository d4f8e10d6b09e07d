"""What a user gets: the features of one image, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .keys import FeatureKey


class Source(StrEnum):
    """Which step of a lookup had the features."""

    MEMORY = "memory"
    DISK = "disk"
    PEER = "peer"
    CLOUD = "cloud"
    ENCODER = "encoder"


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The features of one image. `array` is float32 (tokens, dim), C order, and read-only."""

    array: NDArray[np.float32]
    key: FeatureKey
    fidelity: float
    """Cosine of `array` to what the encoder made, measured when it was stored; 1.0 is exact."""
    codec: str
    """How it was stored: `int8`, `float16` or `float32`."""
    source: Source
    node: str
    """The name of the node that held or made it."""
    converted_from: str | None = None
    """NAME@VERSION of the older encoder whose features a fitted map told as these (`--convert`); usually None."""
