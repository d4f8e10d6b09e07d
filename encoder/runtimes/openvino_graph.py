"""OpenVINO, the fastest of the three on x86: its INT8 and bfloat16 kernels use what AVX-512 and AMX have for them."""

from __future__ import annotations

from typing import Any

import openvino

from ...protocol.errors import InvalidValue
from . import Array


class OpenVinoGraph:
    """A compiled model from one ONNX file's bytes."""

    def __init__(self, model: bytes, threads: int, *, is_bfloat16: bool) -> None:
        """InvalidValue for bytes that are no ONNX model, or one whose weights are in another file."""
        try:
            self._compiled: Any = openvino.Core().compile_model(
                openvino.Core().read_model(model, b""),
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    "INFERENCE_PRECISION_HINT": "bf16" if is_bfloat16 else "f32",
                    # Threads that are bound to cores cannot flee from one that somebody else keeps busy.
                    "ENABLE_CPU_PINNING": False,
                },
            )
        except RuntimeError as error:
            raise InvalidValue(f"{len(model)} bytes that OpenVINO cannot read as an ONNX model: {error}") from error
        self._request = self._compiled.create_infer_request()

    def run(self, *inputs: Array) -> list[Array]:
        """Every output for these inputs."""
        answer = self._request.infer(list(inputs))
        return [answer[output].copy() for output in self._compiled.outputs]  # the next call writes into the same memory
