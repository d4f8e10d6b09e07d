"""Modelled encoding: features of the right size, bound to their image and version, that take an encoder's time.

A simulation of a day holds millions of features. So that they fit, all images share most of their body: only the first
token's scale tells them apart. A store keeps each payload's head and that scale, and makes the rest when it is read;
what nodes send each other is whole, and checked as ever.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..node.eviction.policy import NO_FACTS, EvictionPolicy, Facts
from ..node.store.memory import MemoryStore
from ..protocol import payload as payloads
from ..protocol.errors import EncoderUnavailable
from ..protocol.keys import EncoderIdentity, FeatureKey, digest_of
from ..protocol.payload import Codec, Payload
from ..protocol.quantization import CODE_MAX

WAITING_IMAGES_MAX = 64  # as in encoder/worker.py
_SCALE, _CHECKSUM = struct.Struct("<f"), struct.Struct("<Q")
_CHECKSUM_AT, _CHECKED_FROM, _DIGEST_AT = 8, 16, 64


@dataclass(frozen=True, slots=True)
class Description:
    """What a modelled encoder says of itself."""

    identity: EncoderIdentity
    shape: tuple[int, int]


class FeatureModel:
    """What a modelled encoder makes of images: features (tokens, dim) that depend on the image and the version."""

    def __init__(self, tokens: int, dim: int, *, name: str = "modelled", version: str = "1") -> None:
        fingerprint = sha256(f"modelled {tokens}x{dim}".encode()).digest()
        self.description = Description(EncoderIdentity(name, version, fingerprint), (tokens, dim))
        # Whole numbers with ±127 in each token are their own INT8 codes, whatever the scale: the codes are one for all
        # images, and lz4 finds nothing in them, as in real features.
        codes = np.random.default_rng(1).integers(-CODE_MAX, CODE_MAX + 1, (tokens, dim)).astype(np.float32)
        codes[:, 0] = CODE_MAX
        self._array = codes
        self._packed: Payload | None = None

    @property
    def identity(self) -> EncoderIdentity:
        """The encoder's."""
        return self.description.identity

    def key(self, digest: bytes) -> FeatureKey:
        """The key of an image's features."""
        return FeatureKey(digest, self.identity)

    @property
    def blank(self) -> NDArray[np.float32]:
        """An array of that shape, to be packed by `pack`; not to be changed."""
        return self._array

    def array(self, digest: bytes) -> NDArray[np.float32]:
        """The features of an image, float32 (tokens, dim)."""
        array = self._array.copy()
        array[0] *= np.float32(self._first_scale(digest))
        return array

    def pack(self, array: NDArray[np.float32], key: FeatureKey, *, min_fidelity: float = 0.0) -> Payload:
        """What `payload.encode` makes of `array(key.digest)`, without the 2 ms that quantising takes."""
        if self._packed is None:
            self._packed = payloads.encode(self._array, key, min_fidelity=min_fidelity)
        packed = self._packed
        data = bytearray(packed.data)  # with another digest, scale and checksum: docs/protocol.md
        data[_DIGEST_AT : _DIGEST_AT + len(key.digest)] = key.digest
        _SCALE.pack_into(data, packed.body_at, self._first_scale(key.digest))
        checksum = xxhash.xxh3_64_intdigest(memoryview(data)[_CHECKED_FROM:])
        _CHECKSUM.pack_into(data, _CHECKSUM_AT, checksum)
        return replace(packed, held=memoryview(data), key=key, checksum=checksum)

    def made(self, payload: Payload, digest: bytes) -> bool:
        """Whether `payload` has what this model made of that image, by its key and by its body."""
        if payload.key.digest != digest or payload.key.encoder != self.identity or payload.codec is not Codec.INT8:
            return False
        first = payload.head[-_SCALE.size :] if isinstance(payload, HeadOnly) else payload.data[payload.body_at :]
        scale: float = _SCALE.unpack_from(first)[0]
        return abs(scale - self._first_scale(digest)) < 1e-6

    def _first_scale(self, digest: bytes) -> float:
        """Between 1 and 2."""
        told = sha256(digest + self.identity.version.encode()).digest()
        return 1 + int.from_bytes(told[:4], "little") / 2**32


