"""Attention or a kernel: each is exactly itself when it is chosen, the counters count, and routing gives way."""

from __future__ import annotations

import pytest
import torch
from edgecache.encoder.attention.hybrid import Gating, Hybrid, hybrid, layers_of, settle, static_choice
from edgecache.encoder.runtimes import Array
from edgecache.encoder.vit import Attention, VisionTransformer, VitShape
from torch import Tensor

SHAPES = [
    VitShape(stem=(), dim=24, depth=3, heads=3, classes=0),
    VitShape(stem=(), dim=24, depth=3, heads=3, classes=0, class_tokens=1, registers=2),
]


def layer(shape: VitShape, gating: Gating) -> Hybrid:
    torch.manual_seed(0)
    made = Hybrid(Attention(shape.dim, shape.heads), shape.grid_side, shape.extra_tokens).eval()
    with torch.no_grad():
        made.kernel.normal_()
        made.router.weight.mul_(30)
    made.gating = gating
    return made


def tokens_of(shape: VitShape, images: int = 6) -> Tensor:
    return torch.randn(images, shape.extra_tokens + shape.grid_side**2, shape.dim)


@pytest.mark.parametrize("shape", SHAPES)
def test_as_it_is_made_it_is_the_attention_that_it_was_made_from(shape: VitShape) -> None:
    attention, tokens = Attention(shape.dim, shape.heads), tokens_of(shape)
    made = Hybrid(attention, shape.grid_side, shape.extra_tokens)
    assert torch.equal(made(tokens), attention(tokens))
    assert (made.activation_rate, made.saved_flops) == (1.0, 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_is_a_convolution_over_the_values_and_keeps_to_its_neighbours(shape: VitShape) -> None:
    made, tokens = layer(shape, Gating.CONVOLUTION), tokens_of(shape, 1)
    with torch.no_grad():
        made.mean_scale.zero_()  # the mean is the one thing that all share
        made.extra_scale.zero_()
        before = made(tokens)
        tokens[0, shape.extra_tokens + 8 * 3 + 4] += 1  # row 3, column 4 of the 8 × 8 grid
        changed = (made(tokens) != before).any(dim=2)[0, shape.extra_tokens :]
    rows = changed.view(8, 8).nonzero()
    assert rows.amin(dim=0).tolist() == [2, 3]
    assert rows.amax(dim=0).tolist() == [4, 5]


@pytest.mark.parametrize("shape", SHAPES)
def test_hard_gates_give_each_image_what_it_would_have_alone_and_count_it(shape: VitShape) -> None:
    made, tokens = layer(shape, Gating.HARD), tokens_of(shape)
    with torch.no_grad():
        attends = made.gate(tokens) > 0.5
        assert 0 < int(attends.sum()) < len(tokens)
        together = made(tokens)
        for image, needs in enumerate(attends):
            alone = tokens[image : image + 1]
            expected = Attention.seen(made, alone).tokens if needs else made.convolved(alone)
            assert torch.allclose(together[image : image + 1], expected, atol=1e-5)
    assert made.activation_rate == float(attends.float().mean())
    attention, convolution, router = made.flops()
    assert made.saved_flops == int((~attends).sum()) * (attention - convolution) - len(tokens) * router


def test_soft_gates_mix_and_save_nothing() -> None:
    made, tokens = layer(SHAPES[0], Gating.SOFT), tokens_of(SHAPES[0])
    with torch.no_grad():
        share = made.gate(tokens)[:, None, None]
        expected = share * Attention.seen(made, tokens).tokens + (1 - share) * made.convolved(tokens)
        assert torch.allclose(made(tokens), expected, atol=1e-6)
    assert made.saved_flops < 0


def test_trained_a_hard_gate_chooses_forwards_and_has_the_soft_ones_gradient() -> None:
    made, tokens = layer(SHAPES[0], Gating.HARD).train(), tokens_of(SHAPES[0])
    out = made(tokens)
    made.eval()
    with torch.no_grad():
        assert torch.allclose(out, made(tokens), atol=1e-5)
    torch.autograd.backward(out.square().mean())
    assert made.router.weight.grad is not None
    assert float(made.router.weight.grad.abs().sum()) > 0


def test_fitted_on_pictures_the_kernel_comes_nearer_and_settling_reaches_what_was_asked(
    tiny_model: VisionTransformer, pictures: Array
) -> None:
    pixels = torch.from_numpy(pictures)[:24]
    with torch.no_grad():
        wanted = tiny_model(pixels)
        routed = hybrid(tiny_model, pixels, error_max=1e9)  # never attention
        blind = hybrid(tiny_model, pixels, error_max=1e9)
        for one in layers_of(blind):
            one.kernel.zero_()

        def cosine(model: VisionTransformer) -> float:
            return float(torch.nn.functional.cosine_similarity(model(pixels).flatten(1), wanted.flatten(1)).mean())

        assert cosine(blind) < cosine(routed) < 0.999
        assert all(one.activation_rate == 0 for one in layers_of(routed))
        assert settle(routed, pixels, wanted, 0.999) >= 0.999
    gates = [one.gating for one in layers_of(routed)]
    assert gates[0] is Gating.ATTENTION  # the first gave way first
    assert Gating.HARD not in gates  # and whoever never attends has no router


def test_an_image_that_the_kernel_cannot_do_gets_attention(tiny_model: VisionTransformer, pictures: Array) -> None:
    pixels = torch.from_numpy(pictures)[:24]
    always = hybrid(tiny_model, pixels, error_max=1e-9)
    with torch.no_grad():
        assert torch.allclose(always(pixels), tiny_model(pixels), atol=1e-5)
    assert all(one.activation_rate == 1 for one in layers_of(always))


@pytest.mark.parametrize(
    ("rate", "choice"), [(0.0, "convolution"), (0.04, "convolution"), (0.5, "hard"), (0.96, "attention")]
)
def test_a_router_that_nearly_always_says_the_same_is_done_without(rate: float, choice: str) -> None:
    assert static_choice(rate, Gating.HARD) == choice
