"""Images to encode: square cut-outs of photographs, and for each one that could be the next frame of a video."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BUNDLED = Path(__file__).parents[2] / "docs" / "photos"
PER_PHOTOGRAPH = 12
SIDE = 256

Pixels = NDArray[np.uint8]  # (SIDE, SIDE, 3)


def photographs(directory: Path) -> list[Pixels]:
    """PER_PHOTOGRAPH cut-outs of each photograph in `directory`, a few pixels narrower than it to half its width."""
    chance, cut = np.random.default_rng(0), []
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            continue
        with Image.open(path) as image:
            whole = image.convert("RGB")
        for _ in range(PER_PHOTOGRAPH):
            side = int(min(whole.size) * chance.uniform(0.5, 0.95))
            left, top = (int(chance.integers(0, length - side)) for length in whole.size)
            tile = whole.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            cut.append(np.asarray(tile))
    assert cut, f"no photographs in {directory}"
    return cut


def png(pixels: Pixels) -> bytes:
    """The image file that decodes to exactly these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _noise(pixels: Pixels) -> Pixels:
    grain = np.random.default_rng(1).normal(0, 2, pixels.shape)
    return (pixels + grain).round().clip(0, 255).astype(np.uint8)


def _object(pixels: Pixels) -> Pixels:
    moved = pixels.copy()
    moved[40:72, 48:80] = pixels[120:152, 128:160]  # 1/64 of the picture
    return moved


def _pan(pixels: Pixels) -> Pixels:
    return np.roll(pixels, 4, axis=1)


NEXT_FRAME: dict[str, Callable[[Pixels], Pixels]] = {
    "the same again, noise of a deviation of 2 of 255": _noise,
    "an object on 1/64 of the picture": _object,
    "the camera turns by 1/64 of the picture": _pan,
}
