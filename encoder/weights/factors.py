"""The same function of smaller or simpler parts: low-rank factors, and RMSNorm in place of LayerNorm."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..vit import Block, LayerScale, VisionTransformer


def factored(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Two thin layers in place of one: its best approximation of that rank (Eckart and Young, 1936).

    Fewer products where rank < in · out / (in + out).
    """
    left, values, right = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    roots = values[:rank].sqrt()
    inner = nn.Linear(layer.in_features, rank, bias=False)
    outer = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    with torch.no_grad():
        inner.weight.copy_((roots[:, None] * right[:rank]).float())
        outer.weight.copy_((left[:, :rank] * roots).float())
        if layer.bias is not None:
            outer.bias.copy_(layer.bias)
    return nn.Sequential(inner, outer)


def low_rank(model: VisionTransformer, share: float) -> VisionTransformer:
    """A copy whose perceptrons' layers have `share` of the products, as factors."""
    copied = deepcopy(model)
    for block in copied.blocks:
        assert isinstance(block, Block)
        assert isinstance(block.mlp, nn.Sequential)
        for index, layer in enumerate(block.mlp):
            if isinstance(layer, nn.Linear):
                full = layer.in_features * layer.out_features / (layer.in_features + layer.out_features)
                block.mlp[index] = factored(layer, max(1, round(share * full)))
    return copied


class RmsNorm(nn.Module):
    """A norm without a mean: x / √mean(x²), scaled and shifted (Zhang and Sennrich, 2019)."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, tokens: Tensor) -> Tensor:
        return F.rms_norm(tokens, (tokens.shape[-1],), self.weight, self.eps) + self.bias


def with_rms_norms(model: VisionTransformer) -> VisionTransformer:
    """A copy with RMSNorm in place of LayerNorm that computes the same.

    What is added to the tokens is made to have mean zero over the channels, once, in the weights that add it; then
    there is no mean left for a norm to take away (Jiang et al., "Pre-RMSNorm and Pre-CRMSNorm Transformers", 2023).
    Norms take the mean away in any case, so nothing else changes; only a model without a last norm would show it.
    """
    assert model.shape.norms_last
    assert not model.shape.norms_first
    copied = deepcopy(model)
    with torch.no_grad():
        stem = copied.stem if isinstance(copied.stem, nn.Conv2d) else copied.stem[-1]
        assert isinstance(stem, nn.Conv2d)
        _centre(stem.weight, stem.bias)
        copied.position.sub_(copied.position.mean(dim=1, keepdim=True))
        for name in ("class_tokens", "class_position", "registers"):
            if hasattr(copied, name):
                learnt = getattr(copied, name)
                learnt -= learnt.mean(dim=-1, keepdim=True)
        for block in copied.blocks:
            assert isinstance(block, Block)
            _fold_and_centre(block.attention.out, block.attention_scale)
            last = block.mlp[-1] if isinstance(block.mlp, nn.Sequential) else block.mlp.out
            assert isinstance(last, nn.Linear)
            _fold_and_centre(last, block.mlp_scale)
            block.attention_scale, block.mlp_scale = nn.Identity(), nn.Identity()
            for name in ("attention_norm", "mlp_norm"):
                setattr(block, name, RmsNorm(getattr(block, name)))
        assert isinstance(copied.norm, nn.LayerNorm)
        copied.norm = RmsNorm(copied.norm)  # type: ignore[assignment]
    return copied


def _fold_and_centre(layer: nn.Linear, scale: nn.Module) -> None:
    if isinstance(scale, LayerScale):
        layer.weight.mul_(scale.scale[:, None])
        layer.bias.mul_(scale.scale)
    _centre(layer.weight, layer.bias)


def _centre(weight: Tensor, bias: Tensor | None) -> None:
    weight.sub_(weight.mean(dim=0, keepdim=True))
    if bias is not None:
        bias.sub_(bias.mean())
