"""A real node on loopback sockets, and members of its cluster that answer wrong."""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from edgecache.node.link import Address
from edgecache.node.peer_protocol import PeerProtocol
from edgecache.node.service import Node
from edgecache.protocol import payload as payloads
from edgecache.protocol.connection import Asked, Event
from edgecache.protocol.features import Source
from edgecache.protocol.keys import FeatureKey, digest_of
from edgecache.protocol.messages import (
    Ack,
    Claim,
    Done,
    Found,
    Get,
    GetState,
    Has,
    Held,
    Message,
    Ping,
    Refused,
    State,
    encode,
)
from edgecache.simulations.cluster import ModelledEncoder

from .victim import IDENTITY, PATIENCE_S, features, frame, hello, is_served, started, until


class Neighbour:
    """A member that the node dials, and what it answers to a Get or Claim."""

    def __init__(self, name: str, gives: Callable[[bytes], tuple[Message, Sequence[bytes]]]) -> None:
        self.id = name
        self.gets: list[bytes] = []
        self.closed = 0
        self._gives = gives
        self._port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> Address:
        def protocol() -> PeerProtocol:
            me = hello(self.id, peer_port=self._port)
            return PeerProtocol(me, is_dialer=False, on_event=self._on_event, on_lost=self._on_lost)

        self._server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return "127.0.0.1", self._port

    def _on_event(self, protocol: PeerProtocol, event: Event) -> None:
        if not isinstance(event, Asked):
            return
        answer: Message
        blob: Sequence[bytes] = ()
        match event.request:
            case Get() | Claim():
                self.gets.append(event.request.key)
                answer, blob = self._gives(event.request.key)
            case Has():
                answer = Held(b"\1" * len(event.request.keys))
            case Ping():
                answer = Ack(bytes(16), 0)
            case GetState():
                answer = State([], [], [])
            case _:
                answer = Done(1)
        protocol.connection.answer(event.stream, answer, blob, sum(map(len, blob)))

    def _on_lost(self, protocol: PeerProtocol, reason: str) -> None:
        self.closed += 1

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()


WANTED = features(b"wanted")
_TRUTH = bytes(WANTED.data)
_FLIPPED = _TRUTH[:-1] + bytes([_TRUTH[-1] ^ 1])
LIES: dict[str, tuple[Message, Sequence[bytes]]] = {
    "the features of another image": (Found(), [bytes(features(b"unwanted").data)]),
    "features with a flipped bit": (Found(), [_FLIPPED]),
    "half of the features": (Found(), [_TRUTH[: len(_TRUTH) // 2]]),
    "a pickle": (Found(), [pickle.dumps(list(range(1000)))]),
    "nothing": (Found(), []),
}


def _asked_first(node: Node, liar: str) -> FeatureKey:
    """A key for which the node asks `liar` before any other."""
    keys = (FeatureKey(digest_of(struct.pack("<I", number)), IDENTITY) for number in range(10_000))
    return next(key for key in keys if node.lookup._neighbourhood.holders(key.packed)[:1] == [liar])


@pytest.mark.parametrize("lie", LIES)
async def test_after_a_lie_the_next_holder_is_asked_and_the_liar_is_counted_and_cut_off(lie: str) -> None:
    truth: dict[bytes, bytes] = {}
    liar = Neighbour("liar", lambda key: LIES[lie])
    honest = Neighbour("honest", lambda key: (Found(), [truth[key]]))
    node = await started(seeds=(await liar.start(), await honest.start()))
    try:
        await until(lambda: set(node._links.nodes()) == {"liar", "honest"})
        key = _asked_first(node, "liar")
        right = payloads.encode(np.full((2, 3), 7.5, np.float32), key)
        truth[key.packed] = bytes(right.data)
        found = await node.lookup.get(key)
        assert liar.gets == [key.packed]
        assert found is not None
        assert (found.source, found.node) == (Source.PEER, "honest")
        assert np.array_equal(found.payload.array(), right.array())
        assert (node.stats.rejected_payloads, node.stats.protocol_errors) == (1, 1)
        await until(lambda: liar.closed == 1)
        assert honest.closed == 0
        assert await is_served(node)
    finally:
        await node.stop()
        liar.stop()
        honest.stop()


async def test_with_liars_alone_features_are_a_miss_and_an_image_is_encoded() -> None:
    encoder = ModelledEncoder(encode_s=0.0)
    liar = Neighbour("liar", lambda key: LIES["the features of another image"])
    node = await started(seeds=(await liar.start(),), encoder=encoder)
    try:
        await until(lambda: node._links.nodes() == ["liar"])
        image = b"a photograph"
        assert await node.lookup.get(FeatureKey(digest_of(image), IDENTITY)) is None
        await until(lambda: liar.closed == 1)
        await until(lambda: node._links.nodes() == ["liar"])  # dialled again, and given another chance
        key = FeatureKey(digest_of(image), encoder.known.identity)
        found = await node.lookup.get(key, image)
        assert found is not None
        assert found.source is Source.ENCODER
        right = payloads.encode(await encoder.encode(image), key)
        assert np.array_equal(found.payload.array(), right.array())
        assert node.stats.rejected_payloads == 2
    finally:
        await node.stop()
        liar.stop()


async def test_an_answer_of_the_wrong_kind_is_none() -> None:
    answers: list[tuple[Message, Sequence[bytes]]] = [
        (Done(1), []), (Refused("no\r\n"), []), (State([], [], []), []), (Held(b"\1"), []),
    ]  # fmt: skip
    odd = Neighbour("odd", lambda key: answers.pop())
    node = await started(seeds=(await odd.start(),))
    try:
        await until(lambda: node._links.nodes() == ["odd"])
        while answers:
            assert await node._peers.get("odd", WANTED.key.packed, PATIENCE_S) is None
        assert odd.closed == 0
    finally:
        await node.stop()
        odd.stop()


async def test_a_large_answer_that_never_ends_costs_no_more_than_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = encode(Found())
    begun = struct.pack("<IBBHII", len(head) + 9, Found.kind, 0, len(head), 0, 50_000_000) + head + bytes(9)
    asked = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(hello("slow", peer_port=port), 0))
        while header := await reader.read(16):
            if len(header) < 16:
                break
            size, kind, _, _, stream, _ = struct.unpack("<IBBHII", header)
            await reader.readexactly(size)
            if kind == Get.kind:
                writer.write(begun[:8] + struct.pack("<I", stream) + begun[12:])
                asked.set()
            elif kind == Ping.kind:
                writer.write(frame(Ack(bytes(16), 0), stream))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    node = await started(seeds=(("127.0.0.1", port),))
    try:
        await until(lambda: node._links.nodes() == ["slow"])
        assert await node._peers.get("slow", WANTED.key.packed, 0.2) is None
        assert asked.is_set()
        link = node._links.link("slow")
        assert link is not None
        assert link.protocol.connection._arriving_bytes == 0
        assert await is_served(node)
    finally:
        await node.stop()
        server.close()
