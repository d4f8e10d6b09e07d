"""Every level has its grid, a plain picture stays plain at every scale, and the levels of a file are those of torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edgecache.encoder.export import check, exported
from edgecache.encoder.export_command import export
from edgecache.encoder.load import load
from edgecache.encoder.pyramid import FeaturePyramid, scales_of, split
from edgecache.encoder.runtimes import Array, Runtime, open_graph
from edgecache.encoder.vit import VisionTransformer, VitShape
from edgecache.protocol.errors import InvalidValue

SHAPE = VitShape(stem=(), dim=24, depth=4, heads=3, class_tokens=1, registers=2, classes=0)


def test_levels_are_the_blocks_tokens_on_the_grids_asked_for() -> None:
    model, pixels = VisionTransformer(SHAPE).eval(), torch.randn(2, 3, 32, 32)
    pyramid = FeaturePyramid(model, (2, 1, 0.5, 0.25)).eval()
    with torch.inference_mode():
        levels = pyramid.levels(pixels)
        assert [tuple(level.shape) for level in levels] == [(2, 24, side, side) for side in (16, 8, 4, 2)]
        tokens = model.embed(pixels)
        for number in (1, 2, 3, 4):
            tokens = model.blocks[number - 1](tokens)
            grid = model.norm(tokens)[:, 3:].transpose(1, 2).unflatten(2, (8, 8))
            level = levels[number - 1]
            if number == 2:
                assert torch.allclose(level, grid, atol=1e-6)
            else:
                assert torch.allclose(level.mean(), grid.mean(), atol=0.05)  # the same picture, at another scale
        flat = pyramid(pixels)
        assert flat.shape == (2, 256 + 64 + 16 + 4, 24)
        for level, part in zip(levels, split(flat, pyramid.sides), strict=True):
            assert torch.equal(level.flatten(2).transpose(1, 2), part)


def test_one_level_at_full_scale_is_the_models_own_grid() -> None:
    model, pixels = VisionTransformer(SHAPE).eval(), torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(FeaturePyramid(model, (1,))(pixels), model(pixels)[:, 3:], atol=1e-6)


def test_it_exports_as_it_computes(tiny_model: VisionTransformer, pictures: Array) -> None:
    pyramid = FeaturePyramid(tiny_model, (2, 1, 0.5)).eval()
    graph = open_graph(Runtime.ONNX, exported(pyramid, [torch.from_numpy(pictures[:1])], ["features"]), 1)
    check(pyramid, graph, [pictures[1:2]])


def test_a_file_with_a_pyramid_is_an_encoder_of_its_own(tmp_path: Path) -> None:
    plain, levels = tmp_path / "plain.onnx", tmp_path / "levels.onnx"
    export("edgecache/tiny", plain, "float32", None)
    export("edgecache/tiny", levels, "float32", None, (2.0, 1.0))
    one, other = load(f"onnx:{plain}"), load(f"onnx:{levels}")
    assert (one.shape, other.shape) == ((64, 192), (256 + 64, 192))
    assert str(other.identity) == "edgecache/tiny@1+pyramid-2-1"
    assert one.identity.digest != other.identity.digest


@pytest.mark.parametrize("scales", [(), (1, 2), (1, 1), (8,), (1, 0.01), (4, 2, 1, 0.5, 0.25)])
def test_scales_that_make_no_pyramid_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(InvalidValue, match="pyramid"):
        FeaturePyramid(VisionTransformer(SHAPE), scales)


def test_scales_are_read_from_text() -> None:
    assert scales_of("2,1,0.5") == (2.0, 1.0, 0.5)
    with pytest.raises(InvalidValue, match="pyramid 'x'"):
        scales_of("x")
