"""A SPEC becomes an encoder. Runs in the worker process: what it imports is slow to import."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import ImageError, InvalidValue
from ..protocol.keys import EncoderIdentity
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


def load(text: str) -> Encoder:
    """The encoder that a SPEC names. InvalidValue for what no retry will mend."""
    spec = Spec.parse(text)
    match spec.kind:
        case Kind.TINY:
            with _needing("encoder"):
                from . import tiny
            return tiny.load()
        case Kind.HUGGINGFACE:
            with _needing("hf"):
                from . import huggingface
            return huggingface.load(spec.source)
        case Kind.MODULE:
            return _made_by(spec.source)


@contextmanager
def _needing(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise InvalidValue(f"{error.name} is not installed: pip install 'edgecache[{extra}]'") from error


def _made_by(source: str) -> Encoder:
    path, _, factory = source.partition(":")
    try:
        make = getattr(import_module(path), factory)
    except (ImportError, AttributeError) as error:
        raise InvalidValue(str(error)) from error
    encoder: Encoder = make()
    return encoder
