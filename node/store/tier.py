"""What a tier below memory offers: the disk is one, the cloud another, and a test gives a third."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ...protocol.keys import EncoderIdentity

Bytes = bytes | bytearray | memoryview


class Tier(Protocol):
    """Payloads by key, on something slower than memory.

    `put` and `remove` return at once and take effect for `get`, `in` and iteration at once; the bytes follow behind, in
    batches. A tier keeps its own bounds, evicts by itself, and lives with a full, slow or broken medium: it holds less
    then. What it gives back may be damaged; `tiers.Tiers` checks it and removes it.
    """

    @property
    def used_bytes(self) -> int:
        """Bytes that its entries take, as far as that is known here; never more than `capacity_bytes`."""

    @property
    def capacity_bytes(self) -> int:
        """Bytes that it may use; 0 if nobody bounds it."""

    @property
    def queued_bytes(self) -> int:
        """Bytes given by `put` that are still kept in memory because they are not written yet."""

    def __len__(self) -> int:
        """How many entries it knows to hold."""

    def __contains__(self, key: object) -> bool:
        """Whether it is known here, without I/O, to hold `key`. The cloud knows of none."""

    def __iter__(self) -> Iterator[bytes]:
        """The keys that it is known to hold, as they are now."""

    def keys_of_image(self, digest: bytes) -> list[bytes]:
        """Those that are of the image `digest`, whichever encoder made the features."""

    async def get(self, key: bytes) -> Bytes | None:
        """The bytes of `key`, None when it has none. CorruptPayload when rotted; OSError when it cannot tell."""

    def put(self, key: bytes, data: memoryview) -> bool:
        """Take `data` in under `key`, instead of what was there; False when it does not want or cannot take it.

        The bytes of `data` do not change for as long as the tier holds the view.
        """

    def remove(self, key: bytes) -> bool:
        """Forget `key`, also where that can only be seen to later; False when it is not known to have been there."""

    def remove_image(self, digest: bytes) -> int:
        """Forget every key of an image, also those that are not known here; how many were."""

    async def flush(self) -> bool:
        """Wait until everything put so far is as durable as it gets; False if that cannot be had now."""

    async def close(self) -> None:
        """Write what waits, and end it; once more does no harm."""


class Cloud(Tier, Protocol):
    """The tier that a device shares with others: what one node puts or removes there, it does for all of them."""

    @property
    def is_degraded(self) -> bool:
        """Whether it has not answered of late."""

    def pays(self, key: bytes, instead_s: float | None) -> bool:
        """Whether to ask for `key`, for who could encode in `instead_s`, or has nothing else to try."""

    @property
    def miss_s(self) -> float:
        """How long it is expected to take to say that it has not got something."""

    async def has(self, key: bytes) -> bool:
        """Whether it has `key`; OSError when that cannot be told now."""

    async def encoders(self) -> list[EncoderIdentity]:
        """The encoders of which it has features, as far as it tells, or told a moment ago. OSError."""

    def withdraw(self, name: bytes) -> None:
        """Do not write what waits for `name`, a key or an image: somebody else sees to what is there."""

    async def remove_now(self, names: Sequence[bytes], timeout_s: float) -> int:
        """Remove keys and images, and wait for it so long; how many were found there by then."""

    def remove_encoder(self, encoder: bytes) -> None:
        """Remove everything of the encoder whose identity has that digest, some time."""

    def told(self) -> Mapping[str, Any]:
        """What it has counted, for GET /v1/stats."""


class DiskTier(Tier, Protocol):
    """A tier that outlives the process, and with it what was used."""

    on_drop: Callable[[bytes], None] | None
    """Hears of each entry that is here no more, and was not removed by `remove`."""

    @property
    def trouble(self) -> str | None:
        """What is wrong with the medium; None when nothing is."""

    @property
    def evictions(self) -> int:
        """How many entries went for others."""

    @property
    def file_bytes(self) -> int:
        """What its files take, with room for entries that are not there yet or no more."""

    async def ready(self) -> None:
        """Wait until it is known what is there. Until then nothing is, and nothing is taken."""

    def touch(self, key: bytes) -> None:
        """`key` was used, here or in memory, so it is worth keeping. One that is not here is no news."""

    def by_worth(self) -> list[bytes]:
        """The keys, the most valuable first."""

    def uses(self) -> Iterator[bytes]:
        """The keys as they were used lately, this life or the last, the oldest use first."""

    async def flush(self, key: bytes | None = None) -> bool:
        """Wait until all that was put and removed is as durable as it gets; whether that, or just `key`, is durable."""
