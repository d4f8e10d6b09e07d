"""Several real nodes in one process, on an in-memory network: `async with Cluster(3) as cluster`."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Callable, Sequence
from hashlib import sha256
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..node.address_book import AddressBook
from ..node.identity import Identity
from ..node.link import Address
from ..node.membership import State
from ..node.service import Node
from ..node.settings import Settings
from ..node.store.memory import MemoryStore
from ..node.store.tier import Cloud, DiskTier
from ..protocol import payload as payloads
from ..protocol.conversion import Conversion
from ..protocol.errors import UndecodableImage
from ..protocol.fingerprints import fingerprint
from ..protocol.keys import EncoderIdentity, FeatureKey, digest_of
from ..protocol.messages import CUT
from ..protocol.payload import Payload
from .discovery import InMemoryDiscovery, Lan
from .links import LINKS, Link
from .modelled import Description, DeviceEncoder
from .network import InMemoryNetwork

PEER_PORT = 7441
# So many devices are switched on at the same moment, the others one after another: where a hundred know nobody, each
# calls each, which took 8.1 s to simulate instead of 5.2.
AT_ONCE_MAX = 32
START_GAP_S = 0.05


class ModelledEncoder:
    """Takes its time, and makes features that depend on the image alone (`settings.LocalEncoder`)."""

    def __init__(self, encode_s: float = 0.06, tokens: int = 4, dim: int = 8, version: str = "1") -> None:
        fingerprint = sha256(f"modelled {tokens}x{dim}".encode()).digest()
        self.known = Description(EncoderIdentity("modelled", version, fingerprint), (tokens, dim))
        self.encoded: list[bytes] = []
        self._encode_s = encode_s
        self._shape = (tokens, dim)

    @property
    def is_finishing(self) -> bool:
        """It stops at once."""
        return False

    async def start(self) -> None:
        """Nothing to load."""

    async def described(self) -> Description:
        """Known at once."""
        return self.known

    async def encode(self, image: bytes) -> NDArray[np.float32]:
        """Features (tokens, dim) drawn from the image's digest; UndecodableImage for an empty one."""
        if not image:
            raise UndecodableImage("an empty image")
        await asyncio.sleep(self._encode_s)
        self.encoded.append(image)
        generator = np.random.default_rng(int.from_bytes(digest_of(image)[:8], "little"))
        return generator.standard_normal(self._shape, dtype=np.float32)

    async def close(self) -> None:
        """Nothing to end."""


