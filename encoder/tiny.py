"""`edgecache/tiny`, the encoder that comes with the package: a vision transformer small enough for every device."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError

from ..protocol.errors import InvalidValue
from .spec import TINY_PREPROCESSING, TINY_WEIGHTS, tiny_description
from .torch_encoder import TorchEncoder, refuse_broken_weights
from .vit import VisionTransformer, VitShape


def load(path: Path = TINY_WEIGHTS) -> TorchEncoder:
    """The encoder with the weights in `path`; InvalidValue when they are not the weights of such a model."""
    weights = path.read_bytes()  # read once, so that the fingerprint is that of the weights in use
    return TorchEncoder(tiny_description(weights), TINY_PREPROCESSING, model_of(weights))


def model_of(weights: bytes) -> VisionTransformer:
    """The model in a safetensors file's bytes, in float32, ready to be asked."""
    try:
        state = safetensors.torch.load(weights)
        header = msgspec.json.decode(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        model = VisionTransformer(msgspec.convert(msgspec.json.decode(header["__metadata__"]["vit"]), VitShape))
        model.load_state_dict(state)
    except (SafetensorError, msgspec.MsgspecError, LookupError, RuntimeError) as error:
        raise InvalidValue(f"{len(weights)} bytes that are not its weights: {error}") from error
    refuse_broken_weights(model)
    return model.eval()


def save(model: VisionTransformer, path: Path) -> None:
    """Write weights as float16, and beside them, in the file's header, the shape that they do not say themselves."""
    half = {
        name: weight.to(torch.float16).contiguous()
        for name, weight in model.state_dict().items()
        if weight.is_floating_point()  # all but the batch norms' counters, which only training wants
    }
    safetensors.torch.save_file(half, path, metadata={"vit": msgspec.json.encode(asdict(model.shape)).decode()})
