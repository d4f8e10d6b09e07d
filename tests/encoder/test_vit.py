"""The model's shapes, with and without a stem, at its own size and at others."""

from __future__ import annotations

import pytest
import torch
from edgecache.encoder.vit import VisionTransformer, VitShape

SMALL = VitShape(stem=(4, 6, 8), dim=24, depth=2)
PLAIN = VitShape(stem=(), dim=24, depth=2)


@pytest.mark.parametrize("shape", [SMALL, PLAIN])
@pytest.mark.parametrize(("height", "width", "tokens"), [(32, 32, 64), (24, 24, 36), (16, 48, 48)])
def test_pixels_become_a_token_per_patch(shape: VitShape, height: int, width: int, tokens: int) -> None:
    model = VisionTransformer(shape).eval()
    made = model(torch.zeros(3, 3, height, width))
    assert made.shape == (3, tokens, shape.dim)
    assert model.classify(made).shape == (3, shape.classes)


@pytest.mark.parametrize("shape", [SMALL, PLAIN])
def test_a_model_set_to_another_side_makes_what_it_made_of_such_pictures(shape: VitShape) -> None:
    model, pixels = VisionTransformer(shape).eval(), torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        before = model(pixels)
        model.set_side(48)
        assert torch.equal(model(pixels), before)
    assert model.shape.grid_side == 12
    assert model.position.shape[-1] == 12


def test_tokens_go_row_by_row_from_the_top_left() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(VitShape(stem=(), dim=24, depth=0)).eval()  # no attention: a patch moves its own token
    blank, marked = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    marked[:, :, 4:8, 12:16] = 1.0  # second row, fourth column of patches
    changed = (model(blank) != model(marked)).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [8 + 3]


def test_the_bundled_shape_has_two_to_four_million_weights() -> None:
    count = sum(weight.numel() for weight in VisionTransformer(VitShape()).parameters())
    assert 2_000_000 < count < 4_000_000
