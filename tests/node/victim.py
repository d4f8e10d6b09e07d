"""A real node on loopback sockets, and what it takes to attack it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from edgecache.node.address_book import AddressBook
from edgecache.node.identity import Identity
from edgecache.node.link import Address, Link, dial
from edgecache.node.service import Node
from edgecache.node.settings import Settings
from edgecache.node.tcp import TcpNetwork
from edgecache.protocol import payload as payloads
from edgecache.protocol.frames import DATA
from edgecache.protocol.keys import EncoderIdentity, FeatureKey, digest_of
from edgecache.protocol.messages import (
    PROTOCOL_VERSION,
    Get,
    Hello,
    Message,
    encode,
)
from edgecache.protocol.payload import Payload
from edgecache.simulations.cluster import ModelledEncoder

NODE_ID = "77" * 16
BOOT = "55" * 16
PATIENCE_S = 10.0  # how long a test waits for what should happen at once
IDENTITY = EncoderIdentity("theirs", "1", digest_of(b"weights"))


def features(image: bytes, tokens: int = 4, dim: int = 8) -> Payload:
    rng = np.random.default_rng(int.from_bytes(digest_of(image)[:8], "little"))
    return payloads.encode(rng.standard_normal((tokens, dim), np.float32), FeatureKey(digest_of(image), IDENTITY))


HELD = features(b"what the node holds")


async def started(*, seeds: tuple[Address, ...] = (), encoder: ModelledEncoder | None = None) -> Node:
    settings = Settings("victim", "home", 2, 64 * 1024 * 1024, ("127.0.0.1", 0), ("127.0.0.1", 0), "127.0.0.1", seeds)
    node = Node(
        settings,
        Identity(NODE_ID, BOOT, None, 0),
        network=TcpNetwork(),
        discovery=None,
        encoder=encoder,
        address_book=AddressBook(None),
        seed="0",
    )
    await node.start()
    node.store.put(HELD)
    return node


async def is_served(node: Node) -> bool:
    honest = await linked(node)
    got = await honest.ask(Get(HELD.key.packed), PATIENCE_S)
    honest.protocol.close()
    return got is not None and bytes(got.blob) == bytes(HELD.data)


def hello(name: str = "stranger", **changes: Any) -> Hello:
    told: dict[str, Any] = {
        "protocol": PROTOCOL_VERSION, "cluster": "home", "id": name, "boot": BOOT, "name": name, "peer_host": "",
        "peer_port": 0, "http_host": "", "http_port": 0, "capacity_bytes": 2**26,
    }  # fmt: skip
    return Hello(**told | changes)


async def linked(node: Node, said: Hello | None = None) -> Link:
    """A connection that says what it should."""
    return await asyncio.wait_for(dial(TcpNetwork(), said or hello(), node.peer_address), PATIENCE_S)


def frame(message: Message | int, stream: int = 1, blob: bytes = b"", head: bytes | None = None) -> bytes:
    kind = message if isinstance(message, int) else message.kind
    if head is None:
        assert isinstance(message, Message)
        head = encode(message)
    blob_bytes = 0 if kind == DATA else len(blob)
    return struct.pack("<IBBHII", len(head) + len(blob), kind, 0, len(head), stream, blob_bytes) + head + blob


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
