"""Who holds what: every node keeps a copy of the others' lists of keys (`journal.py`), as fingerprints. Pure.

**Versions, as in Scuttlebutt** (van Renesse, Dumitriu, Gough, Thomas, "Efficient Reconciliation and Flow Control for
Anti-Entropy Protocols", LADIS 2008, section 3): each node alone changes its own list and numbers the changes. Two nodes
that meet say which version of the other's list they have, and each tells the other what changed since. We differ in
what is told: a node speaks for its own list alone, not for third parties', so what is said of it is never older than
what it said itself, and nothing grows with the cluster.

**It costs no message.** The versions and up to 160 changes ride on the probes and answers by which members find out who
is alive (`probing.py`). Every node asks each of the others once in a round of as many seconds as there are others, in
random order, and is asked by it: what one changes, another knows after two rounds at the latest, if no datagram is
lost, and half a round on average. What does not fit is fetched over TCP, one list at a time.

**It may be wrong** and does no harm: whoever is asked for something that it has no more says so, which costs one hop,
and is believed (`correct`).

**It is bounded.** A node follows all others up to 64, and in a larger cluster 64 drawn by the hash of both ids (as many
as would otherwise be asked one by one). It knows at most 4 million keys of others: 16 MB.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import xxhash

from ..protocol import fingerprints as codes
from ..protocol.datagrams import ListNews
from ..protocol.errors import RemoteProtocolError
from ..protocol.messages import Keys
from .holdings import Holdings
from .journal import Journal, boot_of

if TYPE_CHECKING:
    from .ring import NodeId

FOLLOWED_MAX = 64
ENTRIES_MAX = 4_000_000


class _Followed:
    """A node whose list is known here, and as of which version."""

    __slots__ = ("holdings", "version")

    def __init__(self) -> None:
        self.holdings = Holdings()
        self.version = 0


class Directory:
    """The lists of other nodes, and what to tell them of this node's own (`journal`)."""

    def __init__(self, me: NodeId, journal: Journal) -> None:
        self.journal = journal
        self.entries = 0
        """How many keys of others are known."""
        self.changes = 0
        """How often a list became known, or was forgotten."""
        self.corrections = 0
        """How often somebody did not have what it was said to have."""
        self._me = me
        self._followed: dict[NodeId, _Followed] = {}
        self._without_room: dict[NodeId, None] = {}
        self._drawn: dict[NodeId, bool] = {}  # of so many members
        self._drawn_of = 0
        self._they_have: dict[NodeId, int] = {}  # the versions of this node's list that those have who follow it

    # -- questions ----------------------------------------------------------------------------------------------

    def holders(self, key: bytes) -> list[NodeId]:
        """The other nodes that are believed to hold `key`, in no useful order."""
        fingerprint = codes.fingerprint(key)
        return [node for node, followed in self._followed.items() if fingerprint in followed.holdings]

    def has(self, node: NodeId) -> int:
        """The version of the list of `node` that is known here; 0 for none: it may hold anything."""
        followed = self._followed.get(node)
        return followed.version if followed is not None else 0

    def fingerprints(self, node: NodeId) -> array[int]:
        """What `node` is believed to hold, rising; not to be changed."""
        followed = self._followed.get(node)
        return followed.holdings.fingerprints() if followed is not None else array("I")

    def is_followed(self, node: NodeId, members: int) -> bool:
        """Whether the list of `node`, one of so many members, is to be known here."""
        if node in self._without_room:
            return False
        if members <= FOLLOWED_MAX + 1:
            return True
        if members != self._drawn_of:
            self._drawn_of = members
            self._drawn.clear()
        is_drawn = self._drawn.get(node)
        if is_drawn is None:
            digest = xxhash.xxh32_intdigest(f"{self._me}\0{node}".encode())
            is_drawn = self._drawn[node] = digest * members < FOLLOWED_MAX << 32
        return is_drawn

    # -- in datagrams -------------------------------------------------------------------------------------------

    def news_for(self, node: NodeId, members: int) -> ListNews:
        """What to tell `node`, one of so many members, beside a probe of it or an answer to its probe."""
        version = self.journal.settle()
        changes = None
        they_have = self._they_have.get(node, version)
        if they_have != version and (changes := self.journal.changes(they_have)) is not None:
            self._they_have[node] = version  # most datagrams arrive; if this one does not, it will say so
        if not self.is_followed(node, members):
            return ListNews(version, None, changes)
        followed = self._followed.get(node)
        return ListNews(version, followed.version if followed is not None else 0, changes)

    def heard(self, node: NodeId, news: ListNews, members: int) -> bool:
        """What `node`, one of so many members, has told beside a datagram; whether its list is still another one here.

        RemoteProtocolError for what no correct node tells.
        """
        if news.has is None:
            self._they_have.pop(node, None)
        else:
            self._they_have[node] = news.has
        if not self.is_followed(node, members):
            self._drop(node)
            return False
        followed = self._followed.get(node)
        if followed is None:
            followed = self._followed[node] = _Followed()
        if (changes := news.changes) is not None:
            added, removed = codes.from_list(changes.added), codes.from_list(changes.removed)
            if changes.since:
                self._apply(node, changes.since, news.version, added, removed)
            else:
                self._replace(node, array("I", sorted(set(added))), news.version)
        return followed.version != news.version

    # -- over TCP -----------------------------------------------------------------------------------------------

    def take(self, node: NodeId, keys: Keys, blob: bytes | memoryview) -> None:
        """What `node` answered to the question for what is lacking here. RemoteProtocolError for nonsense."""
        if not keys.since:
            self._replace(node, codes.unpack(keys.added, blob), keys.until)
            return
        size = codes.FINGERPRINT_BYTES
        if len(blob) != (keys.added + keys.removed) * size:
            raise RemoteProtocolError(f"{keys.added} keys added and {keys.removed} removed in {len(blob)} bytes")
        added = codes.from_list(blob[: keys.added * size])
        removed = codes.from_list(blob[keys.added * size :])
        self._apply(node, keys.since, keys.until, added, removed)

    def _apply(self, node: NodeId, since: int, until: int, added: list[int], removed: list[int]) -> None:
        """Changes that lead from `since`, or from any version after it, to `until`."""
        boot = boot_of(until)
        if boot_of(since) != boot:
            raise RemoteProtocolError(f"changes from {since} to {until}, which is another boot's")
        followed = self._followed.get(node)
        if followed is None or not since <= followed.version < until or boot_of(followed.version) != boot:
            return
        if self._has_room(node, len(added)):
            self.entries += followed.holdings.update(added, removed)
            followed.version = until

    def _replace(self, node: NodeId, held: array[int], version: int) -> None:
        followed = self._followed.get(node)
        if followed is None or (boot_of(followed.version) == boot_of(version) and version <= followed.version):
            return
        if self._has_room(node, len(held) - len(followed.holdings)):
            self.changes += not followed.version
            self.entries += len(held) - len(followed.holdings)
            followed.holdings.replace(held)
            followed.version = version

    def _has_room(self, node: NodeId, more: int) -> bool:
        if self.entries + more <= ENTRIES_MAX:
            return True
        self._without_room[node] = None
        self._drop(node)
        return False

    def _drop(self, node: NodeId) -> None:
        if (followed := self._followed.pop(node, None)) is not None:
            self.entries -= len(followed.holdings)
            self.changes += 1

    # -- what turns out -----------------------------------------------------------------------------------------

    def correct(self, node: NodeId, key: bytes) -> None:
        """`node` was asked, and does not hold `key`."""
        followed = self._followed.get(node)
        if followed is not None and followed.holdings.discard(codes.fingerprint(key)):
            self.entries -= 1
            self.corrections += 1

    def forget(self, node: NodeId) -> None:
        """`node` is gone, and what it held with it."""
        self._they_have.pop(node, None)
        if node in self._followed or node in self._without_room:
            self._drop(node)
            self._without_room.clear()  # for one of them there is room now

    def check(self) -> None:
        """Assert that the bookkeeping agrees with itself."""
        self.journal.check()
        assert self.entries == sum(len(followed.holdings) for followed in self._followed.values()) <= ENTRIES_MAX
        for followed in self._followed.values():
            followed.holdings.check()
