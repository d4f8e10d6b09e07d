"""Five real nodes, each in a network namespace, on a switch of user space (`lossy_switch.py`). Linux, as root.

Their encoder sleeps: five real ones would share this machine's cores.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.system.lan import Lan

from . import sleeping

NODES = 5
NUMBERS = tuple(range(1, NODES + 1))
ROOT = Path(__file__).parents[2]
NODE = "from edgecache.node.cli import node_main; raise SystemExit(node_main())"
START_S = 60.0


class Devices:
    """The nodes `n1` to `n5`, and what can happen to them."""

    def __init__(self, stack: ExitStack, directory: Path, encode_s: float) -> None:
        self._stack = stack
        self._directory = directory
        self._environment = {
            **os.environ, sleeping.VARIABLE: str(encode_s), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self._lan = Lan()
        stack.callback(self._lan.remove)
        self._lan.add_switch()
        for number in NUMBERS:
            self._lan.add_device(number)
            self._lan.cut(number)  # from the bridge: the wire does its work
            self._run(number, "-m", "tests.bench.lossy_switch", "--without-offloads", "eth0")
        self._wire = subprocess.Popen(
            [*self._lan.inside("sw"), sys.executable, "-m", "tests.bench.lossy_switch", *(f"p{n}" for n in NUMBERS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        stack.callback(self._wire.kill)
        self._heard("ready")
        self._nodes = {number: self._begun(number) for number in NUMBERS}
        for number in NUMBERS:
            self._ready(number)

    def inside(self, number: int, *arguments: object) -> subprocess.Popen[str]:
        """Python with these arguments on a device; its standard output is a pipe."""
        command = [*self._lan.inside(number), sys.executable, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def stop(self, number: int) -> None:
        """SIGSTOP."""
        self._nodes[number].send_signal(signal.SIGSTOP)

    def go_on(self, number: int) -> None:
        """SIGCONT."""
        self._nodes[number].send_signal(signal.SIGCONT)

    def kill(self, number: int) -> None:
        """SIGKILL."""
        self._nodes[number].kill()
        self._nodes[number].wait()

    def restart(self, number: int) -> None:
        """Start a node that was killed again, and wait until it serves."""
        self._nodes[number] = self._begun(number)
        self._ready(number)

    def wire(self, *words: object) -> None:
        """Tell the switch."""
        assert self._wire.stdin is not None
        self._wire.stdin.write(" ".join(map(str, words)) + "\n")
        self._wire.stdin.flush()
        self._heard("done")

    def until_met(self) -> None:
        """Wait until each node hears all the others."""
        end = time.monotonic() + START_S
        for number in NUMBERS:
            while self._run(number, "-m", "tests.bench.devices_lan").strip() != str(NODES):
                assert time.monotonic() < end, f"n{number} has not met all others within {START_S} s"

    def _begun(self, number: int) -> subprocess.Popen[str]:
        flags = [
            "--name", f"n{number}", "--listen", "0.0.0.0:7440", "--insecure", "--no-mdns", "--disk", "0",
            "--memory", "256MiB", "--data-dir", str(self._directory / f"n{number}"), "--encoder", sleeping.SPEC,
            "--seed", f"10.99.0.{number % NODES + 1}:7441",
        ]  # fmt: skip
        command = [*self._lan.inside(number), sys.executable, "-c", NODE, *flags]
        log = self._stack.enter_context((self._directory / f"n{number}.log").open("a"))
        node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment, cwd=ROOT)
        self._stack.callback(node.kill)
        return node

    def _ready(self, number: int) -> None:
        output = self._nodes[number].stdout
        assert output is not None
        assert " ready at " in output.readline()

    def _run(self, number: int, *arguments: str) -> str:
        command = [*self._lan.inside(number), sys.executable, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout

    def _heard(self, word: str) -> None:
        assert self._wire.stdout is not None
        assert self._wire.stdout.readline().strip() == word


# -- on a device ------------------------------------------------------------------------------------------------------


def members(connection: http.client.HTTPConnection) -> Sequence[dict[str, Any]]:
    """What the node of this device says of all members, itself too."""
    connection.request("GET", "/v1/cluster")
    said: list[dict[str, Any]] = json.loads(connection.getresponse().read())["members"]
    return said


if __name__ == "__main__":
    node = http.client.HTTPConnection("127.0.0.1", 7440, timeout=10)
    print(sum(member["state"] == "alive" for member in members(node)))
