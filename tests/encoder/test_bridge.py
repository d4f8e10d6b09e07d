"""The bridge: what it undoes, what it leaves alone, and what it promises of pictures that it has not seen."""

from __future__ import annotations

import torch
from edgecache.encoder.bridge import Bridge, BridgeFit, fit_bridge
from torch import Tensor


def tokens(images: int, count: int = 30, dim: int = 8) -> Tensor:
    return torch.randn(images, count, dim, generator=torch.Generator().manual_seed(images))


def off(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).square().mean())


def test_it_undoes_what_is_linear_and_leaves_what_is_right() -> None:
    torch.manual_seed(0)
    wanted = tokens(20)
    assert torch.equal(Bridge(8)(wanted), wanted)
    assert torch.allclose(fit_bridge(wanted, wanted)(wanted), wanted, atol=1e-5)
    twisted = wanted @ (torch.eye(8) + 0.3 * torch.randn(8, 8)) + 0.5
    with torch.inference_mode():
        assert off(fit_bridge(twisted, wanted)(twisted), wanted) < 1e-3
    assert off(twisted, wanted) > 0.2


def test_it_gives_each_token_what_the_picture_as_a_whole_says() -> None:
    made = tokens(80) + tokens(81, 1)[:80]  # a picture's tokens have something in common
    wanted = made + made.mean(dim=1, keepdim=True) @ torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert off(fit_bridge(made[:60], wanted[:60])(made[60:]), wanted[60:]) < 0.01


def test_it_knows_how_far_a_pictures_tokens_lie_apart() -> None:
    made = tokens(200) * (0.5 + torch.rand(200, 1, 8, generator=torch.Generator().manual_seed(2)))
    wanted = made + 2 * made.std(dim=1, keepdim=True)
    fit = BridgeFit(made[:160], wanted[:160])
    with torch.inference_mode():
        assert off(fit.bridge()(made[160:]), wanted[160:]) < 0.1
    assert off(made, wanted) > 1


def test_the_mean_of_what_it_makes_is_known_without_making_it() -> None:
    made, wanted = tokens(40), tokens(41)[:40] + tokens(40).std(dim=1, keepdim=True)
    bridge = fit_bridge(made, wanted)
    with torch.inference_mode():
        assert torch.allclose(bridge.mean(made), bridge(made).mean(dim=1, keepdim=True), atol=1e-5)


def test_with_few_pictures_the_mean_does_not_say_what_chance_says() -> None:
    made = tokens(64, dim=32)
    wanted = made + tokens(65, 1, 32)[:64]  # each picture off by something that nothing tells
    with torch.inference_mode():
        assert off(fit_bridge(made[:16], wanted[:16])(made[16:]), wanted[16:]) < 1.15 * off(made[16:], wanted[16:])


def test_it_does_little_where_little_is_to_be_won() -> None:
    made = tokens(48, 10, 32)
    wanted = made + 0.1 * tokens(49, 10, 32)[:48]
    with torch.inference_mode():
        assert off(fit_bridge(made[:16], wanted[:16])(made[16:]), wanted[16:]) < 1.02 * off(made[16:], wanted[16:])


def test_held_out_is_as_far_off_as_pictures_that_were_never_seen() -> None:
    made, wanted = tokens(200, 4, 16), torch.tanh(2 * tokens(200, 4, 16)) + 0.5 * tokens(201, 4, 16)[:200]
    fit = BridgeFit(made[:24], wanted[:24])
    with torch.inference_mode():
        unseen = off(fit.bridge()(made[24:]), wanted[24:])
        seen = off(fit.bridge()(made[:24]), wanted[:24])
    assert off(fit.held_out(), wanted[:24]) > seen
    assert abs(off(fit.held_out(), wanted[:24]) - unseen) < abs(seen - unseen)


def test_a_single_picture_has_no_others() -> None:
    made, wanted = tokens(1), tokens(1) + 1
    fit = BridgeFit(made, wanted)
    assert torch.equal(fit.held_out(), made)
    with torch.inference_mode():
        assert off(fit.bridge()(made), wanted) < 0.5
