"""INT8 for an exported model: only products with weights, which is where a vision transformer's time goes.

Products of two activations (query · key, attention · value) and everything between them stay in float: quantising
those as well was slower in both runtimes (ONNX Runtime 51 against 46 ms, OpenVINO 30 against 41, ViT-S/16, one thread)
or made no difference.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .runtimes import Array, needing

_WEIGHTS_ONLY = {"MatMulConstBOnly": True}


def dynamic_int8(model: bytes) -> bytes:
    """Weights per channel in INT8; each activation's range is found while it runs: the best that ONNX Runtime has."""
    with needing("tune"):
        from onnxruntime.quantization import QuantType, quantize_dynamic
    with _files(model) as (before, after):
        quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options=_WEIGHTS_ONLY,
        )
        return _folded(after)


def static_int8(model: bytes, inputs: Iterable[tuple[Array, ...]]) -> bytes:
    """Weights per channel and activations per tensor in INT8, with ranges measured on `inputs`; what OpenVINO wants.

    Symmetric activations, since OpenVINO then takes 30.5 ms instead of 42.2 (ViT-S/16, one thread, with bfloat16 for
    the rest), as fast as what NNCF makes.
    """
    with needing("tune"):
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    with _files(model) as (before, after):
        quantize_static(
            before,
            after,
            _reader(model, inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Conv"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options=_WEIGHTS_ONLY | {"ActivationSymmetric": True},
        )
        return after.read_bytes()


def _folded(model: Path) -> bytes:
    """The same graph with its constants computed and a third fewer nodes: opened in 0.09 s instead of 0.15 (ViT-S/16).

    By ONNX Runtime's basic passes, which know the standard's operators alone, so that every runtime still reads it.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(model.with_name("folded.onnx"))
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in folded.graph.node}
    kept = [one for one in folded.opset_import if one.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    made: bytes = folded.SerializeToString()
    return made


def _reader(model: bytes, inputs: Iterable[tuple[Array, ...]]) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    names = [node.name for node in onnx.load_from_string(model).graph.input]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[tuple[Array, ...]] = iter(inputs)

        def get_next(self) -> dict[str, Array] | None:
            arrays = next(self._left, None)
            return None if arrays is None else dict(zip(names, arrays, strict=True))

    return Reader()


@contextmanager
def _files(model: bytes) -> Iterator[tuple[Path, Path]]:
    """A model's bytes as a file, and a place for what becomes of it: the quantiser takes paths."""
    was_disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # on the root logger it advises passes that the runtimes do themselves
    try:
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "before.onnx").write_bytes(model)
            yield Path(directory) / "before.onnx", Path(directory) / "after.onnx"
    finally:
        logging.disable(was_disabled)
