"""Weights that transformers saved, in our own model: the same tokens, and a clear word where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

transformers: Any = pytest.importorskip("transformers")

import safetensors.torch  # noqa: E402
from edgecache.encoder import checkpoint  # noqa: E402
from edgecache.protocol.errors import InvalidValue  # noqa: E402

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8}
t = transformers

MODELS: dict[str, Callable[[], Any]] = {
    "vit": lambda: t.ViTModel(t.ViTConfig(**SMALL, layer_norm_eps=1e-3)),
    "vit without biases": lambda: t.ViTModel(t.ViTConfig(**SMALL, qkv_bias=False)),
    "vit in a classifier": lambda: t.ViTForImageClassification(t.ViTConfig(**SMALL, num_labels=3)),
    "deit": lambda: t.DeiTModel(t.DeiTConfig(**SMALL)),
    "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=TEXT, vision_config=SMALL, projection_dim=16)),
    "clip alone": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**SMALL, hidden_act="gelu")),
    "siglip": lambda: t.SiglipModel(t.SiglipConfig(text_config=TEXT, vision_config=SMALL)),
    "siglip alone": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**SMALL)),
    "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**SMALL, mlp_ratio=3)),
    "dinov2 with a gate": lambda: t.Dinov2Model(t.Dinov2Config(**SMALL, use_swiglu_ffn=True)),
    "dinov2 with registers": lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**SMALL)),
}


def saved(kind: str, directory: Path) -> Any:
    """A model of that kind in `directory`. Nothing in it is zero or one, as so much is in one that was just made."""
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    model.save_pretrained(directory)
    return getattr(model, "vision_model", None) or getattr(model, "vit", None) or model


@pytest.mark.parametrize("kind", MODELS)
def test_tokens_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs, ours = saved(kind, tmp_path), checkpoint.load(tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected, made = theirs(pixel_values=pixels).last_hidden_state, ours(pixels)
    assert made.shape == expected.shape
    assert torch.allclose(made, expected, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["dinov2", "dinov2 with registers"])
def test_positions_follow_another_input_size_as_theirs_do(kind: str, tmp_path: Path) -> None:
    theirs, ours = saved(kind, tmp_path), checkpoint.load(tmp_path)
    pixels = torch.randn(1, 3, 56, 56)
    with torch.inference_mode():
        expected, made = theirs(pixel_values=pixels).last_hidden_state, ours(pixels)
    assert torch.allclose(made, expected, atol=2e-5 * float(expected.abs().max()))


def respoiled(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = safetensors.torch.load_file(directory / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("encoder.layer.1.output.dense.weight"), r"lack blocks\.1\.mlp\.2\.weight"),
        (lambda w: w.pop("encoder.layer.0.attention.attention.key.bias"), r"lack blocks\.0\.attention\.query_key_val"),
        (lambda w: w.update({"encoder.layer.0.gate.weight": torch.ones(1)}), r"no vit has: encoder\.layer\.0\.gate"),
        (
            lambda w: w.update({"encoder.layer.2.layernorm_before.bias": torch.ones(32)}),
            r"have blocks\.2\.attention_norm\.bias, for which its config\.json has no place",
        ),
        (lambda w: w.update({"layernorm.bias": torch.ones(31)}), r"norm\.bias of shape \(31,\), expected \(32,\)"),
        (lambda w: w["layernorm.weight"].fill_(torch.nan), r"32 of 32 weights in norm\.weight are not finite"),
        (
            lambda w: w.update({"embeddings.position_embeddings": torch.ones(1, 10, 32)}),
            r"10 positions, expected 1 and 4 × 4",
        ),
        (lambda w: w.update({"embeddings.position_embeddings": torch.ones(3)}), "shapes that no vit has"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, torch.Tensor]], object], says: str, tmp_path: Path):  # type: ignore[no-untyped-def]
    saved("vit", tmp_path)
    respoiled(tmp_path, change)
    with pytest.raises(InvalidValue, match=says):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "swin"}, "type 'swin', expected one of vit, deit"),
        ({"hidden_act": "relu6"}, "activation 'relu6'"),
        ({"num_attention_heads": 5}, "dim 32 with 5 heads"),
        ({"image_size": [32, 32]}, r"image_size \[32, 32\]"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers 'many'"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000, expected one number from 1 to 512"),
        ({"intermediate_size": 10**9}, "perceptrons of width 1000000000"),
    ],
)
def test_another_architecture_is_refused(changes: dict[str, object], says: str, tmp_path: Path) -> None:
    saved("vit", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InvalidValue, match=says):
        checkpoint.load(tmp_path)
