"""How much is in a picture? What has little in it can be looked at smaller, or cut into larger patches.

The entropy of the differences between neighbouring grey levels: zero for a plain wall, a few bits for foliage. (The
entropy of the levels themselves, which is what is usually named, takes a smooth gradient for rich and a checkerboard
for poor.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BINS = 64
_RANGE = 4.0  # standard deviations of the training images, which is the unit that prepared pixels are in


def detail_bits(pixels: NDArray[np.float32]) -> float:
    """Entropy in bits of the differences between neighbours in prepared pixels (3, height, width)."""
    grey = pixels.mean(axis=0)
    differences = np.concatenate([np.diff(grey, axis=0).ravel(), np.diff(grey, axis=1).ravel()])
    counts, _ = np.histogram(differences.clip(-_RANGE, _RANGE), _BINS, (-_RANGE, _RANGE))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no -0.0


def level_bits(pixels: NDArray[np.float32]) -> float:
    """Entropy in bits of the grey levels themselves: the usual measure, kept to be compared with."""
    counts, _ = np.histogram(pixels.mean(axis=0).clip(-_RANGE, _RANGE), _BINS, (-_RANGE, _RANGE))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0
