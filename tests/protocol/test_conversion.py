"""protocol/conversion.py: a map of one encoder's features to another's, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from edgecache.protocol import conversion
from edgecache.protocol.conversion import Conversion
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import EncoderIdentity

OLD, NEW = (EncoderIdentity("camera", version, bytes([number]) * 32) for number, version in enumerate("12"))
WEIGHT = np.array([[1, 0], [0, 2], [3, 0]], np.float32)
BIAS = np.array([10, 20], np.float32)


def _conversion(**changed: object) -> Conversion:
    given: dict[str, object] = {
        "source": OLD, "target": NEW, "weight": WEIGHT, "bias": BIAS, "fidelity": 0.97, "fidelity_mean": 0.99,
        "pairs": 20,
    }  # fmt: skip
    return Conversion(**{**given, **changed})  # type: ignore[arg-type]


def test_each_token_is_mapped_by_itself() -> None:
    converted = _conversion().apply(np.array([[1, 2, 3], [0, 0, 0]], np.float32))
    assert converted.tolist() == [[20, 24], [10, 20]]
    assert converted.dtype == np.float32


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = _conversion()
    conversion.save(written, tmp_path / "map.safetensors")
    read = conversion.load(tmp_path / "map.safetensors")
    assert (read.source, read.target) == (OLD, NEW)
    assert np.array_equal(read.weight, WEIGHT)
    assert np.array_equal(read.bias, BIAS)
    assert (read.fidelity, read.fidelity_mean, read.pairs) == (0.97, 0.99, 20)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"target": OLD}, "to itself"),
        ({"bias": np.zeros(3, np.float32)}, "shapes"),
        ({"weight": np.full((3, 2), np.nan, np.float32)}, "NaN"),
        ({"fidelity": 0.995}, "fidelity 0.995, 0.99 in the mean"),
        ({"fidelity": -1.5}, "fidelity -1.5"),
        ({"pairs": 7}, "measured on 7 images, at least 8"),
    ],
)
def test_a_conversion_that_cannot_be_is_refused(changed: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidValue, match=complaint):
        _conversion(**changed)


def test_features_of_another_dim_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"shape \(2, 4\): camera@1 makes \(tokens, 3\)"):
        _conversion().apply(np.zeros((2, 4), np.float32))


def test_what_is_no_conversion_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "map.safetensors"
    with pytest.raises(InvalidValue, match=r"map.safetensors: No such file"):
        conversion.load(path)
    conversion.save(_conversion(), path)
    whole = path.read_bytes()
    for content, complaint in (
        (b"", "not one that edgecache-encoder fit wrote"),
        (whole[: len(whole) // 2], "not one that"),
        (b"\x80\x04K\x01.", "not one that"),  # a pickle
        (whole.replace(b'"format":"1"', b'"format":"2"'), "of format '2'; format 1 is read here"),
        (whole.replace(b'"pairs":"20"', b'"pairs":"xx"'), "not one that"),
        (whole.replace(b'"fidelity":"0.97"', b'"fidelity":"9e99"'), "not one that|fidelity"),
        (safetensors.numpy.save({"weight": WEIGHT}), "not one that"),
        (safetensors.numpy.save({"weight": WEIGHT, "bias": BIAS}), "not one that"),
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidValue, match=complaint):
            conversion.load(path)
