"""Merging, pruning and resizing by themselves: what is kept, what is averaged, and where everything went."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from edgecache.encoder.tokens import merging, pruning
from edgecache.encoder.tokens.detail import detail_bits, level_bits
from edgecache.encoder.tokens.resolution import Regrid, Shrink


@pytest.mark.parametrize("count", [8, 9])
@pytest.mark.parametrize("protected", [0, 1, 3])
@pytest.mark.parametrize("gone", [0, 1, 3, 100])
def test_a_merged_token_is_the_mean_of_those_that_went_into_it(count: int, protected: int, gone: int) -> None:
    torch.manual_seed(count + protected)
    tokens, key = torch.randn(2, count, 5), torch.randn(2, 3, count, 4)
    sizes = torch.randint(1, 4, (2, count)).float()
    matching = merging.match(key, gone, protected)
    merged, grown = merging.merge(tokens, sizes, matching)
    where = merging.places(matching, count)
    assert merged.shape[1] == count - matching.go.shape[1]
    for image in range(2):
        for place in range(merged.shape[1]):
            members = where[image] == place
            weights = sizes[image][members]
            mean = (tokens[image][members] * weights[:, None]).sum(0) / weights.sum()
            assert torch.allclose(merged[image, place], mean, atol=1e-5)
            assert grown[image, place] == weights.sum()
        lonely = [int((where[image] == where[image, token]).sum()) for token in range(protected)]
        assert lonely == [1] * protected


def test_the_most_similar_tokens_are_merged() -> None:
    key = torch.eye(6)[None, None]  # (1, 1, 6, 6): all orthogonal
    key[0, 0, 4] = key[0, 0, 1] + 0.1 * key[0, 0, 4]
    matching = merging.match(key, 1)
    assert (matching.go.tolist(), matching.into.tolist()) == ([[2]], [[0]])  # 4 is the third of A, 1 the first of B


def test_pruning_keeps_the_important_and_the_protected_and_knows_where_all_are() -> None:
    importance = torch.tensor([[0.0, 5.0, 1.0, 4.0, 3.0]])
    kept = pruning.keep(importance, 3, protected=1)
    assert kept.on.tolist() == [[0, 1, 3]]
    assert kept.aside.tolist() == [[2, 4]]
    assert pruning.places(kept, 10).tolist() == [[0, 1, 10, 2, 11]]


def test_importance_is_what_the_class_token_looks_at() -> None:
    query, key = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2)
    query[0, 0, 0], key[0, 0, 2] = torch.tensor([3.0, 0.0]), torch.tensor([3.0, 0.0])
    assert int(pruning.importance_by_attention(query, key, 1).argmax()) == 2
    assert torch.allclose(pruning.importance_by_attention(query, key, 0).sum(), torch.tensor(1.0))
    assert pruning.importance_by_norm(torch.tensor([[[3.0, 4.0]]])).tolist() == [[5.0]]


def test_a_schedule_steps_down_over_the_depth() -> None:
    assert [pruning.share_at((1, 0.75, 0.5, 0.25), block, 8) for block in range(8)] == [
        *(1, 1, 0.75, 0.75),
        *(0.5, 0.5, 0.25, 0.25),
    ]
    assert pruning.share_at((0.5,), 11, 12) == 0.5


@pytest.mark.parametrize("smaller", [16, 24, 28])
def test_shrinking_averages_like_an_antialiased_resize(smaller: int) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    expected = F.interpolate(pixels, (smaller, smaller), mode="bilinear", antialias=True)
    assert torch.allclose(Shrink(32, smaller)(pixels), expected, atol=1e-5)


def test_a_grid_comes_back_row_by_row() -> None:
    grid = torch.randn(1, 7, 4, 4)
    expected = F.interpolate(grid, (8, 8), mode="bilinear", align_corners=False)
    made = Regrid(4, 8)(grid.flatten(2).transpose(1, 2))
    assert torch.allclose(made.transpose(1, 2).reshape(1, 7, 8, 8), expected, atol=1e-5)


def test_a_wall_has_no_detail_and_noise_much() -> None:
    chance = np.random.default_rng(0)
    wall, noise = np.ones((3, 32, 32), np.float32), chance.normal(size=(3, 32, 32)).astype(np.float32)
    slope = np.linspace(-2, 2, 32, dtype=np.float32)[None, :, None].repeat(3, 0).repeat(32, 2)
    assert detail_bits(wall) == 0
    assert detail_bits(slope) < 1.2 < detail_bits(noise)
    assert level_bits(slope) > 4  # why the levels alone will not do
