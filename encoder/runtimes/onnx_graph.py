"""ONNX Runtime. A process with it and without torch takes a third of the memory and starts in a third of the time."""

from __future__ import annotations

from typing import Any

import onnxruntime

from ...protocol.errors import InvalidValue
from . import Array

# Where a GPU build of onnxruntime finds its device, that is used; the CPU is always there.
_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


class OnnxGraph:
    """A session on one ONNX file's bytes."""

    def __init__(self, model: bytes, threads: int) -> None:
        """InvalidValue for bytes that are no ONNX model, or one whose weights are in another file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A thread that spins while it waits takes the core of whoever else has work: yield.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        available = onnxruntime.get_available_providers()
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=[provider for provider in _PROVIDERS if provider in available]
            )
        except Exception as error:  # its exceptions have no base class of their own
            raise InvalidValue(f"{len(model)} bytes that are no ONNX model by themselves: {error}") from error
        self._names = [node.name for node in self._session.get_inputs()]

    @property
    def metadata(self) -> dict[str, str]:
        """What its maker wrote into the file."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def inputs(self) -> list[tuple[str, list[int | str | None]]]:
        """Name and shape of each input; a side that is open has a name or None."""
        return [(node.name, list(node.shape)) for node in self._session.get_inputs()]

    @property
    def outputs(self) -> list[str]:
        """The name of each output."""
        return [node.name for node in self._session.get_outputs()]

    def run(self, *inputs: Array) -> list[Array]:
        """Every output for these inputs."""
        outputs: list[Array] = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return outputs
