"""What becomes of an image file: the right pixels, or an error that says what is wrong with it."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from edgecache.encoder.images import PIXELS_MAX, decoded
from edgecache.protocol.errors import ImageTooLarge, UndecodableImage, UnsupportedImage
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def saved(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    picture = decoded(data)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises that many pixels, and that holds next to none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_come_back_as_they_went(format: str) -> None:
    original = noise(6, 9)
    assert np.array_equal(pixels_of(saved(Image.fromarray(original), format, lossless=True)), original)


def test_a_jpeg_comes_back_nearly_as_it_went() -> None:
    smooth = Image.fromarray(noise(4, 4)).resize((64, 64), Image.Resampling.BICUBIC)
    error = np.asarray(smooth).astype(int) - pixels_of(saved(smooth, "JPEG", quality=95))
    assert abs(error).mean() < 4


def test_one_pixel_is_a_picture() -> None:
    assert pixels_of(saved(Image.new("RGB", (1, 1), RED))).tolist() == [[list(RED)]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation: int) -> None:
    upright = noise(4, 6)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels_of(saved(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_orientation_that_does_not_exist_and_broken_exif_change_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    original = noise(4, 6)
    assert np.array_equal(pixels_of(saved(Image.fromarray(original), exif=exif)), original)
    assert np.array_equal(pixels_of(saved(Image.fromarray(original), exif=b"Exif\0\0MM\0*garbage")), original)


def test_grey_becomes_three_equal_channels() -> None:
    grey = noise(3, 5, 1)[:, :, 0]
    assert np.array_equal(pixels_of(saved(Image.fromarray(grey))), np.stack([grey] * 3, axis=2))


def test_black_and_white_becomes_0_and_255() -> None:
    assert pixels_of(saved(Image.new("1", (2, 1), 1))).tolist() == [[[255] * 3] * 2]


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.array([[0, 257, 128 * 257, 0xFFFF]], dtype=np.uint16)
    assert pixels_of(saved(Image.fromarray(ramp)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_palette_is_looked_up() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *BLUE])
    picture.putpixel((1, 0), 1)
    assert pixels_of(saved(picture)).tolist() == [[list(RED), list(BLUE)]]


def test_cmyk_becomes_the_colour_it_prints() -> None:
    red = pixels_of(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))[8, 8]
    assert red[0] > 240
    assert red[1] < 15
    assert red[2] < 15


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_what_is_see_through_shows_white(format: str) -> None:
    alpha = Image.new("RGBA", (3, 1))
    for column, opacity in enumerate((0, 128, 255)):
        alpha.putpixel((column, 0), (*RED, opacity))
    clear, half, solid = pixels_of(saved(alpha, format, lossless=True, exact=True))[0].tolist()
    assert (clear, solid) == (list(WHITE), list(RED))
    assert half == [255, 127, 127]


def test_grey_with_alpha_and_a_transparent_palette_show_white_too() -> None:
    grey_with_alpha = Image.new("LA", (1, 1), (0, 0))
    assert pixels_of(saved(grey_with_alpha)).tolist() == [[list(WHITE)]]
    palette = Image.new("P", (1, 1))
    palette.putpalette(RED)
    assert pixels_of(saved(palette, transparency=0)).tolist() == [[list(WHITE)]]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    animation = saved(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert (pixels_of(animation) == RED).all()


@pytest.mark.parametrize("format", ["GIF", "TIFF", "JPEG2000", "ICO"])
def test_other_formats_are_refused_by_name(format: str) -> None:
    with pytest.raises(UnsupportedImage, match="expected JPEG, PNG, WEBP, BMP"):
        decoded(saved(Image.new("RGB", (16, 16)), format))


@pytest.mark.parametrize(
    "garbage", [b"", b"\0", b"junk", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF\0\0\0\0WEBP"]
)
def test_garbage_is_undecodable(garbage: bytes) -> None:
    with pytest.raises(UndecodableImage, match=f"image of {len(garbage)} bytes"):
        decoded(garbage)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_truncated_image_is_undecodable_wherever_it_ends(format: str) -> None:
    whole = saved(Image.fromarray(noise(24, 24)), format)
    for end in range(0, len(whole) * 3 // 4, 7):
        with pytest.raises(UndecodableImage):
            decoded(whole[:end])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_damaged_image_is_decoded_or_refused_and_nothing_else(format: str) -> None:
    chance = np.random.default_rng(2)
    whole = np.frombuffer(saved(Image.fromarray(noise(24, 24)), format), np.uint8)
    for _ in range(200):
        damaged = whole.copy()
        damaged[chance.integers(0, len(whole), 3)] = chance.integers(0, 256, 3)
        with suppress(UndecodableImage, UnsupportedImage, ImageTooLarge):
            decoded(damaged.tobytes())


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (PIXELS_MAX + 1, 1), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    with pytest.raises(ImageTooLarge, match=f"{width * height} pixels, at most {PIXELS_MAX}"):
        decoded(png_claiming(width, height))


@pytest.mark.parametrize("pieces", [1, 80])
def test_a_bomb_of_text_is_refused_by_its_size(pieces: int) -> None:
    text = PngImagePlugin.PngInfo()
    for piece in range(pieces):
        text.add_text(f"piece {piece}", "y" * (5_000_000 if pieces == 1 else 1_000_000), zip=True)
    with pytest.raises(ImageTooLarge, match="its text unpacks to more than 1048576 bytes a piece or 67108864 in all"):
        decoded(saved(Image.new("RGB", (8, 8)), pnginfo=text))


@pytest.mark.parametrize(
    ("size", "side_min", "expected"),
    [
        ((1024, 768), None, (1024, 768)),
        ((1024, 768), 32, (128, 96)),
        ((1024, 768), 33, (256, 192)),
        ((1024, 768), 300, (1024, 768)),
        ((1020, 768), 32, (255, 192)),  # no eighth of 1020
        ((1023, 767), 32, (1023, 767)),
    ],
)
def test_a_jpeg_may_come_smaller_but_never_too_small(
    size: tuple[int, int], side_min: int | None, expected: tuple[int, int]
) -> None:
    assert decoded(saved(Image.new("RGB", size, RED), "JPEG"), side_min).size == expected


def test_a_jpeg_that_comes_smaller_shows_the_same() -> None:
    smooth = Image.fromarray(noise(6, 8)).resize((1600, 1200), Image.Resampling.BICUBIC)
    file = saved(smooth, "JPEG", quality=95)
    whole, small = (np.asarray(decoded(file, side).resize((40, 30))).astype(int) for side in (None, 32))
    assert abs(whole - small).max() <= 3
