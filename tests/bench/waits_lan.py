"""Measures how long a get with an image in hand takes while the network does its worst: real processes, real sockets.

    python -m tests.bench.waits_lan [--gets N] [--encode-ms MS] [FAULT ...]          (Linux, as root)

Five nodes on a LAN of namespaces (`devices_lan.py`). One process on each device that is well asks its own node over
HTTP for one image after another, drawn from as many for all devices. First each asks with source=local, so that nobody
else is asked: the median of that is one encode here, over the same HTTP. Each fault begins right before the gets, and
is over after them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.system.nodes import photo

from .devices_lan import NUMBERS, Devices

GETS = 100
ENCODE_MS = 200.0
WARM_GETS = 4


@dataclass(frozen=True, slots=True)
class Get:
    """One answer: where from, and after how long."""

    source: str
    seconds: float


def ask(devices: Devices, numbers: Sequence[int], images: str, gets: int, reach: str = "any") -> list[Get]:
    """What the gets of one asker on each of these devices gave; they draw images from the same."""
    asking = [
        devices.inside(
            number, "-m", "tests.bench.waits_lan", "--ask", images,
            "--number", number, "--gets", gets, "--reach", reach,
        )
        for number in numbers
    ]  # fmt: skip
    answers = [Get(*answer) for asker in asking for answer in json.loads(asker.communicate()[0])]
    assert len(answers) == gets * len(numbers)
    return answers


FAULTS: dict[str, tuple[Sequence[int], Callable[[Devices], None], Callable[[Devices], None]]] = {
    "none": ((1, 3, 4, 5), lambda devices: None, lambda devices: None),
    "one stopped (SIGSTOP)": ((1, 3, 4, 5), lambda devices: devices.stop(2), lambda devices: devices.go_on(2)),
    "one 300 ms slow": (
        (1, 3, 4, 5),
        lambda devices: devices.wire("delay", 2, 0.3),
        lambda devices: devices.wire("delay", 2, 0),
    ),
    "10 % loss": (
        (1, 3, 4, 5),
        lambda devices: devices.wire("loss", 1 - 0.9**0.5),
        lambda devices: devices.wire("loss", 0),
    ),
}


def _all(devices: Devices) -> None:
    devices.stop(2)
    devices.wire("delay", 3, 0.3)
    devices.wire("loss", 1 - 0.9**0.5)


def _none(devices: Devices) -> None:
    devices.go_on(2)
    devices.wire("delay", 3, 0)
    devices.wire("loss", 0)


FAULTS["all three"] = ((1, 4, 5), _all, _none)


def main() -> None:
    """Print a table: a line for each fault, times in encodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gets", type=int, default=GETS, help="on each device, for each fault")
    parser.add_argument("--encode-ms", type=float, default=ENCODE_MS)
    parser.add_argument("--ask", metavar="IMAGES", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--reach", help=argparse.SUPPRESS)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}".replace("%", "%%"))
    options = parser.parse_args()
    if options.ask:
        print(json.dumps(_asked(options.ask, options.number, options.gets, options.reach)))
    else:
        _measure(options.faults or list(FAULTS), options.gets, options.encode_ms / 1000)


def _measure(faults: Sequence[str], gets: int, encode_s: float) -> None:
    with ExitStack() as stack:
        devices = Devices(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())), encode_s)
        devices.until_met()
        for number in NUMBERS:  # not at once: what an encode takes alone is learnt here
            ask(devices, [number], f"warm {number}", WARM_GETS, "local")
        local = sorted(
            get.seconds for get in ask(devices, (1, 3, 4, 5), "local", gets, "local") if get.source == "encoder"
        )
        one_s = _quantile(local, 0.5)
        print(f"one encode: {1000 * one_s:.0f} ms, p99 {_quantile(local, 0.99) / one_s:.3f} encodes\n")
        print("| fault | p50 | p99 | slowest | where encoded: p50, p99 | from peers: p50, p99 | gets encoded |")
        print("|---|---|---|---|---|---|---|")
        for name in faults:
            asked, begin, end = FAULTS[name]
            devices.until_met()
            begin(devices)
            answers = ask(devices, asked, name, gets)
            end(devices)
            print(_line(name, answers, one_s), flush=True)


def _line(name: str, answers: Sequence[Get], one_s: float) -> str:
    def told(source: str, shares: Sequence[float]) -> list[str]:
        seconds = sorted(get.seconds for get in answers if source in ("", get.source))
        return [f"{_quantile(seconds, share) / one_s:.3f}" for share in shares]

    p50, p99, slowest = told("", (0.5, 0.99, 1.0))
    encoded, fetched = told("encoder", (0.5, 0.99)), told("peer", (0.5, 0.99))
    count = sum(get.source == "encoder" for get in answers)
    return (
        f"| {name} | {p50} | **{p99}** | {slowest} | {', '.join(encoded)} | {', '.join(fetched)} "
        f"| {count} of {len(answers)} |"
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


# -- on a device ------------------------------------------------------------------------------------------------------


def _asked(images: str, number: int, gets: int, reach: str) -> list[tuple[str, float]]:
    """(source, seconds) of one get after another, by one program that keeps its connection."""
    rng = random.Random(f"{images} {number}")
    connection = http.client.HTTPConnection("127.0.0.1", 7440, timeout=60)
    answers = []
    for count in range(gets):
        which = count if reach == "local" else rng.randrange(gets)
        name = f"{images} {number if reach == 'local' else ''} {which}"
        image = photo(int.from_bytes(sha256(name.encode()).digest()[:8]))
        asked_at = time.perf_counter()
        connection.request(
            "POST", f"/v1/features?source={reach}", image, {"Accept": "application/vnd.edgecache.payload"}
        )
        response = connection.getresponse()
        response.read()
        took_s = time.perf_counter() - asked_at
        assert response.status == 200, response.status
        answers.append((response.headers["EdgeCache-Source"], took_s))
    return answers


if __name__ == "__main__":
    main()
