"""node/eviction/feature_sketch.py: like features have like sketches."""

from __future__ import annotations

import numpy as np
import pytest
from edgecache.node.eviction.feature_sketch import similarity, sketch


@pytest.mark.parametrize("cosine", [1.0, 0.9, 0.5, 0.0])
def test_sketches_tell_the_cosine_of_what_they_are_made_from(cosine: float) -> None:
    rng = np.random.default_rng(7)
    errors = []
    for _ in range(30):
        one, noise = np.linalg.qr(rng.standard_normal((768, 2)))[0].T.astype(np.float32)
        other = cosine * one + np.sqrt(1 - cosine**2) * noise
        errors.append(similarity(sketch(one[None]), sketch(other[None])) - cosine)
    assert abs(np.mean(errors)) < 0.15
    assert np.abs(errors).max() < 0.6


def test_a_sketch_is_of_the_mean_of_the_tokens_whatever_their_number_and_length() -> None:
    tokens = np.random.default_rng(1).standard_normal((4, 96)).astype(np.float32)
    assert sketch(tokens) == sketch(np.concatenate([tokens, tokens])) == sketch(7 * tokens)
    assert 0 <= sketch(tokens) < 2**64


def test_opposites_are_as_unlike_as_strangers() -> None:
    tokens = np.ones((1, 96), np.float32)
    assert similarity(sketch(tokens), sketch(-tokens)) == 0
