"""A switch of user space whose ports lose and delay frames: for kernels without netem. Runs in a namespace, as root.

    python -m tests.bench.lossy_switch PORT ...

The ports are interfaces of the namespace it runs in, in this order numbered from 1. It obeys lines on standard input:
`delay NUMBER SECONDS`, for each frame to and from that port, `loss SHARE`, of the frames at every port, in and out, and
`split NUMBER ...`: nothing passes between these ports and the others; without any, everything does again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import random
import selectors
import socket
import struct
import sys
import time

ETH_P_ALL = 3
PACKET_OUTGOING = 4
FRAME_BYTES_MAX = 65_600
SIOCETHTOOL = 0x8946
# Frames must be what a wire would carry: with their checksums, and no larger than its MTU.
OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)  # ethtool's STXCSUM, STSO, SGSO, SGRO


def without_offloads(interface: str) -> None:
    """Have the kernel finish each packet before it hands it to `interface`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for offload in OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", offload, 0))
            request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, SIOCETHTOOL, request)


class Wire:
    """Every frame that comes in at one port goes out at the one where its receiver is, or at all others."""

    def __init__(self, ports: list[str]) -> None:
        self._selector = selectors.DefaultSelector()
        self._ports = [self._open(port) for port in ports]
        self._where: dict[bytes, int] = {}
        self._delays = [0.0] * len(ports)
        self._loss = 0.0
        self._apart: set[int] = set()
        self._rng = random.Random(1)
        self._due: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()

    def _open(self, port: str) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        opened.bind((port, 0))
        opened.setblocking(False)
        self._selector.register(opened, selectors.EVENT_READ)
        return opened

    def run(self) -> None:
        """Until standard input ends."""
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            wait_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            for key, _ in self._selector.select(wait_s):
                if isinstance(key.fileobj, socket.socket):
                    self._receive(key.fileobj)
                elif line := sys.stdin.readline():
                    self._obey(line.split())
                else:
                    return
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, port, frame = heapq.heappop(self._due)
                self._send(port, frame)

    def _obey(self, words: list[str]) -> None:
        if words[0] == "delay":
            self._delays[int(words[1]) - 1] = float(words[2])
        elif words[0] == "split":
            self._apart = {int(word) - 1 for word in words[1:]}
        else:
            self._loss = float(words[1])
        print("done", flush=True)

    def _receive(self, arrived_at: socket.socket) -> None:
        source = self._ports.index(arrived_at)
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                frame, address = arrived_at.recvfrom(FRAME_BYTES_MAX)
                if address[2] == PACKET_OUTGOING:
                    continue
                self._where[frame[6:12]] = source
                if (target := self._where.get(frame[:6])) is not None:
                    self._forward(source, target, frame)
                    continue
                for other in range(len(self._ports)):
                    self._forward(source, other, frame)

    def _forward(self, source: int, target: int, frame: bytes) -> None:
        if (source in self._apart) != (target in self._apart):
            return
        if source == target or (self._loss and min(self._rng.random(), self._rng.random()) < self._loss):
            return
        if delay_s := self._delays[source] + self._delays[target]:
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._numbers), target, frame))
        else:
            self._send(target, frame)

    def _send(self, port: int, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # full: a wire loses it too
            self._ports[port].send(frame)


if __name__ == "__main__":
    if sys.argv[1] == "--without-offloads":
        without_offloads(sys.argv[2])
    else:
        print("ready", flush=True)
        Wire(sys.argv[1:]).run()
