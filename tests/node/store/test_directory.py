"""node/store/directory.py and the disk tier on real files."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from edgecache.node.eviction.lru import LRU
from edgecache.node.store.directory import RealDirectory
from edgecache.node.store.disk import READS_MAX, DiskStore
from edgecache.node.store.threads import RealThreads

from .test_disk import MIB, data, key, unrotted


async def opened(path: Path, capacity_bytes: int = 16 * MIB) -> DiskStore:
    store = DiskStore(
        lambda: RealDirectory(path), capacity_bytes, LRU, threads=RealThreads(READS_MAX), entries_max=10_000
    )
    store.start()
    await store.ready()
    return store


def on_disk_bytes(path: Path) -> int:
    """What the file system has given to the files, as `du` counts."""
    return sum(file.lstat().st_blocks * 512 for file in path.iterdir())


def test_a_file_is_allocated_whole_and_written_and_read_anywhere(tmp_path: Path) -> None:
    directory = RealDirectory(tmp_path / "d")
    file = directory.create("a", 100_000)
    assert (tmp_path / "d" / "a").stat().st_blocks * 512 >= 100_000
    file.write([b"one", memoryview(b"two")], 500)
    assert file.read(8, 499) == b"\0onetwo\0"
    assert len(file.read(1000, 99_900)) == 100
    file.sync()
    directory.sync()
    directory.rename("a", "b")
    assert directory.names() == ["b", "lock"]
    assert directory.size("b") == directory.open("b").nbytes == 100_000
    directory.remove("b")
    assert file.read(3, 500) == b"one", "who has it open may go on reading"
    directory.close()


def test_a_directory_is_one_process_s_alone(tmp_path: Path) -> None:
    first = RealDirectory(tmp_path)
    with pytest.raises(BlockingIOError):
        RealDirectory(tmp_path)
    first.close()
    RealDirectory(tmp_path).close()


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    store = tmp_path / "store"
    store.mkdir()
    for name in ("segment-00000000", "history", "segment.corrupt", "new"):
        (store / name).symlink_to(outside / "file")
    directory = RealDirectory(store)
    assert directory.names() == ["lock"]
    with pytest.raises(OSError, match="symbolic links"):
        directory.open("segment-00000000")
    with pytest.raises(FileExistsError):
        directory.create("new", 10)
    directory.close()
    (tmp_path / "link").symlink_to(store)
    with pytest.raises(OSError, match="Not a directory"):
        RealDirectory(tmp_path / "link")
    (store / "lock").unlink()
    (store / "lock").symlink_to(outside / "file")
    with pytest.raises(OSError, match="symbolic links"):
        RealDirectory(store)
    assert (outside / "file").read_bytes() == b"precious"


async def test_a_store_full_of_symlinks_works_around_them(tmp_path: Path) -> None:
    outside = tmp_path / "file"
    outside.write_bytes(b"precious")
    path = tmp_path / "store"
    path.mkdir()
    for name in ("segment-00000000", "segment-00000001", "history", "history.new", "segment.corrupt"):
        (path / name).symlink_to(outside)
    store = await opened(path)
    store.put(key(1), data(1))
    assert await store.flush(key(1))
    await store.close()
    again = await opened(path)
    assert await again.get(key(1)) == data(1)
    await again.close()
    assert outside.read_bytes() == b"precious"


def test_a_fifo_does_not_hold_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "segment-00000000")
    directory = RealDirectory(tmp_path)
    with pytest.raises(OSError, match="not a regular file"):
        directory.open("segment-00000000")
    directory.close()


async def test_real_files_hold_what_was_put_over_a_restart_and_keep_to_their_bytes(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    for number in range(200):
        store.put(key(number), data(number, (964, 150_000, 300_000)[number % 3]))
        if number % 20 == 0:
            await store.flush()
        assert on_disk_bytes(tmp_path) <= 16 * MIB + 16_384, "the directory's own page and the lock's beside it"
    await store.flush()
    store.check()
    held = list(store)
    await store.close()
    again = await opened(tmp_path)
    assert sorted(again) == sorted(held)
    for one in held:
        assert await again.get(one) is not None
    assert again.stats.corrupt == 0
    assert 0.8 * 16 * MIB < on_disk_bytes(tmp_path) <= 16 * MIB + 16_384
    await again.close()


async def test_a_second_store_of_a_directory_takes_nothing_and_says_why(tmp_path: Path) -> None:
    first = await opened(tmp_path)
    second = await opened(tmp_path)
    assert second.trouble == "the disk store cannot be opened: Resource temporarily unavailable"
    assert not second.put(key(1), data(1))
    await second.close()
    assert first.trouble is None
    await first.close()


def rot(path: Path, rng: random.Random) -> None:
    """Flip bits of most files, and cut one short."""
    files = [*sorted(path.glob("segment-*")), path / "history"]
    for file in rng.choices(files, k=20):
        content = bytearray(file.read_bytes())
        for _ in range(3):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    rng.choice(files).write_bytes(b"cut short")


@pytest.mark.parametrize("seed", range(20))
async def test_flipped_bits_anywhere_are_misses_never_wrong_and_never_fatal(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    store = await opened(tmp_path)
    for number in range(60):
        store.put(key(number), data(number, rng.choice((964, 150_000))))
    await store.close()
    rot(tmp_path, rng)
    again = await opened(tmp_path)
    for number in range(60):
        found = await unrotted(again, key(number))
        assert found is None or found == data(number, len(found))
    again.put(key(99), data(99))
    assert await again.flush(key(99))
    again.check()
    await again.close()


_FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from edgecache.node.store.disk import DiskStore
from tests.node.store.test_directory import opened
from tests.node.store.test_disk import MIB, data, key

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    store = await opened(Path(sys.argv[1]))
    store.put(key(1), data(1))
    assert not await store.flush(key(1))
    print(store.trouble)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store._retry_at = 0
    store.put(key(1), data(1))
    await store.flush()
    store.put(key(1), data(1))
    assert await store.flush(key(1))
    assert store.trouble is None
    await store.close()

asyncio.run(main())
"""


def test_a_disk_quota_that_is_used_up_is_survived(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the disk store cannot grow: File too large" in done.stdout
    assert "works again" in done.stderr


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A directory that this user may not write to."""
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    return tmp_path


async def test_a_directory_that_may_not_be_written_to(unwritable: Path) -> None:
    store = await opened(unwritable / "store")
    assert store.trouble == "the disk store cannot be opened: Permission denied"
    await store.close()


async def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    store = await opened(tmp_path / "store")
    assert store.trouble == f"the disk store cannot be opened: {os.strerror(errno.EEXIST)}"
    await store.close()
