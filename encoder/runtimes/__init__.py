"""What runs a model: torch, ONNX Runtime or OpenVINO, behind one interface. Each is imported only where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...protocol.errors import InvalidValue

Array = NDArray[np.float32]


class Runtime(StrEnum):
    """Who multiplies the matrices."""

    TORCH = "torch"
    ONNX = "onnx"
    OPENVINO = "openvino"


class Graph(Protocol):
    """A model that is ready to run: arrays in, arrays out, in the order of its inputs and outputs."""

    def run(self, *inputs: Array) -> list[Array]: ...


def open_graph(runtime: Runtime, model: bytes, threads: int, *, is_bfloat16: bool = False) -> Graph:
    """The graph in an ONNX file's bytes, on `threads` threads. InvalidValue for what is no such file.

    `is_bfloat16` lets OpenVINO compute in bfloat16 what it can; ONNX Runtime has no such kernels for CPUs.
    """
    if runtime is Runtime.OPENVINO:
        with needing("openvino"):
            from .openvino_graph import OpenVinoGraph
        return OpenVinoGraph(model, threads, is_bfloat16=is_bfloat16)
    if runtime is Runtime.ONNX and not is_bfloat16:
        with needing("onnx"):
            from .onnx_graph import OnnxGraph
        return OnnxGraph(model, threads)
    raise InvalidValue(f"runtime {runtime}{' in bfloat16' if is_bfloat16 else ''}: it does not run ONNX files")


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Turn a missing package into the name of the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InvalidValue(f"{error.name} is not installed: pip install 'edgecache[{extra}]'") from error
