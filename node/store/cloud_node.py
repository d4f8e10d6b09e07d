"""A cloud node as the cloud: a node with a big disk, asked over the WAN by the same protocol as a peer.

It is nobody's peer: it stands in a cluster of its own, `NAME (cloud)`, knows no members, and has no place in a ring.
Who asks it says Hello without a port, so it calls nobody back. All requests share one connection, dialled when needed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ...protocol import messages
from ...protocol.cloud.objects import ObjectStoreError
from ...protocol.errors import CorruptPayload, InvalidValue
from ...protocol.keys import EncoderIdentity
from ...protocol.payload import parse
from ..link import dial
from .cloud import READ_TIMEOUT_S, UPLINK_BYTES_PER_S, WRITE_TIMEOUT_S

if TYPE_CHECKING:
    from ...protocol.connection import Answered
    from ...protocol.frames import Buffer
    from ...protocol.messages import Hello, Message
    from ..link import Address, Link, Network
    from ..partials import Partials

# A name to look up, a WAN's round trip for TCP, one for TLS and one for Hello: a tenth of this, or it is out.
DIAL_TIMEOUT_S = 5.0
# Before the tier gives up, so that what came by then is kept.
GET_TIMEOUT_S = READ_TIMEOUT_S - DIAL_TIMEOUT_S
# A link that a router has forgotten swallows everything without a word. When nothing has come for so long, and for as
# long as what was sent may take besides, the next request dials anew.
SILENCE_S = 5.0
# To ask whether it is there already costs a round trip, which sending less than this costs too.
LOOK_FIRST_BYTES = 16 * 1024

_log = logging.getLogger(__name__)


def cloud_cluster(cluster: str) -> str:
    """The name by which a cloud node goes for the nodes of `cluster`."""
    return f"{cluster} (cloud)"


class NodeRemote:
    """A cloud node as `cloud.Remote`."""

    def __init__(self, network: Network, address: Address, me: Hello, partials: Partials) -> None:
        self._network = network
        self._address = address
        self._me = me
        self._partials = partials
        self._link: Link | None = None
        self._dialling: asyncio.Task[Link] | None = None
        self._sending_bytes = 0
        self._trouble = ""

    def is_known(self, key: bytes) -> bool:
        """Never: what others have put there is not told."""
        return False

    async def get(self, key: bytes) -> Buffer | None:
        """The bytes of `key`, from where an earlier transfer of them broke on."""
        begun = self._partials.begun(asyncio.get_running_loop().time(), key)
        answered = await self._ask(messages.Get(key, begun=begun), GET_TIMEOUT_S, key=key)
        if isinstance(answered.answer, messages.Missing):
            return None
        if not isinstance(answered.answer, messages.Found):
            raise self._misunderstood(answered)
        start = answered.answer.start
        if start and (begun is None or begun.size != start):
            raise self._misunderstood(answered)
        data = self._partials.whole(key, start, answered.blob)
        self._partials.forget(key)
        if not start:
            return data
        try:
            parse(data or b"", key)
        except CorruptPayload:  # what came before does not belong to it, or is gone: once more, without that
            return await self.get(key)
        return data

    async def has(self, key: bytes) -> bool:
        """Whether `key` is there, in its memory or on its disk."""
        answered = await self._ask(messages.Has([key]), READ_TIMEOUT_S)
        if not isinstance(answered.answer, messages.Held) or len(answered.answer.flags) != 1:
            raise self._misunderstood(answered)
        return answered.answer.flags == b"\x01"

    async def encoders(self) -> list[EncoderIdentity]:
        """Those of which it was given features, and has not been told since to forget them."""
        answered = await self._ask(messages.GetState(), READ_TIMEOUT_S)
        if not isinstance(answered.answer, messages.State) or len(answered.answer.encoders) > messages.ENCODERS_MAX:
            raise self._misunderstood(answered)
        try:
            return [EncoderIdentity(told.name, told.version, told.fingerprint) for told in answered.answer.encoders]
        except InvalidValue:
            raise self._misunderstood(answered) from None

    async def put(self, key: bytes, data: memoryview, age_s: float, *, must_replace: bool) -> bool:
        """Write; False when it was there, or is not kept: it may have been removed since it was made."""
        if len(data) > LOOK_FIRST_BYTES and not must_replace and await self.has(key):
            return False
        request = messages.Put(round(age_s * 1000))
        answered = await self._ask(request, WRITE_TIMEOUT_S + len(data) / UPLINK_BYTES_PER_S, data)
        return self._count(answered) > 0

    async def remove(self, keys: Sequence[bytes]) -> int:
        """Remove keys; how many it had."""
        return await self._forget(messages.Forget(list(keys)))

    async def remove_image(self, digest: bytes) -> int:
        """Remove every key of an image; how many it had."""
        return await self._forget(messages.Forget([digest]))

    async def remove_encoder(self, encoder: bytes) -> int:
        """Remove everything of an encoder; how many it had."""
        return await self._forget(messages.Forget([], [encoder]))

    async def close(self) -> None:
        """End the connection."""
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        if self._link is not None:
            self._link.protocol.close()

    # -- inside -------------------------------------------------------------------------------------------------

    async def _forget(self, request: messages.Forget) -> int:
        return self._count(await self._ask(request, WRITE_TIMEOUT_S))

    def _count(self, answered: Answered) -> int:
        if not isinstance(answered.answer, messages.Done):
            raise self._misunderstood(answered)
        return answered.answer.count

    async def _ask(
        self, request: Message, timeout_s: float, blob: memoryview | None = None, *, key: bytes = b""
    ) -> Answered:
        """The answer; ObjectStoreError when none comes. Ends a connection on which nothing comes any more.

        What comes of the payload of `key`, if it is not all, is kept.
        """
        link = await self._connected()
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        nbytes = len(blob) if blob is not None else 0
        self._sending_bytes += nbytes
        parts = (blob,) if blob is not None else ()
        asking = asyncio.ensure_future(link.ask(request, timeout_s, parts, nbytes, partial(self._keep_begun, key)))
        try:
            while not asking.done():
                patience_s = SILENCE_S + self._sending_bytes / UPLINK_BYTES_PER_S
                silent_since = max(asked_at, link.protocol.connection.heard_at)
                if (left_s := silent_since + patience_s - loop.time()) <= 0:
                    link.protocol.abort("silent for too long")
                    break
                await asyncio.wait({asking}, timeout=left_s)
            answered = await asking
        finally:
            self._sending_bytes -= nbytes
            asking.cancel()
        if answered is None:
            raise ObjectStoreError(f"no answer from the cloud node at {self._shown}")
        return answered

    def _keep_begun(self, key: bytes, answer: Message, came: memoryview) -> None:
        if isinstance(answer, messages.Found):
            self._partials.keep(asyncio.get_running_loop().time(), key, answer.start, came)

    async def _connected(self) -> Link:
        if self._link is not None and self._link.protocol.is_open:
            return self._link
        if self._dialling is None:
            self._dialling = asyncio.ensure_future(self._dial())
            self._dialling.add_done_callback(self._dialled)
        return await asyncio.shield(self._dialling)  # others may wait for it too

    async def _dial(self) -> Link:
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                self._link = await dial(self._network, self._me, self._address)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: a host that is no host's name
            trouble = str(error) or "no answer"
            if trouble != self._trouble:
                _log.warning("no cloud node at %s: %s", self._shown, trouble)
            self._trouble = trouble
            raise ObjectStoreError(f"no cloud node at {self._shown}: {trouble}") from None
        self._trouble = ""
        return self._link

    def _dialled(self, task: asyncio.Task[Link]) -> None:
        self._dialling = None
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits any more

    def _misunderstood(self, answered: Answered) -> ObjectStoreError:
        reason = f"{type(answered.answer).__name__} is no answer to what was asked"
        if self._link is not None:
            self._link.protocol.abort(reason)
        return ObjectStoreError(f"the cloud node at {self._shown}: {reason}")

    @property
    def _shown(self) -> str:
        return "{}:{}".format(*self._address)
