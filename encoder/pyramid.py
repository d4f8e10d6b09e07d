"""Features at several scales: finer grids from earlier blocks, coarser ones from later, as detectors want them.

A plain vision transformer has one grid all the way. What early blocks know of edges and late blocks of objects is taken
from both, as in Ranftl et al., "Vision Transformers for Dense Prediction" (2021), section 3, and resampled to the grids
asked for; there with learnt convolutions, here with the linear filter that keeps the mean, so that nothing is trained.
All levels are one feature of one shape to a cache: the tokens of the finest, row by row, then those of the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..protocol.errors import InvalidValue
from .tokens.resolution import resampling
from .vit import VisionTransformer

LEVELS_MAX = 4
SCALE_MAX = 4.0


class FeaturePyramid(nn.Module):
    """Pixels (batch, 3, side, side) to the tokens of every level (batch, tokens, dim), the finest first.

    `scales` are sides of the levels' grids as multiples of the model's own, descending; level i of n is taken after
    (i + 1) / n of the blocks, and the model's last norm is put on all.
    """

    def __init__(self, model: VisionTransformer, scales: Sequence[float]) -> None:
        super().__init__()
        shape = model.shape
        if not 1 <= len(scales) <= LEVELS_MAX or list(scales) != sorted(set(scales), reverse=True):
            raise InvalidValue(
                f"pyramid {_list(scales)}: expected 1 to {LEVELS_MAX} different scales, the finest first"
            )
        if scales[0] > SCALE_MAX or round(scales[-1] * shape.grid_side) < 1:
            raise InvalidValue(
                f"pyramid {_list(scales)}: scales are at most {SCALE_MAX:g} and leave a token of "
                f"{shape.grid_side} × {shape.grid_side}"
            )
        self.model = model
        self.sides = [round(scale * shape.grid_side) for scale in scales]
        """Tokens along one side of each level."""
        self.blocks = [max(1, round(shape.depth * (level + 1) / len(scales))) for level in range(len(scales))]
        """Number of blocks after which each level is taken."""
        for level, side in enumerate(self.sides):
            self.register_buffer(f"matrix{level}", resampling(shape.grid_side, side), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([level.flatten(2).transpose(1, 2) for level in self.levels(pixels)], dim=1)

    def levels(self, pixels: Tensor) -> list[Tensor]:
        """Each level as a grid (batch, dim, rows, rows)."""
        model, made = self.model, []
        tokens = model.embed(pixels)
        rows = model.shape.grid_side
        for number, block in enumerate(model.blocks, 1):
            tokens = block(tokens)
            for level, taken in enumerate(self.blocks):
                if taken == number:
                    grid = model.norm(tokens)[:, model.shape.extra_tokens :].transpose(1, 2).unflatten(2, (rows, rows))
                    matrix = self.get_buffer(f"matrix{level}")  # (side, rows)
                    made.append(matrix @ grid @ matrix.T)
        return made


def split(features: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """The levels of features (batch, tokens, dim), each (batch, side², dim)."""
    return list(torch.split(features, [side * side for side in sides], dim=1))


def scales_of(text: str) -> tuple[float, ...]:
    """`2,1,0.5` as numbers; InvalidValue for what are none."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidValue(f"pyramid {text!a}: expected scales such as 2,1,0.5") from error


def _list(scales: Sequence[float]) -> str:
    return ",".join(f"{scale:g}" for scale in scales)
