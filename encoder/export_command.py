"""`edgecache-encoder export`: an encoder that torch runs becomes a file that ONNX Runtime runs without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from ..protocol.errors import InvalidValue
from . import measure
from .export import check, error_of, exported
from .image_set import ImageSet
from .load import load
from .measure import Row
from .onnx_file import METADATA_KEY, FileMetadata
from .pyramid import FeaturePyramid
from .quantization import dynamic_int8, static_int8
from .runtimes import Array, Graph, Runtime, open_graph
from .runtimes.torch_graph import TorchGraph
from .torch_encoder import TorchEncoder
from .towers import Single
from .vit import VisionTransformer

CALIBRATION_IMAGES_MAX = 256
TIMED_IMAGES = 24


def export(
    spec: str, out: Path, precision: str, images: Path | None, pyramid: Sequence[float] = (), *, threads: int = 1
) -> tuple[str, list[Row], dict[str, Any]]:
    """Write `out`: a line that says how well it does what `spec` does; the two measured side by side, and on what.

    Without `images` nothing is measured. With a `pyramid` its features are those of several scales
    (`encoder/pyramid.py`).
    """
    torch.set_num_threads(threads)
    encoder = torch_encoder(spec)
    how = encoder.preprocessing
    identity = encoder.identity
    version = identity.version if precision == "float32" else f"{identity.version}+{precision}"
    module = module_of(encoder)
    if pyramid:
        if not isinstance(module, VisionTransformer):
            raise InvalidValue(f"encoder {spec!a} is no vision transformer of ours: it has no pyramid")
        module = FeaturePyramid(module, pyramid).eval()
        version += "+pyramid-" + "-".join(f"{scale:g}" for scale in pyramid)
    metadata = {METADATA_KEY: msgspec.json.encode(FileMetadata(identity.name, version, how)).decode()}
    plain = exported(module, [torch.zeros(1, 3, how.height, how.width)], ["features"], metadata)
    pixels = _pixels(images, encoder)
    graph = open_graph(Runtime.ONNX, plain, threads)
    error = check(module, graph, pixels[0])
    if precision == "int8":
        plain = dynamic_int8(plain)
    elif precision == "int8-static":
        if images is None:
            raise InvalidValue("int8-static measures its ranges on images: name a directory with --images")
        plain = static_int8(plain, pixels)
    if precision != "float32":
        graph = open_graph(Runtime.ONNX, plain, threads)
        error = max(error_of(module, graph, picture) for picture in pixels[:8])
    out.write_bytes(plain)
    line = f"{out}: {len(plain):,} bytes, {identity.name}@{version}, differs by {error:.2g} of the largest value"
    if images is None:
        return line, [], {}
    rows = _side_by_side(module, graph, np.concatenate([picture for (picture,) in pixels]), f"onnx {precision}", plain)
    return line, rows, measure.about(encoder, len(pixels), threads=threads)


def _side_by_side(module: nn.Module, graph: Graph, pixels: Array, name: str, file: bytes) -> list[Row]:
    towers = {"torch float32": Single(TorchGraph(module)), name: Single(graph)}
    ms = measure.milliseconds(towers, pixels[:TIMED_IMAGES])
    expected, made = (measure.features_of(tower, pixels) for tower in towers.values())
    weights_bytes = sum(4 * weight.numel() for weight in module.state_dict().values())
    rows = [Row("torch float32", ms["torch float32"], megabytes=weights_bytes / 1e6)]
    rows.append(measure.fidelity(Row(name, ms[name], megabytes=len(file) / 1e6), made, expected, None, None))
    return measure.relate(rows, [True, True])


def torch_encoder(spec: str) -> TorchEncoder:
    """The encoder that `spec` names, if torch runs it."""
    encoder = load(spec)
    if not isinstance(encoder, TorchEncoder):
        raise InvalidValue(
            f"encoder {spec!a}: expected edgecache/tiny, hf:ID-or-directory or vit:FILE, whose model is at hand"
        )
    return encoder


def module_of(encoder: TorchEncoder) -> nn.Module:
    """Its model as the module that it is."""
    assert isinstance(encoder.model, nn.Module)
    return encoder.model


def _pixels(images: Path | None, encoder: TorchEncoder) -> list[tuple[Array, ...]]:
    how = encoder.preprocessing
    if images is None:
        noise = np.random.default_rng(0).normal(size=(1, 3, how.height, how.width))
        return [(noise.astype(np.float32),)]
    return [(picture[None],) for picture in ImageSet.read(images, how, CALIBRATION_IMAGES_MAX).pixels]
