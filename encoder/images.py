"""An image file's bytes to an upright RGB picture, within limits that hold before a pixel is allocated."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..protocol.errors import ImageTooLarge, UndecodableImage, UnsupportedImage

# 64 megapixels pass every camera's photograph and take 192 MB as RGB, which a small device can just afford once.
PIXELS_MAX = 64 << 20

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# What is see-through shows white: most pictures with alpha are made for white pages, and black would drown dark
# drawings. Models never see alpha, so some colour has to be chosen, the same on every node.
BEHIND_ALPHA = (255, 255, 255)


def decoded(data: bytes) -> Image.Image:
    """The picture in a JPEG, PNG, WebP or BMP file: RGB, upright, alpha over white; of an animation, the first frame.

    Raises UnsupportedImage for another format, ImageTooLarge past PIXELS_MAX and UndecodableImage for what is damaged.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of a bomb at 89 megapixels of its own; the limit here is lower, and an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _refuse_too_large(picture)
                picture.load()
                return _rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"image of {error}, at most {PIXELS_MAX} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise UndecodableImage(f"image of {len(data)} bytes cannot be decoded: {error}") from error


def _refuse_too_large(picture: Image.Image) -> None:
    pixels = picture.width * picture.height
    if pixels > PIXELS_MAX:
        raise ImageTooLarge(f"image of {picture.width} × {picture.height} = {pixels} pixels, at most {PIXELS_MAX}")


def _unidentified(data: bytes) -> UnsupportedImage | UndecodableImage:
    raise UnsupportedImage(f"image of {len(data)} bytes is none of {', '.join(FORMATS)}")


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey: "I;16" or, from older files, "I"
        # Pillow's own conversion clips at 255, which turns all but the darkest pixels white.
        grey = np.asarray(picture).astype(np.uint32)
        return Image.fromarray((grey >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, BEHIND_ALPHA), seen).convert("RGB")
    return picture.convert("RGB")
