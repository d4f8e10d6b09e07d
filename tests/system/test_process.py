"""`edgecache-node` as a process: its one line, its exit statuses, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from edgecache.simulations.sleeping import VARIABLE

from tests.system.nodes import CLIENT, NODE, Nodes, RunningNode, photo, until

SIMULATION = "from edgecache.simulations.cli import main; raise SystemExit(main())"


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", NODE, *flags], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--memory", "5XB"], "--memory: '5XB': expected a size such as 512MiB or 4GiB"),
        (["--memory", "7"], "--memory: '7': at least 1048576 bytes"),
        (["--listen", "7440"], "--listen: '7440': expected HOST:PORT"),
        (["--listen", "127.0.0.1:70000"], "a port from 0 to 65535"),
        (["--replicas", "0"], "--replicas: '0': expected a number from 1 to 16"),
        (["--log-format", "xml"], "--log-format: 'xml': expected text or json"),
        (["--encoder", "nonsense"], "nonsense"),
        (["--encoder", "edgecache/tiny", "--no-encoder"], "an encoder and no encoder"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--name", "two\nlines"], "expected a text that prints"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_and_why(flags: list[str], complaint: str, tmp_path: Path) -> None:
    listen = [] if "--listen" in flags else ["--listen", "127.0.0.1:0"]
    ended = run(*flags, *listen, "--data-dir", str(tmp_path))
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert complaint in line


def test_an_encoder_that_cannot_be_loaded_leaves_a_node_that_says_so(nodes: Nodes) -> None:
    node = nodes.start("--encoder", "module:edgecache.node:missing", "--no-mdns")
    refused = node.request("POST", "/v1/features", b"an image")
    assert (refused.status, "retry-after" in refused.headers) == (503, True)
    ready = node.get("/readyz").json()
    assert ready["status"] == "degraded"
    assert ready["parts"]["encoder"].startswith("degraded: encoder module:edgecache.node:missing: ")


def test_a_copied_data_directory_makes_another_node_and_no_second_line(nodes: Nodes, tmp_path: Path) -> None:
    first = nodes.start("--no-encoder", "--data-dir", str(tmp_path / "first"))
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    copy = nodes.start("--no-encoder", "--data-dir", str(tmp_path / "copy"), "--listen", f"127.0.0.1:{port}")
    first.until_members(2)
    assert "from now on" in copy.log.read_text()
    assert copy.terminate() == 0
    assert copy.process.stdout is not None
    assert copy.process.stdout.read() == ""


@pytest.mark.parametrize(("environment", "shown"), [({"PYTHONIOENCODING": "ascii"}, r"K\xfcche"), ({}, "Küche")])
def test_a_name_is_shown_wherever_it_is_printed(nodes: Nodes, environment: dict[str, str], shown: str) -> None:
    node = nodes.start("--no-encoder", "--no-mdns", "--name", "Küche", environment=environment)
    asked = subprocess.run(
        [sys.executable, "-c", CLIENT, "peers", "--url", node.url],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert (asked.returncode, asked.stderr) == (0, "")
    assert f"{shown} (asked)" in asked.stdout


@pytest.mark.parametrize("redirected", [">&- 2>&- <&-", "> /dev/full", "| :"])
def test_a_node_serves_and_encodes_whatever_became_of_its_standard_output(redirected: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--listen", f"127.0.0.1:{port}", "--data-dir", str(tmp_path / "data"), "--no-mdns", "--disk", "0"]
    shell = ["sh", "-c", f'exec "$@" {redirected}' if "|" not in redirected else f'("$@") {redirected}', "sh"]
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*shell, sys.executable, "-c", NODE, *flags],
            stderr=stderr,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    node = RunningNode(process, f"http://127.0.0.1:{port}", log)
    try:
        until(lambda: is_open(port), "it serves")
        assert node.request("POST", "/v1/features", photo(1)).status == 200
        assert "Traceback" not in log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == (0 if "|" not in redirected else -signal.SIGTERM)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("command", [CLIENT, SIMULATION])
@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_command_without_standard_streams_leaves_no_traceback(command: str, redirected: str) -> None:
    words = ["key", "token", "/nowhere"] if command == CLIENT else ["policies", "--trace", "/nowhere"]
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-c", command, *words]
    ended = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (1, 2)
    assert ended.stdout == ""  # what is said of an error goes to standard error alone
    assert len(ended.stderr.splitlines()) == ("2>&-" not in redirected)


def test_a_request_that_is_open_when_the_node_is_told_to_stop_is_answered(nodes: Nodes) -> None:
    spec = ("--encoder", "module:edgecache.simulations.sleeping:encoder")
    node = nodes.start(*spec, environment={VARIABLE: "vit-b16:1.5"})
    node.request("POST", "/v1/features", b"to have it loaded")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(node.request, "POST", "/v1/features", b"an image")
        until(lambda: node.get("/v1/stats").json()["requests"] == 2, "the second request is there")
        assert node.terminate() == 0
        assert asked.result().status == 200


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag in ("--listen", "--peer-listen"):
            others = ["--listen", "127.0.0.1:0"] if flag == "--peer-listen" else []
            ended = run(flag, f"127.0.0.1:{port}", *others, "--data-dir", str(tmp_path / flag), "--no-encoder")
            assert ended.returncode == 1
            assert f"127.0.0.1:{port}: the port is in use" in ended.stderr.splitlines()[-1]


def test_a_data_directory_serves_one_node_at_a_time(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("--data-dir", str(tmp_path / "shared"), "--no-encoder")
    ended = run("--data-dir", str(tmp_path / "shared"), "--listen", "127.0.0.1:0")
    assert ended.returncode == 2
    assert "is in use by process" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(("host", "level"), [("0.0.0.0", "WARNING"), ("127.0.0.1", "INFO")])
def test_without_a_key_it_listens_on_loopback_only_and_says_so(nodes: Nodes, host: str, level: str) -> None:
    node = nodes.start("--listen", f"{host}:0", "--no-encoder", "--no-mdns")
    assert node.url.startswith("http://127.0.0.1:")
    assert f"{level} process: listening on loopback only" in node.log.read_text()


@pytest.mark.parametrize("command", ["edgecache", "edgecache-sim", "edgecache-encoder"])
def test_ctrl_c_while_a_command_starts_leaves_no_traceback(command: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, main = project["scripts"][command].partition(":")
    start = f"""
