"""Whatever a user calls an image, as the bytes of an image file: what its digest is taken of, and what a node decodes.

Files stay as they are. Pixels become an uncompressed BMP: 54 bytes of header and the values themselves, so the same
pixels have the same digest on every machine and with every version of every library, which no compressor promises.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import InvalidValue

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    ImageLike: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | NDArray[np.uint8] | PILImage
else:
    ImageLike: TypeAlias = Any

_BMP_HEADER = struct.Struct("<2sIHHI IiiHHIIiiII")
_BMP_PIXELS_PER_METRE = 2835  # 72 dpi; it means nothing here, and must be the same everywhere
_BMP_SIDE_MAX = 65_535


async def image_bytes(image: ImageLike) -> bytes:
    """The bytes of `image`: a file's bytes or its path, a PIL image, or uint8 pixels (H, W, 3) in RGB.

    InvalidValue for anything else; OSError when a file cannot be read.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return await asyncio.to_thread(Path(image).read_bytes)
    if isinstance(image, np.ndarray):
        return await asyncio.to_thread(bmp, image)
    pillow = sys.modules.get("PIL.Image")  # who has a PIL image has imported it
    if pillow is not None and isinstance(image, pillow.Image):
        return await asyncio.to_thread(lambda: bmp(_pixels(image)))
    raise InvalidValue(f"image of type {type(image).__name__}: expected bytes, a path, a PIL image or a uint8 array")


def bmp(pixels: NDArray[np.uint8]) -> bytes:
    """A BMP file of RGB `pixels`, uint8 (H, W, 3), 24 bits a pixel, the last row first as the format has it."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InvalidValue(f"pixels of {pixels.dtype} {pixels.shape}: expected uint8 (H, W, 3)")
    height, width, _ = pixels.shape
    if not (1 <= height <= _BMP_SIDE_MAX and 1 <= width <= _BMP_SIDE_MAX):
        raise InvalidValue(f"image of {width} × {height} pixels: expected 1 to {_BMP_SIDE_MAX} each way")
    row_bytes = -(-3 * width // 4) * 4
    rows = np.zeros((height, row_bytes), np.uint8)
    rows[:, : 3 * width] = pixels[::-1, :, ::-1].reshape(height, 3 * width)
    header = _BMP_HEADER.pack(
        b"BM", _BMP_HEADER.size + rows.nbytes, 0, 0, _BMP_HEADER.size,
        40, width, height, 1, 24, 0, rows.nbytes, _BMP_PIXELS_PER_METRE, _BMP_PIXELS_PER_METRE, 0, 0,
    )  # fmt: skip
    return header + rows.tobytes()


def _pixels(image: PILImage) -> NDArray[np.uint8]:
    """What a node would see in the file: upright, alpha over white, sixteen bits of grey as eight."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        grey = np.asarray(upright).astype(np.uint32)
        upright = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if upright.has_transparency_data:
        seen = upright.convert("RGBA")
        page = Image.new("RGB", seen.size, (255, 255, 255))
        page.paste(seen, mask=seen)
        upright = page
    return np.asarray(upright.convert("RGB"))


assert _BMP_HEADER.size == 54
