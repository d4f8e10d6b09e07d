"""A node whose descriptors are used up: who is served stays served, and it recovers."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest
from edgecache.node.cluster_key import new_key

from tests.system.nodes import NODE, Nodes, until

LIMIT = 96
LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT})); {NODE}"
QUESTION = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("is_secured", [False, True])
def test_connections_up_to_the_last_descriptor_harm_nobody_who_is_served(nodes: Nodes, is_secured: bool) -> None:
    flags = []
    if is_secured:
        new_key(nodes.directory / "key")
        flags = ["--cluster-key", str(nodes.directory / "key"), "--peer-listen", "127.0.0.1:0"]
    node = nodes.start("--no-encoder", "--no-mdns", *flags, program=LIMITED)
    http, (peer_host, _, peer_port) = urlsplit(node.url), node.peer.rpartition(":")
    served = socket.create_connection((http.hostname or "", http.port or 0), timeout=10)

    def answer() -> bytes:
        served.sendall(QUESTION)
        return served.recv(65536)

    assert answer().startswith(b"HTTP/1.1 200")
    crowd = []
    for address in [(http.hostname or "", http.port or 0), (peer_host, int(peer_port))] * (2 * LIMIT):
        crowd.append(socket.socket())
        crowd[-1].settimeout(0.05)
        try:
            crowd[-1].connect(address)
        except OSError:
            break  # its backlog is full
    assert len(crowd) > LIMIT
    assert answer().startswith(b"HTTP/1.1 200")
    for one in crowd:
        one.close()
    until(lambda: _is_well(node.url), "it is well again")
    assert answer().startswith(b"HTTP/1.1 200")
    assert node.process.poll() is None
    log = node.log.read_text()
    assert log.count("\n") < 200, "one line, not thousands of tracebacks"
    assert "Traceback" not in log
    assert f"this process may have {LIMIT} files and connections open" in log
    assert log.count("no connection with anybody: as many files") == is_secured
    served.close()


def _is_well(url: str) -> bool:
    split = urlsplit(url)
    try:
        with socket.create_connection((split.hostname or "", split.port or 0), timeout=2) as fresh:
            fresh.sendall(QUESTION)
            return fresh.recv(65536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