import os, sys
from {module} import {main}
class Interrupted:
    def find_spec(self, name, *_):
        os.kill(os.getpid(), {int(signal.SIGINT)})
sys.meta_path.insert(0, Interrupted())
{main}()
"""
    ended = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_ends_it_in_peace(number: signal.Signals) -> None:
    start = f"""
import os
from edgecache.node.cli import node_main
import edgecache.node.config
edgecache.node.config.load = lambda *_: os.kill(os.getpid(), {int(number)}) or os.read(0, 1)
node_main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", start], capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_flags_win_over_variables_and_variables_over_the_file(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('memory = "2MiB"\nreplicas = 3\npeer-listen = "127.0.0.1:0"\nno_encoder = true\n')
    node = nodes.start(
        "--config", str(file), "--memory", "4MiB", "--no-mdns",
        environment={"EDGECACHE_MEMORY": "3MiB", "EDGECACHE_REPLICAS": "4"},
    )  # fmt: skip
    cluster = node.get("/v1/cluster").json()
    assert cluster["node"]["capacity_bytes"] == 4 * 1024**2
    assert cluster["ring"]["copies"] == 4
    assert cluster["node"]["encoder"] is None


def test_the_id_survives_a_restart_and_the_boot_does_not(nodes: Nodes, tmp_path: Path) -> None:
    flags = ("--data-dir", str(tmp_path / "kept"), "--no-encoder", "--no-mdns")
    first = nodes.start(*flags)
    before = first.get("/v1/cluster").json()["node"]
    first.kill()
    after = nodes.start(*flags).get("/v1/cluster").json()["node"]
    assert after["id"] == before["id"]
    assert after["boot"] > before["boot"]


def test_seeds_do_without_mdns_and_are_remembered(nodes: Nodes) -> None:
    first = nodes.start("--no-encoder", "--no-mdns", "--peer-listen", "127.0.0.1:0")
    seed = first.get("/v1/cluster").json()["node"]["peer"]
    second = nodes.start("--no-encoder", "--no-mdns", "--seed", seed)
    third = nodes.start("--no-encoder", "--no-mdns", "--seed", seed)
    for node in (first, second, third):
        node.until_members(3)
    book = nodes.directory / "n3" / "peers.json"
    until(lambda: book.exists() and book.read_text().count('"boot"') == 2, f"two peers in {book}")
    third.kill()
    again = nodes.start("--no-encoder", "--no-mdns", "--name", "n3", "--data-dir", str(nodes.directory / "n3"))
    again.until_members(3)


def test_nodes_on_ipv6_tell_urls_that_lead_to_them(nodes: Nodes) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    flags = ("--no-encoder", "--no-mdns", "--listen", "[::1]:0", "--peer-listen", "[::1]:0")
    first = nodes.start(*flags)
    second = nodes.start(*flags, "--seed", first.peer)
    second.until_members(2)
    told = {member["http"] for member in second.get("/v1/cluster").json()["members"]}
    assert told == {first.url, second.url}
    assert first.url.startswith("http://[::1]:")
    assert f"'n1' at {first.peer} is alive" in second.log.read_text()


def test_the_log_can_be_json(nodes: Nodes) -> None:
    node = nodes.start("--log-format", "json", "--no-encoder", "--no-mdns")
    events = [json.loads(line) for line in node.log.read_text().splitlines()]
    assert {"time", "level", "room", "message"} <= events[0].keys()
