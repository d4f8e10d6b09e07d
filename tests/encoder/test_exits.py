"""Leaving early: who leaves where, with what, and what the thresholds promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from edgecache.encoder.build import build, through
from edgecache.encoder.depth.exits import Asked, Worth, cosine_of, layer_agreement, thresholds_for
from edgecache.encoder.options import Options
from edgecache.encoder.runtimes import Array, Runtime
from edgecache.encoder.shortcuts import Shortcuts
from edgecache.encoder.towers import Exiting
from edgecache.encoder.vit import VisionTransformer, VitShape
from edgecache.protocol.errors import InvalidValue

EXITS = Options(exits=(1, 2), shortcuts=Shortcuts(merge=4, is_bridged=True))


def exiting(built: object) -> Exiting:
    assert isinstance(built, Exiting)
    return built


@pytest.mark.parametrize("sureness", [(2.0, 2.0), (0.0, 0.0), (2.0, 0.0)])
def test_everybody_leaves_where_they_are_sure(
    sureness: tuple[float, ...], tiny_model: VisionTransformer, pictures: Array
) -> None:
    tower = exiting(build(tiny_model, replace(EXITS, exit_sureness=sureness), pictures).tower)
    features = tower(pictures)
    assert features.shape == (24, 64, 192)
    first = sureness.index(0.0) if 0.0 in sureness else 2
    assert tower.left_at == [24 if stage == first else 0 for stage in range(3)]


def test_without_a_shortcut_the_last_stage_is_the_plain_model(tiny_model: VisionTransformer, pictures: Array) -> None:
    options = Options(exits=(1, 3), exit_sureness=(2.0, 2.0), shortcuts=Shortcuts(is_bridged=True))
    made = build(tiny_model, options, pictures).tower(pictures[:5])
    assert np.abs(made - through(tiny_model, torch.from_numpy(pictures[:5])).numpy()).max() < 1e-5


def test_a_batch_gives_each_what_it_gets_alone(tiny_model: VisionTransformer, pictures: Array) -> None:
    tower = exiting(build(tiny_model, replace(EXITS, exit_sureness=(0.4, 0.5)), pictures).tower)
    together = tower(pictures)
    assert sum(left > 0 for left in tower.left_at) > 1  # some leave early and some late
    alone = np.concatenate([tower(picture[None]) for picture in pictures])
    assert np.abs(together - alone).max() < 1e-4


def test_other_thresholds_follow_without_another_fit(tiny_model: VisionTransformer, pictures: Array) -> None:
    first, second = (build(tiny_model, EXITS, pictures, asked=Asked(cosine)) for cosine in (0.95, 0.5))
    assert first.options.exit_sureness != second.options.exit_sureness
    assert first.tried is not None
    assert first.tried.thresholds(Asked(0.5)) == pytest.approx(second.options.exit_sureness)


@pytest.mark.parametrize("runtime", [Runtime.ONNX, Runtime.OPENVINO])
def test_runtimes_leave_where_torch_leaves(runtime: Runtime, tiny_model: VisionTransformer, pictures: Array) -> None:
    reference = build(tiny_model, EXITS, pictures, asked=Asked(0.9))
    built = build(tiny_model, replace(reference.options, runtime=runtime), pictures)
    assert set(built.files) == {"stage0", "leave0", "stage1", "leave1", "stage2"}
    worst = max(float(np.abs(built.tower(p[None]) - reference.tower(p[None])).max()) for p in pictures[:8])
    assert worst < 1e-2


def test_a_model_without_a_head_is_sure_when_its_blocks_agree() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(VitShape(stem=(), dim=24, depth=3, classes=0, class_tokens=1)).eval()
    images = torch.randn(16, 3, 32, 32).numpy()
    built = build(model, Options(exits=(2,), shortcuts=Shortcuts(is_bridged=True)), images, asked=Asked(0.5))
    assert built.tower(images).shape == (16, 65, 24)
    agreement = layer_agreement(model, torch.from_numpy(images))
    assert len(agreement) == 3
    assert all(0 < cosine <= 1 for cosine in agreement)


def test_a_threshold_lets_as_many_leave_as_the_cosine_allows() -> None:
    sure = [np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([0.5, 0.9, 0.8, 0.7], np.float32)]
    cosines = [np.array([1.0, 0.9, 0.5, 0.5], np.float32), np.array([1.0, 0.0, 0.99, 0.99], np.float32)]
    same = [np.array([1, 0, 1, 1], np.float32), np.array([1, 1, 1, 0], np.float32)]
    worths = [Worth(*values) for values in zip(cosines, same, strict=True)]
    first, second = thresholds_for(sure, worths, Asked(0.949))
    assert first == pytest.approx(0.8)  # two leave with 0.95; the other two are all that the second exit sees
    assert second == pytest.approx(0.7)
    first, second = thresholds_for(sure, worths, Asked(0.0, agreement=0.75))
    assert first == pytest.approx(0.6)  # three of the four have the plain model's class
    assert second == 2.0  # nobody is there any more
    assert thresholds_for(sure[:1], worths[:1], Asked(0.949, agreement=0.75)) == [pytest.approx(0.9)]
    assert thresholds_for(sure[:1], worths[:1], Asked(1.01)) == [2.0]


def test_a_threshold_keeps_its_promise_on_pictures_that_it_was_not_found_on(tiny_model: VisionTransformer) -> None:
    """Of a bridge's own pictures those who leave look truer than others will be."""
    chance = np.random.default_rng(1)
    sides = chance.choice((2, 4, 8), 240)
    coarse = [torch.from_numpy(chance.normal(size=(1, 3, side, side)).astype(np.float32)) for side in sides]
    pictures = torch.cat([F.interpolate(picture, (32, 32), mode="bicubic") for picture in coarse]).numpy()
    options = Options(exits=(2,), shortcuts=Shortcuts(is_bridged=True))
    built = build(tiny_model, options, pictures[:40], asked=Asked(0.9))
    tower = exiting(built.tower)
    made, plain = (torch.from_numpy(tower(pictures[40:])), through(tiny_model, torch.from_numpy(pictures[40:])))
    near = cosine_of(made, plain)
    left = near[near < 0.9999]
    assert len(left) == tower.left_at[0] > 20
    assert left.mean() > 0.89


def test_exits_that_do_not_fit_are_refused(tiny_model: VisionTransformer, pictures: Array) -> None:
    with pytest.raises(InvalidValue, match="exit after 4 blocks: the model has 4"):
        build(tiny_model, Options(exits=(4,)), pictures)
    with pytest.raises(InvalidValue, match="expected numbers of blocks, ascending"):
        Options(exits=(2, 1))
    with pytest.raises(InvalidValue, match="there are none"):
        build(tiny_model, Options(exits=(1,)))
    headless = VisionTransformer(VitShape(stem=(), dim=24, depth=3, classes=0)).eval()
    with pytest.raises(InvalidValue, match=r"an agreement of 0\.98: the model has no head"):
        build(headless, Options(exits=(1,)), pictures, asked=Asked(agreement=0.98))
