"""A cluster key with real processes, and on devices of their own: who has it is a member, and who has not is nobody."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from edgecache.node.cluster_key import new_key, read_keys, retire, rotate

from tests.system.lan import Lan
from tests.system.nodes import CLIENT, NODE, Nodes, edgecache, photo, until

# Asks for a url with a token, and prints the status.
_ASK = """
import sys, urllib.error, urllib.request
url, token = sys.argv[1:]
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token} if token else {})
try:
    print(urllib.request.urlopen(request, timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code, error.headers["WWW-Authenticate"])
except OSError:
    print(0)
"""


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    """The files of two keys."""
    files = tmp_path / "key", tmp_path / "other-key"
    for file in files:
        new_key(file)
    return str(files[0]), str(files[1])


def test_nodes_with_one_key_share_features_and_one_with_another_is_turned_away(
    nodes: Nodes, keys: tuple[str, str]
) -> None:
    key, other_key = keys
    first = nodes.start("--cluster-key", key, "--no-mdns")
    seed = first.get("/v1/cluster").json()["node"]["peer"]
    second = nodes.start("--cluster-key", key, "--no-mdns", "--no-encoder", "--seed", seed)
    stranger = nodes.start("--cluster-key", other_key, "--no-mdns", "--no-encoder", "--seed", seed)
    plain = nodes.start("--no-mdns", "--no-encoder", "--seed", seed)
    second.until_members(2)
    first.until_members(2)
    image = photo(1)
    made = first.request("POST", "/v1/features", image)
    found = second.get(f"/v1/features/{sha256(image).hexdigest()}")
    assert (made.status, found.status) == (200, 200)
    assert found.body == made.body

    until(lambda: first.get("/v1/stats").json()["refused_handshakes"] >= 4, "refused handshakes")
    for node, members in ((first, 2), (second, 2), (stranger, 1), (plain, 1)):
        assert len(node.get("/v1/cluster").json()["members"]) == members
    assert [node.get("/v1/cluster").json()["node"]["secured"] for node in (first, plain)] == [True, False]
    assert "it does not speak TLS" in first.log.read_text()
    assert "its certificate was not made with this cluster key" in stranger.log.read_text()
    assert "it ended the TLS handshake: another cluster key" in first.log.read_text()
    for node in (first, second, stranger):
        assert "Traceback" not in node.log.read_text()
        told = node.log.read_text() + "".join(node.get(path).body.decode() for path in ("/v1/cluster", "/metrics"))
        for file in keys:
            assert Path(file).read_text().strip().partition(":")[2] not in told
            assert read_keys(Path(file))[0].token not in told
    assert first.terminate() == 0


def test_a_key_is_changed_node_by_node_and_nobody_falls_out(nodes: Nodes, keys: tuple[str, str]) -> None:
    former, changing = keys
    shutil.copy(former, changing)
    rotate(Path(changing))
    quiet = ("--no-mdns", "--no-encoder", "--cluster-key")
    not_reached = nodes.start(*quiet, former)
    reached = nodes.start(*quiet, changing, "--seed", not_reached.peer)
    for node in (not_reached, reached):
        node.until_members(2)
    not_reached.terminate()
    retire(Path(changing))
    done = nodes.start(*quiet, changing, "--seed", reached.peer)
    for node in (done, reached):
        node.until_members(2)
    forgotten = nodes.start(*quiet, former, "--seed", done.peer)
    until(
        lambda: "its certificate was not made with this cluster key" in forgotten.log.read_text(),
        "the former key is refused",
    )


def test_a_key_that_cannot_be_used_is_one_line_and_status_2(tmp_path: Path, keys: tuple[str, str]) -> None:
    (tmp_path / "no-key").write_text("a shopping list\n")
    for flags, complaint in (
        (["--cluster-key", str(tmp_path / "none")], "edgecache key new FILE makes one"),
        (["--cluster-key", str(tmp_path / "no-key")], "expected one line, edgecache-key-1:"),
        (["--cluster-key", keys[0], "--insecure"], "choose --cluster-key to let in who has the key, or --insecure"),
    ):
        command = [sys.executable, "-c", NODE, *flags, "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert complaint in ended.stderr.splitlines()[-1]
        assert "shopping" not in ended.stderr


def test_the_command_line_makes_a_key_and_a_doctor_sees_it_in_use(nodes: Nodes, tmp_path: Path) -> None:
    file = str(tmp_path / "made")
    assert edgecache("key", "new", file, url="http://127.0.0.1:1").returncode == 0
    node = nodes.start("--cluster-key", file, "--no-encoder", "--no-mdns")
    assert "ok    cluster key: in use" in edgecache("doctor", url=node.url).stdout


@contextmanager
def _nodes_on(lan: Lan, home: Path, keys: dict[int, str]) -> Iterator[None]:
    processes = []
    for device, key in keys.items():
        lan.add_device(device)
        command = [sys.executable, "-c", NODE, "--listen", "0.0.0.0:7440", "--no-encoder", "--cluster-key", key]
        processes.append(
            subprocess.Popen(
                ["env", f"HOME={home}", "XDG_DATA_HOME=", *lan.inside(device), *command],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_on_a_lan_other_devices_need_the_key_and_find_each_other_with_it(
    lan: Lan, tmp_path: Path, keys: tuple[str, str]
) -> None:
    key, other_key = keys
    token = read_keys(Path(key))[0].token

    def ask(device: int, path: str, token: str = "", host: str = "10.99.0.1") -> str:
        command = [*lan.inside(device), sys.executable, "-c", _ASK, f"http://{host}:7440{path}", token]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def peers(device: int, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [*lan.inside(device), sys.executable, "-c", CLIENT, "peers", "--url", "http://10.99.0.1:7440", *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    with _nodes_on(lan, tmp_path, {1: key, 2: key, 3: other_key}):
        deadline = time.monotonic() + 30
        while "10.99.0.2:7441" not in peers(2, "--cluster-key", key).stdout:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "10.99.0.3" not in peers(2, "--cluster-key", key).stdout
        assert ask(1, "/v1/cluster", host="127.0.0.1") == "200"
        assert ask(2, "/v1/cluster", token) == ask(3, "/healthz") == "200"
        for path in ("/v1/cluster", "/metrics", "/"):
            assert ask(2, path) == '401 Bearer realm="edgecache"'
            other = ask(3, path, read_keys(Path(other_key))[0].token)
            assert other == '401 Bearer realm="edgecache", error="invalid_token"'
        refused = peers(3, "--cluster-key", other_key)
        assert (refused.returncode, "edgecache key token FILE" in refused.stderr) == (1, True)
