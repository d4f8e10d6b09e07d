"""Adaptive sampling: large patches where a picture is plain, small ones where it is busy, as many in all as asked for.

A quadtree over the grid: it starts with the largest patches, and the one with the most in it is split in four until
there are enough (Ronen et al., "Vision Transformers with Mixed-Resolution Tokenization", 2023, section 3). What is in a
patch is told by the entropy of its grey levels or by the strength of its edges. A patch of any size is brought to the
size that the model knows, 4 × 4 pixels to 32 × 32 becoming 16 × 16 in a ViT/16, and gets the position that the model's
own grid, interpolated, has there. At the end every cell of the model's grid takes the token that covers it, or the mean
of those within it: the features keep their shape.

No training: a model that has never seen patches of several sizes errs more than one that has.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...protocol.errors import InvalidValue
from ..vit import VisionTransformer

Array = NDArray[np.float32]
Score = Callable[[Array], float]
"""The grey levels of a patch (rows, columns) to how much is in it."""

_BINS = 16
_RANGE = 3.0  # standard deviations: the unit that prepared pixels are in


class Patch(NamedTuple):
    """A square of the picture, in units of the finest level's patches."""

    row: int
    column: int
    side: int


def entropy(grey: Array) -> float:
    """Bits of the grey levels, times the pixels: a large patch with as much in each pixel has more to tell."""
    counts, _ = np.histogram(grey.clip(-_RANGE, _RANGE), _BINS, (-_RANGE, _RANGE))
    shares = counts[counts > 0] / grey.size
    return float(-(shares * np.log2(shares)).sum()) * grey.size


def edges(grey: Array) -> float:
    """The length of the gradient, summed over the pixels."""
    down, across = np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1]
    return float(np.sqrt(down**2 + across**2).sum())


SCORES: dict[str, Score] = {"entropy": entropy, "edges": edges}


def quadtree(grey: Array, units: int, count: int, coarsest: int, score: Score) -> list[Patch]:
    """Patches that tile the square `grey` of `units` × `units` finest patches, row by row.

    As many as fit into `count` when each split of one makes three more; sides are powers of 2 up to `coarsest`.
    """
    pixels = len(grey) // units  # along one side of a finest patch

    def entry(patch: Patch) -> tuple[float, Patch]:
        top, left, side = (pixels * number for number in patch)
        return -score(grey[top : top + side, left : left + side]), patch

    corners = range(0, units, coarsest)
    done: list[Patch] = []
    splittable = [entry(Patch(row, column, coarsest)) for row in corners for column in corners]
    heapify(splittable)
    while splittable and len(done) + len(splittable) + 3 <= count:
        _, (row, column, side) = heappop(splittable)
        half = side // 2
        for down in (0, half):
            for across in (0, half):
                patch = Patch(row + down, column + across, half)
                if half == 1:
                    done.append(patch)
                else:
                    heappush(splittable, entry(patch))
    return sorted([*done, *(patch for _, patch in splittable)])


class Sampled(nn.Module):
    """A model that looks at `count` patches of several sizes. Pixels (batch, 3, side, side) to the full grid's tokens.

    Patches are `finer` times halved to `coarser` times doubled from the model's own.
    """

    def __init__(
        self, model: VisionTransformer, count: int, *, coarser: int = 1, finer: int = 0, score: str = "edges"
    ) -> None:
        super().__init__()
        shape = model.shape
        self.model, self.count, self.score = model, count, SCORES[score]
        self.finer = finer
        self.units = shape.grid_side << finer
        """Finest patches along one side of the picture."""
        self.coarsest = 1 << max(0, coarser + finer)
        if finer < 0 or coarser < 0 or self.units % self.coarsest or shape.image_side % self.units:
            raise InvalidValue(
                f"patches {finer} times halved to {coarser} times doubled: they do not tile a grid of "
                f"{shape.grid_side} × {shape.grid_side} with {shape.patch_side} pixels each"
            )
        fewest = (self.units // self.coarsest) ** 2
        if not fewest <= count <= self.units**2:
            raise InvalidValue(f"{count} patches: expected {fewest} to {self.units**2}")

    def forward(self, pixels: Tensor) -> Tensor:
        chosen = [
            quadtree(picture, self.units, self.count, self.coarsest, self.score)
            for picture in pixels.mean(dim=1).numpy()
        ]
        extra = self.model.shape.extra_tokens
        tokens = self.embed(pixels, chosen)
        for block in self.model.blocks:
            tokens = block(tokens)
        normed: Tensor = self.model.norm(tokens)
        cells = torch.stack([self._covering(patches) for patches in chosen])  # (batch, cells, patches)
        return torch.cat([normed[:, :extra], cells @ normed[:, extra:]], dim=1)

    def embed(self, pixels: Tensor, chosen: list[list[Patch]]) -> Tensor:
        """What the first block takes: extra tokens, then one for each patch, (batch, tokens, dim)."""
        model = self.model
        grids, side = {}, 1
        while side <= self.coarsest:  # every level's grid whole: together they are 4/3 of the finest
            rows = self.units // side
            scaled = F.interpolate(pixels, (rows * model.shape.patch_side,) * 2, mode="bilinear", antialias=True)
            grids[side] = model.stem(scaled) + model.position_at(rows, rows)
            side *= 2
        rows_of = [
            torch.stack([grids[side][image, :, row // side, column // side] for row, column, side in patches])
            for image, patches in enumerate(chosen)
        ]
        parts = [torch.stack(rows_of)]
        if model.shape.registers:
            parts.insert(0, model.registers.expand(len(pixels), -1, -1))
        if model.shape.class_tokens:
            parts.insert(0, (model.class_tokens + model.class_position).expand(len(pixels), -1, -1))
        tokens: Tensor = model.first_norm(torch.cat(parts, dim=1))
        return tokens

    def _covering(self, patches: list[Patch]) -> Tensor:
        """For each cell of the model's grid the shares of the patches that cover it, (cells, patches)."""
        grid = self.model.shape.grid_side
        shares = torch.zeros(grid, grid, len(patches))
        for number, (row, column, side) in enumerate(patches):
            if side >> self.finer:  # a cell or more
                cells = side >> self.finer
                top, left = row >> self.finer, column >> self.finer
                shares[top : top + cells, left : left + cells, number] = 1.0
            else:
                shares[row >> self.finer, column >> self.finer, number] = (side / (1 << self.finer)) ** 2
        return shares.flatten(0, 1)
