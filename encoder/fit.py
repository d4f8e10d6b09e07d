"""`edgecache-encoder fit`: the linear map that tells one encoder's features as another's, and how true it is.

Ridge regression over all tokens of the images, in closed form: with X the old tokens and a column of ones, Y the new
ones, W = (XᵀX + λI)⁻¹ XᵀY. Only XᵀX and XᵀY are kept, so any number of images fits in memory. Every fifth image has no
part in it and is what the map is measured on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..protocol.conversion import PAIRS_MIN, Conversion
from ..protocol.errors import ImageError, InvalidValue
from .load import Encoder

HELD_OUT_EVERY = 5
# Of the mean square of a value; without it, columns that always go together make the system singular. From the bundled
# encoder to the same one in INT8, over 60 of 300 CIFAR-10 images: 0 to 1e-4 give a least cosine of .9998, 1e-2 .9974.
RIDGE = 1e-4


def fit(source: Encoder, target: Encoder, images: Sequence[bytes], min_cosine: float) -> Conversion:
    """The map from `source`'s features to `target`'s.

    InvalidValue when they differ in their tokens, when too few images can be read, and when the map's cosine is below
    `min_cosine` for an image that it was not fitted on: then it is not worth having.
    """
    if source.shape[0] != target.shape[0]:
        raise InvalidValue(
            f"{source.identity} makes {source.shape[0]} tokens and {target.identity} {target.shape[0]}: "
            "there is no map of one to the other"
        )
    seen, held_out = _Sums(source.shape[1], target.shape[1]), []
    readable = 0
    for image in images:
        pair = _pair(source, target, image)
        if pair is None:
            continue
        readable += 1
        if readable % HELD_OUT_EVERY:
            seen.add(*pair)
        else:
            held_out.append(pair)
    if len(held_out) < PAIRS_MIN:
        raise InvalidValue(f"{readable} images that can be read, at least {PAIRS_MIN * HELD_OUT_EVERY}")
    weight, bias = seen.solved()
    cosines = [_cosine(old @ weight + bias, new) for old, new in held_out]
    least = min(cosines)
    if least < min_cosine:
        raise InvalidValue(
            f"the map from {source.identity} to {target.identity} has a cosine of {least:.4f} for an image that it was "
            f"not fitted on ({np.mean(cosines):.4f} in the mean), at least {min_cosine} was asked for"
        )
    return Conversion(
        source.identity, target.identity, weight, bias, least, max(least, float(np.mean(cosines))), len(cosines)
    )


class _Sums:
    """XᵀX and XᵀY, in float64."""

    def __init__(self, dim: int, target_dim: int) -> None:
        self._xx = np.zeros((dim + 1, dim + 1))
        self._xy = np.zeros((dim + 1, target_dim))

    def add(self, old: NDArray[np.float32], new: NDArray[np.float32]) -> None:
        """One image's tokens: (tokens, dim) and (tokens, target dim)."""
        x = np.hstack([old, np.ones((len(old), 1), np.float32)]).astype(np.float64)
        self._xx += x.T @ x
        self._xy += x.T @ new

    def solved(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight (dim, target dim) and bias (target dim,)."""
        dim = len(self._xx) - 1
        damping = np.full(dim + 1, RIDGE * np.trace(self._xx[:dim, :dim]) / dim)
        damping[dim] = 0.0  # the bias is not held back
        solution = np.linalg.solve(self._xx + np.diag(damping), self._xy).astype(np.float32)
        return solution[:dim], solution[dim]


def _pair(source: Encoder, target: Encoder, image: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    (old,), (new,) = source.encode_batch([image]), target.encode_batch([image])
    if isinstance(old, ImageError) or isinstance(new, ImageError):
        return None
    return old, new


def _cosine(made: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    norms = float(np.linalg.norm(made)) * float(np.linalg.norm(wanted))
    return min(1.0, float(np.vdot(made, wanted)) / norms) if norms else 0.0
