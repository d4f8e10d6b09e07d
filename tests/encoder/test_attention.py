"""Other ways to look, each against exact attention: equal where it should be, and near where it is only near."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from edgecache.encoder.attention import approximate
from edgecache.encoder.attention.approximate import KERNELS
from edgecache.encoder.attention.ways import way
from edgecache.encoder.attention.window import window
from edgecache.encoder.reduced import ReducedVit
from edgecache.encoder.shortcuts import Shortcuts
from edgecache.encoder.vit import VisionTransformer, VitShape
from edgecache.protocol.errors import InvalidValue
from torch import Tensor

SHAPE = VitShape(stem=(), dim=24, depth=2, heads=6, class_tokens=1, classes=0)


def tensors(tokens: int = 65, dim: int = 16, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, 6, tokens, dim, generator=generator)
    return query, key, value


def exact(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    seen: Tensor = scores.softmax(dim=-1) @ value
    return seen


def error(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


@pytest.mark.parametrize("extra", [0, 1, 3])
@pytest.mark.parametrize("shift", [0, 2])
def test_windows_are_full_attention_with_all_else_masked(extra: int, shift: int) -> None:
    rows, side = 8, 4
    q, k, v = tensors(extra + rows * rows)
    mask = torch.zeros(extra + rows * rows, extra + rows * rows, dtype=torch.bool)
    mask[:, :extra] = mask[:extra] = True
    place = torch.arange(rows)
    shifted = (place - shift) // side  # what is before the first window has number -1: a window of its own
    same = shifted[:, None] == shifted[None]
    near = same[:, None, :, None] & same[None, :, None, :]  # (row, column, row, column)
    mask[extra:, extra:] = near.reshape(rows * rows, rows * rows)
    assert torch.allclose(window(q, k, v, side, shift, extra), exact(q, k, v, mask), atol=1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_linear_attention_is_its_kernel_written_out(name: str) -> None:
    q, k, v = tensors()
    phi = KERNELS[name]
    weights = phi(q) @ phi(k).transpose(-1, -2)  # quadratic, as it should not be computed
    expected = weights / (weights.sum(dim=-1, keepdim=True) + 1e-6) @ v
    assert torch.allclose(approximate.linear(q, k, v, phi), expected, atol=1e-4)


def test_random_features_come_nearer_with_their_number() -> None:
    q, k, v = tensors()
    q, k = q / 2, k / 2
    errors = [
        sum(
            error(approximate.performer(q, k, v, approximate.orthogonal_features(16, count, seed)), exact(q, k, v))
            for seed in range(4)
        )
        / 4
        for count in (16, 256, 4096)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.06


def test_features_are_orthogonal_within_a_block() -> None:
    directions = F.normalize(approximate.orthogonal_features(16, 40))
    for start, end in ((0, 16), (16, 32), (32, 40)):
        block = directions[start:end]
        assert torch.allclose(block @ block.T, torch.eye(end - start), atol=1e-5)


def test_performer_survives_long_vectors() -> None:
    q, k, v = tensors()
    assert torch.isfinite(approximate.performer(30 * q, 30 * k, v, approximate.orthogonal_features(16, 64))).all()


def test_linformer_without_a_reduction_is_exact_and_with_one_averages() -> None:
    q, k, v = tensors(64)
    assert torch.allclose(approximate.linformer(q, k, v, approximate.pooling(64, 64)), exact(q, k, v), atol=1e-5)
    k, v = (tensor[:, :, ::4].repeat_interleave(4, dim=2) for tensor in (k, v))  # neighbours are equal: nothing is lost
    assert torch.allclose(approximate.linformer(q, k, v, approximate.pooling(64, 16)), exact(q, k, v), atol=1e-5)


def test_grouped_heads_are_exact_where_heads_are_equal() -> None:
    q, k, v = tensors()
    assert torch.allclose(approximate.grouped(q, k, v, 6), exact(q, k, v), atol=1e-5)
    k, v = (tensor[:, ::3].repeat_interleave(3, dim=1) for tensor in (k, v))
    assert torch.allclose(approximate.grouped(q, k, v, 2), exact(q, k, v), atol=1e-5)


def test_int8_scores_err_by_their_rounding() -> None:
    q, k, v = tensors()
    assert 0 < error(approximate.int8(q, k, v), exact(q, k, v)) < 0.02


@pytest.mark.parametrize(
    "name",
    [
        *("window:4", "shifted:4", "linear:elu", "linear:relu", "linear:relu2"),
        *("performer:32", "linformer:16", "grouped:2", "int8"),
    ],
)
def test_every_way_runs_in_a_model_and_leaves_the_model_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    model, pixels = VisionTransformer(SHAPE).eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        before = model(pixels)
        made = ReducedVit(model, Shortcuts(attention=name))(pixels)
        assert torch.equal(model(pixels), before)
    assert made.shape == before.shape
    assert torch.isfinite(made).all()
    assert not torch.equal(made, before)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("window", "expected window:SIDE"),
        ("window:3", "does not fit a grid of 8 × 8"),
        ("linear:tanh", "expected window:SIDE"),
        ("linformer:99", "does not fit"),
        ("grouped:4", "6 heads"),
        ("performer:99999", "expected"),
        ("magic:1", "does not fit"),
    ],
)
def test_a_way_that_does_not_fit_is_refused(name: str, says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        way(name, SHAPE, 0)


def test_merged_tokens_want_exact_attention() -> None:
    with pytest.raises(InvalidValue, match="one of them"):
        ReducedVit(VisionTransformer(SHAPE), Shortcuts(attention="int8", merge=2))
