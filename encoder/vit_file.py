"""`vit:FILE.safetensors`: a vision transformer of our own in one file: weights as float16, and in the header its shape.

What `edgecache-encoder train` writes; the header also says how pixels are prepared.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError

from ..protocol.errors import InvalidValue
from ..protocol.keys import ENCODER_NAME_CHARS_MAX, EncoderIdentity
from .preprocessing import Preprocessing
from .spec import Description, fingerprint_of
from .torch_encoder import TorchEncoder, refuse_broken_weights
from .vit import VisionTransformer, VitShape

DEPTH_MAX = 512  # a header must not make a device build modules until it dies; tensors are as large as the file


def load(source: str) -> TorchEncoder:
    """The encoder in a file; InvalidValue says what is wrong with it."""
    path = Path(source)
    try:
        data = path.read_bytes()  # read once, so that the fingerprint is that of the weights in use
    except OSError as error:
        raise InvalidValue(f"{path} cannot be read: {error.strerror}") from error
    model = model_of(data)
    how = _preprocessing_of(data)
    side = model.shape.image_side
    if (how.height, how.width) != (side, side):
        raise InvalidValue(f"{path.name} is for {side} × {side} pixels and prepares {how.width} × {how.height}")
    shape = model.shape.extra_tokens + model.shape.grid_side**2, model.shape.dim
    fingerprint = fingerprint_of([(path.name, sha256(data).digest())], how, shape)
    name = "vit:" + re.sub(r"[^!-?A-~]", "-", path.stem)
    identity = EncoderIdentity(name[:ENCODER_NAME_CHARS_MAX], "local", fingerprint)
    return TorchEncoder(Description(identity, shape), how, model)


def model_of(weights: bytes) -> VisionTransformer:
    """The model in a safetensors file's bytes, in float32, ready to be asked."""
    try:
        state = safetensors.torch.load(weights)
        shape = msgspec.convert(msgspec.json.decode(_header_of(weights)["vit"]), VitShape)
        if not 0 <= shape.depth <= DEPTH_MAX:
            raise InvalidValue(f"a model of {shape.depth} blocks, at most {DEPTH_MAX}")
        with torch.device("meta"):  # shapes alone, until they are known to be the file's
            model = VisionTransformer(shape)
        counters = {
            name: torch.zeros(like.shape, dtype=like.dtype)
            for name, like in model.state_dict().items()
            if name.endswith("num_batches_tracked")
        }
        model.load_state_dict(counters | {name: weight.float() for name, weight in state.items()}, assign=True)
    except InvalidValue:
        raise
    except (
        SafetensorError,
        msgspec.MsgspecError,
        LookupError,
        RuntimeError,
        ValueError,
        TypeError,
        ArithmeticError,
        AssertionError,
    ) as error:
        raise InvalidValue(f"{len(weights)} bytes that are not its weights: {error}") from error
    refuse_broken_weights(model)
    return model.eval().requires_grad_()


def save(model: VisionTransformer, path: Path, preprocessing: Preprocessing | None = None) -> None:
    """Write weights as float16, and beside them, in the file's header, what they do not say themselves."""
    half = {
        name: weight.detach().to(torch.float16).contiguous()
        for name, weight in model.state_dict().items()
        if weight.is_floating_point()  # all but the batch norms' counters, which only training wants
    }
    header = {"vit": msgspec.json.encode(asdict(model.shape)).decode()}
    if preprocessing is not None:
        header["preprocessing"] = msgspec.json.encode(asdict(preprocessing)).decode()
    safetensors.torch.save_file(half, path, metadata=header)


def _preprocessing_of(weights: bytes) -> Preprocessing:
    try:
        return msgspec.convert(msgspec.json.decode(_header_of(weights)["preprocessing"]), Preprocessing)
    except (msgspec.MsgspecError, LookupError, TypeError) as error:
        raise InvalidValue(f"{len(weights)} bytes that do not say how pixels are prepared: {error}") from error


def _header_of(weights: bytes) -> dict[str, Any]:
    """A safetensors file's own dictionary of texts."""
    header: dict[str, Any] = msgspec.json.decode(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    texts: dict[str, Any] = header["__metadata__"]
    return texts
