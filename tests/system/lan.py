"""Several devices on this machine: each is a network namespace, on a bridge in one more. Needs Linux and root.

No interface of this machine's own is touched, so nothing that is sent here can leave the machine.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

DEADLINE_S = 8.0


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
        command = [*self.inside(number), sys.executable, "-c", script, *arguments]
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

    def inside(self, number: int | str) -> list[str]:
        """What to put before a command to run it on a device."""
        return ["ip", "netns", "exec", f"{self._prefix}-{number}"]

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
