"""Attention or a small convolution, as each image needs it, over one set of weights.

Both begin with the same product and end with the same: of queries, keys and values a convolution wants the values only,
and mixes each with its neighbours by a kernel of 3 × 3 for each channel, and with the mean of all (Pan et al., "On the
Integration of Self-Attention and Convolution", 2022, section 4, shares the first product in this way). So the kernel is
the only new weight, and it can be fitted to what attention saw, channel by channel, by least squares. A router looks at
the mean token and says how much attention an image needs: above 0.5 it gets it. That saves two thirds of the first
product and all that grows with the tokens' square, and costs one product of a vector.

Soft gates mix both and save nothing: they are for training. Hard gates choose; trained, their gradient is the soft
one's (straight-through, Bengio et al., 2013).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import deepcopy
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..vit import Attention, Block, Seen, VisionTransformer

THRESHOLD = 0.5
SIDE = 3
RARE = 0.05
"""A way that fewer images than this take is not worth a router."""
_RIDGE = 1e-3
_CHUNK = 8  # images whose neighbourhoods are in memory at once while fitting


class Gating(StrEnum):
    """Who decides what an image gets."""

    SOFT = "soft"
    HARD = "hard"
    ATTENTION = "attention"
    """Nobody: attention for all."""
    CONVOLUTION = "convolution"
    """Nobody: the kernel for all."""


class Hybrid(Attention):
    """An attention layer with a kernel and a router beside it. Starts as the attention that it was made from."""

    def __init__(self, attention: Attention, rows: int, extra: int) -> None:
        dim = attention.out.out_features
        super().__init__(dim, attention.heads)
        self.query_key_value, self.out = attention.query_key_value, attention.out
        self.channels = attention.query_key_value.out_features // 3
        self.rows, self.extra = rows, extra
        self.kernel = nn.Parameter(torch.zeros(self.channels, 1, SIDE, SIDE))
        self.mean_scale = nn.Parameter(torch.ones(self.channels))
        self.bias = nn.Parameter(torch.zeros(self.channels))
        self.extra_scale = nn.Parameter(torch.ones(self.channels))
        """Class tokens and registers see the mean of all values, scaled."""
        self.router = nn.Linear(dim, 1)
        self.gating = Gating.ATTENTION
        self.images = 0
        self.attended = 0

    def seen(self, tokens: Tensor, log_sizes: Tensor | None = None) -> Seen:
        """What each token saw; of what did not attend there is neither query nor key."""
        assert log_sizes is None, "merged tokens have no grid"
        self.images += len(tokens)
        if self.gating is Gating.ATTENTION:
            self.attended += len(tokens)
            return super().seen(tokens)
        if self.gating is Gating.CONVOLUTION:
            return self._seen(self.convolved(tokens))
        gate = self.gate(tokens)  # (batch,)
        attends = gate > THRESHOLD
        self.attended += int(attends.sum())
        if self.gating is Gating.HARD and not self.training:
            return self._seen(self._split(tokens, attends))
        if self.gating is Gating.HARD:
            gate = attends.float() + gate - gate.detach()
        share = gate[:, None, None]
        return self._seen(share * super().seen(tokens).tokens + (1 - share) * self.convolved(tokens))

    def gate(self, tokens: Tensor) -> Tensor:
        """How much attention each image needs, 0 to 1, (batch,)."""
        needed: Tensor = self.router(tokens.mean(dim=1)).sigmoid()[:, 0]
        return needed

    def convolved(self, tokens: Tensor) -> Tensor:
        """What the kernel makes of tokens (batch, tokens, dim), the same shape."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        value = F.linear(tokens, weight[-self.channels :], None if bias is None else bias[-self.channels :])
        mean = value.mean(dim=1, keepdim=True)  # (batch, 1, channels)
        grid = self._grid_of(value)
        near = F.conv2d(grid, self.kernel, padding=SIDE // 2, groups=self.channels).flatten(2).transpose(1, 2)
        mixed = near + mean * self.mean_scale + self.bias
        if self.extra:
            mixed = torch.cat([(mean * self.extra_scale).expand(-1, self.extra, -1), mixed], dim=1)
        made: Tensor = self.out(mixed)
        return made

    def _grid_of(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, tokens, channels) but the extra ones as (batch, channels, rows, rows)."""
        return tokens[:, self.extra :].transpose(1, 2).reshape(len(tokens), -1, self.rows, self.rows)

    def _split(self, tokens: Tensor, attends: Tensor) -> Tensor:
        if bool(attends.all()):
            return super().seen(tokens).tokens
        if not bool(attends.any()):
            return self.convolved(tokens)
        made = torch.empty_like(tokens)
        made[attends] = super().seen(tokens[attends]).tokens
        made[~attends] = self.convolved(tokens[~attends])
        return made

    @staticmethod
    def _seen(made: Tensor) -> Seen:
        return Seen(made, made.new_empty(0), made.new_empty(0))

    @property
    def activation_rate(self) -> float:
        """The share of images that had attention, of all since the counters were set to 0."""
        return self.attended / self.images if self.images else 1.0

    @property
    def saved_flops(self) -> int:
        """Multiplications and additions fewer than with attention for all, over all images; below 0: more."""
        attention, convolution, router = self.flops()
        if self.gating is Gating.SOFT:
            return -self.images * (convolution + router)
        saved = (self.images - self.attended) * (attention - convolution)
        return saved - self.images * router if self.gating is Gating.HARD else saved

    def flops(self) -> tuple[int, int, int]:
        """Of one image: what attention has and the kernel has not, the other way round, and the router."""
        tokens, dim = self.rows**2 + self.extra, self.out.out_features
        attention = 2 * tokens * dim * 2 * self.channels + 4 * tokens**2 * self.channels
        return attention, 2 * tokens * self.channels * SIDE**2, 2 * dim


def hybrid(
    model: VisionTransformer, pixels: Tensor, *, error_max: float = 0.3, blocks: Collection[int] | None = None
) -> VisionTransformer:
    """A copy whose attention layers (those of `blocks`, or all) are Hybrid with hard gates, fitted on `pixels`.

    A router lets an image go without attention where it expects the kernel's output to differ from attention's by less
    than `error_max` of its length.
    """
    copied = deepcopy(model).eval()
    with torch.no_grad():
        tokens = torch.cat([copied.embed(chunk) for chunk in torch.split(pixels, _CHUNK)])
        for index, (block, plain) in enumerate(zip(copied.blocks, model.blocks, strict=True)):
            assert isinstance(block, Block)
            if blocks is None or index in blocks:
                made = Hybrid(block.attention, model.shape.grid_side, model.shape.extra_tokens)
                _fit(made, block.attention_norm(tokens), error_max)
                block.attention = made.eval()
            tokens = torch.cat([plain(chunk) for chunk in torch.split(tokens, _CHUNK)])
    return copied


def layers_of(model: nn.Module) -> Iterator[Hybrid]:
    """Its hybrid layers, from the first block on."""
    return (module for module in model.modules() if isinstance(module, Hybrid))


def settle(model: VisionTransformer, pixels: Tensor, wanted: Tensor, cosine_min: float) -> float:
    """Take routers away where they hurt, and the mean cosine to the `wanted` features that is reached.

    As long as it is below `cosine_min`, the first block that still routes has attention for all again: an error there
    goes through all others. Then whoever sends nearly all images one way does without a router.
    """
    while True:
        for layer in layers_of(model):
            layer.images = layer.attended = 0
        with torch.no_grad():
            made = torch.cat([model(chunk) for chunk in torch.split(pixels, _CHUNK)])
        cosine = float(F.cosine_similarity(made.flatten(1), wanted.flatten(1)).mean())
        routing = [layer for layer in layers_of(model) if layer.gating is not Gating.ATTENTION]
        if cosine >= cosine_min or not routing:
            break
        routing[0].gating = Gating.ATTENTION
    for layer in routing:
        layer.gating = static_choice(layer.activation_rate, layer.gating)
    return cosine


def static_choice(rate: float, gating: Gating) -> Gating:
    """What to do without a router, at this activation rate; `gating` itself where a router is worth it."""
    if rate >= 1 - RARE:
        return Gating.ATTENTION
    return Gating.CONVOLUTION if rate <= RARE else gating


def _fit(layer: Hybrid, tokens: Tensor, error_max: float) -> None:
    """Kernel, scales and bias by ridge regression for each channel; then the router, on how well that went."""
    columns = SIDE * SIDE + 2  # neighbours, the mean, one
    gram = torch.zeros(layer.channels, columns, columns, dtype=torch.float64)
    wanted = torch.zeros(layer.channels, columns, dtype=torch.float64)
    of_extra = torch.zeros(2, layer.channels, dtype=torch.float64)
    for chunk in torch.split(tokens, _CHUNK):
        value, seen = _value_and_seen(layer, chunk)  # (batch, tokens, channels)
        mean = value.mean(dim=1)
        grid = layer._grid_of(value)
        near = F.unfold(grid, SIDE, padding=SIDE // 2).view(len(chunk), layer.channels, SIDE * SIDE, -1)
        flat = mean[:, :, None, None].expand(-1, -1, 1, layer.rows**2)
        rows = torch.cat([near, flat, torch.ones_like(flat)], dim=2).double()  # (batch, channels, columns, grid)
        gram += torch.einsum("bcig,bcjg->cij", rows, rows)
        wanted += torch.einsum("bcig,bgc->ci", rows, seen[:, layer.extra :].double())
        of_extra[0] += (mean[:, None] * seen[:, : layer.extra]).double().sum(dim=(0, 1))
        of_extra[1] += layer.extra * mean.double().square().sum(dim=0)
    scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
    gram += _RIDGE * scale[:, None, None] * torch.eye(columns, dtype=torch.float64)
    found = torch.linalg.solve(gram, wanted).float()
    layer.kernel.copy_(found[:, :-2].view_as(layer.kernel))
    layer.mean_scale.copy_(found[:, -2])
    layer.bias.copy_(found[:, -1])
    if layer.extra:
        layer.extra_scale.copy_((of_extra[0] / of_extra[1].clamp(min=1e-12)).float())
    layer.gating = Gating.HARD
    _fit_router(layer, tokens, error_max)


def _fit_router(layer: Hybrid, tokens: Tensor, error_max: float) -> None:
    errors = []
    for chunk in torch.split(tokens, _CHUNK):
        attended, convolved = Attention.seen(layer, chunk).tokens, layer.convolved(chunk)
        errors.append((convolved - attended).norm(dim=(1, 2)) / attended.norm(dim=(1, 2)))
    logits = (torch.cat(errors).clamp(min=1e-6) / error_max).log().double()  # above 0: it needs attention
    x = tokens.mean(dim=1).double()
    middle = x.mean(dim=0)
    x = x - middle
    gram = x.T @ x
    gram += (_RIDGE * len(x) * gram.diagonal().mean() + 1e-9) * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ (logits - logits.mean()))
    layer.router.weight.copy_(weight.float()[None])
    layer.router.bias.copy_((logits.mean() - weight @ middle).float()[None])


def _value_and_seen(layer: Hybrid, tokens: Tensor) -> tuple[Tensor, Tensor]:
    batch, count, _ = tokens.shape
    packed = layer.query_key_value(tokens).view(batch, count, 3, layer.heads, -1)
    query, key, value = packed.permute(2, 0, 3, 1, 4)
    seen = F.scaled_dot_product_attention(query, key, value)
    return value.transpose(1, 2).flatten(2), seen.transpose(1, 2).flatten(2)
