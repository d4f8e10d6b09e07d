"""A cloud in memory: an object store behind a site's uplink, with latency and price; and sometimes out of reach."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .disk import Held
from .links import PACKET_BYTES, Access, Link, Path
from .modelled import Bodies

if TYPE_CHECKING:
    from ..protocol.keys import EncoderIdentity

# A connection that has been idle begins with ten packets and doubles them each round trip (RFC 6928, RFC 9293).
_FIRST_WINDOW_BYTES = 10 * PACKET_BYTES


@dataclass(frozen=True, slots=True)
class CloudService:
    """An object store, and beside it an encoder for devices that would rather send their images."""

    first_byte_s: tuple[float, float] = (0.1, 0.2)
    """From the request's arrival, anything between: Amazon S3 says 100 to 200 ms for small objects."""
    encode_s: float = 0.02
    """An image on a shared GPU with its queue; estimated."""
    price_per_get: float = 0.4e-6
    """In USD: Amazon S3 Standard, us-east-1."""
    price_per_put: float = 5e-6
    price_per_byte_out: float = 0.09e-9
    price_per_encode: float = 10e-6
    """Estimated: an hour of a small GPU at USD 0.5 for 50,000 images, since it is never quite busy."""


class Site:
    """One place with one uplink to the cloud, which all its devices share."""

    def __init__(self, uplink: Link, service: CloudService, bodies: Bodies, seed: object) -> None:
        self.uplink = uplink
        self.service = service
        self.gets = 0
        self.puts = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._objects = Held(bodies)
        self._rng = random.Random(f"{seed}:cloud")
        access, middle = Access(uplink), Access(_DATA_CENTRE)
        self._up, self._down = Path(access, middle, self._rng), Path(middle, access, self._rng)
        self._is_reachable = asyncio.Event()
        self._is_reachable.set()

    def cut(self) -> None:
        """The cloud is out of reach: requests hang."""
        self._is_reachable.clear()

    def heal(self) -> None:
        """It is back."""
        self._is_reachable.set()

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def store_price(self) -> float:
        """What was paid so far for the store, in USD: its requests, and bytes that leave it."""
        return (
            self.gets * self.service.price_per_get
            + self.puts * self.service.price_per_put
            + self.bytes_down * self.service.price_per_byte_out
        )

    async def get(self, key: bytes) -> bytes | None:
        """The object's bytes, or None; takes what the way there and back takes."""
        await self._is_reachable.wait()
        loop = asyncio.get_running_loop()
        self.gets += 1
        await asyncio.sleep(self._up.carry(loop.time(), 600) - loop.time())  # a signed request's headers
        await asyncio.sleep(self._rng.uniform(*self.service.first_byte_s))
        data = self._objects.get(key)
        size = len(data) if data is not None else 0
        self.bytes_up += 600
        self.bytes_down += size + 600
        arrives = self._down.carry(loop.time(), size + 600) + slow_start_s(size, self.uplink)
        await asyncio.sleep(arrives - loop.time())
        return data

    async def has(self, key: bytes) -> bool:
        """Whether there is an object; takes what asking takes."""
        await self._is_reachable.wait()
        loop = asyncio.get_running_loop()
        self.gets += 1
        self.bytes_up += 600
        self.bytes_down += 600
        await asyncio.sleep(self._up.carry(loop.time(), 600) - loop.time())
        await asyncio.sleep(self._rng.uniform(*self.service.first_byte_s))
        is_there = key in self._objects
        await asyncio.sleep(self._down.carry(loop.time(), 600) - loop.time())
        return is_there

    async def put(self, key: bytes, data: memoryview) -> None:
        """Store an object; takes what the way there takes."""
        await self._is_reachable.wait()
        loop = asyncio.get_running_loop()
        self.puts += 1
        self.bytes_up += len(data) + 600
        await asyncio.sleep(self._up.carry(loop.time(), len(data) + 600) - loop.time())
        self._objects.put(key, data)

    def remove(self, key: bytes) -> bool:
        """Forget an object."""
        return self._objects.remove(key)

    def remove_image(self, digest: bytes) -> int:
        """Forget every object of an image."""
        return sum(self._objects.remove(key) for key in self._objects.keys_of_image(digest))

    def remove_encoder(self, encoder: bytes) -> int:
        """Forget every object of an encoder."""
        return sum(self._objects.remove(key) for key in list(self._objects) if key.endswith(encoder))


class SiteRemote:
    """A site's cloud as a node's cloud tier sees it (`store.cloud.Remote`)."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def is_known(self, key: bytes) -> bool:
        """Never: what others have put there is not told."""
        return False

    async def get(self, key: bytes) -> bytes | None:
        """The bytes of `key`."""
        return await self._site.get(key)

    async def has(self, key: bytes) -> bool:
        """Whether it is there, at the price of a small request."""
        return await self._site.has(key)

    async def encoders(self) -> list[EncoderIdentity]:
        """None: no simulated node asks for one that it has not heard of."""
        return []

    async def put(self, key: bytes, data: memoryview, age_s: float, *, must_replace: bool) -> bool:
        """Send it, unless it is there."""
        if await self._site.has(key):
            return False
        await self._site.put(key, data)
        return True

    async def remove(self, keys: Sequence[bytes]) -> int:
        """Forget them."""
        return sum(self._site.remove(key) for key in keys)

    async def remove_image(self, digest: bytes) -> int:
        """Forget every object of an image."""
        return self._site.remove_image(digest)

    async def remove_encoder(self, encoder: bytes) -> int:
        """Forget everything of an encoder."""
        return self._site.remove_encoder(encoder)

    async def close(self) -> None:
        """Nothing is under way that its callers do not wait for."""


def slow_start_s(size: int, uplink: Link) -> float:
    """What `size` bytes wait for acknowledgements before the link, or they, are through."""
    round_trip_s = uplink.round_trip_s
    enough = min(float(size), uplink.down_bytes_per_s * round_trip_s)
    rounds = math.ceil(math.log2(enough / _FIRST_WINDOW_BYTES)) if enough > _FIRST_WINDOW_BYTES else 0
    return rounds * round_trip_s


# Far more than any uplink brings; so near the internet's middle that the uplink's delay is the delay.
_DATA_CENTRE = Link("data centre", 0.0, 0.0, 10e9, 10e9, 0.0, False, 0.0, 0.0, 0.0, "not what anybody waits for")