class Cluster:
    """`nodes` of a cluster that have met, each on its own host `n0`, `n1`, …"""

    def __init__(
        self,
        size: int,
        *,
        ids: Sequence[str] = (),
        seed: int = 0,
        copies: int = 2,
        memory_bytes: int = 64 * 1024 * 1024,
        disk: Callable[[int], DiskTier | None] = lambda index: None,
        cloud: Callable[[int], Cloud | None] = lambda index: None,
        encoder: Callable[[int], ModelledEncoder | DeviceEncoder | None] = lambda index: ModelledEncoder(),
        link: Callable[[int], Link] = lambda index: LINKS["lan"],
        memory: Callable[[int], MemoryStore | None] = lambda index: None,
        pack: Callable[[int], Callable[..., Payload]] = lambda index: payloads.encode,
        conversions: Sequence[Conversion] = (),
        abilities: int = CUT,
    ) -> None:
        """The nodes have `ids`, or random ones. The functions say what the device with that number has.

        `memory_bytes` is of the usual memory tier. Coding is none of their usual `abilities`: it takes a processor's
        time, which virtual time does not see.
        """
        self.network = InMemoryNetwork(seed=seed)
        self.nodes: list[Node] = []
        self.encoders: list[ModelledEncoder | DeviceEncoder | None] = []
        self._size = size
        self._ids = ids
        self._seed = seed
        self._copies = copies
        self._memory_bytes = memory_bytes
        self._encoder = encoder
        self._disk = disk
        self._cloud = cloud
        self._link = link
        self._memory = memory
        self._pack = pack
        self._conversions = conversions
        self._abilities = abilities
        self._lan = Lan()
        self._rng = random.Random(f"{seed}:cluster")
        self._boots = 0
        self._down: set[int] = set()

    async def __aenter__(self) -> Cluster:
        for index in range(self._size):
            await self.join(node_id=self._ids[index] if index < len(self._ids) else None)
            if index >= AT_ONCE_MAX:
                await asyncio.sleep(START_GAP_S)
        await self.until(self.has_met)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            await node.stop()
            node.store.check()
            node.membership.check()
            node.removals.check()

    async def join(
        self,
        *,
        node_id: str | None = None,
        cluster: str = "simulated",
        discovery: bool = True,
        seeds: Sequence[Address] = (),
    ) -> Node:
        """A further node, not waited for until it has met the others."""
        index = len(self.nodes)
        self.encoders.append(self._encoder(index))
        node_id = node_id or f"{self._rng.getrandbits(128):032x}"
        self.nodes.append(await self._start(index, node_id, cluster, discovery, seeds))
        return self.nodes[-1]

    async def restart(self, index: int) -> Node:
        """The node that crashed, with its id, its disk and an empty memory."""
        self.nodes[index] = await self._start(index, self.nodes[index].id)
        self._down.discard(index)
        return self.nodes[index]

    async def crash(self, index: int) -> None:
        """kill -9."""
        self._down.add(index)
        self._lan.leave(f"n{index}")
        self.network.crash(f"n{index}")
        await self.nodes[index].stop()

    async def leave(self, index: int) -> None:
        """SIGTERM: the node hands over what would be lost, and goes."""
        self._down.add(index)
        await self.nodes[index].leave()

    async def _start(
        self,
        index: int,
        node_id: str,
        cluster: str = "simulated",
        discovery: bool = True,
        seeds: Sequence[Address] = (),
    ) -> Node:
        self._boots += 1
        node = Node(
            Settings(
                name=f"n{index}",
                cluster=cluster,
                copies=self._copies,
                memory_bytes=self._memory_bytes,
                peer_listen=(f"n{index}", PEER_PORT),
                http=(f"n{index}", 7440),
                shown_host=f"n{index}",
                seeds=tuple(seeds),
                abilities=self._abilities,
            ),
            Identity(node_id, f"{self._boots:032x}", None, 0),
            network=self.network.host(f"n{index}", self._link(index)),
            discovery=InMemoryDiscovery(self._lan, f"n{index}") if discovery else None,
            encoder=self.encoders[index],
            address_book=AddressBook(None),
            seed=str(self._seed),
            disk=self._disk(index),
            cloud=self._cloud(index),
            memory=self._memory(index),
            pack=self._pack(index),
            conversions=self._conversions,
        )
        await node.start()
        return node

    def has_met(self) -> bool:
        """Whether every node that runs hears every other, and takes none of the others for alive."""
        running = [node for index, node in enumerate(self.nodes) if self.is_running(index)]
        ids = {node.id for node in running}
        return all(node.membership.size == len(running) for node in running) and all(
            {m.id for m in node.membership.all() if m.state is State.ALIVE} == ids - {node.id} for node in running
        )

    def has_told(self) -> bool:
        """Whether every node that runs knows exactly which keys each other that it follows holds."""
        running = [node for index, node in enumerate(self.nodes) if self.is_running(index)]
        keys = {node.id: node.store.keys() for node in running}
        held = {id: array("I", sorted({fingerprint(key) for key in mine})) for id, mine in keys.items()}
        return all(
            node.directory.fingerprints(other.id) == held[other.id]
            for node in running
            for other in running
            if node is not other and node.directory.is_followed(other.id, len(running))
        )

    def is_running(self, index: int) -> bool:
        """Whether that device's node has neither crashed nor left."""
        return index not in self._down

    def key(self, image: bytes) -> FeatureKey:
        """The key of an image's features by the modelled encoder."""
        own = next(encoder for encoder in self.encoders if encoder is not None)
        return FeatureKey(digest_of(image), own.known.identity)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
        """Let time pass until `condition` holds; how many seconds that took. TimeoutError."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not condition():
            if loop.time() - started > timeout_s:
                raise TimeoutError(f"not within {timeout_s} s (seed {self._seed})")
            await asyncio.sleep(0.01)
        return loop.time() - started
