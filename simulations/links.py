"""What a device hangs on: delay, jitter, bandwidth and loss of its way to the network, and what a byte costs there.

A path between two devices is the one's access and then the other's. What travels is a byte stream, so a lost packet is
a late one: TCP sends it again, and everything behind it waits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from ..protocol.errors import InvalidValue

PACKET_BYTES = 1448  # of data, in an Ethernet frame of 1,500 bytes
MEGABIT = 1e6 / 8
# Linux sends again after one round trip when later packets tell of the loss (RFC 6675), and what was lost at the end of
# a flight after two and a delayed acknowledgement (tail loss probe, RFC 8985), or 200 ms when that is lost too.
DELAYED_ACK_S = 0.04
RETRANSMIT_TIMEOUT_S = 0.2
_TAIL_PACKETS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """One kind of access. `source` says where its numbers are from."""

    name: str
    delay_s: float
    """From the device to the network's middle, one way, without queueing."""
    jitter_s: float
    """Mean of what is added to it, exponentially distributed."""
    up_bytes_per_s: float
    down_bytes_per_s: float
    loss: float
    """Share of packets."""
    is_shared: bool
    """Whether all devices send and receive in one channel: on Wi-Fi each byte between two of them is sent twice."""
    joules_per_byte_sent: float
    joules_per_byte_received: float
    price_per_byte: float
    """Money for a byte in either direction, in USD."""
    source: str

    @property
    def round_trip_s(self) -> float:
        """To the network's middle and back, with the mean jitter."""
        return 2 * (self.delay_s + self.jitter_s)


@lru_cache(64)
def _way(one: Link, other: Link) -> tuple[float, tuple[float, ...], float]:
    """Of a packet from a device on the one link to one on the other: delay, means of what is added to it, and loss."""
    jitters_s = tuple(link.jitter_s for link in (one, other) if link.jitter_s)
    return one.delay_s + other.delay_s, jitters_s, 1 - (1 - one.loss) * (1 - other.loss)


LINKS: Mapping[str, Link] = MappingProxyType(
    {
        link.name: link
        for link in (
            Link(
                "lan", 0.00015, 0.00001, 117e6, 117e6, 0.0, False, 4e-9, 4e-9, 0.0,
                "1 Gbit/s Ethernet less its framing; 0.3 ms and 1.3 ms for 151 KB are docs/benchmarks.md's LAN; energy "
                "estimated from 0.5 W of an active gigabit port at full rate",
            ),
            Link(
                "loopback", 0.00001, 0.0, 2e9, 2e9, 0.0, False, 0.0, 0.0, 0.0,
                "several nodes on one machine: 20 µs and 2 GB/s, measured with the peer protocol (docs/benchmarks.md)",
            ),
            Link(
                "wifi", 0.001, 0.001, 250 * MEGABIT, 250 * MEGABIT, 0.001, True, 2.3e-6, 1.1e-6, 0.0,
                "estimated: an 802.11ac channel of 80 MHz and two streams gives TCP about 250 Mbit/s nearby, at 2 ms "
                "a hop with its queue; energy: 283 and 137 mW per Mbit/s, Huang et al., MobiSys 2012: Wi-Fi of that "
                "year, so an upper bound",
            ),
            Link(
                "4g", 0.020, 0.010, 8 * MEGABIT, 20 * MEGABIT, 0.001, False, 3.5e-6, 0.42e-6, 2e-9,
                "20 Mbit/s down: median of 4G in India, Ookla, March 2025; 8 up and 60 ms estimated from the same "
                "company's 33 to 64 ms over all radio kinds; energy: 438 and 52 mW per Mbit/s, Huang et al., MobiSys "
                "2012; price: USD 2 a GB, estimated from tariffs for machines",
            ),
            Link(
                "5g", 0.015, 0.008, 15 * MEGABIT, 200 * MEGABIT, 0.0005, False, 0.9e-6, 0.1e-6, 2e-9,
                "203 Mbit/s down: median of 5G, Ookla, Q3 2023; 15 up and 46 ms: T-Mobile US on 5G, Ookla, first half "
                "of 2024; energy: a quarter of 4G's, Xu et al., SIGCOMM 2020; price as 4g",
            ),
            Link(
                "wan", 0.008, 0.002, 38 * MEGABIT, 84 * MEGABIT, 0.0002, False, 4e-9, 4e-9, 0.0,
                "84 down and 38 Mbit/s up: median of fixed broadband, Ookla, Q3 2023; 20 ms to a near data centre and "
                "back estimated; flat rate; energy at the device is that of its Ethernet",
            ),
        )
    }
)  # fmt: skip


