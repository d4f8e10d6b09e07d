"""`hf:ID-or-directory`: the vision tower of a Hugging Face model, CLIP, SigLIP, DINOv2 or ViT."""

from __future__ import annotations

from ..protocol.errors import InvalidValue
from .torch_encoder import TorchEncoder


def load(source: str) -> TorchEncoder:
    """The vision tower in a directory or on the hub; InvalidValue when there is none that can be used."""
    raise InvalidValue(f"encoder hf:{source}: not in this version")
