"""Smaller input, and its tokens put back on the full grid, as products with matrices that any runtime can do."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
