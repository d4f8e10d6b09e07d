"""Fewer weights as options: on every runtime, near the plain model, smaller, and refused where they do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from edgecache.encoder import candidates
from edgecache.encoder.build import build, through
from edgecache.encoder.depth.exits import cosine_of
from edgecache.encoder.options import Options
from edgecache.encoder.runtimes import Array, Runtime
from edgecache.encoder.shortcuts import Shortcuts, Slim
from edgecache.encoder.vit import SWIGLU, VisionTransformer, VitShape
from edgecache.encoder.weights.slim import slim
from edgecache.protocol.errors import InvalidValue

ON_ONNX = Options(Runtime.ONNX, shortcuts=Shortcuts(is_bridged=True))


@pytest.mark.parametrize(
    ("what", "nearest"),
    [(Slim(channels=0.75), 0.95), (Slim(rank=0.75), 0.7), (Slim(heads=2 / 3), 0.6), (Slim(kernels=(1,)), 0.8)],
)
def test_a_slim_model_runs_without_torch_and_stays_near(
    what: Slim, nearest: float, tiny_model: VisionTransformer, pictures: Array
) -> None:
    built = build(tiny_model, replace(ON_ONNX, slim=what), pictures)
    made = np.concatenate([built.tower(picture[None]) for picture in pictures[:8]])
    wanted = through(tiny_model, torch.from_numpy(pictures[:8]))
    assert nearest < float(cosine_of(torch.from_numpy(made), wanted).mean()) < 0.99999


def test_what_is_cut_is_gone(tiny_model: VisionTransformer, pictures: Array) -> None:
    pixels = torch.from_numpy(pictures)
    cut = slim(tiny_model, Slim(heads=2 / 3, channels=0.5, rank=0.5), pixels)
    weights = [sum(weight.numel() for weight in model.blocks.parameters()) for model in (cut, tiny_model)]
    assert weights[0] < 0.45 * weights[1]
    assert slim(tiny_model, Slim(), pixels) is tiny_model


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(slim=Slim(channels=0.0)), "channels 0: expected a share above 0, at most 1"),
        (Options(slim=Slim(rank=1.5)), "rank 1.5: expected a share above 0, at most 1"),
        (Options(slim=Slim(kernels=(7,))), r"kernels \(7,\): blocks are 0 to 3"),
        (Options(slim=Slim(kernels=(1,), heads=0.5)), "kernels .* and heads 0.5: one of them"),
        (Options(slim=Slim(kernels=(1,)), shortcuts=Shortcuts(merge=4)), "kernels .* with fewer tokens"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: Options, says: str, tiny_model: VisionTransformer, pictures: Array
) -> None:
    with pytest.raises(InvalidValue, match=says):
        build(tiny_model, options, pictures)
    with pytest.raises(InvalidValue, match=r"small_side 24 and kernels"):
        Options(slim=Slim(kernels=(1,)), small_side=24)


def test_gated_perceptrons_have_no_channels_to_cut(pictures: Array) -> None:
    gated = VisionTransformer(VitShape(activation=SWIGLU))
    with pytest.raises(InvalidValue, match="this model's are gated"):
        slim(gated, Slim(channels=0.5), torch.from_numpy(pictures))
    offered = candidates.slims(gated.shape, [0, 1, 2, 3])
    assert all(what.channels == what.rank == 1 for what in offered)


def test_options_from_before_there_were_slim_models_keep_their_identity() -> None:
    assert b"slim" not in Options().canonical()
    assert Options(slim=Slim(heads=0.5)).canonical() != Options(slim=Slim(channels=0.5)).canonical()
    assert not Options(slim=Slim(heads=0.5)).is_whole


def test_a_tuner_tries_slim_models_of_every_kind() -> None:
    tried = [options.slim for options in candidates.shortcuts_alone(VitShape(), [3, 2, 1, 0])]
    for field in ("heads", "channels", "rank", "kernels"):
        assert any(getattr(what, field) != getattr(Slim(), field) for what in tried)
    together = candidates.combinations(VitShape())
    assert any(options.shortcuts.merge and options.slim != Slim() for options in together)
    assert any(options.exits and options.small_side for options in together)
