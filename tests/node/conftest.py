"""A node without a network: a real Lookup over a real store, with peers and an encoder that a test commands."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from edgecache import Client
from edgecache.node import status
from edgecache.node.conversions import Conversions
from edgecache.node.cost import Costs
from edgecache.node.eviction.lru import LRU
from edgecache.node.eviction.policy import EvictionPolicy
from edgecache.node.http_api import http_app
from edgecache.node.lease import Granted
from edgecache.node.lease_desk import LeaseDesk
from edgecache.node.lookup import Lookup
from edgecache.node.neighbourhood import Neighbourhood, Reply
from edgecache.node.removals import Removals
from edgecache.node.ring import Ring
from edgecache.node.stand_ins import StandIns
from edgecache.node.stats import Stats
from edgecache.node.store.memory import MemoryStore
from edgecache.node.store.tiers import Tiers
from edgecache.node.versions import Versions
from edgecache.protocol.conversion import Conversion
from edgecache.protocol.errors import EncoderUnavailable
from edgecache.protocol.keys import EncoderIdentity
from edgecache.protocol.payload import Payload
from numpy.typing import NDArray

OWN = EncoderIdentity("edgecache/tiny", "1", sha256(b"weights").digest())


class FakePeers:
    """Members that hold what a test says, at once."""

    def __init__(self) -> None:
        self.held: dict[str, dict[bytes, Payload]] = {}
        self.told: dict[bytes, list[str]] = {}

    def others(self) -> Sequence[str]:
        return list(self.held)

    def believed(self, key: bytes) -> Sequence[str]:
        return self.told.get(key, ())

    def untold(self) -> Sequence[str]:
        return list(self.held)

    def is_healthy(self, node: str) -> bool:
        return True

    def name(self, node: str) -> str:
        return f"the {node}"

    async def get(self, node: str, key: bytes, timeout_s: float) -> Reply | None:
        return Reply(self.held[node].get(key))

    async def claim(self, node: str, key: bytes, encode_s: float, timeout_s: float) -> Reply | None:
        held = self.held[node].get(key)
        return Reply(held, Granted(2 * encode_s) if held is None else None)

    async def wait_for(self, node: str, key: bytes, timeout_s: float) -> Reply | None:
        return Reply(self.held[node].get(key))

    async def release(self, node: str, key: bytes, timeout_s: float) -> None:
        pass

    async def get_many(self, node: str, keys: Sequence[bytes], timeout_s: float) -> dict[bytes, Payload]:
        return {key: self.held[node][key] for key in keys if key in self.held[node]}

    async def has(self, node: str, keys: Sequence[bytes], timeout_s: float) -> set[bytes] | None:
        return set(keys) & set(self.held[node]) if node in self.held else None

    async def put(self, node: str, payload: Payload, age_s: float, timeout_s: float) -> bool:
        self.held[node][payload.key.packed] = payload
        return True

    async def forget(self, node: str, names: Sequence[bytes], timeout_s: float, stamp: int = 0) -> int | None:
        gone = [key for key in self.held[node] if key in names or key[:32] in names]
        for key in gone:
            del self.held[node][key]
        return len(gone)


class FakeEncoder:
    """(4, 8) features that only the image decides. `error` is raised instead, after `gate` has opened."""

    is_finishing = False

    def __init__(self) -> None:
        self.images: list[bytes] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Event()

    async def encode(self, image: bytes) -> NDArray[np.float32]:
        self.images.append(image)
        self.called.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return features_of(image)


def features_of(image: bytes) -> NDArray[np.float32]:
    """What the fake encoder makes of `image`: float32 (4, 8)."""
    seed = int.from_bytes(sha256(image).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal((4, 8), dtype=np.float32)


class FakeTier:
    """A tier below memory that does what a test says. Each read waits for `gate`, and is counted."""

    def __init__(self, capacity_bytes: int = 1 << 30) -> None:
        self.held: dict[bytes, bytes] = {}
        self.capacity_bytes = capacity_bytes
        self.queued_bytes = 0
        self.error: OSError | None = None
        self.takes = True
        self.is_durable = True
        self.is_closed = False
        self.reads: list[bytes] = []
        self.reading = 0
        self.reading_max = 0
        self.removed: list[bytes] = []
        self.withdrawn: list[bytes] = []
        self.touched: list[bytes] = []
        self.trouble: str | None = None
        self.on_drop: Callable[[bytes], None] | None = None
        self.evictions = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def used_bytes(self) -> int:
        return sum(map(len, self.held.values()))

    @property
    def file_bytes(self) -> int:
        return self.capacity_bytes

    def __len__(self) -> int:
        return len(self.held)

    def __contains__(self, key: object) -> bool:
        return key in self.held

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self.held))

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        return [key for key in self.held if key.startswith(digest)]

    async def get(self, key: bytes) -> bytes | None:
        self.reads.append(key)
        self.reading += 1
        self.reading_max = max(self.reading, self.reading_max)
        data = self.held.get(key)
        try:
            await self.gate.wait()
        finally:
            self.reading -= 1
        if self.error is not None:
            raise self.error
        return data

    def put(self, key: bytes, data: memoryview) -> bool:
        if self.takes:
            self.held[key] = bytes(data)
        return self.takes

    def remove(self, key: bytes) -> bool:
        self.removed.append(key)
        return self.held.pop(key, None) is not None

    def remove_image(self, digest: bytes) -> int:
        self.removed.append(digest)
        return sum(self.remove(key) for key in self.keys_of_image(digest))

    # As the cloud, which asks its remote for everything and is shared with others:

    is_degraded = False
    miss_s = 0.0

    def pays(self, key: bytes, instead_s: float | None) -> bool:
        return True

    async def has(self, key: bytes) -> bool:
        return key in self.held

    async def encoders(self) -> list[EncoderIdentity]:
        return []

    def withdraw(self, name: bytes) -> None:
        self.withdrawn.append(name)

    async def remove_now(self, names: Sequence[bytes], timeout_s: float) -> int:
        return sum(self.remove(name) if len(name) == 64 else self.remove_image(name) for name in names)

    def remove_encoder(self, encoder: bytes) -> None:
        self.held = {key: data for key, data in self.held.items() if not key.endswith(encoder)}

    def told(self) -> Mapping[str, Any]:
        return {"state": "closed"}

    # As the disk, which outlives the process:

    async def flush(self, key: bytes | None = None) -> bool:
        return self.is_durable and (key is None or key in self.held)

    async def ready(self) -> None:
        await asyncio.sleep(0)

    def touch(self, key: bytes) -> None:
        self.touched.append(key)

    def by_worth(self) -> list[bytes]:
        return list(self.held)

    def uses(self) -> Iterator[bytes]:
        return iter(())

    async def close(self) -> None:
        self.is_closed = True


class FakeNode:
    """A NodeFace whose parts a test can reach."""

    def __init__(
        self,
        name: str = "camera-1",
        *,
        own: EncoderIdentity | None = OWN,
        capacity: int = 1 << 20,
        disk: FakeTier | None = None,
        cloud: FakeTier | None = None,
        conversions: Sequence[Conversion] = (),
        policy: EvictionPolicy[bytes] | None = None,
    ) -> None:
        self.name = name
        self.id = sha256(name.encode()).hexdigest()[:32]
        self.peers = FakePeers()
        self.encoder = FakeEncoder()
        self.own = own
        self.own_error: EncoderUnavailable | None = None
        self.serving: tuple[bool, dict[str, str]] = (True, {"memory": "ok"})
        self.http = "http://127.0.0.1:1"  # where nobody listens, whatever else runs on this machine
        self.other_members: list[dict[str, Any]] = []
        self.stats = Stats()
        self.store = Tiers(
            MemoryStore(capacity, LRU() if policy is None else policy), disk=disk, cloud=cloud, hour=lambda: 9
        )
        self.versions = Versions(own)
        self.removals = Removals(random.Random(1))
        neighbourhood = Neighbourhood(
            self.id,
            peers=self.peers,
            ring=lambda: Ring({self.id: 1 << 30} | dict.fromkeys(self.peers.held, 1 << 30), copies=2),
            costs=Costs(),
            rng=random.Random(name),
            now=time.monotonic,
        )
        self.desk = LeaseDesk(neighbourhood, held=self.store.peek, now=time.monotonic)
        self.lookup = Lookup(
            name=name,
            store=self.store,
            neighbourhood=neighbourhood,
            desk=self.desk,
            encoder=None if own is None else self.encoder,
            versions=self.versions,
            removals=self.removals,
            stand_ins=StandIns(Conversions(conversions), self.store, name),
            now=time.monotonic,
            stats=self.stats,
        )

    async def own_encoder(self) -> EncoderIdentity | None:
        if self.own_error is not None:
            raise self.own_error
        if self.own is not None:
            self.versions.use(self.own)
        return self.own

    async def ask_cloud_for(self, name: str | None, version: str | None) -> bool:
        return False

    async def introduce(self, encoder: EncoderIdentity) -> None:
        self.versions.learn(encoder)

    async def invalidate(self, name: str, version: str) -> int:
        self.versions.make_current(name, version)
        return self.store.remove_outdated(self.versions.is_current, self.versions.known())

    def is_serving(self) -> tuple[bool, Mapping[str, str]]:
        return self.serving

    def cluster(self) -> dict[str, Any]:
        me = {
            "id": self.id, "name": self.name, "http": self.http, "peer": "127.0.0.1:7441", "state": "alive",
            "capacity_bytes": self.store.capacity_bytes, "used_bytes": self.store.used_bytes, "boot": "b" * 32,
        }  # fmt: skip
        return {"node": me, "members": [me, *self.other_members], "ring": {"copies": 2}}

    def counters(self) -> dict[str, Any]:
        return status.counters(self.stats, self.store, peer_connections=0)


@pytest.fixture
async def node() -> FakeNode:
    """A node with an encoder and no other members."""
    return FakeNode()


@pytest.fixture
async def bare_node() -> FakeNode:
    """A node that runs no encoder."""
    return FakeNode(own=None)


Serve = Callable[..., Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(node, **limits)`: a client of that node's HTTP face on a real loopback port."""
    clients: list[TestClient[Any, Any]] = []

    async def start(node: FakeNode, **limits: Any) -> TestClient[Any, Any]:
        client = TestClient(TestServer(http_app(node, **limits)))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def client(node: FakeNode, serve: Serve) -> Any:
    """An HTTP client of `node`."""
    return await serve(node)


Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """`await connect(*nodes, **options)`: a client of the first, whose members are the others."""
    clients: list[Client] = []

    async def start(*nodes: FakeNode, **options: Any) -> Client:
        urls = [str((await serve(node)).make_url("/")).rstrip("/") for node in nodes]
        for node, url in zip(nodes, urls, strict=True):
            node.http = url
        nodes[0].other_members = [node.cluster()["node"] for node in nodes[1:]]
        clients.append(Client(urls[0], **options))
        return clients[-1]

    yield start
    for client in clients:
        await client.close()
