"""A Hugging Face directory's safetensors become the weights of our own `VisionTransformer`: every tensor, or an error.

The names that transformers writes are told in tables, one per family. Nothing is guessed: a tensor of the vision tower
that the model has no place for is as wrong as one that is missing, since both say that the architecture is another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..protocol.errors import InvalidValue
from .torch_encoder import refuse_broken_weights
from .vit import ACTIVATIONS, SWIGLU, VisionTransformer, VitShape

# Their name of a block's tensor -> ours. `q`, `k` and `v` are three tensors with them and one with us.
_VIT_BLOCK = {
    "layernorm_before": "attention_norm",
    "attention.attention.query": "q",
    "attention.attention.key": "k",
    "attention.attention.value": "v",
    "attention.output.dense": "attention.out",
    "layernorm_after": "mlp_norm",
    "intermediate.dense": "mlp.0",
    "output.dense": "mlp.2",
}
_DINO_BLOCK = {
    "norm1": "attention_norm",
    "attention.attention.query": "q",
    "attention.attention.key": "k",
    "attention.attention.value": "v",
    "attention.output.dense": "attention.out",
    "layer_scale1.lambda1": "attention_scale.scale",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "mlp.weights_in": "mlp.gate_and_value",
    "mlp.weights_out": "mlp.out",
    "layer_scale2.lambda1": "mlp_scale.scale",
}
_CLIP_BLOCK = {
    "layer_norm1": "attention_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "attention.out",
    "layer_norm2": "mlp_norm",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_VIT_REST = {
    "embeddings.patch_embeddings.projection": "stem",
    "embeddings.cls_token": "class_token",
    "embeddings.distillation_token": "distillation_token",
    "embeddings.register_tokens": "registers",
    "embeddings.position_embeddings": "positions",
    "layernorm": "norm",
}
_CLIP_REST = {
    "embeddings.patch_embedding": "stem",
    "embeddings.class_embedding": "class_token",
    "embeddings.position_embedding.weight": "positions",
    "pre_layrnorm": "first_norm",  # transformers' own spelling
    "post_layernorm": "norm",
}
# What is in the file and not in `last_hidden_state`: classifiers, poolers, the text tower, what only training wants.
_ELSEWHERE = re.compile(
    r"classifier|cls_classifier|distillation_classifier|pooler\.|head\.|decoder\.|embeddings\.(mask_token|position_ids)"
    r"|text_model\.|text_projection|visual_projection|logit_(scale|bias)"
)
_LAYER = re.compile(r"encoder\.layers?\.(\d+)\.(.+)")
_PREFIXES = ("vision_model.", "vit.", "deit.", "dinov2_with_registers.", "dinov2.")

_FAMILIES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "vit": (_VIT_BLOCK, _VIT_REST),
    "deit": (_VIT_BLOCK, _VIT_REST),
    "dinov2": (_DINO_BLOCK, _VIT_REST),
    "dinov2_with_registers": (_DINO_BLOCK, _VIT_REST),
    "clip": (_CLIP_BLOCK, _CLIP_REST),
    "clip_vision_model": (_CLIP_BLOCK, _CLIP_REST),
    "siglip": (_CLIP_BLOCK, _CLIP_REST),
    "siglip_vision_model": (_CLIP_BLOCK, _CLIP_REST),
}
_ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_NAMED_MAX = 5  # tensors in one message
# Beyond any model there is: a config.json must not make a device allocate until it dies.
_SIZES_MAX = {"hidden_size": 16_384, "image_size": 8192, "patch_size": 8192, "num_hidden_layers": 512}


def load(directory: Path) -> VisionTransformer:
    """The vision tower saved in `directory`, in float32, ready to be asked.

    Its features are transformers' `last_hidden_state`, class token included. InvalidValue says what does not fit.
    """
    try:
        config = msgspec.json.decode((directory / "config.json").read_bytes(), type=dict[str, Any])
        shape = shape_of(config)
        family = str(config["model_type"])
        tensors = _tensors(directory)
    except InvalidValue:
        raise
    except (OSError, msgspec.MsgspecError, SafetensorError, TypeError, ValueError, LookupError) as error:
        raise InvalidValue(f"{directory.name}: {type(error).__name__}: {error}") from error
    try:
        weights = _renamed(tensors, family, shape)
    except RuntimeError as error:  # torch's, of tensors that do not fit together
        raise InvalidValue(f"tensors of shapes that no {family} has: {error}") from error
    model = VisionTransformer(shape)
    _fill(model, weights)
    refuse_broken_weights(model)
    return model.eval()


def shape_of(config: Mapping[str, Any]) -> VitShape:
    """What a `config.json` describes; InvalidValue for a model that is none of these transformers."""
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise InvalidValue(f"a model of type {str(family)!a}, expected one of {', '.join(_FAMILIES)}")
    vision = config.get("vision_config", config)
    is_clip, is_siglip, is_dino = (family.startswith(name) for name in ("clip", "siglip", "dinov2"))
    defaults = {"norm": 1e-5 if is_clip else 1e-6 if is_siglip or is_dino else 1e-12}
    dim, side, patch = vision.get("hidden_size", 768), vision.get("image_size", 224), vision.get("patch_size", 16)
    depth = vision.get("num_hidden_layers", 12)
    sizes = {"hidden_size": dim, "image_size": side, "patch_size": patch, "num_hidden_layers": depth}
    for name, value in sizes.items():
        if not isinstance(value, int) or not 1 <= value <= _SIZES_MAX[name]:
            raise InvalidValue(f"{name} {value!r}, expected one number from 1 to {_SIZES_MAX[name]}")
    heads = int(vision.get("num_attention_heads", 12))
    if heads < 1 or dim % heads or side < patch:
        raise InvalidValue(f"dim {dim} with {heads} heads, side {side} with patches of {patch}: they do not fit")
    activation = str(
        vision.get("hidden_act", "quick_gelu" if is_clip else "gelu_pytorch_tanh" if is_siglip else "gelu")
    )
    width = int(vision.get("intermediate_size", 3072))
    if is_dino:
        width = int(dim * vision.get("mlp_ratio", 4))
        if vision.get("use_swiglu_ffn"):
            activation, width = SWIGLU, (int(width * 2 / 3) + 7) // 8 * 8
    if not 1 <= width <= 8 * _SIZES_MAX["hidden_size"]:
        raise InvalidValue(f"perceptrons of width {width}, expected 1 to {8 * _SIZES_MAX['hidden_size']}")
    if activation != SWIGLU:
        if activation not in _ACTIVATIONS:
            raise InvalidValue(f"activation {activation!a}, expected one of {', '.join(_ACTIVATIONS)}")
        activation = _ACTIVATIONS[activation]
    assert activation in ACTIVATIONS or activation == SWIGLU
    return VitShape(
        image_side=side,
        stem=(),
        patch_side=patch,
        dim=dim,
        depth=depth,
        heads=heads,
        classes=0,
        mlp_dim=width,
        class_tokens=0 if is_siglip else 2 if family == "deit" else 1,
        registers=int(vision.get("num_register_tokens", 4)) if family == "dinov2_with_registers" else 0,
        activation=activation,
        norm_eps=float(vision.get("layer_norm_eps", defaults["norm"])),
        is_patch_biased=not is_clip,
        is_qkv_biased=bool(vision.get("qkv_bias", True)),
        norms_first=is_clip,
        norms_last=not is_clip,
        scales_layers=is_dino,
        antialiases_position=family == "dinov2_with_registers",
    )


def _tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of the vision tower, by its name without the prefix of the model that it is a part of."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                short = name
                for prefix in _PREFIXES:
                    short = short.removeprefix(prefix)
                if not _ELSEWHERE.match(short):
                    tensors[short] = file.get_tensor(name).to(torch.float32)
    return tensors


def _renamed(tensors: Mapping[str, Tensor], family: str, shape: VitShape) -> dict[str, Tensor]:
    """Their tensors under our names, `q`, `k` and `v` packed into one, positions taken apart."""
    block_names, rest_names = _FAMILIES[family]
    named: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        layer = _LAYER.fullmatch(name)
        found = _ours(layer[2], block_names) if layer else _ours(name, rest_names)
        if found is None:
            unknown.append(name)
        elif layer:
            named[f"blocks.{layer[1]}.{found}"] = tensor
        else:
            named[found] = tensor
    if unknown:
        raise InvalidValue(f"tensors that no {family} has: {_list(unknown)}")
    if family.startswith("clip"):  # read and checked with the rest, but its last hidden state comes before this norm
        for part in ("weight", "bias"):
            named.pop(f"norm.{part}", None)
    _pack_attention(named, shape.depth)
    _unpack_positions(named, shape)
    return named


def _ours(name: str, names: Mapping[str, str]) -> str | None:
    if name in names:
        return names[name]
    module, _, part = name.rpartition(".")
    return f"{names[module]}.{part}" if module in names and part in ("weight", "bias") else None


def _pack_attention(named: dict[str, Tensor], depth: int) -> None:
    for index in range(depth):
        for part in ("weight", "bias"):
            names = [f"blocks.{index}.{which}.{part}" for which in "qkv"]
            if all(name in named for name in names):
                packed = torch.cat([named.pop(name) for name in names])
                named[f"blocks.{index}.attention.query_key_value.{part}"] = packed


def _unpack_positions(named: dict[str, Tensor], shape: VitShape) -> None:
    if "registers" in named:
        named["registers"] = named["registers"].reshape(1, -1, shape.dim)
    learnt = [named.pop(name).reshape(1, 1, -1) for name in ("class_token", "distillation_token") if name in named]
    if learnt:
        named["class_tokens"] = torch.cat(learnt, dim=1)
    if "positions" in named:
        positions = named.pop("positions").reshape(1, -1, shape.dim)  # (1, class tokens + grid, dim)
        if positions.shape[1] != shape.class_tokens + shape.grid_side**2:
            raise InvalidValue(
                f"{positions.shape[1]} positions, expected {shape.class_tokens} and {shape.grid_side} × "
                f"{shape.grid_side} of pictures of {shape.image_side} with patches of {shape.patch_side}"
            )
        if shape.class_tokens:
            named["class_position"] = positions[:, : shape.class_tokens]
        grid = positions[:, shape.class_tokens :].transpose(1, 2)
        named["position"] = grid.reshape(1, shape.dim, shape.grid_side, shape.grid_side)


def _fill(model: VisionTransformer, weights: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing:
        raise InvalidValue(f"its weights lack {_list(missing)}")
    if extra:
        raise InvalidValue(f"its weights have {_list(extra)}, for which its config.json has no place")
    for name, weight in weights.items():
        if weight.shape != own[name].shape:
            raise InvalidValue(f"{name} of shape {tuple(weight.shape)}, expected {tuple(own[name].shape)}")
    model.load_state_dict(dict(weights))


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more
