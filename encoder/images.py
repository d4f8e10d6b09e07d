"""An image file's bytes to an upright RGB picture, within limits that hold before a pixel is allocated."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.Image import Transpose

from ..protocol.errors import ImageTooLarge, UndecodableImage, UnsupportedImage

# 64 megapixels pass nearly every camera's photograph and take 192 MB as RGB, which a small device can just afford once.
PIXELS_MAX = 64_000_000
# Pillow's own limit is higher and would speak first, of a number that is not ours.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# What is see-through shows white: most pictures with alpha are made for white pages, and black would drown dark
# drawings. Models never see alpha, so some colour has to be chosen, the same on every node.
BEHIND_ALPHA = (255, 255, 255)

# A JPEG may be decoded at an eighth, a quarter or half of its size, as long as that is still three times what is
# needed: then the rest of the scaling is left to the same filter as always, and on six photographs no pixel of the
# result differed by more than 4 of 255 levels. One of 12 megapixels takes 11 ms instead of 70. Only where both sides
# can be divided, as cameras' can: elsewhere the last row is part padding, and the picture would be stretched.
DRAFT_MARGIN = 3
_DRAFT_SCALES = (8, 4, 2)

# 16 bits to 8, rounded. Pillow's own conversion clips at 255, which turns all but the darkest pixels white.
_EIGHT_BITS = ((np.arange(1 << 16) + 128) // 257).astype(np.uint8)

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation: what turns it upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# Enough to tell "we do not read this" from "this is damaged"; Pillow's other decoders never see a stranger's bytes.
_OTHER_FORMATS = {
    "GIF": (0, b"GIF8"),
    "TIFF": (0, b"II*\0"),
    "TIFF (big-endian)": (0, b"MM\0*"),
    "HEIF, AVIF or video": (4, b"ftyp"),
    "JPEG XL": (0, b"\xff\x0a"),
    "JPEG XL (container)": (4, b"JXL "),
    "JPEG 2000": (4, b"jP  "),
    "PDF": (0, b"%PDF"),
    "SVG": (0, b"<svg"),
    "XML": (0, b"<?xml"),
    "Photoshop": (0, b"8BPS"),
    "an icon": (0, b"\0\0\1\0"),
}


def decoded(data: bytes, side_min: int | None = None) -> Image.Image:
    """The picture in a JPEG, PNG, WebP or BMP file: RGB, upright, alpha over white; of an animation, the first frame.

    With `side_min`, a JPEG may come smaller than it is, though with no side under DRAFT_MARGIN × `side_min`.
    Raises UnsupportedImage for another format, ImageTooLarge past PIXELS_MAX and UndecodableImage for what is damaged.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header, allocates nothing
        pixels = picture.width * picture.height
        if pixels > PIXELS_MAX:
            raise ImageTooLarge(f"image of {picture.width} × {picture.height} = {pixels} pixels, at most {PIXELS_MAX}")
        if side_min is not None:
            _draft(picture, side_min)
        picture.load()
        return _upright(picture, _rgb(picture))
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, OverflowError, EOFError, struct.error) as error:
        if isinstance(error, ValueError) and "text chunk" in str(error).replace("_", " ").lower():  # Pillow has no type
            raise ImageTooLarge(
                f"image of {len(data)} bytes: its text unpacks to more than "
                f"{PngImagePlugin.MAX_TEXT_CHUNK} bytes a piece or {PngImagePlugin.MAX_TEXT_MEMORY} in all"
            ) from error
        raise UndecodableImage(f"image of {len(data)} bytes cannot be decoded: {error}") from error


def _draft(picture: Image.Image, side_min: int) -> None:
    width, height = picture.size
    for scale in _DRAFT_SCALES:
        if width % scale == height % scale == 0 and min(width, height) >= scale * DRAFT_MARGIN * side_min:
            picture.draft(None, (width // scale, height // scale))
            return


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    if picture.mode.startswith("I"):  # 16 bits of grey
        return Image.fromarray(_EIGHT_BITS[np.asarray(picture)]).convert("RGB")
    if picture.has_transparency_data:
        seen = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        page = Image.new("RGB", seen.size, BEHIND_ALPHA)
        page.paste(seen, mask=seen)
        return page
    return picture.convert("RGB")  # black and white, grey, palette, CMYK


def _upright(picture: Image.Image, rgb: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a camera's broken metadata does not make its picture worse
        return rgb
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _unidentified(data: bytes) -> UnsupportedImage | UndecodableImage:
    for name, (start, magic) in _OTHER_FORMATS.items():
        if data[start : start + len(magic)] == magic:
            return UnsupportedImage(f"image of {len(data)} bytes looks like {name}, expected {', '.join(FORMATS)}")
    return UndecodableImage(f"image of {len(data)} bytes is no {', '.join(FORMATS)} that can be read")
