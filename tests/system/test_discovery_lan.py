"""Discovery on several devices with real multicast."""

from __future__ import annotations

from tests.system.lan import Lan

_NODE = """
import asyncio, random, secrets, sys
from edgecache.node.discovery import MdnsDiscovery
from edgecache.node.sightings import Announcement

async def main(host, name, port):
    me = Announcement(secrets.token_hex(16), secrets.token_hex(16), name, "lan", 1, int(port), 7440)
    mdns = MdnsDiscovery(host, random.Random(name), poll_s=0.05, round_s=(0.5, 0.6))
    await mdns.start(me, lambda sighting: print(sighting.name, *sighting.address, flush=True))
    await asyncio.to_thread(sys.stdin.read)
    await mdns.stop()

asyncio.run(main(*sys.argv[1:]))
"""

# Asks who is there in a way that is answered by unicast, and prints the names in all mDNS packets on the wire.
_WIRETAP = """
import select, socket, sys
question = bytes(4) + b"\\0\\1" + bytes(6) + b"\\x0a_edgecache\\4_tcp\\5local\\0" + b"\\0\\x0c\\x80\\1"
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind(("eth0", 0))
mdns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
mdns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
mdns.bind((sys.argv[1], 5353))
mdns.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
while sys.stdin not in select.select([sys.stdin], [], [], 0)[0]:
    for target in ("224.0.0.251", sys.argv[2]):
        mdns.sendto(question, (target, 5353))
    while select.select([tap], [], [], 0.1)[0]:
        packet = tap.recv(9000)
        if b"_edgecache" in packet and b"name=" in packet:
            print(packet.split(b"name=")[1].split(b"!")[0].decode(), flush=True)
"""


def test_nodes_on_several_devices_find_each_other(lan: Lan) -> None:
    for number in (1, 2, 3):
        lan.add_device(number)
    with (
        lan.process(1, _NODE, "0.0.0.0", "one!", "7441") as one,
        lan.process(2, _NODE, "0.0.0.0", "two!", "7442") as two,
        lan.process(3, _NODE, "10.99.0.3", "three!", "7443") as three,
    ):
        one.until("two! 10.99.0.2 7442", "three! 10.99.0.3 7443")
        two.until("one! 10.99.0.1 7441", "three! 10.99.0.3 7443")
        three.until("one! 10.99.0.1 7441", "two! 10.99.0.2 7442")


def test_an_interface_that_appears_later_is_followed(lan: Lan) -> None:
    lan.add_device(1)
    lan.add_device(2, plugged=False)
    with (
        lan.process(1, _NODE, "0.0.0.0", "one!", "7441") as one,
        lan.process(2, _NODE, "0.0.0.0", "two!", "7442") as two,
        lan.process(2, _NODE, "127.0.0.1", "beside!", "7443") as beside,
    ):
        two.until("beside! 127.0.0.1 7443")  # it runs
        lan.plug(2)
        one.until("two! 10.99.0.2 7442")
        two.until("one! 10.99.0.1 7441")
        beside.until("two! 127.0.0.1 7442")


def test_two_halves_of_a_split_network_find_each_other_when_it_is_healed(lan: Lan) -> None:
    for number in (1, 2):
        lan.add_device(number)
    lan.cut(2)
    with (
        lan.process(1, _NODE, "0.0.0.0", "one!", "7441") as one,
        lan.process(1, _NODE, "127.0.0.1", "near one!", "7443"),
        lan.process(2, _NODE, "0.0.0.0", "two!", "7442") as two,
        lan.process(2, _NODE, "127.0.0.1", "near two!", "7444"),
    ):
        one.until("near one! 127.0.0.1 7443")
        two.until("near two! 127.0.0.1 7444")
        assert not one.lines() & {"two! 10.99.0.2 7442"}
        lan.heal(2)
        one.until("two! 10.99.0.2 7442")
        two.until("one! 10.99.0.1 7441")


def test_a_loopback_node_is_neither_seen_nor_heard_on_the_lan(lan: Lan) -> None:
    for number in (1, 2):
        lan.add_device(number)
    with (
        lan.process(1, _NODE, "127.0.0.1", "hermit!", "7441") as hermit,
        # Beside it one that has joined the group on eth0: the kernel then hands the questions there to both.
        lan.process(1, _NODE, "0.0.0.0", "neighbour!", "7442") as neighbour,
        lan.process(2, _WIRETAP, "10.99.0.2", "10.99.0.1") as wiretap,
        lan.process(2, _NODE, "0.0.0.0", "far!", "7443") as far,
    ):
        neighbour.until("hermit! 127.0.0.1 7441", "far! 10.99.0.2 7443")
        hermit.until("neighbour! 127.0.0.1 7442")
        far.until("neighbour! 10.99.0.1 7442")
        wiretap.until("neighbour", "far")
        with lan.process(1, _NODE, "0.0.0.0", "last!", "7445"):
            far.until("last! 10.99.0.1 7445")  # all were asked again in the meantime
            wiretap.until("last")
        assert "hermit" not in wiretap.lines()
        assert not any("hermit" in line for line in far.lines())
