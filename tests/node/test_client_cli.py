"""`edgecache` on the command line: what it prints, what it writes, and its exit status."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from edgecache.node import client_cli
from edgecache.node.cluster_key import read_keys
from edgecache.node.doctor import Check
from edgecache.protocol.errors import UndecodableImage
from edgecache.protocol.keys import digest_of, format_digest

if TYPE_CHECKING:
    from tests.node.conftest import FakeNode, Serve

    Run = Callable[..., Awaitable[tuple[int, str, str]]]

PHOTO = b"\xff\xd8\xff a photograph"
DIGEST = format_digest(digest_of(PHOTO))
NOWHERE = "http://127.0.0.1:1"  # a port that is given to nothing


@pytest.fixture
async def run(node: FakeNode, serve: Serve, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`await run("get", digest)`: exit status, standard output and standard error of `edgecache get DIGEST`."""
    node.http = str((await serve(node)).make_url("/")).rstrip("/")
    monkeypatch.setenv("EDGECACHE_URL", node.http)

    async def call(*arguments: object) -> tuple[int, str, str]:
        try:
            status = await asyncio.to_thread(client_cli.main, [str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        output, errors = capfd.readouterr()
        return status, output, errors

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTO)
    return path


async def test_put_has_an_image_encoded_and_prints_its_digest(run: Run, photo: Path) -> None:
    status, output, errors = await run("put", photo)
    assert (status, errors) == (0, "")
    assert output.startswith(f"{DIGEST}  {photo}  4×8 from encoder of camera-1 by edgecache/tiny@1 (int8, cosine 0.99")
    assert "from memory" in (await run("put", photo))[1]


async def test_encode_writes_npy_files(run: Run, photo: Path, tmp_path: Path) -> None:
    assert (await run("encode", photo, "-o", tmp_path / "made" / "here"))[0] == 0
    array = np.load(tmp_path / "made" / "here" / "photo.npy")
    assert (array.dtype.name, array.shape) == ("float32", (4, 8))


async def test_get_says_what_it_found_and_writes_it(run: Run, photo: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    await run("encode", photo, "-o", tmp_path)
    status, output, _ = await run("get", DIGEST)
    assert (status, output.startswith(f"{DIGEST}  4×8 from memory of camera-1")) == (0, True)
    await run("get", DIGEST, "-o", tmp_path / "got.npy")
    assert np.array_equal(np.load(tmp_path / "got.npy"), np.load(tmp_path / "photo.npy"))
    status, _, errors = await run("get", DIGEST, "00" * 32, "-o", tmp_path / "many")
    assert (status, errors) == (1, f"edgecache: {'00' * 32}: nobody holds its features\n")
    assert list(load_file(tmp_path / "many")) == [DIGEST]
    await run("get", DIGEST, "-o", tmp_path / "one.safetensors")
    assert np.array_equal(load_file(tmp_path / "one.safetensors")[DIGEST], np.load(tmp_path / "photo.npy"))


async def test_features_go_to_standard_output_as_npy(run: Run, photo: Path, node: FakeNode) -> None:
    await run("put", photo)
    for command in (["get", DIGEST], ["encode", str(photo)]):
        arguments = [sys.executable, "-m", "edgecache.node.client_cli", *command, "-o", "-", "--url", node.http]
        output = await asyncio.to_thread(subprocess.run, arguments, capture_output=True)
        assert output.stdout[:6] == b"\x93NUMPY"
        assert output.returncode == 0


async def test_has_and_rm_tell_by_their_status(run: Run, photo: Path) -> None:
    assert await run("has", DIGEST) == (1, f"{DIGEST}  no\n", "")
    await run("put", photo)
    assert await run("has", DIGEST) == (0, f"{DIGEST}  yes\n", "")
    assert await run("rm", DIGEST) == (0, f"{DIGEST}  forgotten\n", "")
    assert await run("rm", DIGEST) == (1, "", f"edgecache: {DIGEST}: nobody held its features\n")


async def test_features_made_elsewhere_are_put_for_an_image_or_a_digest(run: Run, photo: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.ones((2, 3), np.float32))
    named = ["--encoder", "mine", "--version", "1"]
    for of in (photo, DIGEST):
        status, output, _ = await run("put", "--features", tmp_path / "mine.npy", *named, of)
        assert (status, output) == (0, f"{DIGEST}  kept on 1 node(s)\n")
    assert (await run("has", DIGEST, *named))[0] == 0
    status, output, _ = await run("invalidate", "--encoder", "mine", "--version", "2")
    assert (status, output.startswith("mine: 1 older")) == (0, True)
    status, _, errors = await run("has", DIGEST, *named)
    assert (status, "409" in errors) == (1, True)


async def test_json_is_for_programs(run: Run, photo: Path, tmp_path: Path, node: FakeNode) -> None:
    (made,) = json.loads((await run("encode", photo, "--json", "-o", tmp_path))[1])
    assert made["image"] == str(photo)
    assert made["file"] == str(tmp_path / "photo.npy")
    got, missing = json.loads((await run("get", DIGEST, "00" * 32, "--json"))[1])
    assert (got["found"], got["digest"], got["source"], got["tokens"], got["dim"]) == (True, DIGEST, "memory", 4, 8)
    assert missing == {"asked": "00" * 32, "found": False}
    assert json.loads((await run("has", DIGEST, "--json"))[1]) == [{"asked": DIGEST, "found": True}]
    assert json.loads((await run("rm", DIGEST, "--json"))[1]) == [{"asked": DIGEST, "forgotten": True}]
    assert json.loads((await run("status", "--json"))[1])["cluster"]["node"]["name"] == "camera-1"
    assert json.loads((await run("peers", "--json"))[1])[0]["id"] == node.id
    told = json.loads((await run("invalidate", "--encoder", "mine", "--version", "1", "--json"))[1])
    assert told == {"encoder": "mine", "version": "1", "forgotten": 0}


async def test_status_and_peers_are_for_people(run: Run, node: FakeNode) -> None:
    member = {**node.cluster()["node"], "id": "f" * 32, "name": "evil\x1b[31m\r\n\u202ename", "state": "dead"}
    node.other_members = [member]
    status, output, _ = await run("status")
    assert (status, output.splitlines()[1]) == (0, "members   1 alive, 1 dead")
    status, output, _ = await run("peers")
    assert [line.split()[0] for line in output.splitlines()] == [
        "NAME",
        "camera-1",
        "evil\\x1b[31m\\x0d\\x0a\\u202ename",
    ]
    assert "\x1b" not in output


async def test_options_may_stand_before_the_command(run: Run) -> None:
    assert json.loads((await run("--json", "peers"))[1])
    assert (await run("--url", NOWHERE, "peers"))[0] == 3


# -- what goes wrong --------------------------------------------------------------------------------------------


async def test_an_image_that_cannot_be_encoded_does_not_stop_the_others(run: Run, photo: Path, node: FakeNode) -> None:
    await run("put", photo)
    node.encoder.error = UndecodableImage("cut off")
    broken = photo.with_name("broken.jpg")
    broken.write_bytes(b"broken")
    status, output, errors = await run("put", broken, photo)
    assert (status, errors) == (1, f"edgecache: {broken}: cut off (422)\n")
    assert output.startswith(DIGEST)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["put", "/nowhere/missing.jpg"], "/nowhere/missing.jpg: No such file or directory"),
        (["put", "/"], "/: Is a directory"),
        (["get", "../../etc/passwd"], "64 hexadecimal digits"),
        (["get", "0" * 63], "64 hexadecimal digits"),
        (["get", "0" * 64, "--encoder", "a b"], "visible ASCII"),
        (["get", "0" * 64, "--url", "ftp://x"], "http://HOST:PORT"),
        (["get", "0" * 64, "--timeout", "0"], "above zero"),
        (["encode", "a/x.jpg", "b/x.png"], "would both be written"),
        (["encode", "a.jpg", "b.jpg", "-o", "-"], "one image"),
        (["put", "--features", "/dev/null", "--encoder", "mine", "--version", "1", "0" * 64], "npy"),
        (["put", "--features", "x.npy", "a", "b"], "expected one"),
        (["invalidate"], "--encoder"),
        (["frobnicate"], "frobnicate"),
        ([], "COMMAND"),
    ],
)
async def test_wrong_usage_is_one_line_and_status_2(
    run: Run, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output, errors = await run(*arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert said in errors


@pytest.mark.parametrize(
    "command", [f"get {'0' * 64}", f"has {'0' * 64}", f"rm {'0' * 64}", "status", "peers", "invalidate --encoder a"]
)
async def test_when_no_node_answers_it_is_one_line_and_status_3(run: Run, command: str) -> None:
    status, output, errors = await run(*command.split(), "--url", NOWHERE)
    assert (status, output, errors.count("\n")) == (3, "", 1)
    assert NOWHERE in errors


@pytest.mark.parametrize(("ok", "url", "expected"), [(True, "", 0), (None, "", 0), (False, "", 1), (False, NOWHERE, 3)])
async def test_the_doctor_says_what_fails_and_what_to_do(
    run: Run, node: FakeNode, monkeypatch: pytest.MonkeyPatch, ok: bool | None, url: str, expected: int
) -> None:
    async def examine(url: str, token: str | None) -> list[Check]:
        return [Check("first", True, "fine"), Check("second", ok, "so \x1b[31mso", "do this")]

    monkeypatch.setattr("edgecache.node.doctor.examine", examine)
    status, output, _ = await run("doctor", "--url", url or node.http)
    assert status == expected
    mark = {True: "ok   ", None: "--   ", False: "FAIL "}[ok]
    assert output.splitlines() == ["ok    first: fine", f"{mark} second: so \\x1b[31mso", "      do this"]
    checks: Any = json.loads((await run("doctor", "--json", "--url", node.http))[1])
    assert checks[1] == {"name": "second", "ok": ok, "detail": "so \x1b[31mso", "hint": "do this"}


async def test_a_new_key_is_written_once_and_its_token_is_printed_for_curl(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "key"
    status, output, errors = await run("key", "new", file)
    assert (status, errors) == (0, "")
    assert f"edgecache-node --cluster-key {file}" in output
    secret = file.read_text().strip().partition(":")[2]
    token = read_keys(file)[0].token
    assert await run("key", "token", file) == (0, f"{token}\n", "")
    assert json.loads((await run("key", "token", file, "--json"))[1]) == {"token": token}
    assert await run("key", "new", file) == (1, "", f"edgecache: {file}: exists; a key is never overwritten\n")
    assert secret not in output
    assert token not in output
    for missing in (("key", "token", tmp_path / "none"), ("key", "new", tmp_path / "no" / "directory"), ("key",)):
        status, output, errors = await run(*missing)
        assert (status, output, errors.count("\n")) == (2, "", 1)


async def test_what_every_command_takes_stands_anywhere_before_a_commands_command(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "key"
    assert await run("key", "--json", "new", file) == (0, json.dumps({"file": str(file)}) + "\n", "")


async def test_a_key_is_changed_in_two_steps_and_no_secret_is_printed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "key"
    await run("key", "new", file)
    (former,) = read_keys(file)
    assert (await run("key", "retire", file))[0] == 2
    status, rotated, _ = await run("key", "rotate", file)
    assert (status, read_keys(file)[1]) == (0, former)
    assert (await run("key", "rotate", file))[0] == 1
    secrets = file.read_text().split()
    status, retired, _ = await run("key", "retire", file)
    assert (status, len(read_keys(file))) == (0, 1)
    assert f"edgecache key retire {file}" in rotated
    assert not any(secret.partition(":")[2] in rotated + retired for secret in secrets)


async def test_a_node_elsewhere_is_asked_with_the_key_of_a_flag_or_a_variable(
    run: Run, node: FakeNode, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.BaseRequest, "remote", "10.0.0.7")
    file = tmp_path / "key"
    await run("key", "new", file)
    url = str((await serve(node, tokens=[read_keys(file)[0].token])).make_url("/"))
    status, _, errors = await run("peers", "--url", url)
    assert (status, "edgecache key token FILE" in errors) == (1, True)
    assert (await run("peers", "--url", url, "--cluster-key", file))[0] == 0
    assert (await run("--cluster-key", file, "peers", "--url", url))[0] == 0
    monkeypatch.setenv("EDGECACHE_CLUSTER_KEY", str(file))
    assert (await run("peers", "--url", url))[0] == 0
    monkeypatch.setenv("EDGECACHE_CLUSTER_KEY", str(tmp_path / "none"))
    assert (await run("peers", "--url", url))[0] == 2
    assert (await run("key", "new", tmp_path / "none"))[0] == 0


# -- top and bench ----------------------------------------------------------------------------------------------


async def test_top_without_a_terminal_prints_one_table(run: Run) -> None:
    status, output, errors = await run("top", "--interval", "0.1")
    assert (status, errors) == (0, "")
    head, row = output.splitlines()
    assert head.split()[:4] == ["NAME", "STATE", "REQ/S", "HIT"]
    assert row.split()[:3] == ["camera-1", "alive", "0"]


async def test_top_as_json_has_the_rates_of_each_member_and_who_does_not_answer_has_none(
    run: Run, node: FakeNode
) -> None:
    dead = {
        "id": "d" * 32,
        "name": "gone",
        "http": NOWHERE,
        "peer": "",
        "state": "suspect",
        "used_bytes": 5,
        "capacity_bytes": 10,
    }
    node.other_members.append(dead)
    status, output, _ = await run("top", "--json", "--interval", "0.1")
    told = json.loads(output)
    assert (status, [member["name"] for member in told]) == (0, ["camera-1", "gone"])
    assert (told[0]["requests_per_s"], told[0]["items"]) == (0.0, 0)
    assert (told[1]["requests_per_s"], told[1]["items"], told[1]["used_bytes"]) == (None, None, None)


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "1e9"])
async def test_top_refuses_an_interval_that_is_none(run: Run, interval: str) -> None:
    status, _, errors = await run("top", "--interval", interval)
    assert status == 2
    assert "expected 0.1 to 3600 seconds" in errors


async def test_top_and_bench_say_when_no_node_answers(run: Run) -> None:
    for command in ("top", "bench"):
        assert (await run(command, "--url", NOWHERE))[0] == 3


async def test_bench_measures_encodes_and_hits_and_leaves_nothing_behind(run: Run, node: FakeNode) -> None:
    status, output, errors = await run("bench", "--count", "3", "--json")
    assert (status, errors) == (0, "")
    told = json.loads(output)
    assert told["features"] == [4, 8]
    assert {source: row["requests"] for source, row in told["answers"].items()} == {"memory": 12, "encoder": 3}
    assert 0 < told["answers"]["memory"]["p50_ms"] <= told["answers"]["memory"]["p95_ms"]
    assert "no other member" in told["note"]
    assert len(node.store.memory) == 0
    assert len(node.encoder.images) == 4  # one to warm up


async def test_bench_measures_hits_where_no_encoder_runs(
    bare_node: FakeNode, serve: Serve, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    url = str((await serve(bare_node)).make_url("/"))
    status, output, _ = await run("bench", "--count", "2", "--url", url)
    assert status == 0
    assert output.splitlines()[1].split()[:2] == ["memory", "8"]
    assert "no encoder answers" in output
    assert len(bare_node.store.memory) == 0


@pytest.mark.parametrize("count", ["1", "0", "10001"])
async def test_bench_refuses_a_count_that_is_none(run: Run, count: str) -> None:
    status, _, errors = await run("bench", "--count", count)
    assert (status, errors) == (2, f"edgecache: count {count}: expected 2 to 10000\n")


async def test_a_namespace_is_read_from_a_file(run: Run, photo: Path, tmp_path: Path) -> None:
    secret = tmp_path / "camera.namespace"
    secret.write_text("the-secret-of-camera-1\n")
    assert (await run("put", photo, "--namespace", secret))[0] == 0
    assert (await run("--namespace", secret, "has", DIGEST))[0] == 0
    assert (await run("has", DIGEST))[0] == 1
    secret.write_text("short\n")
    status, _, errors = await run("has", DIGEST, "--namespace", secret)
    assert (status, errors) == (
        2,
        "edgecache: namespace of 5 characters: expected 16 to 128 visible ASCII characters\n",
    )
    assert "No such file" in (await run("has", DIGEST, "--namespace", tmp_path / "none"))[2]
