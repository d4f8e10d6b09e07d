"""The servers that are compared: a process each, on loopback, all on one core that the client is not on."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Address = tuple[str, int]

READY_S = 20.0
STOP_S = 10.0
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[-1], CORES[0]


@dataclass(frozen=True, slots=True)
class Server:
    """A running process, and where it listens: a node for its peers, and elsewhere for HTTP."""

    pid: int
    address: Address
    http: Address = ("", 0)

    def processor_s(self) -> float:
        """Seconds of processor time that it has used, in all its threads."""
        schedules = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(schedule.read_text().split()[0]) for schedule in schedules) / 1e9


@contextlib.contextmanager
def redis() -> Iterator[Server]:
    """A redis-server that writes nothing to disk."""
    port = _free_port()
    with _process(
        "redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"
    ) as pid:
        yield Server(pid, _connectable(("127.0.0.1", port)))


@contextlib.contextmanager
def memcached() -> Iterator[Server]:
    """A memcached with room for everything. One thread, since it has one core."""
    port = _free_port()
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    with _process("memcached", "-l", "127.0.0.1", "-p", str(port), "-m", "1024", "-t", "1", "-U", "0", *user) as pid:
        yield Server(pid, _connectable(("127.0.0.1", port)))


@contextlib.contextmanager
def node(*flags: str, memory: str = "1GiB") -> Iterator[Server]:
    """An edgecache-node without an encoder or mDNS."""
    peer_port, http_port = _free_port(), _free_port()
    command = "import sys; from edgecache.node.cli import node_main; sys.exit(node_main())"
    with tempfile.TemporaryDirectory() as data_dir, _process(
        sys.executable, "-c", command, "--no-mdns", "--no-encoder", "--memory", memory, "--data-dir", data_dir,
        "--listen", f"127.0.0.1:{http_port}", "--peer-listen", f"127.0.0.1:{peer_port}", *flags,
    ) as pid:  # fmt: skip
        yield Server(pid, _connectable(("127.0.0.1", peer_port)), _connectable(("127.0.0.1", http_port)))


def is_installed(server: str) -> bool:
    """Whether there is such a program."""
    return shutil.which(server) is not None


def versions() -> dict[str, str]:
    """Which Redis and memcached there are."""
    found = {}
    for name in ("redis-server", "memcached"):
        if is_installed(name):
            told = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout
            match = re.search(r"[0-9]+(\.[0-9]+)+", told)
            found[name] = match[0] if match else "?"
    return found


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process, and those that it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _process(program: str, *arguments: str) -> Iterator[int]:
    """A process while the context lasts, by its id. What it said is shown if that fails."""
    with tempfile.TemporaryFile() as said:
        with on_core(SERVER_CORE):
            command = [shutil.which(program) or program, *arguments]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            yield process.pid
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace"))
            raise
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connectable(address: Address) -> Address:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection(address, 1.0).close()
            return address
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
