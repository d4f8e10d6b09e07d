"""Adaptive input resolution: a picture with little in it is looked at smaller.

How much is in it says the entropy of the differences between neighbouring grey levels: zero for a plain wall, a few
bits for foliage. (The entropy of the levels themselves, which is what is usually named, takes a smooth gradient for
rich and a checkerboard for poor.)
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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


def resampling(before: int, after: int) -> Tensor:
    """The matrix (after, before) that resamples one axis linearly, averaging over what falls together.

    As a matrix it is part of an exported graph in every runtime, and the same in all of them.
    """
    scale = before / after
    support = max(scale, 1.0)
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * scale - 0.5
    distance = (torch.arange(before, dtype=torch.float64)[None] - centres[:, None]).abs() / support
    weights = (1 - distance).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


class Shrink(nn.Module):
    """Pixels (batch, 3, side, side) to (batch, 3, smaller, smaller)."""

    matrix: Tensor

    def __init__(self, side: int, smaller: int) -> None:
        super().__init__()
        self.register_buffer("matrix", resampling(side, smaller), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.matrix @ pixels @ self.matrix.T


class Regrid(nn.Module):
    """Tokens of a smaller grid (batch, before², dim) to those of the full one (batch, after², dim)."""

    matrix: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        axis = resampling(before, after)
        self.register_buffer("matrix", torch.kron(axis, axis), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.matrix @ tokens
