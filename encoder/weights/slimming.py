"""Structured pruning: heads and perceptron channels that matter least are cut out, in steps, with recovery.

After each step of a tenth the layer that reads what is left is fitted again, by least squares, to give what it gave
before (He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, section 3.1): recovery in closed
form on a few hundred images, where gradient descent would take hours on a device. What is cut is gone: the matrices are
smaller, and every runtime gains.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..vit import Attention, Block, VisionTransformer

STEP = 0.1
_RIDGE = 1e-4
_SUMMED = 2048  # tokens whose products are summed in float32

Importance = Callable[[Attention, Tensor], Tensor]
"""An attention layer and its inputs (images, tokens, dim) to a number for each head."""


def slimmed(
    model: VisionTransformer,
    pixels: Tensor,
    *,
    heads: float = 1.0,
    channels: float = 1.0,
    importance: Importance | None = None,
    is_recovered: bool = True,
) -> VisionTransformer:
    """A copy with these shares of its heads and of its perceptrons' channels, fitted on `pixels` as it shrinks.

    Which heads go is told by `importance`: `head_norms` unless another is given.
    """
    copied = deepcopy(model).eval()
    tokens = _embedded(copied, pixels)
    for block, plain in zip(copied.blocks, model.blocks, strict=True):
        assert isinstance(block, Block)
        assert isinstance(plain, Block)
        wanted = plain.attention(plain.attention_norm(tokens)).detach()
        keep = max(1, round(heads * block.attention.heads))
        seen = block.attention_norm(tokens).detach()
        _cut_heads(block.attention, seen, wanted, keep, importance or head_norms, is_recovered)
        inner = plain.mlp_norm(plain.mix(tokens).tokens).detach()
        if isinstance(block.mlp, nn.Sequential):
            first = block.mlp[0]
            assert isinstance(first, nn.Linear)
            _cut_channels(block.mlp, inner, max(1, round(channels * first.out_features)), is_recovered)
        with torch.no_grad():
            tokens = torch.cat([plain(chunk) for chunk in torch.split(tokens, 64)])
    return copied


@torch.no_grad()
def _embedded(model: VisionTransformer, pixels: Tensor) -> Tensor:
    return torch.cat([model.embed(chunk) for chunk in torch.split(pixels, 64)])


def head_norms(attention: Attention, tokens: Tensor) -> Tensor:
    """How much each head adds: the length of its part of the output, (heads,)."""
    with torch.no_grad():
        seen = heads_of(attention, tokens)  # (images, tokens, heads, dim / heads)
        width = seen.shape[-1]
        parts = attention.out.weight.view(attention.out.out_features, attention.heads, width)
        return torch.stack(
            [(seen[:, :, head] @ parts[:, head].T).norm(dim=-1).mean() for head in range(attention.heads)]
        )


def head_entropies(attention: Attention, tokens: Tensor) -> Tensor:
    """How decided each head is: less entropy of what it looks at is more importance, (heads,)."""
    with torch.no_grad():
        seen = attention.seen(tokens)
        shares = (seen.query @ seen.key.transpose(-1, -2) * seen.key.shape[-1] ** -0.5).softmax(dim=-1)
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum(dim=-1).mean(dim=(0, 2))
        importance: Tensor = -entropy
        return importance


def head_gradients(attention: Attention, tokens: Tensor) -> Tensor:
    """How much the output's length changes if a head fades, |∂/∂gate| (Michel et al., 2019), (heads,)."""
    with torch.enable_grad():
        gates = torch.ones(attention.heads, requires_grad=True)
        seen = heads_of(attention, tokens.detach()) * gates[:, None]
        made = attention.out(seen.flatten(2))
        (gradient,) = torch.autograd.grad(made.square().mean(), gates)
    return gradient.abs()


