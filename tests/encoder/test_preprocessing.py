"""A picture is scaled, cropped and normalised as its model expects, whatever its proportions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgecache.encoder.preprocessing import Preprocessing, prepared
from PIL import Image

PLAIN = Preprocessing(height=8, width=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), shorter_side=8)


def picture(width: int, height: int) -> Image.Image:
    chance = np.random.default_rng(0)
    return Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_picture_of_the_right_size_is_only_normalised() -> None:
    original = picture(8, 8)
    made = prepared(original, replace(PLAIN, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0)))
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    expected = (np.asarray(original) / 255 - [0.5, 0.25, 0.0]) / [0.5, 1.0, 2.0]
    assert np.allclose(made, expected.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (33, 21), (100, 9), (16, 16), (5, 7)])
def test_scaling_and_cropping_at_once_is_scaling_first_and_cropping_then(width: int, height: int) -> None:
    original, shorter = picture(width, height), min(width, height)
    scaled = original.resize((10 * width // shorter, 10 * height // shorter), Image.Resampling.BICUBIC)
    left, top = (scaled.width - 8) // 2, (scaled.height - 8) // 2
    cropped = np.asarray(scaled.crop((left, top, left + 8, top + 8))).transpose(2, 0, 1) / 255
    assert np.abs(prepared(original, replace(PLAIN, shorter_side=10)) - cropped).max() <= 1.01 / 255


def test_without_a_shorter_side_the_whole_picture_is_squeezed_in() -> None:
    original = picture(30, 10)
    squeezed = np.asarray(original.resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    assert np.allclose(prepared(original, replace(PLAIN, shorter_side=None)), squeezed, atol=1e-6)


def test_the_thinnest_picture_costs_no_more_than_another() -> None:
    # Scaled whole until its shorter side is 8 pixels, it would have 64 million.
    assert prepared(Image.new("RGB", (1_000_000, 1)), PLAIN).shape == (3, 8, 8)
    assert prepared(Image.new("RGB", (1, 1)), PLAIN).shape == (3, 8, 8)


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, shorter_side=9),
        replace(PLAIN, shorter_side=None),
        replace(PLAIN, height=9),
        replace(PLAIN, mean=(0.0, 0.0, 0.1)),
        replace(PLAIN, std=(1.0, 1.0, 1.1)),
        replace(PLAIN, resample=2),
        replace(PLAIN, scale=1.0),
    ],
)
def test_every_setting_is_in_the_description(other: Preprocessing) -> None:
    assert other.describe() != PLAIN.describe()
