"""Asking the other members for features: `neighbourhood.Peers` over open connections.

No method raises for a peer that is slow, dead or wrong: that is what None is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from ..protocol import delta, messages, payload
from ..protocol.errors import CorruptPayload, RemoteProtocolError
from .lease import Granted, Leased
from .neighbourhood import Reply

if TYPE_CHECKING:
    from ..protocol.frames import Buffer
    from ..protocol.messages import Message
    from ..protocol.payload import Payload
    from .following import Following
    from .link import Link
    from .links import Links
    from .membership import Membership
    from .partials import Partials
    from .ring import NodeId
    from .similar import Similar
    from .stats import Stats

# What an owner may take to say that nothing came.
AWAIT_SPARE_S = 0.1


class Peers:
    """The other members, as a lookup sees them."""

    def __init__(
        self,
        links: Links,
        membership: Membership,
        following: Following,
        stats: Stats,
        on_removed: Callable[[Sequence[bytes], int], None],
        partials: Partials,
        similar: Similar,
        held: Callable[[bytes], Payload | None],
    ) -> None:
        """`on_removed` hears the stamp that a member gave to a removal instead of this node's.

        `held`: what this node has in memory, which does not count as a use.
        """
        self._similar = similar
        self._held = held
        self._on_removed = on_removed
        self._partials = partials
        self._links = links
        self._membership = membership
        self._following = following
        self._directory = following.directory
        self._stats = stats

    def others(self) -> Sequence[NodeId]:
        """The members in the ring, the healthy first."""
        return self._links.nodes()

    def believed(self, key: bytes) -> Sequence[NodeId]:
        """The members that have told that they hold `key`."""
        return self._directory.holders(key)

    def untold(self) -> Sequence[NodeId]:
        """The members that this node follows, and that have not told it yet what they hold."""
        return self._following.untold()

    def is_healthy(self, node: NodeId) -> bool:
        """Whether it is worth waiting for."""
        return self._links.is_healthy(node)

    def name(self, node: NodeId) -> str:
        """The name it gave itself."""
        member = self._membership.get(node)
        return member.name if member is not None else node

    async def get(self, node: NodeId, key: bytes, timeout_s: float) -> Reply | None:
        """The checked payload of `key`."""
        request = messages.Get(key, _ms(timeout_s), self._begun(key))
        return await self._ask_for(node, key, request, timeout_s)

    async def claim(self, node: NodeId, key: bytes, encode_s: float, timeout_s: float) -> Reply | None:
        """The checked payload of `key`, or what its owner says of who makes it."""
        request = messages.Claim(key, _ms(encode_s), _ms(timeout_s), self._begun(key))
        return await self._ask_for(node, key, request, timeout_s)

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

    async def _ask_for(
        self,
        node: NodeId,
        key: bytes,
        request: messages.Get | messages.Claim | messages.Await,
        timeout_s: float,
        *,
        may_differ: bool = True,
    ) -> Reply | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        link = self._links.link(node) or await self._links.to(node, timeout_s)
        on_broken = partial(self._keep_begun, key)
        base = self._base(link, request) if link is not None and may_differ else None
        if base is not None:
            request = msgspec.structs.replace(request, like=messages.Like(base.key.packed, delta.same(base)))
        answered = await link.ask(request, timeout_s, on_broken=on_broken) if link is not None else None
        if link is None or answered is None:
            return None
        match answered.answer:
            case messages.Found(start):
                begun = None if isinstance(request, messages.Await) else request.begun
                if start and (begun is None or begun.size != start):
                    reason = f"the rest of a payload from byte {start} on, which was not asked for"
                    self._links.offended(link, RemoteProtocolError(reason))
                    return None
                found = self._joined(link, key, start, answered.blob)
                if found is None and start and not isinstance(request, messages.Await):
                    whole = msgspec.structs.replace(request, begun=None)
                    return await self._ask_for(node, key, whole, deadline - loop.time())
                return Reply(found) if found is not None else None
            case messages.Difference():
                found = self._made_of(link, base, answered.blob, key)
                if found is None:  # what it is the difference from is not the same on both sides
                    plain = msgspec.structs.replace(request, like=None)
                    return await self._ask_for(node, key, plain, deadline - loop.time(), may_differ=False)
                return Reply(found)
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

    def _base(self, link: Link, request: messages.Get | messages.Claim | messages.Await) -> Payload | None:
        """What this node has that may be like what it asks for, where to be told the difference would be quicker."""
        if isinstance(request, messages.Await) or request.begun is not None:
            return None
        pace = link.protocol.connection.pace
        if not link.hello.abilities & messages.DELTA or pace is None or not delta.is_worth_it(pace):
            return None
        before = self._similar.to(request.key)
        base = self._held(before) if before is not None else None
        if base is None or not delta.may_be_base(base):
            return None
        return base.at(memoryview(bytes(base.data)))  # it may be evicted until the answer comes

    def _made_of(self, link: Link, base: Payload | None, told: Buffer, key: bytes) -> Payload | None:
        if base is None:
            self._links.offended(link, RemoteProtocolError("a difference from nothing that was named"))
            return None
        try:
            made = payload.parse(delta.applied(base, told), key)
        except CorruptPayload:
            self._stats.rejected_payloads += 1
            return None
        self._stats.bytes_in += len(told)
        return made

    def _begun(self, key: bytes) -> messages.Begun | None:
        return self._partials.begun(asyncio.get_running_loop().time(), key)

    def _keep_begun(self, key: bytes, answer: Message, came: memoryview) -> None:
        if isinstance(answer, messages.Found):
            self._partials.keep(asyncio.get_running_loop().time(), key, answer.start, came)

    def _joined(self, link: Link, key: bytes, start: int, rest: Buffer) -> Payload | None:
        """The payload, of which `link` has sent what follows `start`."""
        whole = self._partials.whole(key, start, rest)
        self._partials.forget(key)
        if whole is None:  # another holder has sent the rest meanwhile, or it was too old to keep
            return None
        # What does not fit together may be the fault of who sent the beginning: then nobody is blamed.
        return self._checked(link, whole, key, is_blamed=not start)

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
            on_broken = partial(self._rescue, link, batch, found)
            answered = await link.ask(messages.BatchGet(batch, _ms(left_s)), left_s, on_broken=on_broken)
            if answered is None or not isinstance(answered.answer, messages.Batch):
                return found or None
            sizes = answered.answer.sizes
            if len(sizes) != len(batch) or sum(size for size in sizes if size > 0) != len(answered.blob):
                self._links.offended(link, RemoteProtocolError("batch whose sizes are not those of its payloads"))
                return found or None
            if not self._unpack(link, batch, sizes, answered.blob, found):
                return found or None
            again = [key for key, size in zip(batch, sizes, strict=True) if size == messages.DID_NOT_FIT]
            for key, size in zip(batch, sizes, strict=True):
                if size == messages.NOT_HERE:
                    self._directory.correct(node, key)
            if len(again) == len(batch):
                return found  # it never fits
            wanted = again + wanted
        return found if link is not None else None

    def _rescue(
        self, link: Link, batch: Sequence[bytes], found: dict[bytes, Payload], answer: Message, came: memoryview
    ) -> None:
        """Of a batch that broke, what is here whole is kept, and the beginning of the next."""
        if isinstance(answer, messages.Batch) and len(answer.sizes) == len(batch):
            self._unpack(link, batch, answer.sizes, came, found)

    def _unpack(
        self, link: Link, batch: Sequence[bytes], sizes: Sequence[int], blob: memoryview, found: dict[bytes, Payload]
    ) -> bool:
        """Add the payloads of a batch that are in `blob` whole to `found`; False when one is damaged."""
        at = 0
        for key, size in zip(batch, sizes, strict=True):
            if size <= 0:
                continue
            if at + size > len(blob):
                self._keep_begun(key, messages.Found(), blob[at:])
                break
            checked = self._checked(link, blob[at : at + size], key)  # a view of the batch; memory keeps a copy of it
            if checked is None:
                return False
            found[key] = checked
            at += size
        return True

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

    def _checked(self, link: Link, blob: Buffer, key: bytes, *, is_blamed: bool = True) -> Payload | None:
        try:
            checked = payload.parse(blob, key)
        except CorruptPayload as error:
            self._stats.rejected_payloads += 1
            if is_blamed:
                self._links.offended(link, error)
            return None
        self._stats.bytes_in += checked.nbytes
        return checked


def _ms(seconds: float) -> int:
    """As it is told: at least 1, since 0 says nothing."""
    return min(max(1, round(seconds * 1000)), messages.MS_MAX)
