"""INT8 with a scale per token: what is exact, what is bounded, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.quantization import CODE_MAX, SMALLEST_NORMAL, cosine, dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

FLOAT32_MAX = float(np.finfo(np.float32).max)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SHAPES = npst.array_shapes(min_dims=2, max_dims=2, max_side=24)
ARRAYS = npst.arrays(np.float32, SHAPES, elements=FINITE)
USUAL = st.builds(
    lambda seed, tokens, dim, spread: (
        np.random.default_rng(seed).standard_normal((tokens, dim), np.float32)
        * np.float32(10.0) ** np.random.default_rng(seed).uniform(-spread, spread, (tokens, 1)).astype(np.float32)
    ),
    st.integers(0, 2**32),
    st.integers(1, 50),
    st.integers(2, 400),
    st.floats(0, 4),
)


def _float64_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a64, b64 = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    top = max(np.abs(a64).max(), 1e-300)  # else the squares of 3.4e38 and of 1e-45 leave even float64's comfort
    a64, b64 = a64 / top, b64 / top
    norms = float(np.linalg.norm(a64) * np.linalg.norm(b64))
    return float(a64 @ b64) / norms if norms else float(not a64.any() and not b64.any())


def test_zero_tokens_and_constant_tokens_of_either_sign_are_exact() -> None:
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (6, 33)).astype(np.float32)
    sizes = np.array([0.0, 1e-45, 1e-38, 0.1, 123.456, FLOAT32_MAX], np.float32)
    array = signs * sizes[:, None]
    quantized = quantize(array)
    assert np.array_equal(dequantize(quantized.codes, quantized.scales), array)
    assert quantized.fidelity == 1.0


@given(ARRAYS)
def test_no_value_is_further_off_than_half_a_scale(array: NDArray[np.float32]) -> None:
    quantized = quantize(array)
    decoded = dequantize(quantized.codes, quantized.scales)
    assert np.isfinite(decoded).all()
    assert ((quantized.scales > 0) & np.isfinite(quantized.scales)).all()
    assert int(np.abs(quantized.codes.astype(int)).max()) <= CODE_MAX
    off = np.abs(decoded.astype(np.float64) - array)
    rounding = np.abs(array) * 2.0**-22  # of the float32 division and multiplication
    assert (off <= quantized.scales[:, None].astype(np.float64) / 2 + rounding).all()


@given(ARRAYS | USUAL)
def test_the_fidelity_is_what_float64_measures(array: NDArray[np.float32]) -> None:
    quantized = quantize(array)
    expected = _float64_cosine(array, dequantize(quantized.codes, quantized.scales))
    assert quantized.fidelity == pytest.approx(expected, abs=2e-6)


@given(USUAL)
def test_usual_features_keep_a_cosine_above_999(array: NDArray[np.float32]) -> None:
    assert quantize(array).fidelity > 0.999


@given(ARRAYS, st.floats(0.0, 1.0))
def test_the_cosine_of_any_two_arrays_is_what_float64_measures(array: NDArray[np.float32], mix: float) -> None:
    other = np.rint(array * np.float32(mix))
    assert cosine(array, other) == pytest.approx(_float64_cosine(array, other), abs=2e-6)


def test_a_fidelity_of_one_means_the_very_same_values() -> None:
    array = np.ones((2, 1000), np.float32)
    array[0, 0] = np.nextafter(np.float32(1), np.float32(2))
    quantized = quantize(array)
    assert not np.array_equal(dequantize(quantized.codes, quantized.scales), array)
    assert quantized.fidelity == 1 - 2.0**-24
    assert cosine(array, np.ones_like(array)) == 1 - 2.0**-24
    assert cosine(array, array.copy()) == 1.0


def test_massive_activations_cost_the_other_tokens_nothing() -> None:
    array = np.random.default_rng(1).standard_normal((197, 768), np.float32)
    array[0, 138] = 3e4
    quantized = quantize(array)
    decoded = dequantize(quantized.codes, quantized.scales)
    assert cosine(array[1:], decoded[1:]) > 0.9999


def test_denormal_tokens_are_measured_as_what_is_left_of_them() -> None:
    array = np.array([[1e-45, 3e-45, -1e-44]], np.float32)  # far below the smallest scale
    quantized = quantize(array)
    assert quantized.scales[0] == SMALLEST_NORMAL
    assert quantized.fidelity == 0.0


def test_the_largest_floats_decode_to_finite_ones() -> None:
    array = np.array([[FLOAT32_MAX, -FLOAT32_MAX, 1.0]], np.float32)
    decoded = dequantize(*_parts(array))
    assert decoded == pytest.approx(array, rel=1e-6, abs=FLOAT32_MAX / 254)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(bad: float) -> None:
    array = np.ones((5, 7), np.float32)
    array[3, 2] = bad
    with pytest.raises(InvalidValue, match=rf"{bad} at token 3, column 2"):
        quantize(array)


def test_the_array_given_is_not_touched() -> None:
    array = np.random.default_rng(2).standard_normal((3, 5), np.float32)
    before = array.copy()
    array.flags.writeable = False
    quantize(array)
    assert np.array_equal(array, before)


def _parts(array: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    quantized = quantize(array)
    return quantized.codes, quantized.scales
