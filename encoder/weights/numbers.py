"""Weights in fewer bits, or fewer of them not zero, with the shapes as they are.

INT4 in groups makes files an eighth as large. Zeros make nothing faster on this kind of processor, where a dense
product does not look at its numbers: that is measured, too (`python -m tests.bench.sparse`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

GROUP = 32  # weights that share a scale: 4.5 bits each in all


class Int4Linear(nn.Module):
    """A linear layer whose weights are 4-bit numbers, two in a byte, with a float16 scale for each GROUP of them.

    The weights become float32 for each product: memory is what is saved, not time.
    """

    packed: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.shape = tuple(layer.weight.shape)
        packed, scales = packed_int4(layer.weight.detach())
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)
        self.bias = layer.bias

    def forward(self, tokens: Tensor) -> Tensor:
        weight = unpacked_int4(self.packed, self.scales, self.shape)
        return nn.functional.linear(tokens, weight, self.bias)


def packed_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (out, in) as bytes (groups, GROUP / 2), and scales (groups,) in float16; the last group filled with 0."""
    flat = weight.flatten()
    flat = nn.functional.pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)
    scales = (flat.abs().amax(dim=1) / 7).clamp(min=6e-8).to(torch.float16)  # the least that float16 holds
    whole = (flat / scales[:, None].float()).round().clamp(-8, 7).to(torch.int8) + 8  # 0 to 15
    low, high = whole[:, ::2].to(torch.uint8), whole[:, 1::2].to(torch.uint8)
    return low | (high << 4), scales


def unpacked_int4(packed: Tensor, scales: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weights in float32."""
    whole = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1).float() - 8
    flat = (whole * scales[:, None].float()).flatten()
    return flat[: shape[0] * shape[1]].view(shape)


def magnitude_mask(weight: Tensor, share: float) -> Tensor:
    """Which weights stay when the `share` of smallest ones goes."""
    count = int(share * weight.numel())
    if not count:
        return torch.ones_like(weight, dtype=torch.bool)
    threshold = weight.abs().flatten().kthvalue(count).values
    return weight.abs() > threshold


def two_of_four_mask(weight: Tensor) -> Tensor:
    """The two largest of every four along the inputs: the pattern that NVIDIA's sparse cores take."""
    fours = weight.abs().view(weight.shape[0], -1, 4)
    best = fours.topk(2, dim=-1).indices
    return torch.zeros_like(fours, dtype=torch.bool).scatter(-1, best, True).view(weight.shape)


def block_mask(weight: Tensor, share: float, side: int = 16) -> Tensor:
    """Whole blocks of side × side stay or go, by their length; sides that do not divide the matrix stay as they are."""
    rows, columns = (length // side * side for length in weight.shape)
    blocks = weight[:rows, :columns].reshape(rows // side, side, columns // side, side)
    stays = magnitude_mask(blocks.square().sum(dim=(1, 3)), share)
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:rows, :columns] = stays[:, None, :, None].expand_as(blocks).reshape(rows, columns)
    return mask


def masked(model: nn.Module, mask: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy whose linear layers have zeros where `mask` says so."""
    copied = deepcopy(model)
    for layer in linears(copied):
        with torch.no_grad():
            layer.weight *= mask(layer.weight)
    return copied


def in_int4(model: nn.Module) -> nn.Module:
    """A copy whose linear layers are Int4Linear."""
    copied = deepcopy(model)
    for module in list(copied.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(module, name, Int4Linear(layer))
    return copied


def linears(model: nn.Module) -> Iterator[nn.Linear]:
    """Its linear layers."""
    return (module for module in model.modules() if isinstance(module, nn.Linear))


def zeros_share(model: nn.Module) -> float:
    """The share of its linear layers' weights that are zero."""
    layers = list(linears(model))
    return sum(float((layer.weight == 0).sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)
