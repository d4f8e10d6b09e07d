"""One model, three runtimes: the same tokens to rounding, in INT8 and bfloat16 nearly, and clear words where not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from edgecache.encoder import quantization, vit_file
from edgecache.encoder.export import OPSET, check, error_of, exported
from edgecache.encoder.runtimes import Array, Runtime, open_graph
from edgecache.encoder.runtimes.onnx_graph import OnnxGraph
from edgecache.encoder.runtimes.torch_graph import TorchGraph
from edgecache.encoder.spec import TINY_WEIGHTS
from edgecache.encoder.vit import VisionTransformer, VitShape
from edgecache.protocol.errors import InvalidValue


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    torch.set_num_threads(1)
    return vit_file.model_of(TINY_WEIGHTS.read_bytes())


@pytest.fixture(scope="module")
def onnx_file(model: VisionTransformer) -> bytes:
    return exported(model, [torch.zeros(1, 3, 32, 32)], ["features"])


def pictures(count: int) -> list[tuple[Array, ...]]:
    chance = np.random.default_rng(0)
    coarse = chance.normal(size=(count, 1, 3, 8, 8)).astype(np.float32)
    return [(np.repeat(np.repeat(picture, 4, axis=2), 4, axis=3),) for picture in coarse]


def cosine(made: Array, expected: Array) -> float:
    return float((made * expected).sum() / np.linalg.norm(made) / np.linalg.norm(expected))


@pytest.mark.parametrize("runtime", [Runtime.ONNX, Runtime.OPENVINO])
def test_an_exported_model_equals_its_origin(runtime: Runtime, model: VisionTransformer, onnx_file: bytes) -> None:
    graph = open_graph(runtime, onnx_file, 1)
    for picture in pictures(3):
        assert error_of(model, graph, picture) < 1e-4


def test_an_export_of_something_else_is_noticed(model: VisionTransformer, onnx_file: bytes) -> None:
    torch.manual_seed(0)
    other = VisionTransformer(VitShape()).eval()
    with pytest.raises(InvalidValue, match=r"differs by .* of the largest value, at most 0\.001"):
        check(other, open_graph(Runtime.ONNX, onnx_file, 1), pictures(1)[0])


@pytest.mark.parametrize(
    ("runtime", "is_static"), [(Runtime.ONNX, True), (Runtime.ONNX, False), (Runtime.OPENVINO, True)]
)
def test_int8_is_smaller_and_stays_near(
    runtime: Runtime, is_static: bool, model: VisionTransformer, onnx_file: bytes
) -> None:
    small = quantization.static_int8(onnx_file, pictures(8)) if is_static else quantization.dynamic_int8(onnx_file)
    assert len(small) < 0.65 * len(onnx_file)
    graph = open_graph(runtime, small, 1)
    for picture in pictures(3):
        (made,), (expected,) = graph.run(*picture), TorchGraph(model).run(*picture)
        assert 0.98 < cosine(made, expected) < 1 - 1e-7


def test_int8_is_folded_and_written_in_the_standards_operators_alone(onnx_file: bytes) -> None:
    graph = onnx.load_from_string(quantization.dynamic_int8(onnx_file))
    assert [(one.domain, one.version) for one in graph.opset_import] == [("", OPSET)]
    assert {node.domain for node in graph.graph.node} == {""}
    assert not [node for node in graph.graph.node if node.op_type == "Constant"]


def test_bfloat16_stays_near(model: VisionTransformer, onnx_file: bytes) -> None:
    for graph in (open_graph(Runtime.OPENVINO, onnx_file, 1, is_bfloat16=True), TorchGraph(model, is_bfloat16=True)):
        (made,), (expected,) = graph.run(*pictures(1)[0]), TorchGraph(model).run(*pictures(1)[0])
        assert made.dtype == np.float32
        assert cosine(made, expected) > 0.999


def test_an_answer_survives_the_next_one(onnx_file: bytes) -> None:
    graph = open_graph(Runtime.OPENVINO, onnx_file, 1)
    one, other = pictures(2)
    (first,) = graph.run(*one)
    kept = first.copy()
    graph.run(*other)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("runtime", [Runtime.ONNX, Runtime.OPENVINO])
def test_bytes_that_are_no_model_are_refused(runtime: Runtime) -> None:
    with pytest.raises(InvalidValue, match="7 bytes that"):
        open_graph(runtime, b"garbage", 1)


def test_what_a_runtime_cannot_do_is_said(onnx_file: bytes) -> None:
    with pytest.raises(InvalidValue, match="onnx in bfloat16"):
        open_graph(Runtime.ONNX, onnx_file, 1, is_bfloat16=True)


@pytest.mark.parametrize(("runtime", "missing"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_is_named_with_its_extra(runtime: str, missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from edgecache.encoder.runtimes import *;"
        f"open_graph(Runtime({runtime!r}), b'', 1)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"InvalidValue: {missing} is not installed: pip install 'edgecache[{runtime}]'" in answer.stderr


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_where_there_is_a_gpu_it_is_used_and_makes_the_same(
    provider: str, model: VisionTransformer, onnx_file: bytes
) -> None:
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {provider}: it wants onnxruntime-gpu and a GPU")
    graph = OnnxGraph(onnx_file, 1)
    assert provider in graph.providers
    check(model, graph, list(pictures(1)[0]))
