"""Smaller weights: what stays the same, what errs and by how much, and what is really gone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from edgecache.encoder.reduced import ReducedVit
from edgecache.encoder.runtimes import Array
from edgecache.encoder.shortcuts import Shortcuts
from edgecache.encoder.vit import Attention, Block, VisionTransformer, VitShape
from edgecache.encoder.weights import numbers, slimming
from edgecache.encoder.weights.factors import RmsNorm, factored, low_rank, with_rms_norms
from edgecache.encoder.weights.sensitivity import kept_in_float, sensitivities
from torch import Tensor, nn

PLAIN = VitShape(stem=(), dim=24, depth=2, heads=4, class_tokens=1, registers=1, classes=0)


def made(shape: VitShape) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(shape).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def cosine(a: Tensor, b: Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).mean())


@pytest.mark.parametrize(
    "shape",
    [PLAIN, replace(PLAIN, scales_layers=True), replace(PLAIN, activation="swiglu"), VitShape(stem=(4, 6, 8), dim=24)],
)
def test_rms_norms_compute_the_same(shape: VitShape) -> None:
    model, pixels = made(shape), torch.randn(2, 3, 32, 32)
    simpler = with_rms_norms(model)
    assert not any(isinstance(module, nn.LayerNorm) for module in simpler.modules())
    assert any(isinstance(module, RmsNorm) for module in simpler.modules())
    with torch.inference_mode():
        assert torch.allclose(simpler(pixels), model(pixels), atol=1e-4)


def test_factors_err_by_the_singular_values_that_they_leave_out() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(20, 30)
    values = torch.linalg.svdvals(layer.weight)
    for rank in (1, 5, 20):
        inner, outer = factored(layer, rank)
        lost = (outer.weight @ inner.weight - layer.weight).norm()  # type: ignore[operator]
        assert float(lost) == pytest.approx(float(values[rank:].square().sum().sqrt()), abs=1e-5)
    tokens = torch.randn(3, 20)
    assert torch.allclose(factored(layer, 20)(tokens), layer(tokens), atol=1e-5)


def test_low_rank_perceptrons_are_smaller_and_nearer_with_more(tiny_model: VisionTransformer, pictures: Array) -> None:
    pixels = torch.from_numpy(pictures[:8])
    with torch.inference_mode():
        near = [cosine(low_rank(tiny_model, share)(pixels), tiny_model(pixels)) for share in (0.3, 0.9)]
    assert near[0] < near[1]
    count = [sum(w.numel() for w in model.parameters()) for model in (low_rank(tiny_model, 0.5), tiny_model)]
    assert count[0] < 0.8 * count[1]


@pytest.mark.parametrize("shape", [(7, 11), (8, 64)])
def test_int4_is_an_eighth_and_errs_by_half_a_step(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    weight[0, :5] = 0
    packed, scales = numbers.packed_int4(weight)
    again = numbers.unpacked_int4(packed, scales, shape)
    flat = nn.functional.pad((again - weight).flatten(), (0, -weight.numel() % numbers.GROUP)).view(-1, numbers.GROUP)
    assert bool((flat.abs() <= 0.51 * scales[:, None].float()).all())
    assert packed.numel() + 2 * scales.numel() <= -(-weight.numel() // numbers.GROUP) * (numbers.GROUP / 2 + 2)


def test_a_model_in_int4_stays_near_and_is_small(tiny_model: VisionTransformer, pictures: Array) -> None:
    small = numbers.in_int4(tiny_model)
    with torch.inference_mode():
        assert 0.97 < cosine(small(torch.from_numpy(pictures)), tiny_model(torch.from_numpy(pictures))) < 1 - 1e-6
    layer = small.blocks[0].mlp[0]  # type: ignore[index, union-attr]
    held = sum(tensor.numel() * tensor.element_size() for tensor in (layer.packed, layer.scales))
    assert held < 0.15 * 4 * 192 * 768


def test_masks_keep_the_largest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 64)
    mask = numbers.magnitude_mask(weight, 0.3)
    assert float(mask.float().mean()) == pytest.approx(0.7, abs=0.001)
    assert weight.abs()[mask].min() > weight.abs()[~mask].max()
    fours = numbers.two_of_four_mask(weight).view(32, 16, 4)
    assert (fours.sum(dim=-1) == 2).all()
    blocks = numbers.block_mask(weight, 0.5).view(2, 16, 4, 16).float().mean(dim=(1, 3))
    assert sorted(blocks.flatten().tolist()) == [0.0] * 4 + [1.0] * 4
    assert numbers.magnitude_mask(weight, 0.0).all()
    zeroed = numbers.masked(nn.Sequential(nn.Linear(8, 8)), numbers.two_of_four_mask)
    assert numbers.zeros_share(zeroed) == 0.5


def test_cutting_removes_and_recovery_wins_back(tiny_model: VisionTransformer, pictures: Array) -> None:
    pixels = torch.from_numpy(pictures)
    smooth = nn.functional.avg_pool2d(pixels, 3, 1, 1)  # others than were fitted on
    near = {}
    for is_recovered in (False, True):
        slim = slimming.slimmed(tiny_model, pixels, heads=2 / 3, channels=0.6, is_recovered=is_recovered)
        with torch.inference_mode():
            near[is_recovered] = cosine(slim(smooth), tiny_model(smooth))
    block = slim.blocks[0]
    assert isinstance(block, Block)
    assert block.attention.heads == 2
    assert block.attention.out.in_features == 128
    assert block.mlp[0].out_features == 461  # type: ignore[index]
    assert near[True] > near[False] + 0.005


def test_nothing_cut_is_nothing_changed(tiny_model: VisionTransformer, pictures: Array) -> None:
    pixels = torch.from_numpy(pictures[:4])
    with torch.inference_mode():
        assert torch.equal(slimming.slimmed(tiny_model, pixels)(pixels), tiny_model(pixels))


def test_slimming_goes_together_with_other_shortcuts(tiny_model: VisionTransformer, pictures: Array) -> None:
    pixels = torch.from_numpy(pictures)
    slim = slimming.slimmed(tiny_model, pixels, channels=0.7)
    with torch.inference_mode():
        assert ReducedVit(slim, Shortcuts(merge=4))(pixels).shape == (len(pictures), 64, 192)


@pytest.mark.parametrize("importance", [slimming.head_norms, slimming.head_gradients, slimming.head_entropies])
def test_every_importance_has_a_number_for_each_head_and_a_dead_one_is_last(importance: slimming.Importance) -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(24, 4), torch.randn(2, 10, 24)
    with torch.no_grad():
        attention.query_key_value.weight[12:18] = 0  # the third head asks nothing: it looks at all alike
        attention.query_key_value.bias[12:18] = 0
        attention.out.weight[:, 12:18] = 0  # and nobody listens to it
    ranks = importance(attention, tokens)
    assert ranks.shape == (4,)
    assert int(ranks.argmin()) == 2


def test_the_most_sensitive_block_stays_in_float(tiny_model: VisionTransformer, pictures: Array) -> None:
    lost = sensitivities(tiny_model, torch.from_numpy(pictures[:4]))
    assert len(lost) == 4
    assert all(0 < share < 0.05 for share in lost)
    assert kept_in_float([0.1, 0.5, 0.2], 0.35) == [1]
    assert kept_in_float([0.1, 0.5, 0.2], 0.0) == [0, 1, 2]
    assert kept_in_float([0.1, 0.5, 0.2], 1.0) == []
