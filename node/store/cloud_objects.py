"""Features in an object store, one object each; and read out of packs too (cloud_packs.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...protocol.cloud import names
from ...protocol.cloud.download import download
from ...protocol.keys import DIGEST_BYTES
from ...protocol.payload import PAYLOAD_BYTES_MAX, SAME_BYTES, parse
from .cloud_packs import Packs

if TYPE_CHECKING:
    from ...protocol.cloud.objects import Buffer, Objects
    from ...protocol.keys import EncoderIdentity

ENCODERS_MAX = 4096  # descriptions read when an image is removed, and encoders described by this node
_DELETED_TOGETHER = 1000
# By all writers: a thread each where the store is a directory, a connection each elsewhere.
_ASKED_TOGETHER = 16
# Read of those that are described, by a node that is asked for one of which it has not heard.
_DESCRIPTIONS_MAX, _DESCRIPTION_BYTES_MAX = 256, 4096
# To look whether the same is there already costs a round trip, which sending less than this costs too.
_LOOK_FIRST_BYTES = 16 * 1024


class ObjectsRemote:
    """An object store as `cloud.Remote`."""

    def __init__(self, objects: Objects, now: Callable[[], float]) -> None:
        self.packs = Packs(objects, now)
        self._objects = objects
        self._described: set[bytes] = set()
        self._asking = asyncio.Semaphore(_ASKED_TOGETHER)

    def is_known(self, key: bytes) -> bool:
        """Whether `key` is sure to be there, as far as that can be told without asking."""
        return self.packs.find(key) is not None

    async def get(self, key: bytes) -> Buffer | None:
        """The bytes of `key`, out of a pack or from its own object."""
        if (data := await self.packs.read(key)) is not None:
            return data
        return await download(self._objects, names.feature(key), bytes_max=PAYLOAD_BYTES_MAX)

    async def has(self, key: bytes) -> bool:
        """Whether a pack or an object has `key`."""
        if await self.packs.look(key) is not None:
            return True
        return await self._objects.size(names.feature(key)) is not None

    async def put(self, key: bytes, data: memoryview, age_s: float, *, must_replace: bool) -> bool:
        """Write the object of `key`; False when the very same payload was there."""
        await self._describe(key[DIGEST_BYTES:], data)
        name = names.feature(key)
        if len(data) > _LOOK_FIRST_BYTES:
            there = await download(self._objects, name, 0, SAME_BYTES, bytes_max=SAME_BYTES)
            if there == data[:SAME_BYTES]:
                return False
        await self._objects.put(name, data)
        return True

    async def encoders(self) -> list[EncoderIdentity]:
        """The encoders that are described there, of so many the first."""
        digests = await self._described_digests(_DESCRIPTIONS_MAX)
        identities = await asyncio.gather(*map(self._identity, digests))
        return [identity for identity in identities if identity is not None]

    async def _identity(self, encoder: bytes) -> EncoderIdentity | None:
        async with self._asking:
            told = await download(self._objects, names.encoder(encoder), bytes_max=_DESCRIPTION_BYTES_MAX)
        return None if told is None else names.identity(bytes(told), encoder)

    async def _described_digests(self, most: int) -> list[bytes]:
        digests: list[bytes] = []
        async for name, _ in self._objects.list(names.ENCODERS):
            encoder = names.last_digest(name.removesuffix(".json"))
            if encoder is not None and len(digests) < most:
                digests.append(encoder)
        return digests

    async def remove(self, keys: Sequence[bytes]) -> int:
        """Delete the objects of `keys`, and see to it that no pack gives them back; how many there were."""
        for encoder in dict.fromkeys(key[DIGEST_BYTES:] for key in keys):
            await self.packs.refresh(encoder)
        packed = [key for key in keys if self.packs.find(key) is not None]
        for key in packed:
            await self._objects.put(names.removed(key), b"")
            self.packs.forget(key)
        are_there = await asyncio.gather(*map(self._is_alone, keys))
        alone = [key for key, is_there in zip(keys, are_there, strict=True) if is_there]
        if alone:
            await self._objects.delete([names.feature(key) for key in alone])
        return len({*packed, *alone})

    async def _is_alone(self, key: bytes) -> bool:
        async with self._asking:
            return await self._objects.size(names.feature(key)) is not None

    async def remove_image(self, digest: bytes) -> int:
        """The same for an image, whichever encoder made the features."""
        return await self.remove([digest + encoder for encoder in await self._described_digests(ENCODERS_MAX)])

    async def remove_encoder(self, encoder: bytes) -> int:
        """Delete everything of one encoder; how many objects there were."""
        self.packs.forget_encoder(encoder)
        self._described.discard(encoder)
        deleted = 0
        for kind in (names.FEATURES, names.PACKS, names.REMOVED):
            batch: list[str] = []
            async for name, _ in self._objects.list(names.of_encoder(kind, encoder)):
                batch.append(name)
                if len(batch) == _DELETED_TOGETHER:
                    await self._objects.delete(batch)
                    deleted, batch = deleted + len(batch), []
            if batch:
                await self._objects.delete(batch)
                deleted += len(batch)
        await self._objects.delete([names.encoder(encoder)])
        return deleted

    async def close(self) -> None:
        """End what is under way."""
        await self.packs.close()

    async def _describe(self, encoder: bytes, data: memoryview) -> None:
        """Leave word of which encoder these features are of, once."""
        if encoder not in self._described and len(self._described) < ENCODERS_MAX:
            await self._objects.put(names.encoder(encoder), names.described(parse(data).key.encoder))
            self._described.add(encoder)
