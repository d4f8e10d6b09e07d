"""Real nodes on a slow link: features of one stream come as differences from those before, and to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from edgecache.protocol import delta
from edgecache.protocol import payload as payloads
from edgecache.protocol.errors import CorruptPayload
from edgecache.protocol.features import Source
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.messages import CUT, DELTA, ZSTD
from edgecache.protocol.payload import Payload
from edgecache.simulations.cluster import Cluster
from edgecache.simulations.links import LINKS
from edgecache.simulations.virtual_time import in_virtual_time

CAMERA = EncoderIdentity.declared("camera", "1")
FRAMES = 12
SLOW = replace(LINKS["lan"], name="slow", up_bytes_per_s=1e6, down_bytes_per_s=1e6)


def frames() -> list[Payload]:
    rng = np.random.default_rng(1)
    scene = rng.standard_normal((197, 384)).astype(np.float32)
    return [
        payloads.encode(
            scene + 0.02 * rng.standard_normal(scene.shape, dtype=np.float32),
            FeatureKey(digest_of(b"frame %d" % number), CAMERA),
        )
        for number in range(FRAMES)
    ]


async def followed(cluster: Cluster, made: Sequence[Payload]) -> int:
    """Have the first node hold all of `made`, and the second ask for one after the other; bytes received."""
    for each in made:
        cluster.nodes[0].store.put(each)
    asker = cluster.nodes[1]
    for each in made:
        found = await asker.lookup.get(each.key, stream="camera")
        assert found is not None
        assert found.source is Source.PEER
        assert found.payload.data == each.data
    return asker.stats.bytes_in


@pytest.mark.parametrize(("abilities", "share"), [(CUT | ZSTD, 1.0), (CUT | ZSTD | DELTA, 0.7)])
def test_on_a_slow_link_who_follows_a_camera_is_told_what_moved(abilities: int, share: float) -> None:
    @in_virtual_time
    async def story() -> None:
        made = frames()
        async with Cluster(2, encoder=lambda index: None, link=lambda index: SLOW, abilities=abilities) as cluster:
            whole = sum(each.nbytes for each in made)
            received = await followed(cluster, made)
            assert received == whole if share == 1.0 else received < share * whole
            assert cluster.nodes[1].stats.rejected_payloads == 0

    story()


@in_virtual_time
async def test_what_cannot_be_put_together_is_asked_for_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(base: Payload, told: bytes) -> bytes:
        raise CorruptPayload("as if both held another base")

    monkeypatch.setattr(delta, "applied", broken)
    async with Cluster(2, encoder=lambda index: None, link=lambda index: SLOW, abilities=CUT | ZSTD | DELTA) as cluster:
        await followed(cluster, frames())
        assert cluster.nodes[1].stats.rejected_payloads > 0
        assert cluster.nodes[1].stats.protocol_errors == 0
