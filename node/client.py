"""The Python client: the features of an image, from whichever node has them, as arrays.

    encode   1. a node has them, by the image's digest
             2. a node encodes the image, or, given `encode=`, this process does
             3. what was encoded here is put back for the others

Features arrive as the stored payload, which names the image and the encoder it belongs to and carries a checksum. Both
are checked here: a node can withhold features, but not answer with wrong ones.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from ..protocol import payload as payloads
from ..protocol.errors import InvalidValue
from ..protocol.features import Features, Source
from ..protocol.keys import DIGEST_BYTES, EncoderIdentity, FeatureKey, digest_of, parse_digest
from ..protocol.namespaces import Namespace
from . import client_answers as answers
from .aside import aside
from .client_answers import Ask
from .client_nodes import Nodes, NoNodeAnswers, Refused
from .client_urls import urls_of_members
from .cluster_key import read_keys
from .http_answers import BATCH_BYTES_MAX, BatchForm, Form
from .http_tensors import npy_head
from .image_bytes import ImageLike, image_bytes

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from numpy.typing import ArrayLike, NDArray

TIMEOUT_S = 30.0
# Sending less than this costs a LAN less than asking first whether it must be sent at all.
ASK_FIRST_BYTES = 64 * 1024
BATCH_DIGESTS_MAX = 256

Digest: TypeAlias = str | bytes
"""64 hexadecimal digits, with or without `sha256:`, or the 32 bytes themselves."""

Encode: TypeAlias = Callable[[Any], Any]
"""Gets an image as it was given, and returns its features, float (tokens, dim); may be a coroutine function."""

_JSON_HEADERS = {"Content-Type": "application/json"}

_DigestT = TypeVar("_DigestT", str, bytes)


class Client:
    """Asks the cluster for features. Use it in `async with`, or call `close` at the end.

    Without a `url` it takes the node on this machine, else one that mDNS brings; when that dies, the next. `encoder`
    and `version` name whose features are meant; left out, the node's own. `encode` is the user's own encoder: it is
    called for what nobody has, and when no node answers, so that then nothing raises. Name it by `encoder` and
    `version`, or what nodes answer is their encoder's, and what it makes is shared with nobody.

    Nodes with a cluster key on other machines want a token: give `cluster_key`, the key's file, or the `token` itself.
    With one, only the node on this machine or at `url` is asked, and the members that it names: what mDNS brings could
    be anybody. HTTP is not encrypted, so the token can be read on the way to a node elsewhere.

    `timeout_s` is for each answer, and an `encode` may need two. It includes the wait for others of this client: 32
    encodes and 32 questions are asked at once, and what is beyond waits here, not at the node.

    `namespace` is a secret of 16 to 128 characters: what is put and encoded with it, only those find who have it too.
    Like a token it is sent to the nodes that are asked.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        encode: Encode | None = None,
        encoder: str | None = None,
        version: str | None = None,
        timeout_s: float = TIMEOUT_S,
        cluster_key: str | Path | None = None,
        token: str | None = None,
        namespace: str | None = None,
    ) -> None:
        _identity(encoder, version)
        if cluster_key is not None:
            if token is not None:
                raise InvalidValue("a cluster key and a token: which of them?")
            tokens = [key.token for key in read_keys(Path(cluster_key))]
        else:
            tokens = [token] if token is not None else []
        self._nodes = Nodes(url, timeout_s, tokens)
        self._encode = encode
        self._encoder = encoder
        self._version = version
        self._namespace = None if namespace is None else Namespace(namespace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._nodes.close()

    # -- features -----------------------------------------------------------------------------------------------

    async def encode(
        self,
        image: ImageLike,
        *,
        encode: Encode | None = None,
        encoder: str | None = None,
        version: str | None = None,
        min_fidelity: float | None = None,
    ) -> Features:
        """The features of `image`: bytes, path, PIL image or uint8 array (H, W, 3); encoded when nobody has them.

        `encode` is called for what nobody has, with `image` as it is. Without one a node encodes: then Refused when it
        cannot, and NoNodeAnswers.
        """
        encode = encode or self._encode
        ask = self._ask(encoder, version, min_fidelity)
        data = await image_bytes(image)
        digest = await aside(len(data), digest_of, data)
        if encode is None:
            if len(data) > ASK_FIRST_BYTES and (found := await self._get(digest, ask)) is not None:
                return found
            return await self._post(digest, data, ask)
        try:
            if (found := await self._get(digest, ask)) is not None:
                return found
            is_answered = True
        except Refused:
            is_answered = True
        except NoNodeAnswers:
            is_answered = False
        made = await _called(encode, image, FeatureKey(digest, _identity(ask.encoder, ask.version)))
        if is_answered and ask.encoder is not None and ask.version is not None:
            # The features are here; that the others will not have them is no reason to fail.
            with suppress(NoNodeAnswers, Refused):
                await self._put(digest, made.array, ask)
        return made

    async def get(
        self,
        digest: Digest,
        *,
        encoder: str | None = None,
        version: str | None = None,
        min_fidelity: float | None = None,
    ) -> Features | None:
        """The features of the image with that digest; None when nobody holds them. Refused and NoNodeAnswers."""
        try:
            return await self._get(_digest(digest), self._ask(encoder, version, min_fidelity))
        except NoNodeAnswers:
            if self._encode is None:
                raise
            return None

    async def get_many(
        self, digests: Iterable[_DigestT], *, encoder: str | None = None, version: str | None = None
    ) -> dict[_DigestT, Features]:
        """Those that somebody holds, by the digests as they were given. Refused and NoNodeAnswers."""
        ask = self._ask(encoder, version, None)
        wanted = {digest: _digest(digest) for digest in digests}
        names = list(wanted)
        found: dict[_DigestT, Features] = {}
        try:
            for at in range(0, len(names), BATCH_DIGESTS_MAX):
                batch = list(dict.fromkeys(wanted[name] for name in names[at : at + BATCH_DIGESTS_MAX]))
                here = await self._get_batch(batch, ask)
                found |= {
                    name: here[wanted[name]] for name in names[at : at + BATCH_DIGESTS_MAX] if wanted[name] in here
                }
        except NoNodeAnswers:
            if self._encode is None:
                raise
        return found

    async def put(
        self,
        digest: Digest,
        array: ArrayLike,
        *,
        encoder: str | None = None,
        version: str | None = None,
        durable: bool = False,
    ) -> int:
        """Store features (tokens, dim) made elsewhere; on how many nodes they now are.

        `encoder` and `version` say what made them. `durable` waits until a power cut could not take them from the disk
        of the node that is asked. Refused when the cluster will not have them, or not durably, InvalidValue for what is
        no array of numbers, NoNodeAnswers.
        """
        try:
            return await self._put(_digest(digest), _tokens(array), self._ask(encoder, version, None), durable)
        except NoNodeAnswers:
            if self._encode is None:
                raise
            return 0

    async def has(self, digest: Digest, *, encoder: str | None = None, version: str | None = None) -> bool:
        """Whether somebody holds them; moves no features. Refused and NoNodeAnswers."""
        ask = self._ask(encoder, version, None)
        try:
            return await self._nodes.ask(
                "HEAD", _path(_digest(digest)), answers.is_held, query=ask.query(), headers=ask.headers()
            )
        except NoNodeAnswers:
            if self._encode is None:
                raise
            return False

    async def forget(self, digest: Digest, *, encoder: str | None = None, version: str | None = None) -> bool:
        """Forget the features of one encoder, or of every one, on every node; False when nobody had any.

        Only what is given here counts: the client's own `encoder` and `version` do not narrow it. Refused and
        NoNodeAnswers, also with `encode=`, since nothing was forgotten then.
        """
        ask = Ask(encoder, version, None, self._namespace)
        return await self._nodes.ask(
            "DELETE", _path(_digest(digest)), answers.is_forgotten, query=ask.query(), headers=ask.headers()
        )

    # -- the cluster --------------------------------------------------------------------------------------------

    async def invalidate(self, encoder: str, version: str | None = None) -> int:
        """Make `version` current, the one there is if it is left out; how many older features went there."""
        body = {"encoder": encoder} if version is None else {"encoder": encoder, "version": version}
        return await self._nodes.ask(
            "POST", "/v1/invalidations", answers.forgotten, headers=_JSON_HEADERS, body=json.dumps(body).encode()
        )

    async def cluster(self) -> dict[str, Any]:
        """What GET /v1/cluster says: `node`, `members`, `ring`."""
        return await self._nodes.ask("GET", "/v1/cluster", answers.cluster)

    async def stats(self) -> dict[str, Any]:
        """What GET /v1/stats says."""
        return await self._nodes.ask("GET", "/v1/stats", answers.stats)

    async def members(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What `cluster` says, and where each living member can be asked over HTTP from here, by its id."""
        cluster = await self.cluster()
        here = self._nodes.known[0]
        return cluster, dict(urls_of_members(cluster, here)) | {cluster["node"]["id"]: here}

    async def stats_of(self, urls: Collection[str]) -> dict[str, Any]:
        """What `stats` says of the node at each of `urls`, without those that do not answer."""
        return await self._nodes.ask_each(urls, "/v1/stats", answers.stats)

    # -- steps --------------------------------------------------------------------------------------------------

    def _ask(self, encoder: str | None, version: str | None, min_fidelity: float | None) -> Ask:
        """What a call means: the encoder and version it names, else those of this client."""
        if encoder is None:
            encoder, version = self._encoder, version or self._version
        _identity(encoder, version)
        if min_fidelity is not None and not 0.0 <= min_fidelity <= 1.0:
            raise InvalidValue(f"min_fidelity {min_fidelity}: expected a number from 0 to 1")
        return Ask(encoder, version, min_fidelity, self._namespace)

    async def _get(self, digest: bytes, ask: Ask) -> Features | None:
        return await self._nodes.ask(
            "GET",
            _path(digest),
            lambda answer: answers.features_if_any(answer, digest, ask),
            query=ask.query(),
            headers={"Accept": Form.PAYLOAD, **ask.headers()},
            bytes_max=2 * payloads.PAYLOAD_BYTES_MAX,
        )

    async def _post(self, digest: bytes, data: bytes, ask: Ask) -> Features:
        return await self._nodes.ask(
            "POST",
            "/v1/features",
            lambda answer: answers.features(answer, digest, ask),
            query=ask.query(),
            headers={"Accept": Form.PAYLOAD, "Content-Type": "application/octet-stream", **ask.headers()},
            body=data,
            bytes_max=2 * payloads.PAYLOAD_BYTES_MAX,
            is_question=False,
        )

    async def _get_batch(self, digests: list[bytes], ask: Ask) -> dict[bytes, Features]:
        try:
            return await self._nodes.ask(
                "POST",
                "/v1/features:batchGet",
                lambda answer: answers.many_features(answer, digests, ask),
                query=ask.query(),
                headers={"Accept": BatchForm.PAYLOADS, **_JSON_HEADERS, **ask.headers()},
                body=json.dumps({"digests": [digest.hex() for digest in digests]}).encode(),
                bytes_max=2 * BATCH_BYTES_MAX,
                is_question=False,
            )
        except Refused as refusal:
            if refusal.status == 404:  # nobody knows the encoder
                return {}
            if refusal.status != 413 or len(digests) == 1:
                raise
        half = len(digests) // 2
        return await self._get_batch(digests[:half], ask) | await self._get_batch(digests[half:], ask)

    async def _put(self, digest: bytes, array: NDArray[np.float32], ask: Ask, durable: bool = False) -> int:
        return await self._nodes.ask(
            "PUT",
            _path(digest),
            answers.copies,
            query=ask.query() | ({"durable": "true"} if durable else {}),
            headers={"Content-Type": Form.NPY, **ask.headers()},
            body=npy_head(array.shape) + array.astype("<f4", copy=False).tobytes(),
        )


async def _called(encode: Encode, image: ImageLike, key: FeatureKey) -> Features:
    """What the user's own encoder makes of `image`. A plain function runs on a thread: it takes its time."""
    if inspect.iscoroutinefunction(encode):
        made = await encode(image)
    else:
        made = await asyncio.to_thread(encode, image)
        if inspect.isawaitable(made):
            made = await made
    array = _tokens(made)
    array.flags.writeable = False
    return Features(array, key, 1.0, "float32", Source.ENCODER, "")


def _tokens(array: ArrayLike) -> NDArray[np.float32]:
    """A float32 copy (tokens, dim) of what the user has; one vector is one token."""
    try:
        made = np.array(array, np.float32, order="C")
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"features: {error}") from None
    if made.ndim == 1:
        made = made[None, :]
    if made.ndim != 2:
        raise InvalidValue(f"features of shape {made.shape}: expected (tokens, dim)")
    return made


def _identity(encoder: str | None, version: str | None) -> EncoderIdentity:
    """Refuses what cannot be a name or a version."""
    return EncoderIdentity.declared("unnamed" if encoder is None else encoder, "0" if version is None else version)


def _digest(digest: Digest) -> bytes:
    if isinstance(digest, str):
        return parse_digest(digest)
    if not isinstance(digest, bytes) or len(digest) != DIGEST_BYTES:
        raise InvalidValue(f"digest {digest!a:.80}: expected 64 hexadecimal digits or {DIGEST_BYTES} bytes")
    return digest


def _path(digest: bytes) -> str:
    return f"/v1/features/{digest.hex()}"
