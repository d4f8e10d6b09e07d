"""encoder/fit.py: a map between two encoders, measured on images that it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from edgecache.encoder import cli
from edgecache.encoder.fit import fit
from edgecache.protocol import conversion
from edgecache.protocol.errors import ImageError, InvalidValue, UndecodableImage
from edgecache.protocol.keys import EncoderIdentity
from numpy.typing import NDArray

PHOTOS = Path(__file__).parent.parent.parent / "docs" / "photos"
IMAGES = [b"image %d" % number for number in range(60)]
TURN = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]


class _Encoder:
    """Features that are a function of what the image is called."""

    def __init__(self, version: str, change: Callable[[NDArray[np.float64]], NDArray[np.float64]], tokens: int = 4):
        self.identity = EncoderIdentity("camera", version, version.encode().ljust(32))
        self.shape = (tokens, 8)
        self._change = change

    def encode_batch(self, images: Sequence[bytes]) -> list[NDArray[np.float32] | ImageError]:
        return [self._encoded(image) for image in images]

    def _encoded(self, image: bytes) -> NDArray[np.float32] | ImageError:
        if image == b"broken":
            return UndecodableImage("broken")
        seen = np.random.default_rng(list(image)).normal(size=self.shape)
        return self._change(seen).astype(np.float32)


def test_a_turned_and_shifted_space_is_turned_back() -> None:
    old, new = _Encoder("1", lambda seen: seen), _Encoder("2", lambda seen: seen @ TURN + 3)
    made = fit(old, new, [b"broken", *IMAGES], 0.99)
    assert (made.source, made.target, made.pairs) == (old.identity, new.identity, 12)
    assert made.fidelity > 0.9999
    (tokens,), (wanted,) = old.encode_batch([b"another"]), new.encode_batch([b"another"])
    assert isinstance(tokens, np.ndarray)
    assert isinstance(wanted, np.ndarray)
    assert np.allclose(made.apply(tokens), wanted, atol=0.05)


def test_a_map_that_is_not_true_on_images_it_has_not_seen_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"cosine of -?0\.\d+ for an image that it was not fitted on"):
        fit(_Encoder("1", lambda seen: seen), _Encoder("2", lambda seen: np.sin(40 * seen)), IMAGES, 0.95)


def test_a_column_that_never_changes_is_no_trouble() -> None:
    flat = _Encoder("1", lambda seen: seen * [1, 1, 1, 1, 1, 1, 1, 0])
    assert fit(flat, _Encoder("2", lambda seen: seen * [1, 1, 1, 1, 1, 1, 0, 0]), IMAGES, 0.99).fidelity > 0.999


def test_other_tokens_and_too_few_images_are_refused() -> None:
    old = _Encoder("1", lambda seen: seen)
    with pytest.raises(InvalidValue, match="makes 4 tokens and camera@2 5"):
        fit(old, _Encoder("2", lambda seen: seen, tokens=5), IMAGES, 0.9)
    with pytest.raises(InvalidValue, match="39 images that can be read, at least 40"):
        fit(old, _Encoder("2", lambda seen: seen), [*IMAGES[:39], b"broken"], 0.9)


def test_the_command_line_fits_writes_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "map.safetensors"
    command = ["fit", "--from", "edgecache/tiny", "--to", "edgecache/tiny", "--images", str(PHOTOS), "--out", str(out)]
    assert cli.main(command) == 1  # six photographs
    assert "6 images that can be read, at least 40" in capsys.readouterr().err
    module = "module:tests.encoder.test_fit:"
    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate(IMAGES):
        (images / f"{number}.png").write_bytes(image)
    command = ["fit", "--from", f"{module}old", "--to", f"{module}new", "--images", str(images), "--out", str(out)]
    assert cli.main(command) == 0
    assert "camera@1 to camera@2, cosine 1.0000 in the mean" in capsys.readouterr().out
    assert conversion.load(out).pairs == 12
    assert cli.main([*command, "--min-cosine", "2"]) == 1
    assert "min-cosine 2.0: a cosine is between -1 and 1" in capsys.readouterr().err


def old() -> _Encoder:
    return _Encoder("1", lambda seen: seen)


def new() -> _Encoder:
    return _Encoder("2", lambda seen: seen @ TURN)
