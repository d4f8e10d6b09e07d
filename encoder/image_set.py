"""Real images to measure on: a directory of files, of folders of files (a folder's name is a label), or an npz."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..protocol.errors import ImageError, InvalidValue
from .images import decoded
from .preprocessing import Preprocessing, prepared

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Prepared pictures, float32 (images, 3, height, width), and their classes where those are known."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    unreadable: int = 0
    """Files that look like images and are none."""

    @classmethod
    def read(cls, path: Path, how: Preprocessing, count_max: int, part: str = "test") -> ImageSet:
        """At most `count_max` pictures, spread evenly over what there is; InvalidValue if there is none.

        Of an npz the `part`: PART_jpeg (all bytes), PART_off (image i is bytes off[i] to off[i + 1]), PART_y (labels).
        """
        if count_max < 1:
            raise InvalidValue(f"{count_max} images, at least 1")
        files, labels = read_files(path, count_max, part)
        pictures, kept = [], []
        for index, data in enumerate(files):
            try:
                pictures.append(prepared(decoded(data, how.side_min), how))
                kept.append(index)
            except ImageError:
                continue
        if not pictures:
            raise InvalidValue(f"no image of {', '.join(SUFFIXES)} in {path} can be read")
        return cls(np.stack(pictures), labels[kept] if labels is not None else None, len(files) - len(kept))

    def split(self, count: int) -> tuple[ImageSet, ImageSet]:
        """The pictures at `count` even places, and the others: what is fitted is not measured on the same."""
        chosen = np.zeros(len(self.pixels), bool)
        chosen[_spread(len(self.pixels), count)] = True
        return tuple(  # type: ignore[return-value]
            ImageSet(self.pixels[mask], None if self.labels is None else self.labels[mask])
            for mask in (chosen, ~chosen)
        )


def read_files(path: Path, count_max: int, part: str = "test") -> tuple[list[bytes], NDArray[np.int64] | None]:
    """At most `count_max` image files as they are, spread evenly, and their classes where known; InvalidValue."""
    return _of_npz(path, part, count_max) if path.suffix == ".npz" else _of_directory(path, count_max)


def _of_directory(path: Path, count_max: int) -> tuple[list[bytes], NDArray[np.int64] | None]:
    if not path.is_dir():
        raise InvalidValue(f"{path} is neither a directory of images nor an npz")
    paths = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    paths = [paths[index] for index in _spread(len(paths), count_max)]
    folders = sorted({file.parent for file in paths})
    # One folder is a heap; several, none of which holds another, are classes.
    is_labelled = len(folders) > 1 and path not in folders
    labels = np.array([folders.index(file.parent) for file in paths]) if is_labelled else None
    return [file.read_bytes() for file in paths], labels


def _of_npz(path: Path, part: str, count_max: int) -> tuple[list[bytes], NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            data, offsets, labels = arrays[f"{part}_jpeg"], arrays[f"{part}_off"], arrays[f"{part}_y"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidValue(f"{path} cannot be read as an npz of images: {error}") from error
    places = list(pairwise(offsets))
    chosen = _spread(len(places), count_max)
    files = [data[places[index][0] : places[index][1]].tobytes() for index in chosen]
    return files, labels[chosen].astype(np.int64)


def _spread(there: int, wanted: int) -> list[int]:
    """`wanted` places, evenly over `there`."""
    wanted = min(there, wanted)
    return [index * there // wanted for index in range(wanted)]
