"""`make demo`: three nodes on this machine meet by mDNS and answer for each other's photographs.

Real processes, real mDNS on loopback, the bundled encoder. Each feature is kept once here (`--replicas 1`), so that of
every photograph at least one node has to ask a peer; by default the cluster keeps two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..protocol.features import Features
from ..protocol.keys import digest_of
from .client import Client

NAMES = ("demo-1", "demo-2", "demo-3")
PHOTOS = Path(__file__).parent.parent / "docs" / "photos"
FIRST_ADDRESS = "127.0.0.1:7440"
READY_TIMEOUT_S = 60.0
MEET_TIMEOUT_S = 30.0
# A minimal image, so that the encoder's start is not counted in with the first photograph.
WARM_UP = np.zeros((8, 8, 3), np.uint8)


class Row(NamedTuple):
    """One answer: which image, whom it was asked of, where it came from, how long it took; None: not found."""

    image: str
    digest: str
    node: str
    features: Features | None
    elapsed_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0 if every photograph was found on every node, 1 if not."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="stop after the table")
    parser.add_argument("--photos", type=Path, default=PHOTOS, metavar="DIR", help="photographs of your own")
    arguments = parser.parse_args(argv)
    images = sorted(path for path in arguments.photos.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not images:
        print(f"no JPEG or PNG in {arguments.photos}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_demo({path.name: path.read_bytes() for path in images}, serve_on=not arguments.exit))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0


async def _demo(images: Mapping[str, bytes], *, serve_on: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # or the nodes would outlive this
    async with contextlib.AsyncExitStack() as stack:
        print(f"Starting {len(NAMES)} nodes ...", flush=True)
        urls = await stack.enter_async_context(_nodes())
        clients = [await stack.enter_async_context(Client(url)) for url in urls]
        await _until_met(clients)
        print(f"They have found each other by mDNS. {NAMES[0]} encodes; the others are asked by hash alone.\n")
        await clients[0].encode(WARM_UP)
        rows = [row for name, image in images.items() for row in await _ask_all(clients, name, image)]
        _print_table(rows)
        found = _print_summary(rows)
        print(f"\nDashboard: {urls[0]}/", flush=True)
        if serve_on:
            print("Still serving; Ctrl-C ends it.", flush=True)
            await asyncio.Event().wait()
    return 0 if found else 1


@contextlib.asynccontextmanager
async def _nodes() -> AsyncIterator[list[str]]:
    """The nodes' URLs while they run, in a cluster and data directories of their own."""
    cluster = f"demo-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="edgecache-demo-") as data:
        processes = []
        try:
            for index, name in enumerate(NAMES):
                address = FIRST_ADDRESS if index == 0 and await _is_free(FIRST_ADDRESS) else "127.0.0.1:0"
                flags = ("--listen", address, "--peer-listen", "127.0.0.1:0", "--data-dir", f"{data}/{name}")
                processes.append(await _spawn("--name", name, "--cluster", cluster, "--replicas", "1", *flags))
            yield [await _url_of(process) for process in processes]
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await asyncio.gather(*(process.wait() for process in processes))


async def _spawn(*flags: str) -> asyncio.subprocess.Process:
    """`edgecache-node` from this very installation."""
    program = "from edgecache.node.cli import node_main; raise SystemExit(node_main())"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "--memory", "64MiB", *flags, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


async def _url_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), READY_TIMEOUT_S)).decode()
    if " ready at " not in line:
        raise SystemExit(f"a node did not start: {line.strip() or 'it ended without a word'}")
    return line.partition(" ready at ")[2].split()[0]


async def _is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        server = await asyncio.start_server(lambda reader, writer: None, host, int(port))
    except OSError:
        return False
    server.close()
    await server.wait_closed()
    return True


async def _until_met(clients: Sequence[Client]) -> None:
    deadline = time.monotonic() + MEET_TIMEOUT_S
    for client in clients:
        while sum(member["state"] == "alive" for member in (await client.cluster())["members"]) < len(clients):
            if time.monotonic() > deadline:
                raise SystemExit("the nodes did not find each other: see `edgecache doctor`")
            await asyncio.sleep(0.1)


async def _ask_all(clients: Sequence[Client], name: str, image: bytes) -> list[Row]:
    digest = digest_of(image)
    rows = []
    for node, client in zip(NAMES, clients, strict=True):
        started = time.perf_counter()
        features = await (client.encode(image) if client is clients[0] else client.get(digest.hex()))
        rows.append(Row(name, digest.hex(), node, features, (time.perf_counter() - started) * 1000))
    return rows


def _print_table(rows: Sequence[Row]) -> None:
    print(f"{'image':<24}{'hash':<14}{'node asked':<12}{'source':<10}{'ms':>8}")
    for row in rows:
        source = str(row.features.source) if row.features is not None else "missing"
        print(f"{row.image[:22]:<24}{row.digest[:12]:<14}{row.node:<12}{source:<10}{row.elapsed_ms:8.1f}")


def _print_summary(rows: Sequence[Row]) -> bool:
    """Print how it went; whether every answer was there and the same as the one that was encoded."""
    made = {row.digest: row for row in rows if row.node == NAMES[0]}
    asked = [row for row in rows if row.node != NAMES[0]]
    same = [
        row
        for row in asked
        if row.features is not None
        and (first := made[row.digest].features) is not None
        and np.array_equal(row.features.array, first.array)
    ]
    encode_ms = np.median([row.elapsed_ms for row in made.values()])
    fetch_ms = np.median([row.elapsed_ms for row in asked])
    from_peers = sum(row.features is not None and row.features.source == "peer" for row in asked)
    print(
        f"\n{len(same)} of {len(asked)} answers by hash are there, the same to the last bit; {from_peers} from a peer,"
    )
    print("the rest from memory: there the ring had put the copy that it keeps.")
    print(f"Median: {encode_ms:.1f} ms to encode, {fetch_ms:.1f} ms by hash.")
    kept = [row.features for row in made.values() if row.features is not None]
    codecs = " or ".join(sorted({features.codec for features in kept}))
    fidelity = min((features.fidelity for features in kept), default=0.0)
    print(f"Kept as {codecs}, at a cosine of at least {fidelity:.5f} to what the encoder made.")
    return len(same) == len(asked)


if __name__ == "__main__":
    raise SystemExit(main())
