"""Asking the other members for features: `neighbourhood.Peers` over open connections.

No method raises for a peer that is slow, dead or wrong: that is what None is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..protocol import messages, payload
from ..protocol.errors import CorruptPayload, RemoteProtocolError
from .lease import Granted, Leased
from .neighbourhood import Reply

if TYPE_CHECKING:
    from ..protocol.frames import Buffer
    from ..protocol.messages import Message
    from ..protocol.payload import Payload
    from .directory import Directory
    from .link import Link
    from .links import Links
    from .membership import Membership
    from .ring import NodeId
    from .stats import Stats

# What an owner may take to say that nothing came.
AWAIT_SPARE_S = 0.1


class Peers:
    """The other members, as a lookup sees them."""

    def __init__(
        self,
        links: Links,
        membership: Membership,
        directory: Directory,
        stats: Stats,
        on_removed: Callable[[Sequence[bytes], int], None],
    ) -> None:
        """`on_removed` hears the stamp that a member gave to a removal instead of this node's."""
        self._on_removed = on_removed
        self._links = links
        self._membership = membership
        self._directory = directory
        self._untold: list[NodeId] = []
        self._untold_at = (-1, -1)
        self._stats = stats

    def others(self) -> Sequence[NodeId]:
        """The members in the ring, the healthy first."""
        return self._links.nodes()

    def believed(self, key: bytes) -> Sequence[NodeId]:
        """The members that have told that they hold `key`."""
        return self._directory.holders(key)

    def untold(self) -> Sequence[NodeId]:
        """The members that this node follows, and that have not told it yet what they hold."""
        at = self._membership.version, self._directory.changes
        if at != self._untold_at:
            size, directory = self._membership.size, self._directory
            members = sorted(self._membership.in_ring_ids)
            self._untold = [node for node in members if directory.is_followed(node, size) and not directory.has(node)]
            self._untold_at = at
        return self._untold

    def is_healthy(self, node: NodeId) -> bool:
        """Whether it is worth waiting for."""
        return self._links.is_healthy(node)

    def name(self, node: NodeId) -> str:
        """The name it gave itself."""
        member = self._membership.get(node)
        return member.name if member is not None else node

    async def get(self, node: NodeId, key: bytes, timeout_s: float) -> Reply | None:
        """The checked payload of `key`."""
        return await self._ask_for(node, key, messages.Get(key, _ms(timeout_s)), timeout_s)

    async def claim(self, node: NodeId, key: bytes, encode_s: float, timeout_s: float) -> Reply | None:
        """The checked payload of `key`, or what its owner says of who makes it."""
        return await self._ask_for(node, key, messages.Claim(key, _ms(encode_s), _ms(timeout_s)), timeout_s)

    async def wait_for(self, node: NodeId, key: bytes, timeout_s: float) -> Reply | None:
        """The checked payload of `key`, when somebody has made it."""
        link = self._links.link(node)
        # Silence is expected here, so it must not make the connection look slow: the owner answers in time, or at it.
        asked = messages.Await(key, _ms(timeout_s))
        return await self._ask_for(node, key, asked, timeout_s + AWAIT_SPARE_S) if link is not None else None

    async def release(self, node: NodeId, key: bytes, timeout_s: float) -> None:
        """The lease to make `key` is not needed any more."""
        link = self._links.link(node)
        if link is not None:
            await link.ask(messages.Release(key), timeout_s)

    async def _ask_for(self, node: NodeId, key: bytes, request: Message, timeout_s: float) -> Reply | None:
        link = self._links.link(node) or await self._links.to(node, timeout_s)
        answered = await link.ask(request, timeout_s) if link is not None else None
        if link is None or answered is None:
            return None
        match answered.answer:
            case messages.Found():
                checked = self._checked(link, answered.blob, key)
                return Reply(checked) if checked is not None else None
            case messages.Missing():
                self._directory.correct(node, key)
                return Reply(None)
            case messages.Granted(lease_ms):
                self._directory.correct(node, key)
                return Reply(None, Granted(lease_ms / 1000))
            case messages.Leased(expected_ms):
                self._directory.correct(node, key)
                return Reply(None, Leased(expected_ms / 1000))
            case _:
                return None

    async def get_many(self, node: NodeId, keys: Sequence[bytes], timeout_s: float) -> dict[bytes, Payload] | None:
        """Those of `keys` that the node has."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        found: dict[bytes, Payload] = {}
        wanted = list(keys)
        link = self._links.link(node) or await self._links.to(node, timeout_s)
        while wanted and link is not None:
            batch, wanted = wanted[: messages.KEYS_MAX], wanted[messages.KEYS_MAX :]
            left_s = deadline - loop.time()
            answered = await link.ask(messages.BatchGet(batch, _ms(left_s)), left_s)
            if answered is None or not isinstance(answered.answer, messages.Batch):
                return found or None
            sizes, blob, at = answered.answer.sizes, answered.blob, 0
            if len(sizes) != len(batch) or sum(size for size in sizes if size > 0) != len(blob):
                self._links.offended(link, RemoteProtocolError("batch whose sizes are not those of its payloads"))
                return found or None
            again = [key for key, size in zip(batch, sizes, strict=True) if size == messages.DID_NOT_FIT]
            for key, size in zip(batch, sizes, strict=True):
                if size > 0:  # a view of the batch; memory keeps a copy of it
                    checked = self._checked(link, blob[at : at + size], key)
                    if checked is None:
                        return found or None
                    found[key] = checked
                    at += size
                elif size == messages.NOT_HERE:
                    self._directory.correct(node, key)
            if len(again) == len(batch):
                return found  # it never fits
            wanted = again + wanted
        return found if link is not None else None

    async def has(self, node: NodeId, keys: Sequence[bytes], timeout_s: float) -> set[bytes] | None:
        """Which of `keys` the node has."""
        held: set[bytes] = set()
        link = self._links.link(node) or await self._links.to(node, timeout_s)
        for at in range(0, len(keys), messages.KEYS_MAX):
            batch = list(keys[at : at + messages.KEYS_MAX])
            request = messages.Has(batch, _ms(timeout_s))
            answered = await link.ask(request, timeout_s) if link is not None else None
            if answered is None or not isinstance(answered.answer, messages.Held):
                return held or None
            for key, flag in zip(batch, answered.answer.flags, strict=False):
                if flag:
                    held.add(key)
                else:
                    self._directory.correct(node, key)
        return held

    async def put(self, node: NodeId, given: Payload, age_s: float, timeout_s: float) -> bool | None:
        """Store a payload there; whether the node kept it."""
        link = self._links.link(node) or await self._links.to(node, timeout_s)
        request = messages.Put(round(age_s * 1000))
        answered = await link.ask(request, timeout_s, (given.data,), given.nbytes) if link is not None else None
        if answered is None or not isinstance(answered.answer, messages.Done):
            return None
        if not answered.answer.count:
            return False
        self._stats.bytes_out += given.nbytes
        return True

    async def forget(self, node: NodeId, names: Sequence[bytes], timeout_s: float, stamp: int = 0) -> int | None:
        """Drop keys and images there."""
        link = self._links.link(node) or await self._links.to(node, timeout_s)
        gone = 0
        for at in range(0, len(names), messages.KEYS_MAX):
            batch = list(names[at : at + messages.KEYS_MAX])
            request = messages.Remove(batch, stamp) if stamp else messages.Forget(batch)
            answered = await link.ask(request, timeout_s) if link is not None else None
            if answered is None or not isinstance(answered.answer, messages.Done | messages.AllRemoved):
                return None
            gone += answered.answer.count
            if isinstance(answered.answer, messages.AllRemoved) and answered.answer.stamp > stamp:
                self._on_removed(batch, answered.answer.stamp)
        return gone

    def _checked(self, link: Link, blob: Buffer, key: bytes) -> Payload | None:
        try:
            checked = payload.parse(blob, key)
        except CorruptPayload as error:
            self._stats.rejected_payloads += 1
            self._links.offended(link, error)
            return None
        self._stats.bytes_in += checked.nbytes
        return checked


def _ms(seconds: float) -> int:
    """As it is told: at least 1, since 0 says nothing."""
    return min(max(1, round(seconds * 1000)), messages.MS_MAX)
