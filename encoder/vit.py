"""The vision transformer: pre-norm blocks over a grid of tokens. One class for the bundled model, ViT, DeiT, CLIP,
SigLIP and DINOv2, which differ in what `VitShape` says.

The bundled model has a few convolutions before its blocks: they see the edges and textures that attention alone would
need many more pictures to discover (Xiao et al., "Early Convolutions Help Transformers See Better", 2021, section 4),
which is what counts when training takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),  # SigLIP
    "quick_gelu": lambda: QuickGelu(),  # CLIP
}
SWIGLU = "swiglu"  # DINOv2's giant


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
    """Of the head on the mean token; 0: no head."""
    mlp_dim: int = 0
    """Width inside the perceptrons, where it is no multiple of `dim`; 0: mlp_ratio × dim."""
    class_tokens: int = 0
    """Learnt tokens before the grid's that have a position of their own: DeiT has two, most others one."""
    registers: int = 0
    """Learnt tokens after those, without a position (Darcet et al., "Vision Transformers Need Registers", 2023)."""
    activation: str = "gelu"
    norm_eps: float = 1e-5
    is_patch_biased: bool = True
    is_qkv_biased: bool = True
    norms_first: bool = False
    """A norm before the first block: CLIP."""
    norms_last: bool = True
    """A norm after the last block; CLIP's last hidden state has none."""
    scales_layers: bool = False
    """What a block adds is scaled, channel by channel: DINOv2 (Touvron et al., 2021, LayerScale)."""
    antialiases_position: bool = True
    """How positions follow another input size; in transformers, only DINOv2 with registers does."""

    @property
    def grid_side(self) -> int:
        """Tokens along one side of the picture."""
        return self.image_side // self.patch_side

    @property
    def extra_tokens(self) -> int:
        """Tokens before the grid's."""
        return self.class_tokens + self.registers

    @property
    def mlp_width(self) -> int:
        """Channels inside a perceptron."""
        return self.mlp_dim or self.mlp_ratio * self.dim


