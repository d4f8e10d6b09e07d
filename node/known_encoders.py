"""Which encoders there are, and that all members know of them: the node's own, those of its users, and the cloud's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..protocol import messages
from ..protocol.errors import EncoderUnavailable

if TYPE_CHECKING:
    from ..protocol.keys import EncoderIdentity
    from .gossip import Gossip
    from .heartbeat import Heartbeat
    from .lasting import Lasting
    from .links import Links
    from .ring import NodeId
    from .settings import LocalEncoder
    from .store.tiers import Tiers
    from .validity import Sweep
    from .versions import Versions

# Reading a model keeps all cores of a small device busy for seconds. Meeting the others comes first, unless an image
# does: the encoder starts by itself when it is needed.
ENCODER_DELAY_S = 1.0
TELL_TIMEOUT_S = 2.0
CLOUD_ENCODERS_MAX = 16  # learnt from the cloud for one question; the others that are known here stay so

_log = logging.getLogger(__name__)


class KnownEncoders:
    """Learns of encoders for one node, and tells the others."""

    def __init__(
        self,
        own: LocalEncoder | None,
        *,
        versions: Versions,
        store: Tiers,
        links: Links,
        gossip: Gossip,
        heartbeat: Heartbeat,
        sweep: Sweep,
        lasting: Lasting,
        patience_s: Callable[[NodeId], float],
    ) -> None:
        """`patience_s`: after how long a member is late with its answer."""
        self._own = own
        self._versions = versions
        self._store = store
        self._links = links
        self._gossip = gossip
        self._heartbeat = heartbeat
        self._sweep = sweep
        self._lasting = lasting
        self._patience_s = patience_s
        self._trouble: str | None = None
        if own is not None and own.known is not None:
            versions.use(own.known.identity, own.known.shape)

    # -- the node's own -----------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Of the node's own, for `/readyz`."""
        if self._trouble is not None:
            return f"degraded: {self._trouble}"
        return "none" if self._own is None else "known" if self._versions.own is not None else "loading"

    async def load(self) -> None:
        """Begin to read the node's own a little later, and wait until it is known."""
        if self._own is None:
            return
        await asyncio.sleep(ENCODER_DELAY_S)
        await self._own.start()
        try:
            await self.own()
        except EncoderUnavailable as error:
            _log.error("no features can be made on this node: %s", error)

    async def own(self) -> EncoderIdentity | None:
        """The identity of the node's own; waits while a model that must be read loads. EncoderUnavailable."""
        if self._own is None:
            return None
        try:
            described = await self._own.described()
        except EncoderUnavailable as error:
            self._trouble = str(error)
            raise
        self._trouble = None
        self._versions.use(described.identity, described.shape)
        return described.identity

    # -- others ---------------------------------------------------------------------------------------------------

    async def ask_cloud_for(self, name: str | None, version: str | None) -> bool:
        """Learn of encoders of that name and version, or of any, from the cloud; whether it told of one.

        Asked for what nobody here has heard of: who has just started without an encoder knows what its peers know, and
        the cloud may hold more.
        """
        told = [it for it in await self._store.encoders_in_cloud() if name is None or it.name == name]
        told = [it for it in told if version is None or it.version == version][:CLOUD_ENCODERS_MAX]
        return sum(map(self._versions.learn, told)) > 0

    async def introduce(self, encoder: EncoderIdentity) -> None:
        """Have every member know `encoder`, whose features a user has brought, if it is news to this node.

        Rumors would do, in a second or two. But what is acknowledged here is asked for elsewhere at once, by its name.
        A member that is late with its answer is told behind the acknowledgement: it hangs, and has
        this to read before any question for those features when it goes on, or it will hear the rumor.
        """
        if self._versions.learn(encoder):
            said = messages.Encoder(encoder.name, encoder.version, encoder.fingerprint)
            await self._links.tell(messages.State([], [said], []), TELL_TIMEOUT_S, patience_s=self._patience_s)

    async def invalidate(self, name: str, version: str) -> int:
        """Make `version` of encoder `name` current on every member; how many entries went on this node."""
        self._versions.make_current(name, version)
        gone = self._sweep.outdated()
        known = [known for known in self._versions.known() if known.name == name]
        self._store.remove_encoders_from_cloud(each for each in known if not self._versions.is_current(each))
        await self._lasting.save_versions()
        self._gossip.tell_current(name)
        self._heartbeat.spread()
        await self._links.tell(messages.State([], [], self._gossip.current()), TELL_TIMEOUT_S)
        return gone
