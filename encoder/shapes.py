"""Models of common shapes with random weights, to measure speed where no trained ones are at hand.

    edgecache-encoder bench --encoder module:edgecache.encoder.shapes:vit_s16 --images DIR

Their fidelity says nothing about a trained model's: random tokens are much alike.
"""

from __future__ import annotations

import torch

from ..protocol.keys import EncoderIdentity
from .preprocessing import Preprocessing
from .spec import Description
from .torch_encoder import TorchEncoder
from .vit import VisionTransformer, VitShape

_IMAGENET = Preprocessing(224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), shorter_side=256)


def vit_s16() -> TorchEncoder:
    """22 million weights, 197 tokens of 384: DeiT-S, DINOv2 S/16."""
    return _random("vit-s16", dim=384, heads=6)


def vit_b16() -> TorchEncoder:
    """86 million weights, 197 tokens of 768: ViT-B/16."""
    return _random("vit-b16", dim=768, heads=12)


def _random(name: str, dim: int, heads: int) -> TorchEncoder:
    torch.manual_seed(0)
    shape = VitShape(
        image_side=224, stem=(), patch_side=16, dim=dim, depth=12, heads=heads, classes=0, class_tokens=1, norm_eps=1e-6
    )
    identity = EncoderIdentity.declared(f"random/{name}", "0")
    return TorchEncoder(Description(identity, (197, dim)), _IMAGENET, VisionTransformer(shape).eval())