def heads_of(attention: Attention, tokens: Tensor) -> Tensor:
    """What each head saw, before they are mixed, (images, tokens, heads, dim / heads)."""
    batch, count, _ = tokens.shape
    packed = attention.query_key_value(tokens).view(batch, count, 3, attention.heads, -1)
    query, key, value = packed.permute(2, 0, 3, 1, 4)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def _cut_heads(
    attention: Attention, tokens: Tensor, wanted: Tensor, keep: int, importance: Importance, is_recovered: bool
) -> None:
    if attention.heads <= keep:
        return
    with torch.no_grad():
        products = _Products.of(heads_of(attention, tokens).flatten(2), wanted)
    while attention.heads > keep:
        step = max(1, round(STEP * attention.heads))
        left = max(keep, attention.heads - step)
        best = importance(attention, tokens).topk(left).indices.sort()[0]
        width = attention.query_key_value.out_features // 3 // attention.heads
        rows = torch.cat([head * width + torch.arange(width) for head in best])
        third = attention.heads * width
        attention.query_key_value = _rows(attention.query_key_value, torch.cat([rows, third + rows, 2 * third + rows]))
        attention.out = _columns(attention.out, rows)
        attention.heads = left
        products = products.only(rows)
        if is_recovered:
            products.refit(attention.out)


def _cut_channels(mlp: nn.Sequential, tokens: Tensor, keep: int, is_recovered: bool) -> None:
    first, activation, last = mlp
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    if first.out_features <= keep:
        return
    with torch.no_grad():
        inner = activation(first(tokens))
        products = _Products.of(inner, mlp(tokens))
        active = inner.flatten(0, -2).square().mean(dim=0).sqrt()
        while first.out_features > keep:
            left = max(keep, first.out_features - max(1, round(STEP * first.out_features)))
            # What a channel adds: how active it is, times how much is made of it.
            best = (active * last.weight.norm(dim=0)).topk(left).indices.sort()[0]
            first, last = _rows(first, best), _columns(last, best)
            active, products = active[best], products.only(best)
            if is_recovered:
                products.refit(last)
    mlp[0], mlp[2] = first, last


class _Products(NamedTuple):
    """All that a linear layer's least squares want to know of its inputs: summed once, since those left do not change.

    With a one for the bias as the last input, in float64.
    """

    inputs: Tensor
    """Inputs by inputs, (in + 1, in + 1)"""
    wanted: Tensor
    """Inputs by what the layer is to make of them, (in + 1, out)"""

    @classmethod
    def of(cls, inputs: Tensor, wanted: Tensor) -> _Products:
        """Of inputs (..., in) and what is wanted (..., out)."""
        x, y = inputs.flatten(0, -2), wanted.flatten(0, -2)
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        # Products in float32, which is a quarter of the time, and sums of them in float64.
        chunks = zip(torch.split(x, _SUMMED), torch.split(y, _SUMMED), strict=True)
        by_inputs = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        by_wanted = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
        for a, b in chunks:
            by_inputs += a.T @ a
            by_wanted += a.T @ b
        return cls(by_inputs, by_wanted)

    def only(self, kept: Tensor) -> _Products:
        """Those of some of the inputs, and the one."""
        places = torch.cat([kept, kept.new_tensor([len(self.inputs) - 1])])
        return _Products(self.inputs[places][:, places], self.wanted[places])

    def refit(self, layer: nn.Linear) -> None:
        """Ridge regression of what `layer` misses, shrunk towards the weights as they are."""
        with torch.no_grad():
            weights = torch.cat([layer.weight.T, layer.bias[None]]).double()
            missing = self.wanted - self.inputs @ weights
            ridge = _RIDGE * self.inputs.diagonal().mean() * torch.eye(len(self.inputs), dtype=torch.float64)
            change = torch.linalg.solve(self.inputs + ridge, missing)
            layer.weight.add_(change[:-1].T.float())
            layer.bias.add_(change[-1].float())


def _rows(layer: nn.Linear, rows: Tensor) -> nn.Linear:
    """Only these outputs of a layer."""
    cut = nn.Linear(layer.in_features, len(rows), bias=layer.bias is not None)
    with torch.no_grad():
        cut.weight.copy_(layer.weight[rows])
        if layer.bias is not None:
            cut.bias.copy_(layer.bias[rows])
    return cut


def _columns(layer: nn.Linear, columns: Tensor) -> nn.Linear:
    """Only these inputs of a layer."""
    cut = nn.Linear(len(columns), layer.out_features)
    with torch.no_grad():
        cut.weight.copy_(layer.weight[:, columns])
        cut.bias.copy_(layer.bias)
    return cut
