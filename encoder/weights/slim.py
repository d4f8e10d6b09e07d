"""A model with fewer weights, as `Slim` says. Every runtime can run it, since what is cut is gone from its shapes.

Fitted in closed form, minutes rather than hours: `encoder/weights/slimming.py` for heads and channels,
`encoder/weights/factors.py` for low rank, `encoder/attention/hybrid.py` for kernels in place of attention.
"""

from __future__ import annotations

from torch import Tensor

from ...protocol.errors import InvalidValue
from ..attention.hybrid import Gating, hybrid, layers_of
from ..shortcuts import Slim
from ..vit import SWIGLU, VisionTransformer
from .factors import low_rank
from .slimming import slimmed

FITTED_TOKENS = 8192
"""Least squares over some 1,500 channels want a few times as many tokens, and take time with every one."""


def slim(model: VisionTransformer, what: Slim, pixels: Tensor) -> VisionTransformer:
    """A copy of `model` with what `what` leaves of it, fitted on `pixels` (images, 3, side, side)."""
    if (what.rank < 1 or what.channels < 1) and model.shape.activation == SWIGLU:
        raise InvalidValue("channels and rank: of a perceptron of two layers, and this model's are gated")
    tokens = model.shape.extra_tokens + model.shape.grid_side**2
    pixels = pixels[: max(1, FITTED_TOKENS // tokens)]
    if what.kernels:
        model = hybrid(model, pixels, blocks=what.kernels)
        for layer in layers_of(model):
            layer.gating = Gating.CONVOLUTION
    if what.heads < 1 or what.channels < 1:
        model = slimmed(model, pixels, heads=what.heads, channels=what.channels)
    return low_rank(model, what.rank) if what.rank < 1 else model
