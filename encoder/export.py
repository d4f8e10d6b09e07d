"""A torch module becomes one ONNX file that says itself what it is, and is compared with what it came from."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..protocol.errors import InvalidValue
from .runtimes import Array, Graph, needing
from .runtimes.torch_graph import TorchGraph

OPSET = 18
# Two runtimes add in different orders: 7e-6 of the largest value was seen on the bundled model, 1.3e-5 on CLIP B/32.
ERROR_MAX = 1e-3


def exported(
    module: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[str], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The ONNX file of `module` for inputs of exactly these shapes: merged or pruned graphs know no other.

    Needs the `tune` extra (onnx).
    """
    with needing("tune"):
        import onnx
    file = io.BytesIO()
    names = ["pixels", *(f"state{index}" for index in range(1, len(inputs)))]
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns of being the older of two. The newer wants onnxscript and takes eight times as long.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs),
            file,  # type: ignore[arg-type]  # the tracer takes a file-like object
            dynamo=False,
            input_names=names,
            output_names=list(outputs),
            opset_version=OPSET,
        )
    if not metadata:
        return file.getvalue()
    model = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    written: bytes = model.SerializeToString()
    return written


def error_of(module: nn.Module, graph: Graph, inputs: Sequence[Array]) -> float:
    """The largest difference between what `graph` and `module` make of `inputs`, as a share of the largest value."""
    worst = 0.0
    for expected, made in zip(TorchGraph(module).run(*inputs), graph.run(*inputs), strict=True):
        if expected.shape != made.shape:
            raise InvalidValue(f"the exported model makes {made.shape} where its origin makes {expected.shape}")
        worst = max(worst, float(np.abs(expected - made).max() / max(float(np.abs(expected).max()), 1e-12)))
    return worst


def check(module: nn.Module, graph: Graph, inputs: Sequence[Array]) -> float:
    """`error_of`, or InvalidValue if it is more than rounding explains."""
    error = error_of(module, graph, inputs)
    if not error <= ERROR_MAX:
        raise InvalidValue(f"the exported model differs by {error:.2g} of the largest value, at most {ERROR_MAX:g}")
    return error
