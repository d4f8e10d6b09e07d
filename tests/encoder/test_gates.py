"""New gates change nothing, a shut gate skips for good, and trained ones shut where it costs least."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from edgecache.encoder.depth.gates import GatedVit, agreeing_blocks, train_gates
from edgecache.encoder.reduced import ReducedVit
from edgecache.encoder.runtimes import Array
from edgecache.encoder.shortcuts import Shortcuts
from edgecache.encoder.vit import VisionTransformer
from torch import nn


def gates_of(gated: GatedVit) -> list[nn.Linear]:
    return [gate for gate in gated.gates if isinstance(gate, nn.Linear)]


def test_new_gates_are_open_and_change_nothing(tiny_model: VisionTransformer, pictures: Array) -> None:
    gated, pixels = GatedVit(tiny_model).eval(), torch.from_numpy(pictures[:3])
    with torch.inference_mode():
        assert torch.equal(gated(pixels), tiny_model(pixels))
        assert torch.allclose(gated.gated(pixels)[0], tiny_model(pixels), atol=1e-5)
    assert gated.activation_rate == 1.0
    assert gated.static_skips() == ()


def test_a_shut_gate_leaves_its_block_out(tiny_model: VisionTransformer, pictures: Array) -> None:
    gated, pixels = GatedVit(tiny_model).eval(), torch.from_numpy(pictures[:3])
    nn.init.constant_(gates_of(gated)[1].bias, -9.0)  # before block 2
    with torch.inference_mode():
        expected = ReducedVit(tiny_model, Shortcuts(skip=(2,)))(pixels)
        assert torch.allclose(gated(pixels), expected, atol=1e-6)
        assert torch.allclose(gated.gated(pixels)[0], expected, atol=1e-5)
    assert gated.activation_rate == 0.75
    assert gated.static_skips() == (2,)


def test_pictures_in_one_batch_go_their_own_ways(tiny_model: VisionTransformer, pictures: Array) -> None:
    gated, pixels = GatedVit(tiny_model).eval(), torch.from_numpy(pictures[:8])
    torch.manual_seed(0)
    for gate in gates_of(gated):
        nn.init.normal_(gate.weight, std=30.0)
        nn.init.zeros_(gate.bias)
    with torch.inference_mode():
        together = gated(pixels)
        assert 0 < sum(gated.ran[1:]) < 3 * len(pixels)
        alone = torch.cat([gated(pixels[index : index + 1]) for index in range(len(pixels))])
    assert torch.allclose(together, alone, atol=1e-4)


def test_gates_learn_to_shut_for_a_price_and_the_weights_stay(tiny_model: VisionTransformer, pictures: Array) -> None:
    pixels = torch.from_numpy(pictures)
    with torch.no_grad():
        wanted = tiny_model(pixels)
    before = {name: weight.clone() for name, weight in tiny_model.state_dict().items()}
    rates, cosines = [], []
    for price in (0.0, 10.0):
        gated = GatedVit(tiny_model)
        losses = train_gates(gated, pixels, wanted, price=price, steps=40, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            made = gated(pixels)
        rates.append(gated.activation_rate)
        cosines.append(float(F.cosine_similarity(made.flatten(1), wanted.flatten(1)).mean()))
        assert losses[-1] <= losses[0]
    assert rates == [1.0, 0.25]  # for nothing all stay open; at ten times what any feature is worth all shut
    assert cosines[0] > 0.999 > cosines[1]
    assert all(torch.equal(weight, before[name]) for name, weight in tiny_model.state_dict().items())


def test_blocks_that_agree_are_left_out_but_never_the_first() -> None:
    assert agreeing_blocks([0.99, 0.97, 0.985, 0.98]) == (2,)