class Bodies:
    """The bodies that images share, without their first scale, one of each size; for all stores of a simulation."""

    def __init__(self) -> None:
        self._tails: dict[int, bytes] = {}

    def split(self, data: memoryview, body_at: int) -> tuple[bytes, bytes]:
        """A payload's bytes as its own head and a tail, which is shared if all images have it."""
        at = body_at + _SCALE.size
        tail = data[at:]
        shared = self._tails.get(len(tail))
        if shared is None:
            shared = self._tails[len(tail)] = bytes(tail)
        # To compare with a memoryview by `==` takes ten times as long as to copy it; this compares the bytes in place.
        return bytes(data[:at]), shared if shared.startswith(tail) else bytes(tail)


class HeadOnly(Payload):
    """A payload whose body is made anew each time it is read."""

    __slots__ = ("_nbytes", "_tail", "head")
    head: bytes
    _nbytes: int
    _tail: bytes

    @classmethod
    def of(cls, payload: Payload, bodies: Bodies) -> HeadOnly:
        """`payload`, with its body among the shared ones."""
        head, tail = bodies.split(payload.data, payload.body_at)
        self = object.__new__(cls)
        for name in ("key", "codec", "compression", "tokens", "dim", "fidelity", "checksum", "body_at", "knows"):
            object.__setattr__(self, name, getattr(payload, name))
        object.__setattr__(self, "head", head)
        object.__setattr__(self, "_tail", tail)
        object.__setattr__(self, "_nbytes", len(head) + len(tail))
        return self

    @property
    def data(self) -> memoryview:
        """All of it."""
        return memoryview(self.head + self._tail)

    @property
    def nbytes(self) -> int:
        """Size of the payload, header and all."""
        return self._nbytes


class HeadsStore(MemoryStore):
    """A memory tier that counts whole payloads and holds heads."""

    def __init__(self, capacity_bytes: int, policy: EvictionPolicy[bytes], bodies: Bodies) -> None:
        super().__init__(capacity_bytes, policy)
        self._bodies = bodies

    def put(self, payload: Payload, facts: Facts = NO_FACTS) -> bool:
        """Keep `payload`; the store's own copy shares its body with others."""
        return super().put(payload if isinstance(payload, HeadOnly) else HeadOnly.of(payload, self._bodies), facts)


class DeviceEncoder:
    """Encodes one image at a time, each in `encode_s` (`settings.LocalEncoder`)."""

    def __init__(
        self,
        model: FeatureModel,
        encode_s: float,
        digest: Callable[[bytes], bytes] = digest_of,
        *,
        is_packed_later: bool = False,
    ) -> None:
        """`digest`: the digest of an image; a simulation without pictures lets images be their own digests.

        `is_packed_later`: by `FeatureModel.pack`, which needs no array.
        """
        self.model = model
        self._is_packed_later = is_packed_later
        self.encode_s = encode_s
        self.encoded: list[bytes] = []
        self._digest = digest
        self._turn = asyncio.Lock()
        self._waiting = 0

    @property
    def known(self) -> Description:
        """What it is."""
        return self.model.description

    @property
    def is_finishing(self) -> bool:
        """It stops at once, as a torch model does between two operations."""
        return False

    async def start(self) -> None:
        """Nothing to load."""

    async def described(self) -> Description:
        """Known at once."""
        return self.known

    async def encode(self, image: bytes) -> NDArray[np.float32]:
        """Features (tokens, dim) of the image; EncoderUnavailable if too many wait."""
        if self._waiting >= WAITING_IMAGES_MAX:
            raise EncoderUnavailable(f"{WAITING_IMAGES_MAX} images wait already", retry_after_s=1)
        self._waiting += 1
        try:
            async with self._turn:
                await asyncio.sleep(self.encode_s)
        finally:
            self._waiting -= 1
        self.encoded.append(image)
        return self.model.blank if self._is_packed_later else self.model.array(self._digest(image))

    async def close(self) -> None:
        """Nothing to end."""
