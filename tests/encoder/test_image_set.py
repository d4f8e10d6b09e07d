"""Which pictures are measured on, and which labels they have."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from edgecache.encoder.image_set import ImageSet
from edgecache.encoder.spec import TINY_PREPROCESSING
from edgecache.protocol.errors import InvalidValue
from PIL import Image


def grey(level: int, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (level,) * 3).save(file, format)
    return file.getvalue()


def read(path: Path, count: int = 100) -> ImageSet:
    return ImageSet.read(path, TINY_PREPROCESSING, count)


def test_a_heap_of_files_has_no_labels_and_what_is_unreadable_is_counted(tmp_path: Path) -> None:
    for level in range(4):
        (tmp_path / f"{level}.PNG").write_bytes(grey(level * 50))
    (tmp_path / "broken.jpg").write_bytes(b"garbage")
    (tmp_path / "notes.txt").write_bytes(b"no image")
    images = read(tmp_path)
    assert images.pixels.shape == (4, 3, 32, 32)
    assert images.labels is None
    assert images.unreadable == 1


def test_folders_are_classes(tmp_path: Path) -> None:
    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for index in range(3):
            (tmp_path / name / f"{index}.png").write_bytes(grey(label * 200))
    images = read(tmp_path)
    assert images.labels is not None
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_an_npz_of_jpeg_files_is_spread_evenly_and_split(tmp_path: Path) -> None:
    files = [grey(level * 20, "JPEG") for level in range(10)]
    np.savez(
        tmp_path / "set.npz",
        test_jpeg=np.frombuffer(b"".join(files), np.uint8),
        test_off=np.cumsum([0, *map(len, files)]),
        test_y=np.arange(10),
    )
    images = read(tmp_path / "set.npz", 5)
    assert images.labels is not None
    assert images.labels.tolist() == [0, 2, 4, 6, 8]
    fitted, measured = images.split(2)
    assert (len(fitted.pixels), len(measured.pixels)) == (2, 3)
    assert fitted.labels is not None
    assert measured.labels is not None
    assert not set(fitted.labels) & set(measured.labels)


def test_where_there_is_nothing_to_read_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"no image of \.jpg"):
        read(tmp_path)
    with pytest.raises(InvalidValue, match="neither a directory"):
        read(tmp_path / "gone")
    (tmp_path / "bad.npz").write_bytes(b"garbage")
    with pytest.raises(InvalidValue, match="cannot be read as an npz"):
        read(tmp_path / "bad.npz")
    with pytest.raises(InvalidValue, match="0 images, at least 1"):
        read(tmp_path, 0)