def link_named(name: str) -> Link:
    """The link of that name; InvalidValue says which there are."""
    if name not in LINKS:
        raise InvalidValue(f"there is no link {name!r}, but {', '.join(LINKS)}")
    return LINKS[name]


class Channel:
    """What bytes queue for, in the order in which they come."""

    __slots__ = ("_bytes_per_s", "_free_at")

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def carry(self, now: float, size: int) -> float:
        """When the last of `size` bytes that come now is through.

        A single packet waits for none of the others: queues are fair to sparse flows (fq_codel, RFC 8290, which Linux
        has by default). Otherwise a ping would wait for every payload of every other connection.
        """
        took_s = size / self._bytes_per_s
        self._free_at = (self._free_at if self._free_at > now else now) + took_s
        return now + took_s if size <= PACKET_BYTES else self._free_at


class Access:
    """One device's way to the network, or a whole site's way to the cloud."""

    __slots__ = ("down", "extra_delay_s", "link", "up")

    def __init__(self, link: Link, channel: Channel | None = None) -> None:
        """`channel`: the one that all devices share, where the link is of that kind."""
        self.link = link
        self.up = channel or Channel(link.up_bytes_per_s)
        self.down = channel or Channel(link.down_bytes_per_s)
        self.extra_delay_s = 0.0
        """For a device that is slow to answer."""

    def carry_packet(self, now: float, size: int, target: Access, rng: random.Random) -> float | None:
        """When a single packet of `size` bytes arrives at `target` that is sent now; None if it is lost."""
        delay_s, jitters_s, loss = _way(self.link, target.link)
        if loss and rng.random() < loss:
            return None
        up_at, down_at = self.up.carry(now, size), target.down.carry(now, size)
        at = (up_at if up_at > down_at else down_at) + delay_s + self.extra_delay_s + target.extra_delay_s
        for jitter_s in jitters_s:
            at -= jitter_s * math.log(1.0 - rng.random())
        return at


class Path:
    """From one access to another, for one connection in one direction: bytes stay in order."""

    __slots__ = ("_arrived_at", "_delay_s", "_jitters_s", "_loss", "_rng", "_round_trip_s", "_source", "_target")

    def __init__(self, source: Access, target: Access, rng: random.Random) -> None:
        self._source = source
        self._target = target
        self._rng = rng
        self._delay_s, self._jitters_s, self._loss = _way(source.link, target.link)
        self._round_trip_s = source.link.round_trip_s + target.link.round_trip_s
        self._arrived_at = 0.0

    def carry(self, now: float, size: int) -> float:
        """When the last of `size` bytes that are sent now arrives."""
        source, target = self._source, self._target
        # Packets go on as they come, so the slower of the two channels decides; where both are one, as on Wi-Fi, it is
        # taken twice: to the access point, and then by it.
        up_at, down_at = source.up.carry(now, size), target.down.carry(now, size)
        at = (up_at if up_at > down_at else down_at) + self._delay_s + source.extra_delay_s + target.extra_delay_s
        for jitter_s in self._jitters_s:
            at -= jitter_s * math.log(1.0 - self._rng.random())
        if self._loss:
            at += self._sent_again_s(size)
        if at > self._arrived_at:
            self._arrived_at = at
        return self._arrived_at

    def _sent_again_s(self, size: int) -> float:
        """What lost packets cost: mostly nothing."""
        packets = max(1, math.ceil(size / PACKET_BYTES))
        is_lost = self._rng.random() < 1 - (1 - self._loss) ** packets
        if not is_lost:
            return 0.0
        if self._rng.random() < min(1.0, _TAIL_PACKETS / packets):
            late_s = 2 * self._round_trip_s + DELAYED_ACK_S
        else:
            late_s = self._round_trip_s
        timeout_s = RETRANSMIT_TIMEOUT_S
        while self._rng.random() < self._loss:  # and what was sent again is lost
            late_s += timeout_s
            timeout_s *= 2
        return late_s
