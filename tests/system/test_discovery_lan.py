"""Nodes on several devices with real multicast: each device is a network namespace, on a bridge in one more.

No interface of this machine's own is touched, so nothing that is sent here can leave the machine.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

DEADLINE_S = 8.0

_NODE = """
import asyncio, random, secrets, sys
from edgecache.node.discovery import Announcement, MdnsDiscovery

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


class Lan:
    """Devices `1`, `2`, ... with addresses 10.99.0.1, 10.99.0.2, ... on one switch."""

    def __init__(self) -> None:
        self._prefix = f"ec{os.getpid()}"
        self._spaces: list[str] = []
        self._switch = ""

    def add_switch(self) -> None:
        self._switch = self._space("sw")
        self._ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        self._ip("-n", self._switch, "link", "set", "br0", "up")

    def add_device(self, number: int, *, plugged: bool = True) -> None:
        self._ip("-n", self._space(str(number)), "link", "set", "lo", "up")
        if plugged:
            self.plug(number)

    def plug(self, number: int) -> None:
        device, port = f"{self._prefix}-{number}", f"p{number}"
        self._ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", device)
        self._ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        self._ip("-n", device, "address", "add", f"10.99.0.{number}/24", "dev", "eth0")
        self._ip("-n", device, "link", "set", "eth0", "up")

    def cut(self, number: int) -> None:
        self._ip("-n", self._switch, "link", "set", f"p{number}", "nomaster")

    def heal(self, number: int) -> None:
        self._ip("-n", self._switch, "link", "set", f"p{number}", "master", "br0")

    @contextmanager
    def process(self, number: int, script: str, *arguments: str) -> Iterator[Output]:
        command = ["ip", "netns", "exec", f"{self._prefix}-{number}", sys.executable, "-c", script, *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                yield Output(process)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                try:
                    process.wait(DEADLINE_S)
                finally:
                    process.kill()

    def remove(self) -> None:
        for space in self._spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False)

    def _space(self, name: str) -> str:
        space = f"{self._prefix}-{name}"
        self._ip("netns", "add", space)
        self._spaces.append(space)
        return space

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Output:
    """The lines that a process prints."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._descriptor = process.stdout.fileno()
        self._text = ""

    def until(self, *lines: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until each of `lines` was printed."""
        end = time.monotonic() + deadline_s
        while not set(lines) <= self.lines():
            ready, _, _ = select.select([self._descriptor], [], [], max(0, end - time.monotonic()))
            assert ready, f"not within {deadline_s} s: {set(lines) - self.lines()}; printed: {self._text}"
            chunk = os.read(self._descriptor, 65536)
            assert chunk, f"ended after: {self._text}"
            self._text += chunk.decode()

    def lines(self) -> set[str]:
        """What was printed up to the last `until`."""
        return set(self._text.splitlines())


@pytest.fixture
def lan() -> Iterator[Lan]:
    if not sys.platform.startswith("linux") or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux and the command ip")
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    lan = Lan()
    try:
        try:
            lan.add_switch()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode(errors='replace').strip()}")
        yield lan
    finally:
        lan.remove()


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
