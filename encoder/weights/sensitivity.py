"""Mixed precision: which blocks bear INT8, and which are better left as they are?"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..vit import VisionTransformer


@torch.inference_mode()
def sensitivities(model: VisionTransformer, pixels: Tensor) -> list[float]:
    """For each block, 1 - the mean cosine to the plain features when only its weights and inputs are in INT8."""
    plain = model(pixels).flatten(1)
    lost = []
    for index in range(len(model.blocks)):
        made = rounded(model, {index})(pixels).flatten(1)
        lost.append(1 - float(torch.nn.functional.cosine_similarity(made, plain).mean()))
    return lost


def rounded(model: VisionTransformer, blocks: Collection[int]) -> VisionTransformer:
    """A copy with the linear layers of these blocks as INT8 would compute them: the fidelity, not the speed."""
    copied = deepcopy(model)
    for index in blocks:
        for module in list(copied.blocks[index].modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(module, name, RoundedLinear(layer))
    return copied


def kept_in_float(lost: list[float], budget: float) -> list[int]:
    """Blocks to leave in float so that what the others lose, added up, stays within `budget`: the worst first."""
    kept: list[int] = []
    for block in sorted(range(len(lost)), key=lambda block: -lost[block]):
        if sum(lost) - sum(lost[done] for done in kept) <= budget:
            break
        kept.append(block)
    return sorted(kept)


class RoundedLinear(nn.Module):
    """A linear layer as INT8 would compute it: weights rounded per channel, inputs per tensor, products in float."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.weight = nn.Parameter((layer.weight.detach() / scale).round() * scale, requires_grad=False)
        self.bias = layer.bias

    def forward(self, tokens: Tensor) -> Tensor:
        scale = tokens.abs().max() / 127
        return nn.functional.linear((tokens / scale).round() * scale, self.weight, self.bias)
