"""Patches tile the picture and are small where it is busy; with all of one size it is the plain model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from edgecache.encoder.tokens.sampling import SCORES, Array, Patch, Sampled, quadtree
from edgecache.encoder.vit import VisionTransformer, VitShape
from edgecache.protocol.errors import InvalidValue

PLAIN = VitShape(stem=(), dim=24, depth=2, heads=3, classes=0, class_tokens=1, registers=2)
SHAPES = [PLAIN, replace(PLAIN, class_tokens=0, registers=0, stem=(4, 6, 8))]


def busy_corner(side: int = 32) -> Array:
    picture = np.zeros((side, side), np.float32)
    picture[: side // 4, : side // 4] = np.random.default_rng(0).normal(size=(side // 4, side // 4))
    return picture


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("count", "made"), [(4, 4), (6, 4), (7, 7), (16, 16), (40, 40), (64, 64)])
def test_patches_tile_the_picture_and_are_as_many_as_asked_for(score: str, count: int, made: int) -> None:
    chance = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    patches = quadtree(chance, 8, count, 4, SCORES[score])
    covered = np.zeros((8, 8), int)
    for row, column, side in patches:
        assert row % side == column % side == 0
        covered[row : row + side, column : column + side] += 1
    assert (covered == 1).all()
    assert len(patches) == made


@pytest.mark.parametrize("score", SCORES)
def test_small_patches_are_where_there_is_something_to_see(score: str) -> None:
    patches = quadtree(busy_corner(), 8, 10, 4, SCORES[score])
    assert [patch for patch in patches if patch.side == 1] == [
        Patch(row, column, 1) for row in (0, 1) for column in (0, 1)
    ]
    assert sum(patch.side == 4 for patch in patches) == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_with_every_patch_at_the_models_own_size_it_is_the_model(shape: VitShape) -> None:
    model, pixels = VisionTransformer(shape).eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        made = Sampled(model, 64, coarser=3)(pixels)
        assert torch.allclose(made, model(pixels), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_features_keep_their_shape_and_cells_under_one_patch_are_equal(shape: VitShape) -> None:
    model = VisionTransformer(shape).eval()
    pixels = torch.from_numpy(np.stack([np.stack([busy_corner()] * 3)] * 2))
    with torch.inference_mode():
        made = Sampled(model, 25, coarser=2)(pixels)
    assert made.shape == (2, shape.extra_tokens + 64, 24)
    grid = made[0, shape.extra_tokens :].view(8, 8, 24)
    assert torch.equal(grid[4, 4], grid[7, 7])
    assert not torch.equal(grid[0, 0], grid[0, 1])
    assert torch.allclose(made[0], made[1], atol=1e-5)


def test_patches_smaller_than_the_models_are_averaged_in_their_cell() -> None:
    model, pixels = VisionTransformer(PLAIN).eval(), torch.randn(1, 3, 32, 32)
    sampled = Sampled(model, 256, coarser=0, finer=1)
    with torch.inference_mode():
        made = sampled(pixels)
        large = torch.nn.functional.interpolate(pixels, (64, 64), mode="bilinear", antialias=True)
        expected = model(large)[:, 3:].view(1, 8, 2, 8, 2, 24).mean(dim=(2, 4)).flatten(1, 2)
    assert torch.allclose(made[:, 3:], expected, atol=1e-5)


@pytest.mark.parametrize(("count", "coarser", "finer"), [(3, 2, 0), (65, 1, 0), (64, 4, 0), (64, -1, 0), (64, 0, 3)])
def test_what_does_not_tile_is_refused(count: int, coarser: int, finer: int) -> None:
    with pytest.raises(InvalidValue, match="patches"):
        Sampled(VisionTransformer(PLAIN), count, coarser=coarser, finer=finer)
