"""ONNX Runtime. A process with it and without torch takes a third of the memory and starts in a third of the time."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import onnxruntime

from ...protocol.errors import InvalidValue
from . import Array

# Where a GPU build of onnxruntime finds its device, that is used; the CPU is always there.
_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


class OnnxGraph:
    """A session on one ONNX file."""

    def __init__(self, model: bytes | str, threads: int, nbytes: int | None = None) -> None:
        """InvalidValue for bytes, or a file of `nbytes`, that are no ONNX model or have weights in another file."""
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
            size = len(model) if nbytes is None else nbytes
            raise InvalidValue(f"{size} bytes that are no ONNX model by themselves: {error}") from error
        self._names = [node.name for node in self._session.get_inputs()]

    @classmethod
    def of_file(
        cls, path: Path, threads: int, check: Callable[[bytes], None] = lambda digest: None
    ) -> tuple[OnnxGraph, bytes]:
        """A session on a file, and the SHA-256 of what is in it, which `check` may refuse before anything reads it.

        OSError if it cannot be read.
        The file is never in memory beside the session's own copy, which would be a fifth of a small encoder's process.
        """
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = file_digest(file, "sha256").digest()
            # By its descriptor: the same file whatever happens to its name, and no neighbours to take weights from.
            link = f"/proc/self/fd/{file.fileno()}"
            if not os.path.exists(link):  # not Linux
                model = path.read_bytes()
                check(sha256(model).digest())
                return cls(model, threads), sha256(model).digest()
            check(digest)
            graph = cls(link, threads, before.st_size)
            after = os.fstat(file.fileno())
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise InvalidValue(f"{path.name} was changed while it was read")
        return graph, digest

    @property
    def metadata(self) -> dict[str, str]:
        """What its maker wrote into the file."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def providers(self) -> list[str]:
        """Who runs it, the first where it can: a GPU's, where there is one."""
        return list(self._session.get_providers())

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
