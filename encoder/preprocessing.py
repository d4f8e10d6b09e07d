"""Upright RGB pictures to what a model takes: one scaled, cropped, normalised float array per picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ..protocol.errors import InvalidValue

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_NORMED = ("image_mean", "image_std")
BICUBIC = 3  # Pillow's number for it, which is also the one in a Hugging Face preprocessor configuration


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How pixels become a model's input. Two models that differ here give different features for one picture."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    shorter_side: int | None = None
    """Scale the shorter side to this and cut the middle out; None squeezes the whole picture into the frame."""
    resample: int = BICUBIC
    scale: float = 1 / 255

    @property
    def side_min(self) -> int:
        """No side of a picture needs more pixels than this."""
        return self.shorter_side or max(self.height, self.width)

    def describe(self) -> str:
        """One line of text that changes whenever the result may: part of an encoder's fingerprint."""
        return msgspec.json.encode({"decoding": DECODING_REVISION, **asdict(self)}).decode()


# Raise it with every change to images.py or to this file that changes what a model is given for some picture: features
# made before and after must not answer for each other.
DECODING_REVISION = 1


def preprocessing_of(config: dict[str, Any]) -> Preprocessing:
    """What a Hugging Face image processor's configuration asks for; InvalidValue when it leaves something open."""
    missing = [name for name in ("size", "resample", *_NORMED) if name not in config]
    if not config.get("do_normalize", True):
        missing = [name for name in missing if name not in _NORMED]
    if missing:
        raise InvalidValue(f"its image processor does not say {', '.join(missing)}")
    height, width, shorter_side = _frame_of(config)
    is_normed = config.get("do_normalize", True)
    red, green, blue = config["image_mean"] if is_normed else (0.0, 0.0, 0.0)
    red_std, green_std, blue_std = config["image_std"] if is_normed else (1.0, 1.0, 1.0)
    return Preprocessing(
        height,
        width,
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        shorter_side=shorter_side,
        resample=int(config["resample"]),
        scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
    )


def _frame_of(config: dict[str, Any]) -> tuple[int, int, int | None]:
    """Height, width and shorter side, as Preprocessing has them."""
    crop = _sides(config.get("crop_size"), "height") if config.get("do_center_crop") else None
    size = _sides(config.get("size"), "height" if crop is None else "shortest_edge")
    if config.get("do_resize", True):
        if crop is None and set(size) == {"height", "width"}:
            return size["height"], size["width"], None
        if crop is not None and set(size) == {"shortest_edge"} and max(crop.values()) <= size["shortest_edge"]:
            return crop["height"], crop["width"], size["shortest_edge"]
    raise InvalidValue(
        f"its image processor asks for size {size} and crop {crop}: expected a height and width, "
        "or a shortest edge and a crop that fits into it"
    )


def _sides(value: Any, of_one: str) -> dict[str, int]:
    """A size by the names of its sides. Older configurations have one number, which means what `of_one` says."""
    if isinstance(value, int):
        return {"height": value, "width": value} if of_one == "height" else {of_one: value}
    return dict(value or {})


def prepared(picture: Image, how: Preprocessing) -> NDArray[np.float32]:
    """The model's input for an RGB picture: float32 (3, height, width)."""
    # Scaling and cropping are one step: a picture of 1 × 64,000,000 pixels, scaled whole until its shorter side is
    # 32, would have 65 billion.
    scaled = picture.resize((how.width, how.height), how.resample, box=_seen(picture.width, picture.height, how))
    pixels = np.asarray(scaled, dtype=np.float32)  # (height, width, 3)
    normed = (pixels * np.float32(how.scale) - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
    return np.ascontiguousarray(normed.transpose(2, 0, 1))


def _seen(width: int, height: int, how: Preprocessing) -> tuple[float, float, float, float]:
    """The part of a picture that the model sees: left, top, right, bottom, in the picture's own pixels."""
    if how.shorter_side is None:
        return (0, 0, width, height)
    # The longer side is rounded down and the crop starts on a whole pixel, as when one scales first and crops then.
    shorter = min(width, height)
    scaled_width = how.shorter_side * width // shorter
    scaled_height = how.shorter_side * height // shorter
    left, top = (scaled_width - how.width) // 2, (scaled_height - how.height) // 2
    across, down = width / scaled_width, height / scaled_height
    return (left * across, top * down, (left + how.width) * across, (top + how.height) * down)
