"""Features to store: the payloads of random tokens of a ViT's shape, under keys like any other."""

from __future__ import annotations

import numpy as np
from edgecache.protocol import payload
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.payload import Codec, Payload

ENCODER = EncoderIdentity.declared("bench/vit", "1")
SHAPES = {"196 × 768": (196, 768), "1 × 768": (1, 768)}
# 192 of 151 KB do not fit into a core's second-level cache, as a store's contents do not.
FEATURES = 192


def payloads(shape: tuple[int, int]) -> list[Payload]:
    """FEATURES payloads of `shape` (tokens, dim), INT8, always the same."""
    chance = np.random.default_rng(0)
    return [
        payload.encode(
            chance.standard_normal(shape, np.float32), FeatureKey(digest_of(b"%d" % at), ENCODER), codec=Codec.INT8
        )
        for at in range(FEATURES)
    ]
