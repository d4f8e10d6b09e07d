"""What users call images becomes the bytes that digests are taken of: always the same for the same pixels."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgecache.node.image_bytes import bmp, image_bytes
from edgecache.protocol.errors import InvalidValue
from numpy.typing import NDArray

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def pixels(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 4), (7, 2), (33, 17)])
def test_a_bmp_holds_exactly_the_pixels(height: int, width: int) -> None:
    array = pixels(height, width)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(bmp(array)))), array)


def test_the_same_pixels_have_the_same_digest_everywhere() -> None:
    array = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    expected = "f0bd6fa7081ae0c64f15f8c02eb31a24733a5a5b6cd93d3c2ca0b5f96e485cce"
    assert sha256(bmp(array)).hexdigest() == expected
    assert bmp(np.asfortranarray(array)) == bmp(array[::-1][::-1]) == bmp(array)


async def test_files_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"any bytes")
    for image in (b"any bytes", bytearray(b"any bytes"), memoryview(b"any bytes"), path, str(path)):
        assert await image_bytes(image) == b"any bytes"


async def test_a_pil_image_is_its_pixels() -> None:
    array = pixels(6, 5)
    assert await image_bytes(Image.fromarray(array)) == await image_bytes(array)


async def test_a_pil_image_is_seen_as_a_node_sees_the_file() -> None:
    """Upright as its camera held it, alpha over white, sixteen bits of grey as eight."""
    array = pixels(2, 3)
    turned = Image.fromarray(array)
    turned.getexif()[0x0112] = 3
    assert await image_bytes(turned) == bmp(array[::-1, ::-1])
    assert await image_bytes(Image.new("RGBA", (2, 1), (9, 9, 9, 0))) == bmp(np.full((1, 2, 3), 255, np.uint8))
    assert await image_bytes(Image.new("L", (2, 1), 7)) == bmp(np.full((1, 2, 3), 7, np.uint8))
    deep = Image.fromarray(np.full((1, 2), 257 * 7, np.uint16))
    assert await image_bytes(deep) == bmp(np.full((1, 2, 3), 7, np.uint8))


@pytest.mark.parametrize(
    "image",
    [7, None, [1, 2], np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3), np.float32),
     np.zeros((0, 2, 3), np.uint8), np.zeros((1, 70_000, 3), np.uint8)],
    ids=lambda image: str(getattr(image, "shape", image)),
)  # fmt: skip
async def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(InvalidValue, match="expected"):
        await image_bytes(image)
