"""Real `edgecache-node` processes, and plain HTTP to them."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

START_TIMEOUT_S = 30.0
NODE = "from edgecache.node.cli import node_main; raise SystemExit(node_main())"
CLIENT = "from edgecache.node.cli import client_main; raise SystemExit(client_main())"


@dataclass
class Response:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def array(self) -> NDArray[np.float32]:
        array: NDArray[np.float32] = np.load(io.BytesIO(self.body))
        return array


@dataclass
class RunningNode:
    """One process."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Response:
        split = urlsplit(self.url)
        connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return Response(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Response:
        return self.request("GET", path)

    @property
    def peer(self) -> str:
        """HOST:PORT where it listens for peers."""
        peer: str = self.get("/v1/cluster").json()["node"]["peer"]
        return peer

    def alive_members(self) -> int:
        return sum(member["state"] == "alive" for member in self.get("/v1/cluster").json()["members"])

    def until_members(self, count: int) -> None:
        """Wait until it hears so many, itself among them."""
        until(lambda: self.alive_members() == count, f"{count} members")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@dataclass
class Nodes:
    """Starts nodes in directories and a cluster of their own, and ends them with the test."""

    directory: Path
    running: list[RunningNode] = field(default_factory=list)

    def start(
        self,
        *flags: str,
        environment: dict[str, str] | None = None,
        program: str = NODE,
        without: tuple[str, ...] = (),
    ) -> RunningNode:
        """One node; `without` some of the usual flags."""
        number = len(self.running) + 1
        defaults = {
            "--name": f"n{number}", "--cluster": f"test-{self.directory.name}-{os.getpid()}",
            "--listen": "127.0.0.1:0", "--data-dir": str(self.directory / f"n{number}"), "--memory": "64MiB",
            "--disk": "0",
        }  # fmt: skip
        usual = [(flag, value) for flag, value in defaults.items() if flag not in (*flags, *without)]
        given = [word for pair in usual for word in pair]
        log = self.directory / f"n{number}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", program, *given, *flags],
                stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, **(environment or {})},
            )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " ready at " in line, log.read_text()
        node = RunningNode(process, line.partition(" ready at ")[2].split()[0], log)
        self.running.append(node)
        return node

    def start_cluster(self, size: int, *flags: str) -> list[RunningNode]:
        """`size` nodes that have met."""
        nodes = [self.start(*flags) for _ in range(size)]
        for node in nodes:
            node.until_members(size)
        return nodes

    def kill_all(self) -> None:
        for node in self.running:
            node.kill()
            if node.process.stdout is not None:
                node.process.stdout.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll for `condition`."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {START_TIMEOUT_S} s: {what}"
        time.sleep(0.02)


def edgecache(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    """The client's command line."""
    command = [sys.executable, "-c", CLIENT, *arguments, "--url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def photo(seed: int, size: tuple[int, int] = (96, 64)) -> bytes:
    """A JPEG file that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, "JPEG")
    return file.getvalue()
