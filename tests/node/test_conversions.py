"""node/conversions.py: which old features stand in for new ones, and how true they are said to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from edgecache.node.conversions import CONVERSIONS_MAX, Conversions, convert
from edgecache.protocol import payload as payloads
from edgecache.protocol.conversion import Conversion
from edgecache.protocol.errors import InvalidValue
from edgecache.protocol.keys import EncoderIdentity, FeatureKey

OLDEST, OLD, NEW, OTHER = (EncoderIdentity("camera", version, bytes([n]) * 32) for n, version in enumerate("0123"))
DIGEST = b"i" * 32


def to_new(source: EncoderIdentity, fidelity: float = 0.97, target: EncoderIdentity = NEW) -> Conversion:
    weight, bias = np.array([[0, 2], [3, 0]], np.float32), np.array([1, 1], np.float32)
    return Conversion(source, target, weight, bias, fidelity, max(fidelity, 0.99), 20)


def old_features(dim: int = 2) -> payloads.Payload:
    return payloads.encode(np.arange(1, 1 + 2 * dim, dtype=np.float32).reshape(2, dim), FeatureKey(DIGEST, OLD))


def test_old_features_are_kept_where_a_map_leads_to_what_is_current() -> None:
    conversions = Conversions([to_new(OLD)])
    assert conversions.keeps(OLD, lambda identity: identity == NEW)
    assert not conversions.keeps(OLD, lambda identity: identity == OTHER)
    assert not conversions.keeps(OLDEST, lambda identity: identity == NEW)
    assert not Conversions().keeps(OLD, lambda identity: True)


def test_the_truest_stand_in_comes_first_and_what_is_not_true_enough_not_at_all() -> None:
    conversions = Conversions([to_new(OLDEST, 0.9), to_new(OLD, 0.97), to_new(OLD, 0.99, OTHER)])
    key = FeatureKey(DIGEST, NEW)
    assert [source.encoder for source, _ in conversions.sources(key, -1.0)] == [OLD, OLDEST]
    assert [source.encoder for source, _ in conversions.sources(key, 0.95)] == [OLD]
    assert conversions.sources(key, 0.98) == []
    assert conversions.sources(FeatureKey(DIGEST, OLD), -1.0) == []
    assert {source.digest for source, _ in conversions.sources(key, -1.0)} == {DIGEST}


def test_what_is_converted_says_so_much_of_its_fidelity_and_no_more() -> None:
    converted = convert(old_features(), to_new(OLD, 0.97))
    assert converted is not None
    assert converted.key == FeatureKey(DIGEST, NEW)
    assert np.allclose(converted.array(), [[7, 3], [13, 7]], atol=0.1)
    assert 0.94 < converted.fidelity <= 0.97
    assert payloads.parse(converted.data).fidelity == converted.fidelity
    exact = convert(old_features(), to_new(OLD, 1.0))
    assert exact is not None
    assert math.isclose(exact.fidelity, payloads.encode(exact.array(), exact.key).fidelity, abs_tol=1e-3)


def test_what_is_converted_knows_of_the_removals_that_the_old_features_knew_of() -> None:
    converted = convert(old_features().knowing(7), to_new(OLD))
    assert converted is not None
    assert converted.knows == 7


def test_old_features_of_another_shape_are_not_converted() -> None:
    assert convert(old_features(dim=3), to_new(OLD)) is None


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InvalidValue, match="two conversions of camera@1 to camera@2"):
        Conversions([to_new(OLD), to_new(OLD, 0.9)])
    many = [to_new(EncoderIdentity("x", str(n), bytes(32))) for n in range(CONVERSIONS_MAX + 1)]
    with pytest.raises(InvalidValue, match="17 conversions: at most 16"):
        Conversions(many)
