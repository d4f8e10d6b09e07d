"""Both sides of "one encode per cluster": the leases that this node grants as owner, and asking for them as anybody.

`lease.py` says who may encode a missing key. Here others wait for that: their questions lie with the owner until the
features come, or until nobody makes them any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from .lease import Granted, Leases
from .lease_watch import LeaseWatch
from .neighbourhood import Reply
from .tasks import Tasks

if TYPE_CHECKING:
    from ..protocol.payload import Payload
    from .lease import Leased
    from .neighbourhood import Neighbourhood
    from .ring import NodeId

# Questions that wait for somebody's encode, all keys together: a future each. Whoever comes after that encodes itself.
WAITING_MAX = 4096
# A release that does not arrive costs those who wait no more than the lease's own end.
RELEASE_TIMEOUT_S = 0.5


class LeaseDesk:
    """Grants, waits and asks for the leases of one node."""

    def __init__(
        self,
        neighbourhood: Neighbourhood,
        *,
        held: Callable[[bytes], Payload | None],
        now: Callable[[], float],
    ) -> None:
        """`held`: what this node has in memory, which does not count as a use."""
        self._neighbourhood = neighbourhood
        self._held = held
        self._now = now
        self._leases = Leases()
        self._watch = LeaseWatch(neighbourhood)
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}
        self._waiting_count = 0
        self._releasing: Tasks[None] = Tasks()

    # -- as the owner -------------------------------------------------------------------------------------------

    def claim(self, key: bytes, claimant: NodeId, encode_s: float) -> Granted | Leased:
        """`claimant` lacks `key` and could make it in `encode_s`."""
        return self._leases.claim(self._now(), key, claimant, encode_s)

    def is_leased(self, key: bytes) -> bool:
        """Whether somebody has a lease of this node's to make `key`."""
        return self._leases.held(self._now(), key) is not None

    async def wait(self, key: bytes, timeout_s: float) -> None:
        """Until the features of `key` are here, or nobody makes them any more, or `timeout_s` have passed."""
        holder = self._leases.holder(key)
        if self._leases.held(self._now(), key) is None or holder is None or self._waiting_count >= WAITING_MAX:
            return
        made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(made)
        self._waiting_count += 1
        try:
            with self._watched(holder, key, lambda: self.gone(holder)):
                await asyncio.wait({made}, timeout=timeout_s)
        finally:
            self._waiting_count -= 1
            waiting = self._waiting.get(key, [])
            if made in waiting:
                waiting.remove(made)
                if not waiting:
                    del self._waiting[key]

    def _watched(self, node: NodeId, key: bytes, on_silent: Callable[[], None]) -> AbstractContextManager[None]:
        return nullcontext() if node == self._neighbourhood.me else self._watch.on(node, key, on_silent)

    def made(self, key: bytes) -> None:
        """The features of `key` are here."""
        if self._leases.made(key):
            self._wake(key)

    def release(self, key: bytes, holder: NodeId) -> bool:
        """`holder` does not make `key` after all; whether it had been going to."""
        if not self._leases.release(key, holder):
            return False
        self._wake(key)
        return True

    def gone(self, holder: NodeId) -> None:
        """`holder` is not reached any more."""
        for key in self._leases.gone(holder):
            self._wake(key)

    def _wake(self, key: bytes) -> None:
        for made in self._waiting.pop(key, []):
            if not made.done():
                made.set_result(None)

    # -- as anybody ---------------------------------------------------------------------------------------------

    async def ask(self, owner: NodeId, key: bytes, encode_s: float, timeout_s: float) -> Reply | None:
        """The features of `key` from its owner, or what is to become of them."""
        if owner == self._neighbourhood.me:
            return Reply(None, self.claim(key, owner, encode_s))
        return await self._neighbourhood.claim(owner, key, encode_s, timeout_s)

    async def wait_at(
        self, owner: NodeId, key: bytes, timeout_s: float, on_silent: Callable[[], None]
    ) -> Payload | None:
        """What another node makes of `key`, from its owner; None when it did not come, or not in time.

        `on_silent` is called when the owner does not seem to be there any more. It may yet answer.
        """
        if owner == self._neighbourhood.me:
            await self.wait(key, timeout_s)
            return self._held(key)
        # Not watched: how long this takes says nothing of the owner.
        with self._watched(owner, key, on_silent):
            reply = await self._neighbourhood.peers.wait_for(owner, key, timeout_s)
        return reply.payload if reply is not None else None

    def give_back(self, owner: NodeId, key: bytes) -> None:
        """This node was granted the lease, and does not encode `key` after all."""
        if owner == self._neighbourhood.me:
            self.release(key, owner)
            return
        self._releasing.start(self._neighbourhood.peers.release(owner, key, RELEASE_TIMEOUT_S))
