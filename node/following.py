"""The shell around the directory: what is told of lists of keys beside datagrams, and fetched where it is too long."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ..protocol import datagrams, messages
from ..protocol.errors import RemoteProtocolError
from .directory import FOLLOWED_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .directory import Directory
    from .links import Links
    from .membership import Membership
    from .ring import NodeId

# A node that starts is told lists of 0.1 MB by each of the others: one after another, and should one link be slow,
# another beside it.
FETCHES_MAX = 2
FETCH_TIMEOUT_S = 5.0
# Who has not told yet what it holds is asked for whatever is wanted, by each request. So it is probed out of its turn,
# as many at once, and so often: without that, 64 lists of 300 members are known after five minutes, now after 8 s.
ASKED_AT_ONCE = 8
ASKED_MAX = 3

_log = logging.getLogger(__name__)


class Following:
    """Keeps one node's copy of the others' lists up to date, as far as a word from them says that it is not."""

    def __init__(self, directory: Directory, membership: Membership, links: Links) -> None:
        self.directory = directory
        self._membership = membership
        self._links = links
        self._fetching: dict[NodeId, asyncio.Task[None]] = {}
        self._to_fetch: dict[NodeId, None] = {}  # the next, of those that are followed
        self._wanted: list[NodeId] = []  # the members whose lists are to be known here
        self._wanted_at = -1
        self._untold: list[NodeId] = []
        self._untold_at = (-1, -1)
        self._asked: dict[NodeId, int] = {}  # of those, how often

    def untold(self) -> Sequence[NodeId]:
        """The members whose lists are to be known here, and are not."""
        at = self._membership.version, self.directory.changes
        if at != self._untold_at:
            size, directory = self._membership.size, self.directory
            if self._wanted_at != at[0]:
                members = self._membership.in_ring_ids
                self._wanted = sorted(node for node in members if directory.is_followed(node, size))
                self._wanted_at = at[0]
            # Some may have no room meanwhile.
            wanted = self._wanted
            self._untold = [node for node in wanted if not directory.has(node) and directory.is_followed(node, size)]
            self._asked = {node: self._asked[node] for node in self._untold if node in self._asked}
            self._untold_at = at
        return self._untold

    def to_ask(self) -> list[NodeId]:
        """Some of those, who are to be probed now: their answers tell what they hold, or that it is to be fetched."""
        if not self.untold():
            return []
        wanted = [node for node in self._untold if self._asked.get(node, 0) < ASKED_MAX and not self._is_fetched(node)]
        wanted.sort(key=lambda node: self._asked.get(node, 0))
        for node in wanted[:ASKED_AT_ONCE]:
            self._asked[node] = self._asked.get(node, 0) + 1
        return wanted[:ASKED_AT_ONCE]

    def news_for(self, node: NodeId) -> datagrams.ListNews:
        """What to tell `node` beside a datagram."""
        return self.directory.news_for(node, self._membership.size)

    def heard(self, node: NodeId, news: datagrams.ListNews, *, is_answer: bool) -> None:
        """What `node` told beside a datagram. RemoteProtocolError for nonsense."""
        member = self._membership.get(node)
        if member is None or not member.is_in_ring:
            return
        # Who answers knows what is lacking here, and would have told it, if there were not too much of it. So would who
        # asks, but where a datagram was lost it believes that this node was told.
        is_told = is_answer or (news.changes is None and self.directory.has(node) != 0)
        if self.directory.heard(member.id, news, self._membership.size) and is_told:  # the id that others keep, too
            self._ask(member.id)

    def called(self, node: NodeId) -> None:
        """`node` is there, but the datagrams are lost that would have told of its list."""
        member = self._membership.get(node)
        if member is not None and member.is_in_ring and self.directory.is_followed(node, self._membership.size):
            self._ask(node)

    def _ask(self, node: NodeId) -> None:
        if not self._is_fetched(node) and len(self._to_fetch) < FOLLOWED_MAX:
            self._to_fetch[node] = None
            self._fetch_next()

    def _is_fetched(self, node: NodeId) -> bool:
        return node in self._fetching or node in self._to_fetch

    def _fetch_next(self) -> None:
        while self._to_fetch and len(self._fetching) < FETCHES_MAX:
            node = next(iter(self._to_fetch))
            del self._to_fetch[node]
            self._fetching[node] = asyncio.ensure_future(self._fetch(node))

    async def _fetch(self, node: NodeId) -> None:
        try:
            link = await self._links.to(node, FETCH_TIMEOUT_S)
            if link is None:
                return
            answered = await link.ask(messages.GetKeys(self.directory.has(node)), FETCH_TIMEOUT_S)
            if answered is None or not isinstance(answered.answer, messages.Keys):
                return
            try:
                self.directory.take(node, answered.answer, answered.blob)
            except RemoteProtocolError as error:
                self._links.offended(link, error)
        finally:
            del self._fetching[node]
            self._fetch_next()

    async def close(self) -> None:
        """Fetch no more."""
        self._to_fetch.clear()
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
