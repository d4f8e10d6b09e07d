"""What a node's first image takes, and what it costs to load the encoder before it comes.

    python -m tests.bench.first_encode [--rounds 5] [--nodes 3] [--delay 1 0]

A node starts to load its encoder a second after it listens, so that members meet first. Here that is compared with
loading at once: what an image takes that comes so long after the ready line, and how soon several nodes that start
together have met. Real processes, real mDNS on loopback, the bundled encoder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from edgecache.node import known_encoders

PHOTOS = sorted((Path(__file__).parents[2] / "docs" / "photos").glob("*.jpg"))
COMES_AFTER_S = (0.0, 1.0, 10.0)
MEET_TIMEOUT_S = 60.0


@contextlib.contextmanager
def nodes(count: int, delay_s: float) -> Iterator[tuple[list[str], float]]:
    """So many nodes that start at once: their URLs, and when that was; all are ready."""
    program = (
        "from edgecache.node import cli, known_encoders\n"
        f"known_encoders.ENCODER_DELAY_S = {delay_s}\n"
        "raise SystemExit(cli.node_main())"
    )
    cluster = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        began = time.perf_counter()
        processes = []
        for number in range(count):
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            flags = ["--name", f"node-{number}", "--cluster", cluster, "--data-dir", directory]
            flags += ["--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"]
            process = subprocess.Popen(
                [sys.executable, "-c", program, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            processes.append(process)
        lines = [process.stdout.readline() for process in processes if process.stdout is not None]
        yield [line.split(" at ")[1].split()[0] for line in lines], began


def encode_ms(url: str, photo: Path) -> float:
    """What a node takes to answer a photograph."""
    began = time.perf_counter()
    request = urllib.request.Request(f"{url}/v1/features", photo.read_bytes(), {"Content-Type": "image/jpeg"})
    urllib.request.urlopen(request).read()
    return 1000 * (time.perf_counter() - began)


def first_encodes_ms(delay_s: float, comes_after_s: float) -> tuple[float, float]:
    """The first image, and the median of the next four."""
    with nodes(1, delay_s) as ([url], _):
        time.sleep(comes_after_s)
        first, *others = [encode_ms(url, photo) for photo in PHOTOS[:5]]
    return first, statistics.median(others)


def met_s(count: int, delay_s: float) -> float:
    """From the start of the nodes until each knows all the others."""
    with nodes(count, delay_s) as (urls, began):
        while not all(_alive(url) == count for url in urls):
            assert time.perf_counter() - began < MEET_TIMEOUT_S, "they have not met"
            time.sleep(0.02)
        return time.perf_counter() - began


def _alive(url: str) -> int:
    members = json.load(urllib.request.urlopen(f"{url}/v1/cluster"))["members"]
    return sum(member["state"] == "alive" for member in members)


def main() -> None:
    """Print both, as medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--delay", type=float, nargs="*", default=[known_encoders.ENCODER_DELAY_S, 0.0], metavar="S")
    options = parser.parse_args()
    for delay_s in options.delay:
        print(f"loaded {delay_s:g} s after it listens")
        for comes_after_s in COMES_AFTER_S:
            rounds = [first_encodes_ms(delay_s, comes_after_s) for _ in range(options.rounds)]
            first, next_ones = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"  an image {comes_after_s:g} s after the ready line: {first:.0f} ms, the next {next_ones:.0f} ms")
        met = statistics.median(met_s(options.nodes, delay_s) for _ in range(options.rounds))
        print(f"  {options.nodes} nodes have met {met:.2f} s after their start")


if __name__ == "__main__":
    main()
