"""simulations/links.py: when bytes arrive."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from edgecache.protocol.errors import InvalidValue
from edgecache.simulations.links import DELAYED_ACK_S, LINKS, PACKET_BYTES, Access, Channel, Path, link_named

PLAIN = replace(LINKS["lan"], delay_s=0.01, jitter_s=0.0, up_bytes_per_s=1e6, down_bytes_per_s=2e6)


def path(source: Access, target: Access, seed: int = 1) -> Path:
    return Path(source, target, random.Random(seed))


def test_bytes_take_the_slower_channels_time_and_both_delays() -> None:
    assert path(Access(PLAIN), Access(PLAIN)).carry(5.0, 100_000) == pytest.approx(5.0 + 0.1 + 0.02)


def test_what_is_sent_at_once_queues_on_the_senders_link_whoever_it_is_for() -> None:
    sender = Access(PLAIN)
    first, second = path(sender, Access(PLAIN)), path(sender, Access(PLAIN))
    assert first.carry(0.0, 100_000) == pytest.approx(0.12)
    assert second.carry(0.0, 100_000) == pytest.approx(0.22)


def test_two_senders_queue_on_the_receivers_link() -> None:
    receiver = Access(PLAIN)
    arrivals = [path(Access(PLAIN), receiver).carry(0.0, 400_000) for _ in range(4)]
    assert arrivals == pytest.approx([0.42, 0.42, 0.62, 0.82])  # 2 MB/s receive what 1 MB/s each send


def test_a_single_packet_does_not_wait_for_payloads_of_other_connections() -> None:
    sender, receiver = Access(PLAIN), Access(PLAIN)
    path(sender, receiver).carry(0.0, 1_000_000)
    assert path(sender, receiver).carry(0.0, PACKET_BYTES) == pytest.approx(0.02, abs=0.002)


def test_but_it_does_not_overtake_what_its_own_connection_sent_before() -> None:
    one = path(Access(PLAIN), Access(PLAIN))
    assert one.carry(0.0, 1_000_000) == one.carry(0.0, 100)


def test_on_a_shared_channel_every_byte_is_sent_twice() -> None:
    wifi = replace(PLAIN, is_shared=True)
    channel = Channel(1e6)
    assert path(Access(wifi, channel), Access(wifi, channel)).carry(0.0, 100_000) == pytest.approx(0.22)


def test_jitter_has_its_mean_and_never_reorders() -> None:
    jittery = replace(PLAIN, jitter_s=0.005)
    one = path(Access(jittery), Access(PLAIN))
    arrivals = [one.carry(float(second), 0) for second in range(4000)]
    assert arrivals == sorted(arrivals)
    delays = [at - second for second, at in enumerate(arrivals)]
    assert sum(delays) / len(delays) == pytest.approx(0.025, rel=0.05)


def test_a_lost_packet_is_a_late_one() -> None:
    lossy = replace(PLAIN, loss=0.1)
    one = path(Access(lossy), Access(PLAIN))
    late = [at - second - 0.02 for second in range(4000) if (at := one.carry(float(second), 100)) > second + 0.021]
    assert len(late) / 4000 == pytest.approx(0.1, abs=0.02)
    assert min(late) == pytest.approx(2 * 0.04 + DELAYED_ACK_S, abs=0.001)
    assert max(late) > 0.2  # lost twice


def test_a_slow_device_is_slow_in_both_directions() -> None:
    slow = Access(PLAIN)
    slow.extra_delay_s = 0.3
    assert path(slow, Access(PLAIN)).carry(0.0, 0) == path(Access(PLAIN), slow).carry(0.0, 0) == pytest.approx(0.32)


def test_an_unknown_link_is_told_which_there_are() -> None:
    with pytest.raises(InvalidValue, match="there is no link 'token-ring', but lan, loopback, wifi, 4g, 5g, wan"):
        link_named("token-ring")
