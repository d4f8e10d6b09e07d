"""From the question to the float32 array: what a hit saves over encoding the image again."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from edgecache.encoder.spec import TINY
from edgecache.encoder.worker import EncoderWorker
from edgecache.node.address_book import AddressBook
from edgecache.node.client import Client
from edgecache.node.identity import Identity
from edgecache.node.service import Node
from edgecache.node.settings import Settings
from edgecache.node.tcp import TcpNetwork
from edgecache.protocol import payload
from edgecache.protocol.features import Source
from edgecache.protocol.keys import FeatureKey
from edgecache.protocol.payload import Payload

from . import features, peer, servers
from .images import photographs, png
from .report import Table, seconds
from .rounds import Measured

CALLS = 400
ENCODES = 60
MEETING_S = 10.0


async def hits_and_encodes(directory: Path) -> Table:
    """The same features from the encoder, a node's own memory, another node, and over HTTP; one request at a time."""
    images = [png(pixels) for pixels in photographs(directory)[:ENCODES]]
    encoder = EncoderWorker(TINY)
    with contextlib.ExitStack() as running:
        at_node = running.enter_context(servers.node())
        url = "http://{}:{}".format(*at_node.http)
        try:
            tiny = await encoder.encode(images[0])
            encoded = await _timed([partial(encoder.encode, image) for image in images])
        finally:
            await encoder.close()
        rows: list[Sequence[str]] = [("encode an image in the worker", TINY, *_percentiles(encoded))]
        held = [payload.encode(tiny, made.key) for made in features.payloads((1, 1))]
        with servers.on_core(servers.CLIENT_CORE):
            rows += await _hits(f"{TINY}, 64 × 192", held, at_node.address, url)
            wide = features.payloads(features.SHAPES["196 × 768"])
            rows += await _hits("196 × 768", wide, at_node.address, url)
    return Table("One request at a time", ("what", "features", "p50", "p99"), rows)


async def _hits(shape: str, held: list[Payload], at_peer: servers.Address, url: str) -> list[Sequence[str]]:
    asking = await peer.connected(at_peer)
    for made in held:
        await asking.put(made.key.packed, made.data)
    asking.close()
    keys = [held[at % len(held)].key for at in range(CALLS)]
    encoder = features.ENCODER
    here = await _neighbour_of(at_peer)
    try:
        from_peer = await _timed([partial(_looked_up, here, key, Source.PEER) for key in keys])
        for made in held:
            here.store.put(made)
        from_memory = await _timed([partial(_looked_up, here, key, Source.MEMORY) for key in keys])
    finally:
        await here.stop()
    async with Client(url, encoder=encoder.name, version=encoder.version) as client:
        over_http = await _timed([partial(client.get, key.digest) for key in keys])
    return [
        ("hit in the node's memory", shape, *_percentiles(from_memory)),
        ("hit on another node, by the peer protocol", shape, *_percentiles(from_peer)),
        ("hit over HTTP, `edgecache.Client`", shape, *_percentiles(over_http)),
    ]


async def _neighbour_of(at_peer: servers.Address) -> Node:
    """A second member, in this process."""
    settings = Settings(
        name="bench", cluster="default", copies=1, memory_bytes=1 << 30, peer_listen=("127.0.0.1", 0),
        http=("127.0.0.1", 0), shown_host="127.0.0.1", seeds=(at_peer,),
    )  # fmt: skip
    identity = Identity(secrets.token_hex(16), secrets.token_hex(16), None, 0)
    node = Node(
        settings, identity, network=TcpNetwork(), discovery=None, encoder=None, address_book=AddressBook(None), seed="0"
    )
    await node.start()
    async with asyncio.timeout(MEETING_S):
        while not node.membership.in_ring():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    return node


async def _looked_up(node: Node, key: FeatureKey, source: Source) -> None:
    found = await node.lookup.get(key)
    assert found is not None
    assert found.source is source
    assert found.features().array.size
    if source is Source.PEER:
        node.store.remove(key.packed)  # to be asked for there again


async def _timed(calls: Sequence[Callable[[], Awaitable[object]]]) -> Measured:
    measured = Measured()
    for call in calls:
        started = time.perf_counter()
        got = await call()
        measured.latencies_s.append(time.perf_counter() - started)
        del got
    return measured


def _percentiles(measured: Measured) -> tuple[str, str]:
    return seconds(measured.latency_s(0.5)), seconds(measured.latency_s(0.99))
