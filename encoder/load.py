"""A SPEC becomes an encoder. Runs in the worker process: what it imports is slow to import."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import ImageError, InvalidValue
from ..protocol.keys import EncoderIdentity
from .runtimes import needing
from .spec import Kind, Spec


class Encoder(Protocol):
    """What turns images into features, and what the factory of `module:python.path:factory` has to return.

    The same bytes give the same features whatever else is in their batch: they are stored under the image's digest.
    """

    @property
    def identity(self) -> EncoderIdentity: ...

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, dim) of every feature."""

    def encode_batch(self, images: Sequence[bytes]) -> list[NDArray[np.float32] | ImageError]:
        """For each image file its features, float32 (tokens, dim), or what is wrong with that image."""


def load(text: str, threads: int = 1) -> Encoder:
    """The encoder that a SPEC names, computing with `threads` threads. InvalidValue for what no retry will mend."""
    spec = Spec.parse(text)
    match spec.kind:
        case Kind.TINY:
            with needing("encoder"):
                from . import tiny
            return tiny.load()
        case Kind.HUGGINGFACE:
            with needing("hf"):
                from . import huggingface
            return huggingface.load(spec.source)
        case Kind.VIT:
            with needing("encoder"):
                from . import vit_file
            return vit_file.load(spec.source)
        case Kind.ONNX:
            with needing("onnx"):
                from . import onnx_file
            return onnx_file.load(spec.source, threads)
        case Kind.PROFILE:
            with needing("onnx"):
                from . import profiled
            return profiled.load(spec.source, threads)
        case Kind.MODULE:
            return _made_by(spec.source)


def _made_by(source: str) -> Encoder:
    path, _, factory = source.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that what lies there hides nothing
    try:
        make = getattr(import_module(path), factory)
    except (ImportError, AttributeError) as error:
        raise InvalidValue(str(error)) from error
    if not callable(make):
        raise InvalidValue(f"module:{source} is {type(make).__name__}, expected something to call without arguments")
    encoder: Encoder = make()
    lacking = [name for name in ("identity", "shape", "encode_batch") if not hasattr(encoder, name)]
    if lacking:
        raise InvalidValue(f"module:{source} makes {type(encoder).__name__} without {', '.join(lacking)}")
    return encoder
