"""`edgecache/tiny`, the encoder that comes with the package: a vision transformer small enough for every device."""

from __future__ import annotations

from pathlib import Path

from .spec import TINY_PREPROCESSING, TINY_WEIGHTS, tiny_description
from .torch_encoder import TorchEncoder
from .vit_file import model_of


def load(path: Path = TINY_WEIGHTS) -> TorchEncoder:
    """The encoder with the weights in `path`; InvalidValue when they are not the weights of such a model."""
    weights = path.read_bytes()  # read once, so that the fingerprint is that of the weights in use
    return TorchEncoder(tiny_description(weights), TINY_PREPROCESSING, model_of(weights))
