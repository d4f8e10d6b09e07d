"""Tensors in and out: npy and safetensors, each checked against the bytes that are there before anything is allocated.

`numpy.load` would run a pickle that says it is an array. So the npy format (numpy.lib.format, versions 1 to 3) is read
here: a magic, the header's length, a Python literal with type, order and shape, then the values.
"""

from __future__ import annotations

import ast
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import safetensors
from numpy.typing import NDArray

from ..protocol.errors import EdgeCacheError

NPY_MAGIC = b"\x93NUMPY"
NPY_HEADER_BYTES_MAX = 4096
SAFETENSORS_HEADER_BYTES_MAX = 1024 * 1024
FEATURES_TENSOR = "features"

_AXES_MAX = 8
_FLOATS = re.compile(r"[<>=|]?f[248]", re.ASCII)
_SAFETENSORS_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_SAFETENSORS_ALIGNMENT = 8


class NotATensor(EdgeCacheError):
    """The user's bytes are no tensor that features could be: not of the format, or of another type or shape."""


def npy_array(data: bytes) -> NDArray[np.floating[Any]]:
    """The array in an npy file: any float type, byte order and layout, a view of `data`; NotATensor says what is wrong.

    Never unpickles.
    """
    if not data.startswith(NPY_MAGIC) or len(data) < 10:
        raise NotATensor("npy: the body does not start as an npy file does")
    version = data[6]
    if version not in (1, 2, 3):
        raise NotATensor(f"npy: format version {version}, expected 1, 2 or 3")
    start, length = (10, data[8:10]) if version == 1 else (12, data[8:12])
    size = int.from_bytes(length, "little")
    if size > min(NPY_HEADER_BYTES_MAX, len(data) - start):
        raise NotATensor(f"npy: header of {size} bytes, at most {NPY_HEADER_BYTES_MAX} and no more than are there")
    descr, fortran_order, shape = _npy_header(data[start : start + size])
    if not isinstance(descr, str) or not _FLOATS.fullmatch(descr):
        named = _shown(descr) if isinstance(descr, str) else "that is structured"
        raise NotATensor(f"npy: type {named}, expected float16, float32 or float64")
    if not isinstance(shape, tuple) or len(shape) > _AXES_MAX or not all(map(_is_length, shape)):
        raise NotATensor(f"npy: shape is not a tuple of at most {_AXES_MAX} lengths")
    dtype = np.dtype(descr)
    _check_shape("npy", shape, dtype.itemsize, len(data) - start - size)
    return np.frombuffer(data, dtype, offset=start + size).reshape(shape, order="F" if fortran_order else "C")


def _npy_header(text: bytes) -> tuple[object, bool, object]:
    try:
        header = ast.literal_eval(text.decode("utf-8").strip())  # literals only: nothing is called
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise NotATensor("npy: the header is no Python literal") from None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise NotATensor("npy: the header does not say descr, fortran_order and shape")
    return header["descr"], header["fortran_order"] is True, header["shape"]


def _is_length(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def safetensors_array(data: bytes) -> NDArray[np.floating[Any]]:
    """The tensor `features` of a safetensors file, or its only one, F64, F32, F16 or BF16; NotATensor if that fails."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(SAFETENSORS_HEADER_BYTES_MAX, len(data) - 8):
        raise NotATensor(
            f"safetensors: header of {size} bytes, at most {SAFETENSORS_HEADER_BYTES_MAX} and no more than are there"
        )
    try:
        tensors = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise NotATensor(f"safetensors: {_shown(str(error))}") from None
    if FEATURES_TENSOR not in tensors and len(tensors) != 1:
        raise NotATensor(f"safetensors: {len(tensors)} tensors, none of them {FEATURES_TENSOR!r}")
    tensor = tensors[FEATURES_TENSOR] if FEATURES_TENSOR in tensors else next(iter(tensors.values()))
    shape, values = tuple(tensor["shape"]), tensor["data"]
    if tensor["dtype"] == "BF16":  # the upper half of a float32
        _check_shape("safetensors", shape, 2, len(values))
        return (np.frombuffer(values, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if tensor["dtype"] not in _SAFETENSORS_FLOATS:
        raise NotATensor(f"safetensors: type {_shown(tensor['dtype'])}, expected F64, F32, F16 or BF16")
    dtype = np.dtype(_SAFETENSORS_FLOATS[tensor["dtype"]])
    _check_shape("safetensors", shape, dtype.itemsize, len(values))
    return np.frombuffer(values, dtype).reshape(shape)


def is_safetensors(data: bytes) -> bool:
    """Whether `data` starts as a safetensors file does: a length, then JSON."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def npy_head(shape: tuple[int, ...]) -> bytes:
    """What stands before the values of a float32 array of `shape`, C order, little-endian, in an npy file."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    padding = -(len(NPY_MAGIC) + 4 + len(text) + 1) % 64  # the values start at a multiple of 64
    header = text + " " * padding + "\n"
    return NPY_MAGIC + b"\x01\x00" + struct.pack("<H", len(header)) + header.encode("ascii")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of a safetensors file's header: `dtype` as that format writes it, `F32` or `U8`."""

    dtype: str
    shape: Sequence[int]
    nbytes: int


def safetensors_head(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """What stands before the values in a safetensors file; the values of `tensors` follow in their order, without gaps.

    So a file of many tensors can be sent while they are being made.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _SAFETENSORS_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def safetensors_entries(data: bytes) -> tuple[dict[str, str], dict[str, memoryview]]:
    """The metadata of a safetensors file and the bytes of each tensor, as views; NotATensor when they are not there."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = msgspec.json.decode(data[8 : 8 + size], type=dict[str, dict[str, Any]])
        metadata = msgspec.convert(header.pop("__metadata__", {}), dict[str, str])
        places = {name: msgspec.convert(entry.get("data_offsets"), tuple[int, int]) for name, entry in header.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotATensor(f"safetensors: {error}") from None
    values = memoryview(data)[8 + size :]
    if not all(0 <= start <= end <= len(values) for start, end in places.values()):
        raise NotATensor("safetensors: a tensor lies outside the file")
    return metadata, {name: values[start:end] for name, (start, end) in places.items()}


def _check_shape(kind: str, shape: tuple[int, ...], itemsize: int, nbytes: int) -> None:
    expected = math.prod(shape) * itemsize  # Python's integers: a bomb of a shape cannot overflow into a small one
    if expected != nbytes:
        raise NotATensor(f"{kind}: {nbytes} bytes of values, shape {_shown(shape)} has {_shown(expected)}")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
