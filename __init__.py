"""edgecache: the features of an image, by its hash, from the nearest device that has them."""

from __future__ import annotations

from .protocol.features import Features, Source
from .protocol.keys import FeatureKey

__all__ = ["FeatureKey", "Features", "Source"]
