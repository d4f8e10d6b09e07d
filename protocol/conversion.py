"""Features of one encoder told as another's, by a linear map that was fitted on images both have seen.

After an upgrade every feature of the old version would be encoded anew. Where the versions are near, a map of the old
tokens to the new ones gives nearly what the new encoder makes, for a thousandth of the time. How near, was measured on
images that the fit did not see, and whoever gets a converted feature is told (A. Hu et al., "Feature adaptation for
embedding compatibility", CVPR 2020 is one of many that upgrade stored features without their images; ours is the
plainest of maps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from .errors import InvalidValue
from .keys import EncoderIdentity

FILE_BYTES_MAX = 256 * 1024 * 1024
PAIRS_MIN = 8

_FORMAT = "1"


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """tokens (tokens, dim of `source`) @ `weight` + `bias` are nearly what `target` makes of the same image."""

    source: EncoderIdentity
    target: EncoderIdentity
    weight: NDArray[np.float32]  # (dim of source, dim of target)
    bias: NDArray[np.float32]  # (dim of target,)
    fidelity: float
    """The least cosine between what it makes and what `target` made, over the images it was measured on."""
    fidelity_mean: float
    pairs: int
    """How many images it was measured on; none of them had a part in the fit."""

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise InvalidValue(f"a conversion of {self.source} to itself")
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[1:]:
            raise InvalidValue(f"a conversion of shapes {self.weight.shape} and {self.bias.shape}")
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise InvalidValue("a conversion with a weight that is NaN or infinite")
        if not -1.0 <= self.fidelity <= self.fidelity_mean <= 1.0:
            raise InvalidValue(f"a conversion of fidelity {self.fidelity}, {self.fidelity_mean} in the mean")
        if self.pairs < PAIRS_MIN:
            raise InvalidValue(f"a conversion measured on {self.pairs} images, at least {PAIRS_MIN}")

    def apply(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """The features (tokens, dim of `target`) nearest to those of `target`; InvalidValue for another dim."""
        if tokens.ndim != 2 or tokens.shape[1] != len(self.weight):
            raise InvalidValue(f"features of shape {tokens.shape}: {self.source} makes (tokens, {len(self.weight)})")
        converted: NDArray[np.float32] = tokens @ self.weight + self.bias
        return converted


def save(conversion: Conversion, path: Path) -> None:
    """Write `conversion` as safetensors. OSError."""
    metadata = {
        "format": _FORMAT,
        **_told("source", conversion.source),
        **_told("target", conversion.target),
        "fidelity": repr(conversion.fidelity),
        "fidelity_mean": repr(conversion.fidelity_mean),
        "pairs": str(conversion.pairs),
    }
    safetensors.numpy.save_file({"weight": conversion.weight, "bias": conversion.bias}, path, metadata)


def load(path: Path) -> Conversion:
    """The conversion in a file; InvalidValue when it is none."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise InvalidValue(f"conversion {path}: more than {FILE_BYTES_MAX} bytes")
        with safetensors.safe_open(path, "numpy") as file:
            told = file.metadata() or {}
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        if told["format"] != _FORMAT:
            raise InvalidValue(f"conversion {path}: of format {told['format'][:20]!a}; format {_FORMAT} is read here")
        if weight.dtype != np.float32 or bias.dtype != np.float32:
            raise InvalidValue(f"conversion {path}: of type {weight.dtype}, expected float32")
        return Conversion(
            _identity("source", told),
            _identity("target", told),
            weight,
            bias,
            _number(told["fidelity"]),
            _number(told["fidelity_mean"]),
            int(told["pairs"]),
        )
    except InvalidValue:
        raise
    except OSError as error:
        raise InvalidValue(f"conversion {path}: {error.strerror or error}") from None
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InvalidValue(f"conversion {path}: not one that edgecache-encoder fit wrote: {error}") from None


def _told(role: str, identity: EncoderIdentity) -> dict[str, str]:
    return {
        f"{role}_name": identity.name,
        f"{role}_version": identity.version,
        f"{role}_fingerprint": identity.fingerprint.hex(),
    }


def _identity(role: str, told: dict[str, str]) -> EncoderIdentity:
    fingerprint = bytes.fromhex(told[f"{role}_fingerprint"])
    return EncoderIdentity(told[f"{role}_name"], told[f"{role}_version"], fingerprint)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no fidelity")
    return number
