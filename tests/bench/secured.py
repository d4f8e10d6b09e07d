"""What a cluster key costs: a new connection, and gets of one feature, from two nodes of which one has a key.

    python -m tests.bench.secured [--rounds N]

Two processes on loopback, on a core each, taking turns; uvloop on both sides if it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from edgecache.node.certificates import contexts
from edgecache.node.cluster_key import new_key, read_keys
from edgecache.node.link import Network, dial
from edgecache.node.stats import Stats
from edgecache.node.tcp import TcpNetwork
from edgecache.node.tls import TlsNetwork
from edgecache.protocol import messages

from .features import payloads
from .peer import Peer
from .rounds import race
from .servers import CLIENT_CORE, SERVER_CORE, Address, on_core

IN_FLIGHT = (1, 8)
CONNECTIONS = 100
_NODE = "import sys; from edgecache.node.cli import node_main; sys.exit(node_main())"


async def measure(rounds: int) -> None:
    """Print both figures."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        key_file, me = Path(directory) / "key", secrets.token_hex(16)
        new_key(key_file)
        keys = read_keys(key_file)
        addresses = {
            "plain": running.enter_context(_node(directory, "plain")),
            "key": running.enter_context(_node(directory, "key", "--cluster-key", str(key_file))),
        }
        networks: dict[str, Network] = {
            "plain": TcpNetwork(),
            "key": TlsNetwork(contexts(keys, me), [key.datagrams for key in keys], Stats()),
        }
        running.enter_context(on_core(CLIENT_CORE))
        seconds: dict[str, list[float]] = {"plain": [], "key": []}
        for _ in range(CONNECTIONS):
            for name, address in addresses.items():
                began = time.perf_counter()
                peer = await _connected(networks[name], address, me)
                seconds[name].append(time.perf_counter() - began)
                peer.close()
                await peer.link.lost.wait()
        print("connect: " + ", ".join(f"{name} {median(taken) * 1000:.2f} ms" for name, taken in seconds.items()))

        values = {made.key.packed: bytes(made.data) for made in payloads((196, 768))}
        entrants = {name: [await _connected(networks[name], address, me)] for name, address in addresses.items()}
        for (peer,) in entrants.values():
            for key, value in values.items():
                await peer.put(key, value)
        size = len(next(iter(values.values())))
        for in_flight in IN_FLIGHT:
            measured = await race(entrants, values, in_flight=in_flight, batch=1, rounds=rounds)
            told = (
                f"{name} {here.rate * size / 1e6:.0f} MB/s, p50 {here.latency_s(0.5) * 1000:.2f} ms"
                for name, here in measured.items()
            )
            print(f"get {size} bytes, {in_flight} in flight: " + "; ".join(told))


@contextlib.contextmanager
def _node(directory: str, name: str, *flags: str) -> Iterator[Address]:
    """A node without an encoder or mDNS, and where its peers reach it."""
    with on_core(SERVER_CORE):
        process = subprocess.Popen(
            [sys.executable, "-c", _NODE, "--no-mdns", "--no-encoder", "--listen", "127.0.0.1:0", "--memory", "1GiB",
             "--data-dir", f"{directory}/{name}", "--log-format", "json", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert " ready at " in process.stdout.readline()
        told = next(line for line in process.stderr if "peers at" in line)
        host, _, port = told.partition("peers at ")[2].partition(",")[0].rpartition(":")
        yield host, int(port)
    finally:
        process.kill()
        process.wait()


async def _connected(network: Network, address: Address, me: str) -> Peer:
    hello = messages.Hello(messages.PROTOCOL_VERSION, "default", me, "0" * 32, "bench", "", 0, "", 0, 0)
    return Peer(await dial(network, hello, address))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
