"""A feature library: the features of many images, made beforehand and left in an object store for nodes to find.

    1. the packs that are there already tell what is done
    2. images are read, and what is done is skipped
    3. processes, or a Dask cluster, make the stored payloads of the others
    4. full packs are uploaded

So it may be interrupted at any time: another run does what is missing. A pack is the unit of that, 64 MiB.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..protocol import payload as payloads
from ..protocol.cloud import names
from ..protocol.cloud.objects import ObjectStoreError
from ..protocol.cloud.pack import PackIndex, PackWriter
from ..protocol.cloud.pack_reading import read_index
from ..protocol.errors import CorruptPayload, EdgeCacheError, ImageError, InvalidValue
from ..protocol.keys import EncoderIdentity, FeatureKey, digest_of
from .image_set import SUFFIXES
from .load import Encoder, load

if TYPE_CHECKING:
    from ..protocol.cloud.objects import Objects

BATCH_IMAGES = 8
BATCH_BYTES_MAX = 64 * 1024 * 1024
# An image that no node would take need not be encoded for one.
IMAGE_BYTES_MAX = 32 * 1024 * 1024
UPLOAD_ATTEMPTS = 4
UPLOAD_PAUSE_S = 1.0
FAILURES_TOLD_MAX = 20
_INDEXES_TOGETHER = 16

_T = TypeVar("_T")


@dataclass(slots=True)
class Built:
    """What a run did."""

    images: int = 0
    """Files that were looked at."""
    encoded: int = 0
    there: int = 0
    """Images whose features were there, or were made by this run for the same image under another name."""
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    """What was wrong with the first of those that failed."""
    packs: int = 0
    nbytes: int = 0
    """Bytes uploaded."""


class _Image(NamedTuple):
    path: Path
    digest: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Workers:
    """What encodes: an executor, and how many batches keep it busy."""

    executor: Executor
    batches_at_once: int


def images_in(paths: Sequence[Path]) -> list[Path]:
    """The image files that `paths` name: files as they are, directories by what is in them. InvalidValue."""
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not found:
                raise InvalidValue(f"{path}: no file of {', '.join(SUFFIXES)} in it")
            files.update(dict.fromkeys(found))
        elif path.is_file():
            files[path] = None
        else:
            raise InvalidValue(f"{path}: no such file or directory")
    return list(files)


class Library:
    """One run: `build` it once."""

    def __init__(self, spec: str, objects: Objects, workers: Workers, progress: Callable[[Built], None]) -> None:
        """`progress` hears what is done whenever that changes."""
        self.built = Built()
        self._spec = spec
        self._objects = objects
        self._workers = workers
        self._progress = progress
        self._done: list[PackIndex] = []
        self._begun: set[bytes] = set()
        self._under_way: dict[asyncio.Task[list[bytes | str]], list[_Image]] = {}

    async def build(self, images: Sequence[Path]) -> Built:
        """Make what is missing. InvalidValue for a wrong SPEC, ObjectStoreError when the store does not take it."""
        identity = await self._run(_identity, self._spec)
        await self._read_what_is_there(identity)
        await self._upload(names.encoder(identity.digest), names.described(identity))
        self._writer = PackWriter(identity.digest)
        batches = self._missing(images)
        try:
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                making = asyncio.ensure_future(self._run(_payloads, self._spec, [image.data for image in batch]))
                self._under_way[making] = batch
                while len(self._under_way) >= self._workers.batches_at_once:
                    await self._collect()
            while self._under_way:
                await self._collect()
        finally:
            for making in self._under_way:
                making.cancel()
            await self._upload_pack()  # also when this was interrupted: what is made is not made again
        self._progress(self.built)
        return self.built

    async def _read_what_is_there(self, identity: EncoderIdentity) -> None:
        there = [pack async for pack in self._objects.list(names.of_encoder(names.PACKS, identity.digest))]
        there = [(name, size) for name, size in there if names.last_digest(name) is not None]
        for at in range(0, len(there), _INDEXES_TOGETHER):
            batch = there[at : at + _INDEXES_TOGETHER]
            indexes = await asyncio.gather(*(self._index(name, size, identity) for name, size in batch))
            self._done += [index for index in indexes if index is not None]

    async def _index(self, name: str, size: int, identity: EncoderIdentity) -> PackIndex | None:
        try:
            return await read_index(self._objects, name, size, identity.digest)
        except CorruptPayload:  # no node reads it either
            return None

    def _missing(self, images: Sequence[Path]) -> Iterator[list[_Image]]:
        """Batches of the images that nobody has done yet."""
        batch: list[_Image] = []
        for path in images:
            self.built.images += 1
            try:
                if (size := path.stat().st_size) > IMAGE_BYTES_MAX:
                    raise OSError(f"{size} bytes, at most {IMAGE_BYTES_MAX}")
                data = path.read_bytes()
            except OSError as error:
                self._fail(path, error.strerror or str(error))
                continue
            digest = digest_of(data)
            if digest in self._begun or any(index.find(digest) is not None for index in self._done):
                self.built.there += 1
                self._progress(self.built)
                continue
            self._begun.add(digest)
            batch.append(_Image(path, digest, data))
            if len(batch) == BATCH_IMAGES or sum(len(image.data) for image in batch) >= BATCH_BYTES_MAX:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _collect(self) -> None:
        """Wait for some batch, and put what it made into the pack; upload that when it is full."""
        done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        for making in done:
            for image, made in zip(self._under_way.pop(making), making.result(), strict=True):
                if isinstance(made, str):
                    self._fail(image.path, made)
                    continue
                self._writer.add(image.digest, made)
                self.built.encoded += 1
                if self._writer.is_full:
                    await self._upload_pack()
            self._progress(self.built)

    async def _upload_pack(self) -> None:
        full, self._writer = self._writer, PackWriter(self._writer.encoder)
        if len(full):
            digest, data = full.finish()
            await self._upload(names.pack(full.encoder, digest), data)
            self.built.packs += 1
            self.built.nbytes += len(data)

    async def _upload(self, name: str, data: bytes | bytearray) -> None:
        for attempt in range(1, UPLOAD_ATTEMPTS + 1):
            try:
                await self._objects.put(name, data)
                return
            except ObjectStoreError:
                if attempt == UPLOAD_ATTEMPTS:
                    raise
                await asyncio.sleep(UPLOAD_PAUSE_S * 2**attempt)

    async def _run(self, work: Callable[..., _T], *arguments: object) -> _T:
        try:
            return await asyncio.wrap_future(self._workers.executor.submit(work, *arguments))
        except BrokenExecutor:
            raise EdgeCacheError("an encoding process ended, as for want of memory: try fewer --processes") from None

    def _fail(self, path: Path, reason: str) -> None:
        self.built.failed += 1
        if len(self.built.failures) < FAILURES_TOLD_MAX:
            self.built.failures.append(f"{path}: {reason}")


# -- in the processes that encode ------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _encoder(spec: str) -> Encoder:
    return load(spec)


def _identity(spec: str) -> EncoderIdentity:
    return _encoder(spec).identity


def _payloads(spec: str, images: list[bytes]) -> list[bytes | str]:
    """For each image file the stored payload of its features, or what is wrong with it."""
    encoder = _encoder(spec)
    made: list[bytes | str] = []
    for image, outcome in zip(images, encoder.encode_batch(images), strict=True):
        if isinstance(outcome, ImageError):
            made.append(str(outcome))
            continue
        try:
            made.append(bytes(payloads.encode(outcome, FeatureKey(digest_of(image), encoder.identity)).data))
        except InvalidValue as error:
            made.append(str(error))
    return made
