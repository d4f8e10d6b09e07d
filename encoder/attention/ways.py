"""`window:4`, `linear:elu`, `performer:128` …: a way to look, by its name, for a model of one shape."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ...protocol.errors import InvalidValue
from ..vit import VitShape
from . import approximate
from .window import window

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

WAYS = "window:SIDE, shifted:SIDE, linear:elu|relu|relu2, performer:FEATURES, linformer:TOKENS, grouped:GROUPS or int8"


def way(name: str, shape: VitShape, block: int) -> Attend:
    """The function that `name` means in `block` of such a model; InvalidValue for one that it cannot have.

    `shifted` shifts the windows in every second block.
    """
    kind, _, argument = name.partition(":")
    if kind == "int8" and not argument:
        return approximate.int8
    if kind == "linear" and argument in approximate.KERNELS:
        kernel = approximate.KERNELS[argument]
        return lambda q, k, v: approximate.linear(q, k, v, kernel)
    if not argument.isdecimal() or not 0 < (number := int(argument)) <= 4096:
        raise InvalidValue(f"attention {name!a}: expected {WAYS}")
    tokens = shape.extra_tokens + shape.grid_side**2
    if kind in ("window", "shifted") and shape.grid_side % number == 0:
        shift = number // 2 if kind == "shifted" and block % 2 else 0
        return lambda q, k, v: window(q, k, v, number, shift, shape.extra_tokens)
    if kind == "performer":
        directions = approximate.orthogonal_features(shape.dim // shape.heads, number)
        return lambda q, k, v: approximate.performer(q, k, v, directions)
    if kind == "linformer" and number <= tokens:
        projection = approximate.pooling(tokens, number)
        return lambda q, k, v: approximate.linformer(q, k, v, projection)
    if kind == "grouped" and shape.heads % number == 0:
        return lambda q, k, v: approximate.grouped(q, k, v, number)
    raise InvalidValue(
        f"attention {name!a}: it does not fit a grid of {shape.grid_side} × {shape.grid_side} and {shape.heads} heads"
    )
