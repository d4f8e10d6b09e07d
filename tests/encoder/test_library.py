"""Feature libraries: only what is missing is made, whatever interrupted the run before, and nodes read them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgecache.encoder import cli, library
from edgecache.encoder.library import Built, Library, Workers, images_in
from edgecache.encoder.library_command import progress_line
from edgecache.protocol import payload as payloads
from edgecache.protocol.cloud import names, pack
from edgecache.protocol.cloud.objects import ObjectStoreError
from edgecache.protocol.cloud.pack import FOOTER_BYTES, Footer
from edgecache.protocol.cloud.pack_reading import read_index
from edgecache.protocol.errors import EdgeCacheError, ImageError, InvalidValue, UndecodableImage
from edgecache.protocol.keys import EncoderIdentity, digest_of
from numpy.typing import NDArray

from tests.protocol.cloud.faulty import FaultyObjects

SPEC = f"module:{__name__}:FakeEncoder"
IDENTITY = EncoderIdentity("fake", "1", digest_of(b"weights"))


class FakeEncoder:
    """(2, 16) features that the image decides; counts its images, and cannot decode what is called broken."""

    encoded: list[bytes] = []  # noqa: RUF012
    identity = IDENTITY
    shape = (2, 16)

    def encode_batch(self, images: Sequence[bytes]) -> list[NDArray[np.float32] | ImageError]:
        self.encoded.extend(images)
        return [self._one(image) for image in images]

    def _one(self, image: bytes) -> NDArray[np.float32] | ImageError:
        if image.startswith(b"broken"):
            return UndecodableImage("it is broken")
        seed = int.from_bytes(digest_of(image)[:8], "little")
        return np.random.default_rng(seed).standard_normal((2, 16), dtype=np.float32)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEncoder.encoded.clear()
    library._encoder.cache_clear()
    monkeypatch.setattr(library, "load", lambda spec: FakeEncoder())
    monkeypatch.setattr(library, "UPLOAD_PAUSE_S", 0.0)


@pytest.fixture
def objects() -> FaultyObjects:
    return FaultyObjects()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def images(directory: Path, *contents: str) -> list[Path]:
    paths = [directory / f"{number}.jpg" for number, _ in enumerate(contents)]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return paths


async def build(objects: FaultyObjects, executor: Executor, paths: Sequence[Path]) -> Built:
    return await Library(SPEC, objects, Workers(executor, 3), lambda built: None).build(paths)


def packs(objects: FaultyObjects) -> list[str]:
    return [name for name in objects.held if name.startswith("packs/")]


async def features_in(objects: FaultyObjects) -> dict[bytes, payloads.Payload]:
    found = {}
    for name in packs(objects):
        index = await read_index(objects, name, len(objects.held[name]), IDENTITY.digest)
        assert index is not None
        for digest in index:
            start, length = index.find(digest) or (0, 0)
            data = objects.held[name][start : start + length]
            found[digest] = payloads.parse(data, digest + IDENTITY.digest)
    return found


async def test_every_image_is_found_in_the_packs_with_its_features(
    objects: FaultyObjects, executor: Executor, tmp_path: Path
) -> None:
    contents = [f"image {number}" for number in range(100)]
    built = await build(objects, executor, images(tmp_path, *contents))
    assert (built.encoded, built.there, built.failed, built.packs) == (100, 0, 0, 1)
    assert (await features_in(objects)).keys() == {digest_of(content.encode()) for content in contents}
    assert objects.held[names.encoder(IDENTITY.digest)] == names.described(IDENTITY)


async def test_a_second_run_makes_only_what_is_missing(
    objects: FaultyObjects, executor: Executor, tmp_path: Path
) -> None:
    await build(objects, executor, images(tmp_path, "a", "b"))
    FakeEncoder.encoded.clear()
    built = await build(objects, executor, images(tmp_path, "a", "b", "c", "c"))
    assert (built.encoded, built.there, built.packs) == (1, 3, 1)
    assert FakeEncoder.encoded == [b"c"]
    again = await build(objects, executor, images(tmp_path, "a", "b", "c"))
    assert (again.encoded, again.there, again.packs, len(packs(objects))) == (0, 3, 0, 2)


async def test_a_full_pack_is_uploaded_and_the_next_begun(
    objects: FaultyObjects, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "ENTRIES_MAX", 10)
    built = await build(objects, executor, images(tmp_path, *(f"image {number}" for number in range(45))))
    assert built.packs == len(packs(objects)) == 5
    assert len(await features_in(objects)) == 45


async def test_images_that_cannot_be_encoded_are_named_and_the_others_made(
    objects: FaultyObjects, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "IMAGE_BYTES_MAX", 100)
    paths = images(tmp_path, "good", "broken", "x" * 200)
    paths.append(tmp_path / "gone.jpg")
    built = await build(objects, executor, paths)
    assert (built.images, built.encoded, built.failed) == (4, 1, 3)
    assert any(failure.endswith("1.jpg: it is broken") for failure in built.failures)
    assert any(failure.endswith("2.jpg: 200 bytes, at most 100") for failure in built.failures)
    assert any(failure.endswith("gone.jpg: No such file or directory") for failure in built.failures)


async def test_an_interrupted_run_leaves_what_it_made(
    objects: FaultyObjects, executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = images(tmp_path, *(f"image {number}" for number in range(80)))
    run: asyncio.Task[Built]

    def progress(built: Built) -> None:
        if built.encoded >= 24:
            run.cancel()

    run = asyncio.ensure_future(Library(SPEC, objects, Workers(executor, 3), progress).build(paths))
    with pytest.raises(asyncio.CancelledError):
        await run
    made = len(await features_in(objects))
    assert 24 <= made < 80
    again = await build(objects, executor, paths)
    assert (again.encoded, again.there) == (80 - made, made)


async def test_a_store_that_fails_now_and_then_is_tried_again_and_one_that_is_out_ends_the_run(
    objects: FaultyObjects, executor: Executor, tmp_path: Path
) -> None:
    original, failures = objects.put, [0]

    async def put(name: str, data: Any) -> None:
        if name.startswith("packs/") and failures[0] < 3:
            failures[0] += 1
            raise ObjectStoreError("503")
        await original(name, data)

    objects.put = put  # type: ignore[method-assign]
    assert (await build(objects, executor, images(tmp_path, "a"))).packs == 1
    objects.is_out = True
    with pytest.raises(ObjectStoreError):
        await build(objects, executor, images(tmp_path, "b"))


async def test_a_damaged_pack_is_made_anew(objects: FaultyObjects, executor: Executor, tmp_path: Path) -> None:
    await build(objects, executor, images(tmp_path, "a"))
    (name,) = packs(objects)
    objects.held[name] = objects.held[name][:-64] + bytes(64)
    assert (await build(objects, executor, images(tmp_path, "a"))).encoded == 1


async def test_a_process_that_dies_is_told_and_not_a_traceback(objects: FaultyObjects, tmp_path: Path) -> None:
    class Dying(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **named: Any) -> Any:
            raise BrokenProcessPool("killed")

    with Dying(1) as executor, pytest.raises(EdgeCacheError, match="fewer --processes"):
        await build(objects, executor, images(tmp_path, "a"))


def test_directories_are_searched_and_files_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.jpg", "a.PNG", "deep/c.webp", "notes.txt"):
        (tmp_path / name).write_text(name)
    found = images_in([tmp_path, tmp_path / "notes.txt", tmp_path / "b.jpg"])
    assert [path.name for path in found] == ["a.PNG", "b.jpg", "c.webp", "notes.txt"]
    with pytest.raises(InvalidValue, match="no such file"):
        images_in([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidValue, match=r"no file of \.jpg"):
        images_in([tmp_path / "empty"])


def test_progress_says_how_far_it_is_and_how_long_the_rest_takes() -> None:
    line = progress_line(Built(encoded=100, there=100), 1000, seconds=10.0)
    assert line == "[####--------------------] 200 of 1000, 10.0/s, 0 min 40 s left"
    assert progress_line(Built(), 10, 0.0) == "[------------------------] 0 of 10, 0.0/s"


# -- the command, with the bundled encoder ----------------------------------------------------------------------

BUILD = "import sys; from edgecache.encoder.cli import main; sys.exit(main(sys.argv[1:]))"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", BUILD, "library", "build", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)


def photos(directory: Path, count: int) -> Path:
    from tests.system.nodes import photo

    directory.mkdir()
    for seed in range(count):
        (directory / f"{seed}.jpg").write_bytes(photo(seed))
    return directory


def test_the_command_builds_tells_and_a_node_finds_it(tmp_path: Path) -> None:
    from tests.system.nodes import Nodes

    directory, url = photos(tmp_path / "photos", 12), f"file://{tmp_path}/bucket"
    done = command(directory, "--to", url, "--processes", 2, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["encoded"] == 12
    (tmp_path / "node").mkdir()
    nodes = Nodes(tmp_path / "node")
    try:
        node = nodes.start("--cloud", url, "--no-mdns")
        for path in directory.iterdir():
            answer = node.get(f"/v1/features/{digest_of(path.read_bytes()).hex()}")
            assert (answer.status, answer.headers["edgecache-source"]) == (200, "cloud")
        assert node.get("/v1/stats").json()["encodes"] == 0
    finally:
        nodes.kill_all()


def test_ctrl_c_ends_the_command_and_what_was_made_stays(tmp_path: Path) -> None:
    directory, bucket = photos(tmp_path / "photos", 3000), tmp_path / "bucket"
    words = [sys.executable, "-c", BUILD, "library", "build", directory, "--to", f"file://{bucket}", "--processes", "1"]
    process = subprocess.Popen([str(word) for word in words], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (bucket / "encoders").exists() and time.monotonic() < deadline:  # then it begins to encode
        time.sleep(0.05)
    time.sleep(2.0)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=30)
    assert process.returncode == cli.INTERRUPTED
    assert "Traceback" not in errors
    (made,) = [path for path in (bucket / "packs").rglob("*") if path.is_file()]
    footer = Footer.parse(made.read_bytes()[-FOOTER_BYTES:], made.stat().st_size, bytes.fromhex(made.parent.name))
    assert 0 < footer.entries < 3000


def test_wrong_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_text("a")
    for arguments, complaint in (
        ([str(tmp_path), "--to", "ftp://host"], "expected s3://"),
        ([str(tmp_path), "--to", "memory://", "--encoder", "what"], "expected edgecache/tiny"),
        (["nowhere", "--to", "memory://"], "nowhere: no such file"),
    ):
        assert cli.main(["library", "build", *arguments]) == 1
        errors = capsys.readouterr().err
        assert complaint in errors
        assert errors.count("\n") == 1


def test_without_dask_the_error_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    (tmp_path / "a.jpg").write_text("a")
    assert cli.main(["library", "build", str(tmp_path), "--to", "memory://", "--dask", "tcp://127.0.0.1:1"]) == 1
    assert "pip install 'edgecache[dask]'" in capsys.readouterr().err


def test_a_dask_cluster_does_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed: Any = pytest.importorskip("distributed")
    directory = photos(tmp_path / "photos", 20)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp"
    ) as cluster:
        arguments = [str(directory), "--to", f"file://{tmp_path}/bucket", "--dask", cluster.scheduler_address, "--json"]
        assert cli.main(["library", "build", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["encoded"] == 20
