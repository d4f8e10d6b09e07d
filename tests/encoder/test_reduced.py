"""Every shortcut keeps the features' shape, takes nothing when it asks for nothing, and exports as it computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from edgecache.encoder.export import check, exported
from edgecache.encoder.reduced import ReducedVit
from edgecache.encoder.runtimes import Runtime, open_graph
from edgecache.encoder.shortcuts import Shortcuts
from edgecache.encoder.vit import VisionTransformer, VitShape
from edgecache.protocol.errors import InvalidValue

PLAIN = VitShape(stem=(), dim=24, depth=4, heads=3, class_tokens=1, registers=2, classes=0)
SHAPES = [PLAIN, replace(PLAIN, class_tokens=0, registers=0, stem=(4, 6, 8))]
SHORTCUTS = [
    Shortcuts(merge=5),
    Shortcuts(merge=32),
    Shortcuts(side=16),
    Shortcuts(side=24, merge=4),
    Shortcuts(prune=(1, 0.75, 0.5, 0.25)),
    Shortcuts(prune=(0.5,), prune_by="norm"),
    Shortcuts(skip=(1, 2)),
    Shortcuts(depth=2, skip=(0,)),
    Shortcuts(side=16, prune=(0.75, 0.5), skip=(1,)),
]


def made(shape: VitShape) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(shape).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_without_shortcuts_it_is_the_plain_model(shape: VitShape) -> None:
    model, pixels = made(shape), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        for nothing in (Shortcuts(), Shortcuts(side=32, depth=4), Shortcuts(prune=(1.0,))):
            assert torch.equal(ReducedVit(model, nothing)(pixels), model(pixels))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shortcuts", SHORTCUTS, ids=str)
def test_features_keep_their_shape_and_export(shape: VitShape, shortcuts: Shortcuts) -> None:
    model, pixels = made(shape), torch.randn(2, 3, 32, 32)
    reduced = ReducedVit(model, shortcuts).eval()
    reduced.bridge = torch.nn.Linear(24, 24)
    with torch.inference_mode():
        both, one = reduced(pixels), reduced(pixels[1:])
    assert both.shape == (2, 64 + shape.extra_tokens, 24)
    assert torch.allclose(both[1:], one, atol=1e-5)  # what one image leaves out does not depend on its neighbour
    graph = open_graph(Runtime.ONNX, exported(reduced, [pixels[:1]], ["features"]), 1)
    check(reduced, graph, [pixels[1:].numpy()])


def test_equal_tokens_are_merged_without_loss() -> None:
    model = made(replace(PLAIN, registers=0))
    with torch.no_grad():
        model.position.zero_()
    pixels = torch.ones(1, 3, 32, 32)  # every patch is the same
    with torch.inference_mode():
        assert torch.allclose(ReducedVit(model, Shortcuts(merge=15))(pixels), model(pixels), atol=1e-5)


def test_what_is_set_aside_keeps_what_it_was() -> None:
    model, pixels = made(PLAIN), torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        after_one = ReducedVit(model, Shortcuts(depth=1))(pixels)
        pruned = ReducedVit(model, Shortcuts(prune=(0.5,)))(pixels)
    same = (pruned - after_one).abs().amax(dim=2)[0] < 1e-6
    assert int(same.sum()) == 32
    assert not same[:3].any()  # class tokens and registers go on


@pytest.mark.parametrize(
    ("shortcuts", "says"),
    [
        (Shortcuts(side=30), "side 30: expected a multiple of 4, at most 32"),
        (Shortcuts(side=36), "side 36"),
        (Shortcuts(depth=5), "depth 5: the model has 4 blocks"),
        (Shortcuts(skip=(4,)), "blocks are 0 to 3"),
        (Shortcuts(merge=33), "merge 33: expected 0 to 32"),
        (Shortcuts(prune=(0.5, 0.75)), "expected shares from 1 down"),
        (Shortcuts(prune=(0.5,), prune_by="luck"), "expected attention or norm"),
        (Shortcuts(prune=(0.5,), merge=1), "one of them"),
    ],
)
def test_what_a_model_cannot_leave_out_is_refused(shortcuts: Shortcuts, says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        ReducedVit(made(PLAIN), shortcuts)
