"""A small vision transformer: pre-norm blocks over a grid of tokens, with a few convolutions before them.

Convolutions see the edges and textures that attention alone would need many more pictures to discover (Xiao et al.,
"Early Convolutions Help Transformers See Better", 2021, section 4), which is what counts when training takes minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class VitShape:
    """Everything about the model that its weights do not say."""

    image_side: int = 32
    stem: tuple[int, ...] = (48, 96, 192)
    """Channels of each stage of the stem; every stage but the first halves the picture. Empty: cut into patches."""
    patch_side: int = 4
    """Pixels along one side of what becomes a token; with a stem, 2 ** (stages - 1)."""
    dim: int = 192
    depth: int = 4
    heads: int = 3
    mlp_ratio: int = 4
    classes: int = 10

    @property
    def grid_side(self) -> int:
        """Tokens along one side of the picture."""
        return self.image_side // self.patch_side


class VisionTransformer(nn.Module):
    """Pixels to tokens, and (for training and measuring) pooled tokens to classes."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        self.stem = _conv_stem(shape) if shape.stem else nn.Conv2d(3, shape.dim, shape.patch_side, shape.patch_side)
        # Two spatial axes rather than one list of tokens, so that another input size can interpolate.
        self.position = nn.Parameter(torch.empty(1, shape.dim, shape.grid_side, shape.grid_side))
        self.blocks = nn.ModuleList(Block(shape.dim, shape.heads, shape.mlp_ratio) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.dim)
        self.head = nn.Linear(shape.dim, shape.classes)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """The features of `pixels` (batch, 3, height, width): the final norm's tokens, (batch, tokens, dim).

        Tokens go row by row from the top left. Sides are multiples of the patch's side.
        """
        grid = self.stem(pixels)  # (batch, dim, rows, columns)
        grid = grid + self._position(grid.shape[-2], grid.shape[-1])
        tokens = grid.flatten(2).transpose(1, 2)  # (batch, tokens, dim)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def classify(self, tokens: Tensor) -> Tensor:
        """Logits (batch, classes) of tokens (batch, tokens, dim), from their mean."""
        logits: Tensor = self.head(tokens.mean(dim=1))
        return logits

    def _position(self, rows: int, columns: int) -> Tensor:
        if (rows, columns) == self.position.shape[-2:]:
            return self.position
        return F.interpolate(self.position, (rows, columns), mode="bicubic", antialias=True)


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each on normed tokens and added to what came in."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:  # (batch, tokens, dim), both ways
        tokens = tokens + self.attention(self.attention_norm(tokens))
        added: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return added


class Attention(nn.Module):
    """Every token looks at every token, `heads` times side by side."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, dim = tokens.shape
        packed = self.query_key_value(tokens).view(batch, count, 3, self.heads, dim // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, dim / heads)
        seen = F.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.out(seen.transpose(1, 2).reshape(batch, count, dim))
        return mixed


def _conv_stem(shape: VitShape) -> nn.Sequential:
    """(batch, 3, height, width) to (batch, dim, height / patch_side, width / patch_side)."""
    assert 2 ** (len(shape.stem) - 1) == shape.patch_side, "every stage but the first halves the picture"
    stages: list[nn.Module] = [_Conv(3, shape.stem[0], stride=1)]
    for before, after in zip(shape.stem, shape.stem[1:], strict=False):
        stages += [_Conv(before, after, stride=2), _Residual(after)]
    return nn.Sequential(*stages, nn.Conv2d(shape.stem[-1], shape.dim, kernel_size=1))


class _Conv(nn.Module):
    """A 3 × 3 convolution, normed over the batch, then GELU."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, grid: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(grid)))


class _Residual(nn.Module):
    """Two convolutions added to what came in: the same shape, a wider view."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(_Conv(width, width, stride=1), _Conv(width, width, stride=1))

    def forward(self, grid: Tensor) -> Tensor:
        added: Tensor = grid + self.convs(grid)
        return added
