"""`onnx:FILE`: an exported model as an encoder, with ONNX Runtime alone: no torch in the process.

A file that `edgecache-encoder export` wrote says itself who it is and how it wants its pixels. For another's, the
`preprocessor_config.json` beside it or one directory up does, which is where the hub's exports have it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..protocol.errors import InvalidValue
from ..protocol.keys import ENCODER_NAME_CHARS_MAX, EncoderIdentity
from .image_encoder import ImageEncoder
from .preprocessing import Preprocessing, preprocessing_of
from .runtimes import Array
from .runtimes.onnx_graph import OnnxGraph
from .spec import Description, fingerprint_of

METADATA_KEY = "edgecache"
_CONFIG = "preprocessor_config.json"
_FEATURES = ("features", "last_hidden_state", "image_embeds")


class FileMetadata(msgspec.Struct, frozen=True):
    """What `export` writes into a file: whose features these are, and how pixels are prepared."""

    name: str
    version: str
    preprocessing: Preprocessing


def load(source: str, threads: int) -> ImageEncoder:
    """The encoder in an ONNX file; InvalidValue says what is wrong with it."""
    path = Path(source)
    try:
        graph, digest = OnnxGraph.of_file(path, threads)
    except OSError as error:
        raise InvalidValue(f"{path} cannot be read: {error.strerror}") from error
    written = _metadata_of(graph.metadata)
    preprocessing = written.preprocessing if written else _beside(path)
    output = _output_of(graph)

    def tower(pixels: Array) -> Array:
        tokens = graph.run(pixels)[output]
        return (tokens if tokens.ndim == 3 else tokens[:, None]).astype(np.float32, copy=False)

    shape = _shape_of(tower, graph, preprocessing)
    fingerprint = fingerprint_of([(path.name, digest)], preprocessing, shape)
    name = written.name if written else "onnx:" + re.sub(r"[^!-?A-~]", "-", path.stem)
    identity = EncoderIdentity(name[:ENCODER_NAME_CHARS_MAX], written.version if written else "local", fingerprint)
    return ImageEncoder(Description(identity, shape), preprocessing, tower)


def _metadata_of(properties: dict[str, str]) -> FileMetadata | None:
    if METADATA_KEY not in properties:
        return None
    try:
        return msgspec.json.decode(properties[METADATA_KEY], type=FileMetadata)
    except msgspec.MsgspecError as error:
        raise InvalidValue(f"its metadata {METADATA_KEY!r} cannot be read: {error}") from error


def _beside(path: Path) -> Preprocessing:
    for directory in (path.parent, path.parent.parent):
        if (directory / _CONFIG).is_file():
            try:
                config = msgspec.json.decode((directory / _CONFIG).read_bytes(), type=dict[str, Any])
                return preprocessing_of(config)
            except (OSError, msgspec.MsgspecError, TypeError, ValueError, LookupError) as error:
                raise InvalidValue(f"{directory / _CONFIG}: {error}") from error
    raise InvalidValue(
        f"{path.name} does not say how it wants its pixels: export it with edgecache-encoder, "
        f"or put the model's {_CONFIG} beside it"
    )


def _output_of(graph: OnnxGraph) -> int:
    """Which output the features are: by its name, else the first."""
    if len(graph.inputs) != 1:
        raise InvalidValue(f"inputs {', '.join(name for name, _ in graph.inputs)}: expected one, the pixels")
    return next((graph.outputs.index(name) for name in _FEATURES if name in graph.outputs), 0)


def _shape_of(tower: Any, graph: OnnxGraph, preprocessing: Preprocessing) -> tuple[int, int]:
    wanted = (1, 3, preprocessing.height, preprocessing.width)
    name, shape = graph.inputs[0]
    fits = len(shape) == 4 and all(not isinstance(a, int) or a == b for a, b in zip(shape, wanted, strict=True))
    if not fits:
        raise InvalidValue(f"its input {name} has shape {shape}, expected {list(wanted)}")
    try:
        made = tower(np.zeros(wanted, np.float32))
    except Exception as error:  # the runtime's exceptions have no base class of their own
        raise InvalidValue(f"it cannot encode a picture of {wanted[3]} × {wanted[2]}: {error}") from error
    if made.ndim != 3 or made.shape[0] != 1 or not np.isfinite(made).all():
        raise InvalidValue(f"of a black picture it makes {_shown(made)}, expected finite (1, tokens, dim)")
    return made.shape[1], made.shape[2]


def _shown(made: Array) -> str:
    finite = "" if np.isfinite(made).all() else ", not all of them finite"
    return f"values of shape {made.shape}{finite}"
