"""Which encoder a SPEC means, and what can be said of it before it is loaded, with neither torch nor Pillow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from ..protocol.errors import InvalidValue
from ..protocol.keys import EncoderIdentity
from .preprocessing import Preprocessing

TINY = "edgecache/tiny"
EXPECTED = f"{TINY}, hf:ID-or-directory, vit:FILE, onnx:FILE, PROFILE.toml or module:python.path:factory"
PROFILE_SUFFIX = ".toml"
TINY_VERSION = "1"
TINY_WEIGHTS = Path(__file__).with_name("tiny.safetensors")
TINY_SHAPE = (64, 192)
TINY_PREPROCESSING = Preprocessing(
    height=32, width=32, shorter_side=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)


class Kind(StrEnum):
    """Where an encoder comes from: what stands before the colon of a SPEC, or at its end."""

    TINY = TINY
    HUGGINGFACE = "hf"
    VIT = "vit"
    ONNX = "onnx"
    MODULE = "module"
    PROFILE = "profile"


@dataclass(frozen=True, slots=True)
class Spec:
    """A SPEC taken apart. `source` is a model's id, directory or file, or `python.path:factory`; of tiny, empty."""

    kind: Kind
    source: str = ""

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read EXPECTED, or raise InvalidValue."""
        if text == TINY:
            return cls(Kind.TINY)
        if text.endswith(PROFILE_SUFFIX) and text.isprintable():
            return cls(Kind.PROFILE, text)
        kind, _, source = text.partition(":")
        if source and text.isprintable():
            if kind in (Kind.HUGGINGFACE, Kind.VIT, Kind.ONNX):
                return cls(Kind(kind), source)
            if kind == Kind.MODULE and all(source.partition(":")):
                return cls(Kind.MODULE, source)
        raise InvalidValue(f"encoder {text!a}: expected {EXPECTED}")


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of an encoder without an image: who it is, and the (tokens, dim) of each of its features."""

    identity: EncoderIdentity
    shape: tuple[int, int]


def identity_of(spec: str) -> Description | None:
    """Describe the encoder that `spec` names, or None where only loading it can tell. InvalidValue for a wrong spec.

    Reads the weights' file of tiny or the profile, nothing else; a missing file raises InvalidValue, whatever the spec.
    """
    parsed = Spec.parse(spec)
    if parsed.kind is Kind.PROFILE:
        from . import profile  # which needs this module

        return profile.read(Path(parsed.source)).description
    if parsed.kind is not Kind.TINY:
        is_path = parsed.kind in (Kind.VIT, Kind.ONNX) or parsed.source.startswith(("/", "./", "../"))
        if is_path and not Path(parsed.source).exists():
            raise InvalidValue(f"encoder {spec!a}: no such file or directory")
        return None
    try:
        return tiny_description(TINY_WEIGHTS.read_bytes())
    except OSError as error:
        raise InvalidValue(f"encoder {TINY}: its weights cannot be read: {error}") from error


def tiny_description(weights: bytes) -> Description:
    """What `edgecache/tiny` is with these weights: the content of a safetensors file."""
    fingerprint = fingerprint_of([("tiny.safetensors", sha256(weights).digest())], TINY_PREPROCESSING, TINY_SHAPE)
    return Description(EncoderIdentity(TINY, TINY_VERSION, fingerprint), TINY_SHAPE)


def fingerprint_of(files: Iterable[tuple[str, bytes]], preprocessing: Preprocessing, shape: tuple[int, int]) -> bytes:
    """One SHA-256 over what decides an encoder's features: its files (name, SHA-256), preprocessing, output shape."""
    digest = sha256(b"edgecache encoder\0")
    for name, file_digest in files:
        digest.update(b"%s\0%s" % (name.encode(), file_digest))
    digest.update(b"\0%s\0%d %d" % (preprocessing.describe().encode(), *shape))
    return digest.digest()
