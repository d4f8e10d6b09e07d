"""What is cheaper now: to fetch features from a peer, or to encode the image here? Pure: facts in, seconds out.

The promise is that with an image in hand nobody waits longer than 1.2 × what encoding it here takes, whatever the
network does. So the encode time is the measure of all waiting on others. The time of 1.2 encodes is given out so:

    1      the encode itself, if it comes to that
    0.1    at most, waiting for others before the encode begins; 0.15 for one that is steady
    0.05   at most, holding the answer back for its copies

A peer that has not answered when that is over is not given up: the encode begins beside it, and whoever is
first answers. So what a slow, lossy or stopped peer can cost is bounded by arithmetic, not by how well it was judged;
judging well only saves encodes.

An encode that has begun is work in vain when the answer of a peer comes first, and where the encoder cannot be stopped
the next image waits for it. So a peer is asked only where its features are likely to come before an encode would begin.
For one that is steady (it has not failed of late, and all that it sent lately came within some time) the encode is held
back that long, if that is less than 0.15. How a peer does that has not sent anything lately is found out by trying.

What is known of a peer: its round trips (each probe of the membership brings one, so that a recovered peer is noticed
without trying it on a request), the bandwidth of what it sent, and how often it failed of late.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ring import NodeId

# Shares of the time that an encode is expected to take.
ASK_SHARE = 0.10
COPY_SHARE = 0.05
HOLD_SHARE = 0.15  # for a peer that is steady
LEASE_SHARE = 1.2  # when another node's encode should be here, from the request on, so that it is waited for
LEASE_LATE_SHARE = 0.25  # how late it may be, before one's own begins beside it

# However slow the encoder: a LAN has answered by then or does not answer, and a caller would rather have its features.
PATIENCE_MAX_S = 0.25
# Before the first encode nothing is known of this device. 25 ms are a tenth of what a slow camera takes.
PATIENCE_UNKNOWN_S = 0.025
# And the wait for others that encode: a device's first encode reads the model, which takes seconds.
ENCODE_UNKNOWN_S = 2.0

# A round trip nobody has measured yet: a LAN's, doubled.
ROUND_TRIP_UNKNOWN_S = 0.001
# 1 Gbit/s. An optimist asks once and knows; a pessimist would never find out.
BYTES_PER_S_UNKNOWN = 117e6
PAYLOAD_BYTES_UNKNOWN = 151_504  # 196 × 768 as INT8
# Less than this says more of the round trip than of the bandwidth.
BANDWIDTH_BYTES_MIN = 16 * 1024
# Without an image in hand, the next holder is asked beside one that has not answered by then. A LAN round trip is under
# a millisecond and 150 KB at 100 Mbit/s take 12; a peer known to be slower than that is given its usual time.
HEDGE_UNKNOWN_S = 0.05
HEDGE_MIN_S = 0.01  # below it, the stalls of a busy event loop would ask twice for everything
HEDGE_MAX_S = 0.5

# Of so many fetches the slowest counts: a peer is steady if none was late, and their median says how it does now.
FETCHES = 8
STEADY_FAILURES_MAX = 0.05  # what is left of one failure after six good answers, or a minute and a half
FETCHES_MIN = 3  # fewer say nothing of a peer
FETCHES_KEPT_S = 120.0  # and older ones nothing of how it is now: it is tried again

RECENT = 64
PEERS_MAX = 512  # beyond, who was met first is forgotten
_WEIGHT = 0.25  # of the newest in a moving average
# What a peer did half a minute ago counts half: the Wi-Fi that was bad then is tried again.
_FORGIVEN_AFTER_S = 30.0


class Recent:
    """The last observations of something, for quantiles of how it is now."""

    __slots__ = ("_oldest", "_size", "_sorted", "_values")

    def __init__(self, size: int = RECENT) -> None:
        self._size = size
        self._values = array("d")  # 8 bytes each: there are some of every other member
        self._oldest = 0  # where it is among the values, once there are `size`
        self._sorted: list[float] | None = None  # made when it is asked for: more is observed than asked

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        """One more; the oldest beyond `size` is forgotten."""
        self._sorted = None
        if len(self._values) < self._size:
            self._values.append(value)
        else:
            self._values[self._oldest] = value
            self._oldest = (self._oldest + 1) % self._size

    def quantile(self, share: float) -> float | None:
        """The value that `share` of the observations stay below; None without any."""
        ordered = self._sorted
        if ordered is None:
            ordered = self._sorted = sorted(self._values)
        if not ordered:
            return None
        return ordered[int(share * len(ordered))] if share < 1 else ordered[-1]


@dataclass(frozen=True, slots=True)
class Prices:
    """What energy is worth to a device that runs on a battery. All zero: only time counts."""

    seconds_per_joule: float = 0.0
    """How much longer a request may take for each joule that it saves."""
    joules_per_byte: float = 0.0
    """Of the radio, to receive: some 0.1 µJ on Wi-Fi, a µJ and more on LTE."""
    joules_per_encode: float = 0.0


ONLY_TIME = Prices()


_NOTHING_YET = Recent(FETCHES)  # never written to: most members are never asked for features


@dataclass(slots=True)
class _Peer:
    """What this node has seen of one peer."""

    round_trips: Recent = field(default_factory=Recent)
    fetches: Recent = _NOTHING_YET
    fetches_since: float = 0.0
    seconds_per_byte: float = 1 / BYTES_PER_S_UNKNOWN
    has_sent: bool = False
    failures: float = 0.0  # the share of its answers that failed to come, as of `failures_at`
    failures_at: float = 0.0


class Costs:
    """One node's estimates. Times are seconds; `ahead` is how many images are with the encoder already."""

    def __init__(self, prices: Prices = ONLY_TIME) -> None:
        self._prices = prices
        self._peers: dict[NodeId, _Peer] = {}
        self._alone = Recent()  # encodes that found the encoder idle
        self._each = Recent()  # the share of one image, of those that found others ahead
        self._payload_bytes = float(PAYLOAD_BYTES_UNKNOWN)
        self._has_encoded = False

    # -- facts --------------------------------------------------------------------------------------------------

    def answered(self, now: float, node: NodeId, seconds: float, nbytes: int = 0, payloads: int = 1) -> None:
        """`node` has answered after `seconds`, with `nbytes` of so many payloads."""
        peer = self._seen(node)
        peer.failures = (1 - _WEIGHT) * self._failures(now, peer)
        peer.failures_at = now
        if nbytes < BANDWIDTH_BYTES_MIN:
            peer.round_trips.add(seconds)
            return
        if payloads == 1:
            self._fetched(now, peer, seconds)
        took = max(seconds - self.round_trip_s(node), seconds / 10) / nbytes
        # The mean of what a byte takes, not of bytes a second: one fast answer does not make up for a slow one.
        peer.seconds_per_byte += (_WEIGHT if peer.has_sent else 1.0) * (took - peer.seconds_per_byte)
        peer.has_sent = True
        self._payload_bytes += _WEIGHT * (nbytes / max(1, payloads) - self._payload_bytes)

    def failed(self, now: float, node: NodeId, waited_s: float, *, is_fetch: bool = True) -> None:
        """`node` has not answered in `waited_s`, or so late that nobody wanted it any more.

        `is_fetch`: it was asked for features, and that says how long they take: so long at least.
        """
        peer = self._seen(node)
        if is_fetch:
            self._fetched(now, peer, waited_s)
        peer.failures = (1 - _WEIGHT) * self._failures(now, peer) + _WEIGHT
        peer.failures_at = now

    def is_back(self, node: NodeId) -> None:
        """`node` was away, and is there again: how it did before it went says nothing."""
        peer = self._peers.get(node)
        if peer is not None:
            peer.fetches, peer.failures = _NOTHING_YET, 0.0

    def encoded(self, seconds: float, ahead: int) -> None:
        """An image took `seconds` from request to features, with `ahead` others there before it."""
        if not self._has_encoded:  # it waited for the model to be read, and says nothing of the next
            self._has_encoded = True
        elif ahead:
            self._each.add(seconds / (ahead + 1))
        else:
            self._alone.add(seconds)

    # -- estimates ----------------------------------------------------------------------------------------------

    def round_trip_s(self, node: NodeId) -> float:
        """The median of its last small answers."""
        median = self._peer(node).round_trips.quantile(0.5)
        return median if median is not None else ROUND_TRIP_UNKNOWN_S

    def bytes_per_s(self, node: NodeId) -> float:
        """What the link from it carries."""
        return 1 / self._peer(node).seconds_per_byte

    def failure_share(self, now: float, node: NodeId) -> float:
        """How likely it is not to answer in time."""
        return self._failures(now, self._peer(node))

    def fetch_s(self, node: NodeId) -> float:
        """How long features of the usual size take from it."""
        return self.round_trip_s(node) + self._payload_bytes * self._peer(node).seconds_per_byte

    def encode_s(self, ahead: int) -> float | None:
        """How long an encode that begins now is expected to take; None before the first."""
        return self._encode_quantile(0.5, ahead)

    # -- choices ------------------------------------------------------------------------------------------------

    def patience_s(self, ahead: int) -> float:
        """How long an encode may be held back for who has not answered yet.

        By the quicker of this node's encodes: images differ, and the promise holds for the small ones too.
        """
        quick_s = self._encode_quantile(0.25, ahead)
        return min(ASK_SHARE * quick_s, PATIENCE_MAX_S) if quick_s is not None else PATIENCE_UNKNOWN_S

    def hold_s(self, now: float, node: NodeId, ahead: int) -> float:
        """How long an encode is held back for `node` alone: longer than `patience_s` where that is likely to do."""
        patience_s = self.patience_s(ahead)
        peer = self._peer(node)
        if not self._is_known(now, peer) or self._failures(now, peer) > STEADY_FAILURES_MAX:
            return patience_s
        slow_s = peer.fetches.quantile(1.0) or 0.0
        return max(patience_s, slow_s) if slow_s <= self._hold_max_s(ahead) else patience_s

    def copy_wait_s(self, ahead: int) -> float:
        """How long an answer that is made may be held back for its copies."""
        quick_s = self._encode_quantile(0.25, ahead)
        return min(COPY_SHARE * quick_s, PATIENCE_MAX_S) if quick_s is not None else PATIENCE_UNKNOWN_S

    def lease_wait_s(self, elapsed_s: float, expected_s: float, node: NodeId, ahead: int) -> float:
        """How long to wait for another node's encode, expected in `expected_s`, put with `node` and then fetched there.

        0 where that would come later than 1.2 of one's own: then one's own begins at once. One that was expected sooner
        and is late is waited for a little longer: one's own would be later still.
        """
        own_s = self._encode_quantile(0.25, ahead)
        if own_s is None:
            left_s = late_s = ENCODE_UNKNOWN_S - elapsed_s
        else:
            left_s = LEASE_SHARE * own_s - elapsed_s
            late_s = expected_s + 2 * self._slow_fetch_s(node) + LEASE_LATE_SHARE * own_s
        return late_s if expected_s + 2 * self._slow_fetch_s(node) <= left_s else 0.0

    def worth_asking(self, now: float, nodes: Iterable[NodeId], ahead: int) -> list[NodeId]:
        """Those of `nodes` from which to fetch is cheaper than to encode here, the cheapest first.

        Who fails has cost the patience, and the encode still comes: with a share f of failures,
        (1 - f) · fetch + f · (patience + encode) < encode, solved for fetch.
        """
        encode_s = self.encode_s(ahead)
        encode = math.inf if encode_s is None else encode_s + self._price(self._prices.joules_per_encode)
        patience_s = self.patience_s(ahead)
        costs: list[tuple[float, int, NodeId]] = []
        for place, node in enumerate(nodes):
            odds = self._odds(now, node)
            fetch = self.fetch_s(node) + self._price(self._prices.joules_per_byte * self._payload_bytes)
            is_in_time = self._is_in_time(now, node, ahead)
            if (cost := fetch + odds * patience_s) < encode and is_in_time:
                costs.append((cost, place, node))
        return [node for _, _, node in sorted(costs)]

    def cheapest_first(self, now: float, nodes: Iterable[NodeId]) -> list[NodeId]:
        """`nodes` for who cannot encode: by what a fetch takes, and what silence has cost of late."""
        costs: list[tuple[float, int, NodeId]] = []
        for place, node in enumerate(nodes):
            odds = self._odds(now, node)
            costs.append((self.fetch_s(node) + odds * self.hedge_after_s(node), place, node))
        return [node for _, _, node in sorted(costs)]

    def hedge_after_s(self, node: NodeId, payloads: int = 1) -> float:
        """When to ask the next holder beside `node`: after what 95 of 100 of its answers take, for so many payloads."""
        peer = self._peer(node)
        usual_s = peer.round_trips.quantile(0.95)
        usual_s = HEDGE_UNKNOWN_S if usual_s is None else usual_s + self._payload_bytes * peer.seconds_per_byte
        more_s = (payloads - 1) * self._payload_bytes * peer.seconds_per_byte
        return min(max(usual_s, HEDGE_MIN_S), HEDGE_MAX_S) + more_s

    # -- inside -------------------------------------------------------------------------------------------------

    def _encode_quantile(self, share: float, ahead: int) -> float | None:
        alone_s = self._alone.quantile(share)
        if not ahead:
            return alone_s
        if (each_s := self._each.quantile(share)) is None:
            each_s = alone_s
        if each_s is None:
            return None
        return max(alone_s or 0.0, each_s * (ahead + 1))

    def _failures(self, now: float, peer: _Peer) -> float:
        if not peer.failures:
            return 0.0
        return peer.failures * math.exp2(-max(0.0, now - peer.failures_at) / _FORGIVEN_AFTER_S)

    def _fetched(self, now: float, peer: _Peer, seconds: float) -> None:
        if now - peer.fetches_since > FETCHES_KEPT_S:
            peer.fetches, peer.fetches_since = Recent(FETCHES), now
        elif peer.fetches is _NOTHING_YET:
            peer.fetches = Recent(FETCHES)
        peer.fetches.add(seconds)

    def _slow_fetch_s(self, node: NodeId) -> float:
        """How long features take from it when it is not at its best."""
        return self._peer(node).fetches.quantile(1.0) or self.fetch_s(node)

    def _is_known(self, now: float, peer: _Peer) -> bool:
        """Whether it has sent enough lately to tell how it does."""
        return len(peer.fetches) >= FETCHES_MIN and now - peer.fetches_since <= FETCHES_KEPT_S

    def _hold_max_s(self, ahead: int) -> float:
        """How long an encode may be held back for a steady peer: longer where that saves energy that has a price."""
        encode_s = self._encode_quantile(0.25, ahead)
        if encode_s is None:
            return math.inf
        prices = self._prices
        saved = prices.joules_per_encode - prices.joules_per_byte * self._payload_bytes
        return HOLD_SHARE * (encode_s + max(0.0, self._price(saved)))

    def _is_in_time(self, now: float, node: NodeId, ahead: int) -> bool:
        """Whether its features are likely to come before an encode would begin."""
        peer = self._peer(node)
        if self._hold_max_s(ahead) == math.inf or not self._is_known(now, peer):
            return self.round_trip_s(node) <= self._hold_max_s(ahead)
        usual_s = peer.fetches.quantile(0.5)
        return usual_s is not None and usual_s <= self.hold_s(now, node, ahead)

    def _odds(self, now: float, node: NodeId) -> float:
        failing = self._failures(now, self._peer(node))
        return failing / (1 - failing) if failing < 1 else math.inf

    def _price(self, joules: float) -> float:
        return self._prices.seconds_per_joule * joules

    def _peer(self, node: NodeId) -> _Peer:
        return self._peers.get(node, _UNKNOWN)

    def _seen(self, node: NodeId) -> _Peer:
        peer = self._peers.get(node)
        if peer is None:
            if len(self._peers) >= PEERS_MAX:
                del self._peers[next(iter(self._peers))]
            peer = self._peers[node] = _Peer()
        return peer


_UNKNOWN = _Peer()  # never written to
