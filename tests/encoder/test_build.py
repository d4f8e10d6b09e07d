"""Options become towers: near the plain model, the same on every runtime, and refused where they cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from edgecache.encoder.build import build, through
from edgecache.encoder.depth.exits import Asked, cosine_of
from edgecache.encoder.options import Options, Precision
from edgecache.encoder.runtimes import Array, Runtime
from edgecache.encoder.shortcuts import Shortcuts
from edgecache.encoder.towers import Cascade, Exiting, Routed
from edgecache.encoder.vit import VisionTransformer
from edgecache.protocol.errors import InvalidValue


def cosines(model: VisionTransformer, options: Options, pictures: Array) -> Array:
    tower = build(model, options, pictures).tower
    made = np.concatenate([tower(picture[None]) for picture in pictures])
    return cosine_of(torch.from_numpy(made), through(model, torch.from_numpy(pictures)))


@pytest.mark.parametrize(
    ("runtime", "precision", "nearest"),
    [
        (Runtime.TORCH, Precision.BFLOAT16, 0.999),
        (Runtime.ONNX, Precision.FLOAT32, 0.999999),
        (Runtime.ONNX, Precision.INT8, 0.99),
        (Runtime.OPENVINO, Precision.INT8_STATIC, 0.98),
        (Runtime.OPENVINO, Precision.INT8_BFLOAT16, 0.98),
    ],
)
def test_every_precision_stays_near_the_plain_model(
    runtime: Runtime, precision: Precision, nearest: float, tiny_model: VisionTransformer, pictures: Array
) -> None:
    assert cosines(tiny_model, Options(runtime, precision), pictures[:12]).mean() > nearest


def test_a_bridge_wins_back_some_of_what_a_shortcut_costs(tiny_model: VisionTransformer, pictures: Array) -> None:
    fitted, held_out = pictures[::2], pictures[1::2]
    wanted = through(tiny_model, torch.from_numpy(held_out))
    made = [
        cosine_of(torch.from_numpy(build(tiny_model, Options(shortcuts=cuts), fitted).tower(held_out)), wanted).mean()
        for cuts in (Shortcuts(side=24, depth=3), Shortcuts(side=24, depth=3, is_bridged=True))
    ]
    assert made[1] > made[0] + 0.01


def test_plain_pictures_are_seen_small_and_busy_ones_whole(tiny_model: VisionTransformer, pictures: Array) -> None:
    options = Options(small_side=24, small_bits=2.5)
    tower = build(tiny_model, options, pictures).tower
    assert isinstance(tower, Routed)
    wall, noise = np.zeros((1, 3, 32, 32), np.float32), np.random.default_rng(0).normal(size=(1, 3, 32, 32))
    both = np.concatenate([wall, noise.astype(np.float32)])
    features = tower(both)
    assert tower.went_small == 1
    plain = through(tiny_model, torch.from_numpy(both)).numpy()
    assert np.abs(features[1] - plain[1]).max() < 1e-4
    assert np.abs(features[0] - plain[0]).max() > 1e-3


def test_in_a_cascade_who_is_sure_at_first_look_needs_no_second(tiny_model: VisionTransformer, pictures: Array) -> None:
    cascade = Options(Runtime.ONNX, shortcuts=Shortcuts(is_bridged=True), small_side=24, is_cascade=True)
    built = build(tiny_model, cascade, pictures, asked=Asked(0.85))
    assert isinstance(built.tower, Cascade)
    made = np.concatenate([built.tower(picture[None]) for picture in pictures])
    assert 0 < built.tower.went_small < len(pictures)
    wanted = through(tiny_model, torch.from_numpy(pictures))
    near = cosine_of(torch.from_numpy(made), wanted)
    assert (near > 0.999).sum() == len(pictures) - built.tower.went_small
    assert near[near <= 0.999].mean() > 0.85
    everybody = build(tiny_model, replace(cascade, small_sureness=-1.0), pictures)
    assert everybody.tower(pictures[:1]).shape == (1, 64, 192)
    with pytest.raises(InvalidValue, match="a cascade wants a small_side, and no pruning"):
        Options(is_cascade=True)


def test_how_many_are_seen_small_follows_the_fidelity_asked_for(tiny_model: VisionTransformer, pictures: Array) -> None:
    options = Options(small_side=24, shortcuts=Shortcuts(is_bridged=True))
    bits = [build(tiny_model, options, pictures, asked=Asked(wanted)).options.small_bits for wanted in (0.5, 0.97, 1.1)]
    assert bits[0] >= bits[1] >= bits[2]
    assert bits[0] > bits[2]


def test_a_graph_for_a_batch_makes_what_one_for_an_image_makes(tiny_model: VisionTransformer, pictures: Array) -> None:
    options = Options(Runtime.ONNX, shortcuts=Shortcuts(merge=6))
    one = build(tiny_model, options, pictures).tower
    four = build(tiny_model, options, pictures, batch=4).tower
    alone = np.concatenate([one(picture[None]) for picture in pictures[:4]])
    assert np.abs(four(pictures[:4]) - alone).max() < 1e-3


def test_what_needs_images_and_has_none_is_refused(tiny_model: VisionTransformer) -> None:
    for options in (
        Options(Runtime.OPENVINO, Precision.INT8_STATIC),
        Options(shortcuts=Shortcuts(is_bridged=True)),
        Options(small_side=24),
    ):
        with pytest.raises(InvalidValue, match="there are none"):
            build(tiny_model, options)


def test_what_a_runtime_has_no_kernels_for_is_refused() -> None:
    with pytest.raises(InvalidValue, match="onnx in bfloat16: on a CPU it has float32, int8, int8-static"):
        Options(Runtime.ONNX, Precision.BFLOAT16)
    with pytest.raises(InvalidValue, match="torch in int8"):
        Options(Runtime.TORCH, Precision.INT8)


def test_who_is_not_seen_small_may_still_leave_early(tiny_model: VisionTransformer, pictures: Array) -> None:
    cuts = Shortcuts(merge=4, is_bridged=True)
    options = Options(Runtime.ONNX, shortcuts=cuts, exits=(2,), exit_sureness=(-2.0,), small_side=24, small_bits=2.5)
    tower = build(tiny_model, options, pictures).tower
    assert isinstance(tower, Routed)
    assert isinstance(tower.main, Exiting)
    wall, noise = np.zeros((1, 3, 32, 32), np.float32), np.random.default_rng(0).normal(size=(1, 3, 32, 32))
    made = [tower(picture) for picture in (wall, noise.astype(np.float32))]
    assert [features.shape for features in made] == [(1, 64, 192)] * 2
    assert (tower.went_small, tower.main.left_at) == (1, [1, 0])