class VisionTransformer(nn.Module):
    """Pixels to tokens, and (for training and measuring) pooled tokens to classes."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        self.stem = (
            _conv_stem(shape)
            if shape.stem
            else nn.Conv2d(3, shape.dim, shape.patch_side, shape.patch_side, bias=shape.is_patch_biased)
        )
        # Two spatial axes rather than one list of tokens, so that another input size can interpolate.
        self.position = nn.Parameter(torch.empty(1, shape.dim, shape.grid_side, shape.grid_side))
        nn.init.trunc_normal_(self.position, std=0.02)
        if shape.class_tokens:
            self.class_tokens = nn.Parameter(torch.randn(1, shape.class_tokens, shape.dim) * 0.02)
            self.class_position = nn.Parameter(torch.randn(1, shape.class_tokens, shape.dim) * 0.02)
        if shape.registers:
            self.registers = nn.Parameter(torch.randn(1, shape.registers, shape.dim) * 0.02)
        self.first_norm = nn.LayerNorm(shape.dim, shape.norm_eps) if shape.norms_first else nn.Identity()
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.dim, shape.norm_eps) if shape.norms_last else nn.Identity()
        self.head = nn.Linear(shape.dim, shape.classes) if shape.classes else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """The features of `pixels` (batch, 3, height, width): the final norm's tokens, (batch, tokens, dim).

        Class tokens and registers come first, then the grid row by row from the top left. Sides are multiples of the
        patch's side.
        """
        tokens = self.embed(pixels)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def embed(self, pixels: Tensor, position: Tensor | None = None) -> Tensor:
        """Pixels (batch, 3, height, width) to what the first block takes, (batch, tokens, dim).

        `position` is `position_at` the grid's size, if it is at hand.
        """
        grid = self.stem(pixels)  # (batch, dim, rows, columns)
        grid = grid + (self.position_at(grid.shape[-2], grid.shape[-1]) if position is None else position)
        parts = [grid.flatten(2).transpose(1, 2)]  # (batch, tokens, dim)
        if self.shape.registers:
            parts.insert(0, self.registers.expand(len(pixels), -1, -1))
        if self.shape.class_tokens:
            parts.insert(0, (self.class_tokens + self.class_position).expand(len(pixels), -1, -1))
        tokens: Tensor = self.first_norm(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        return tokens

    def classify(self, tokens: Tensor) -> Tensor:
        """Logits (batch, classes) of tokens (batch, tokens, dim), from their mean."""
        logits: Tensor = self.head(tokens.mean(dim=1))
        return logits

    def position_at(self, rows: int, columns: int) -> Tensor:
        """The positions of a grid of this size, (1, dim, rows, columns)."""
        if (rows, columns) == self.position.shape[-2:]:
            return self.position
        return F.interpolate(self.position, (rows, columns), mode="bicubic", antialias=self.shape.antialiases_position)

    def set_side(self, side: int) -> None:
        """Make pictures of `side`² what it is for: positions become those of that grid, once rather than each time.

        DINOv2 was trained on 518 pixels and is mostly used on 224.
        """
        rows = side // self.shape.patch_side
        self.position = nn.Parameter(self.position_at(rows, rows).detach().clone())
        self.shape = replace(self.shape, image_side=side)


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each on normed tokens and added to what came in."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.dim, shape.norm_eps)
        self.attention = Attention(shape.dim, shape.heads, shape.is_qkv_biased)
        self.attention_scale: nn.Module = LayerScale(shape.dim) if shape.scales_layers else nn.Identity()
        self.mlp_norm = nn.LayerNorm(shape.dim, shape.norm_eps)
        self.mlp = _perceptron(shape)
        self.mlp_scale: nn.Module = LayerScale(shape.dim) if shape.scales_layers else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:  # (batch, tokens, dim), both ways
        return self.refine(self.mix(tokens).tokens)

    def mix(self, tokens: Tensor, log_sizes: Tensor | None = None) -> Seen:
        """The first half, attention, added to what came in. `log_sizes` as in Attention.seen."""
        seen = self.attention.seen(self.attention_norm(tokens), log_sizes)
        return seen._replace(tokens=tokens + self.attention_scale(seen.tokens))

    def refine(self, tokens: Tensor) -> Tensor:
        """The second half, each token by itself."""
        added: Tensor = tokens + self.mlp_scale(self.mlp(self.mlp_norm(tokens)))
        return added


class Attention(nn.Module):
    """Every token looks at every token, `heads` times side by side.

    `attend` may be set to another way to look: a function of query, key and value, each (batch, heads, tokens, dim /
    heads), that gives the first's shape. `encoder/attention` has some.
    """

    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __init__(self, dim: int, heads: int, is_qkv_biased: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=is_qkv_biased)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.seen(tokens).tokens

    def seen(self, tokens: Tensor, log_sizes: Tensor | None = None) -> Seen:
        """What each token saw.

        `log_sizes` (batch, tokens): a token that stands for n patches is looked at n times as much.
        """
        batch, count, _ = tokens.shape
        packed = self.query_key_value(tokens).view(batch, count, 3, self.heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, dim / heads)
        if self.attend is not None:
            assert log_sizes is None, "merged tokens want exact attention"
            seen = self.attend(query, key, value)
        else:
            bias = None if log_sizes is None else log_sizes[:, None, None, :]
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        mixed: Tensor = self.out(seen.transpose(1, 2).reshape(batch, count, -1))
        return Seen(mixed, query, key)


class Seen(NamedTuple):
    """What attention made, and what it went by."""

    tokens: Tensor
    """(batch, tokens, dim)"""
    query: Tensor
    """(batch, heads, tokens, dim / heads)"""
    key: Tensor


class LayerScale(nn.Module):
    """A learnt factor for each channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.scale


class QuickGelu(nn.Module):
    """x · σ(1.702 x): the GELU that CLIP was trained with."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * torch.sigmoid(1.702 * tokens)


class SwiGlu(nn.Module):
    """A perceptron whose one half gates the other (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.gate_and_value = nn.Linear(dim, 2 * width)
        self.out = nn.Linear(width, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        gate, value = self.gate_and_value(tokens).chunk(2, dim=-1)
        mixed: Tensor = self.out(F.silu(gate) * value)
        return mixed


def _perceptron(shape: VitShape) -> nn.Module:
    if shape.activation == SWIGLU:
        return SwiGlu(shape.dim, shape.mlp_width)
    return nn.Sequential(
        nn.Linear(shape.dim, shape.mlp_width),
        ACTIVATIONS[shape.activation](),
        nn.Linear(shape.mlp_width, shape.dim),
    )


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
