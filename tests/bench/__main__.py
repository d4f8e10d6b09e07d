"""Measures a node beside Redis and memcached, its codec, and a hit beside an encode; writes docs/benchmarks.md.

    python -m tests.bench [--images DIRECTORY] [--rounds N] [--round-s S] [--print] [SECTION ...]

The figures take about six minutes. Other load on the machine reaches all servers alike, but shrinks every figure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from . import codec, images, latency, report, servers, transport
from .report import Table
from .rounds import ROUND_S, ROUNDS

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"


async def _sections(options: argparse.Namespace) -> list[str]:
    measure: dict[str, tuple[str, Callable[[], Awaitable[list[Table]]]]] = {
        "peers": ("Peer protocol", lambda: transport.over_peers(options.rounds, options.round_s)),
        "http": ("HTTP", lambda: transport.over_http(options.rounds, options.round_s)),
        "codec": ("Codec", lambda: _codec(options.images)),
        "latency": ("A hit or an encode", lambda: _latency(options.images)),
    }
    command = f"make bench ARGS='{shlex.join(sys.argv[1:])}'" if sys.argv[1:] else "make bench"
    date = time.strftime("%Y-%m-%d", time.gmtime())
    written = [report.provenance(command, date, servers.versions())]
    for name in options.sections or measure:
        title, tables = measure[name]
        section = f"### {title}\n\n" + "\n".join([table.markdown() for table in await tables()])
        print(section, flush=True)
        written.append(section)
    print(f"load when it ended: {os.getloadavg()[0]:.1f}")
    return written


async def _codec(directory: Path) -> list[Table]:
    return [codec.codec(), await codec.compression(directory)]


async def _latency(directory: Path) -> list[Table]:
    return [await latency.hits_and_encodes(directory)]


def _run(main: Coroutine[Any, Any, list[str]]) -> list[str]:
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


def main() -> None:
    """Read the command line, measure, and write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = parser.add_argument
    add("sections", nargs="*", metavar="SECTION", help="peers, http, codec, latency (default: all)")
    add("--images", type=Path, default=images.BUNDLED, metavar="DIRECTORY", help="photographs (default: the bundled)")
    add("--rounds", type=int, default=ROUNDS, help=f"rounds of each server (default: {ROUNDS})")
    add("--round-s", type=float, default=ROUND_S, help=f"seconds of each round (default: {ROUND_S})")
    add("--print", action="store_true", help="write nothing")
    options = parser.parse_args()
    unknown = set(options.sections) - {"peers", "http", "codec", "latency"}
    if unknown:
        parser.error(f"no section {sorted(unknown)[0]!r}")
    if not servers.is_installed("redis-server"):
        parser.error("redis-server is not installed: there is nothing to compare with")
    written = _run(_sections(options))
    if not (options.print or options.sections):
        report.write(DOCUMENT, written)


if __name__ == "__main__":
    main()
