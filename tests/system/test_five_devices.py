"""The main job on a LAN: five devices with real multicast, and nodes started with nothing configured."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.system.lan import Lan
from tests.system.nodes import NODE, photo

DEVICES = (1, 2, 3, 4, 5)
# Asks for a path of the node on this device, and prints the status and the body's digest or the body.
_ASK = """
import hashlib, sys, urllib.error, urllib.request
path, file, show = sys.argv[1:]
request = urllib.request.Request("http://127.0.0.1:7440" + path, open(file, "rb").read() if file else None)
try:
    with urllib.request.urlopen(request, timeout=60) as response:
        body = response.read()
        print(response.status, body.decode() if show else hashlib.sha256(body).hexdigest())
except urllib.error.HTTPError as error:
    print(error.code, "")
except OSError:
    print(0, "")
"""


class Devices:
    """Five devices, each with a node that was given no flags but where to listen."""

    def __init__(self, lan: Lan, home: Path) -> None:
        self._lan = lan
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for device in DEVICES:
            lan.add_device(device)
        for device in DEVICES:
            # They share a file system and a host name, as clones of one disk image do.
            command = [sys.executable, "-c", NODE, "--insecure", "--listen", "0.0.0.0:7440"]
            self.processes[device] = subprocess.Popen(
                ["env", f"HOME={home}", "XDG_DATA_HOME=", *lan.inside(device), *command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def ask(self, device: int, path: str, file: str = "", *, show: bool = False) -> tuple[int, str]:
        command = [*self._lan.inside(device), sys.executable, "-c", _ASK, path, file, "show" if show else ""]
        status, _, text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition(" ")
        return int(status), text.strip()

    def members(self, device: int) -> list[dict[str, str]]:
        status, text = self.ask(device, "/v1/cluster", show=True)
        return [m for m in json.loads(text)["members"] if m["state"] == "alive"] if status == 200 else []


@pytest.fixture
def devices(lan: Lan, tmp_path: Path) -> Iterator[Devices]:
    devices = Devices(lan, tmp_path)
    try:
        yield devices
    finally:
        for process in devices.processes.values():
            process.kill()
            process.wait()


def test_five_devices_with_nothing_configured_share_features_and_lose_none_to_a_kill(
    devices: Devices, tmp_path: Path
) -> None:
    deadline = time.monotonic() + 30
    while any(len(devices.members(device)) != len(DEVICES) for device in DEVICES):
        assert time.monotonic() < deadline, {device: devices.members(device) for device in DEVICES}
    ids = {member["id"] for member in devices.members(1)}
    assert len(ids) == len(DEVICES)  # though they share everything that an id could be read from

    made = {}
    for number in range(4):
        image = tmp_path / f"{number}.jpg"
        image.write_bytes(photo(number))
        path = f"/v1/features/{sha256(image.read_bytes()).hexdigest()}"
        made[path] = devices.ask(2, "/v1/features", str(image))
        assert made[path][0] == 200
    for path, answer in made.items():
        for device in DEVICES:
            assert devices.ask(device, path) == answer

    devices.processes[2].kill()
    for path, answer in made.items():
        for device in (1, 3, 4, 5):
            assert devices.ask(device, path) == answer
