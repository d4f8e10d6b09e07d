"""Measures how soon five real nodes know what has become of each other: real processes, real sockets.

    python -m tests.bench.members_lan [--times N] [--minutes M]                      (Linux, as root)

Five nodes on a LAN of namespaces (`devices_lan.py`). On each device a process asks its own node every 20 ms who is a
member, and which version of an encoder is current, and writes down each change with the time of day. So each
figure is up to 20 ms too long, and what else this machine does is in it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

from .devices_lan import NUMBERS, Devices, members

EVERY_S = 0.02
DEADLINE_S = 120.0
SPLIT_S = 60.0
LOSS = 1 - 0.9**0.5  # at each end of a link: a tenth of all packets
DIGEST = sha256(b"watched").hexdigest()

States = dict[str, str]
"""What a node says of each: alive, suspect, dead or left; and of `version`, which one is current."""


class Watch:
    """What the nodes have said, as their devices wrote it down."""

    def __init__(self, stack: ExitStack, devices: Devices, directory: Path) -> None:
        self._files = {number: directory / f"watch-{number}" for number in NUMBERS}
        for number, path in self._files.items():
            watching = devices.inside(number, "-m", "tests.bench.members_lan", "--watch", path)
            stack.callback(watching.kill)

    def said(self, number: int) -> list[tuple[float, States]]:
        """Each change and its time. The last line may be half written."""
        path = self._files[number]
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [(float(at), states) for at, states in map(json.loads, lines)]

    def until(self, numbers: Sequence[int], holds: Callable[[States], bool], since: float) -> float:
        """Seconds from `since` until `holds` is true of what each of these nodes says."""
        end = time.monotonic() + DEADLINE_S
        first: dict[int, float] = {}
        while len(first) < len(numbers):
            assert time.monotonic() < end, f"not within {DEADLINE_S} s by all of {numbers}; by {sorted(first)}"
            for number in set(numbers) - set(first):
                said = [(max(at, since), states) for at, states in self.said(number)]
                then = max((place for place, (at, _) in enumerate(said) if at == since), default=0)
                for at, states in said[then:]:
                    if holds(states):
                        first.setdefault(number, at)
            time.sleep(0.1)
        return max(first.values()) - since


def all_alive(states: States) -> bool:
    """Whether five members are alive."""
    return sum(state == "alive" for name, state in states.items() if name != "version") == len(NUMBERS)


def main() -> None:
    """Print a table: a line for each thing that happens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="how often each thing happens (5)")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long packets are lost (5)")
    parser.add_argument("--watch", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--invalidate", metavar="VERSION", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        _watch(Path(options.watch))
    elif options.invalidate:
        _invalidate(options.invalidate)
    else:
        _measure(options.times, options.minutes)


def _measure(times: int, minutes: float) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        devices = Devices(stack, directory, 0.1)
        devices.until_met()
        watch = Watch(stack, devices, directory)
        watch.until(NUMBERS, all_alive, time.monotonic())
        print("| what | seconds, median | worst | times |\n|---|---|---|---|")
        _tell("killed (`kill -9`), known to all others after", [_killed(devices, watch, n) for n in range(times)])
        _tell("back after its restart, known to all after", [_restarted(devices, watch, n) for n in range(times)])
        _tell("unplugged, known to all others after", [_unplugged(devices, watch, n) for n in range(times)])
        _tell("an invalidation, known to all after", [_invalidated(devices, watch, n) for n in range(times)])
        _tell(f"two halves for {SPLIT_S:.0f} s, whole again after the healing", [_split(devices, watch)])
        print(f"\n{minutes:g} minutes with a tenth of all packets lost: {_lost(devices, watch, minutes)}")


def _tell(what: str, seconds: Sequence[float]) -> None:
    median, worst = statistics.median(seconds), max(seconds)
    print(f"| {what} | {median:.2f} | {worst:.2f} | {len(seconds)} |", flush=True)


def _others(number: int) -> list[int]:
    return [other for other in NUMBERS if other != number]


def _killed(devices: Devices, watch: Watch, turn: int) -> float:
    number = 1 + turn % len(NUMBERS)
    at = time.monotonic()
    devices.kill(number)
    took_s = watch.until(_others(number), lambda states: states.get(f"n{number}") not in ("alive", "suspect"), at)
    devices.restart(number)
    watch.until(NUMBERS, all_alive, time.monotonic())
    return took_s


def _restarted(devices: Devices, watch: Watch, turn: int) -> float:
    number = 1 + turn % len(NUMBERS)
    at = time.monotonic()
    devices.kill(number)
    watch.until(_others(number), lambda states: states.get(f"n{number}") not in ("alive", "suspect"), at)
    devices.restart(number)
    return watch.until(_others(number), all_alive, time.monotonic())


def _unplugged(devices: Devices, watch: Watch, turn: int) -> float:
    number = 1 + turn % len(NUMBERS)
    at = time.monotonic()
    devices.wire("split", number)
    took_s = watch.until(_others(number), lambda states: states.get(f"n{number}") not in ("alive", "suspect"), at)
    devices.wire("split")
    watch.until(NUMBERS, all_alive, time.monotonic())
    return took_s


def _invalidated(devices: Devices, watch: Watch, turn: int) -> float:
    asking = devices.inside(1, "-m", "tests.bench.members_lan", "--invalidate", turn + 1)
    at = float(asking.communicate()[0])
    return watch.until(NUMBERS, lambda states: states["version"] == str(turn + 1), at)


def _split(devices: Devices, watch: Watch) -> float:
    devices.wire("split", 1, 2)
    time.sleep(SPLIT_S)
    at = time.monotonic()
    devices.wire("split")
    return watch.until(NUMBERS, all_alive, at)


def _lost(devices: Devices, watch: Watch, minutes: float) -> str:
    began = time.monotonic()
    devices.wire("loss", LOSS)
    time.sleep(60 * minutes)
    devices.wire("loss", 0)
    said = [states for number in NUMBERS for at, states in watch.said(number) if at > began]
    suspected = sum("suspect" in states.values() for states in said)
    dead = sum("dead" in states.values() for states in said)
    return f"{dead} false deaths, {suspected} suspicions seen"


# -- on a device ------------------------------------------------------------------------------------------------------


def _watch(path: Path) -> None:
    with path.open("w") as file:
        before: States = {}
        while True:
            try:
                states = _states()
            except (OSError, http.client.HTTPException, ValueError):
                states = {"version": "none"}  # this device's node is not there
            if states != before:
                before = states
                file.write(json.dumps([time.monotonic(), states]) + "\n")
                file.flush()
            time.sleep(EVERY_S)


def _states() -> States:
    connection = http.client.HTTPConnection("127.0.0.1", 7440, timeout=5)
    try:
        states = {member["name"]: member["state"] for member in members(connection)}
        connection.request("GET", f"/v1/features/{DIGEST}?encoder=watched")
        answer = connection.getresponse()
        detail = json.loads(answer.read())["detail"]  # of a 404: "watched@VERSION: this node has not heard of ..."
        return states | {"version": detail.partition("@")[2].partition(":")[0]}
    finally:
        connection.close()


def _invalidate(version: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", 7440, timeout=10)
    body = json.dumps({"encoder": "watched", "version": version})
    print(time.monotonic())
    connection.request("POST", "/v1/invalidations", body, {"Content-Type": "application/json"})
    assert connection.getresponse().status == 200


if __name__ == "__main__":
    main()
