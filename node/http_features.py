"""The calls about features: get, encode, put, forget and invalidate them over HTTP.

Each handler reads as its story: what is asked (http_query), the body (http_bodies), the lookup, the answer
(http_answers). Whatever goes wrong is raised, and http_problems tells it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import msgspec
from aiohttp import hdrs, web

from ..protocol.errors import EncoderUnavailable, InvalidValue
from ..protocol.keys import FeatureKey, digest_of, format_digest, parse_digest
from .aside import aside
from .found import Reach
from .http_answers import (
    BatchForm,
    Form,
    answer_parts,
    answer_size,
    batch_parts,
    etag,
    found_headers,
    held_headers,
    is_unchanged,
    key_headers,
    negotiated,
)
from .http_bodies import (
    BODIES_BYTES_MAX,
    BODY_BYTES_MAX,
    JSON_BYTES_MAX,
    UNSPECIFIC_TYPES,
    Bodies,
    content_type,
    expecting,
    read_json,
)
from .http_problems import Problem
from .http_query import WRITE_PARAMETERS, Ask
from .http_uploads import uploaded
from .versions import UnknownEncoder

if TYPE_CHECKING:
    from ..protocol.features import Source
    from ..protocol.keys import EncoderIdentity
    from ..protocol.payload import Payload
    from .face import NodeFace
    from .found import Found

DIGESTS_MAX = 1024

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/bmp"})
# What Windows and older browsers call two of them.
_IMAGE_TYPES_TOO = frozenset({"image/jpg", "image/x-ms-bmp"})
# Formats that no node reads: said before a lookup that could only end there.
_OTHER_IMAGES = {
    (0, b"GIF8"): "GIF", (0, b"II*\0"): "TIFF", (0, b"MM\0*"): "TIFF", (0, b"%PDF"): "PDF",
    (4, b"ftypavif"): "AVIF", (4, b"ftypheic"): "HEIC", (4, b"JXL "): "JPEG XL", (0, b"\xff\x0a"): "JPEG XL",
}  # fmt: skip

_Digests = Annotated[list[str], msgspec.Meta(min_length=1, max_length=DIGESTS_MAX)]


class BatchGet(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/features:batchGet."""

    digests: _Digests


class Invalidation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/invalidations: an encoder, its current version if no version is named, or digests.

    A version that is a number means its digits, as it does in a query.
    """

    encoder: str | None = None
    version: str | int | None = None
    digests: _Digests | None = None


class FeaturesApi:
    """Handlers of /v1/features and /v1/invalidations on one node."""

    def __init__(
        self, node: NodeFace, body_bytes_max: int = BODY_BYTES_MAX, bodies_bytes_max: int = BODIES_BYTES_MAX
    ) -> None:
        self._node = node
        self._bodies = Bodies(body_bytes_max, bodies_bytes_max)

    def routes(self) -> list[web.RouteDef]:
        """Where each handler is found. A DIGEST may be anything here, with slashes too: `parse_digest` refuses it."""
        upload, question = expecting(self._bodies.bytes_max), expecting(JSON_BYTES_MAX)
        return [
            web.get("/v1/features/{digest:(?s:.*)}", self.get, allow_head=False),
            web.head("/v1/features/{digest:(?s:.*)}", self.head),
            web.put("/v1/features/{digest:(?s:.*)}", self.put, expect_handler=upload),
            web.delete("/v1/features/{digest:(?s:.*)}", self.delete),
            web.post("/v1/features", self.post, expect_handler=upload),
            web.post("/v1/features:batchGet", self.batch_get, expect_handler=question),
            web.post("/v1/invalidations", self.invalidate, expect_handler=question),
        ]

    # -- reading ------------------------------------------------------------------------------------------------

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/features/DIGEST: the features of an image by its digest."""
        digest, ask = parse_digest(request.match_info["digest"]), Ask.of(request)
        form = negotiated(request, Form)
        started = time.perf_counter()
        async with _deadline(ask):
            key = FeatureKey(ask.kept_as(digest), await self._identity(ask))
            found = await self._node.lookup.get(
                key, reach=ask.reach, min_fidelity=ask.min_fidelity, stream=_stream(request, ask)
            )
        if found is None:
            raise _nobody_holds(digest, key.encoder, ask)
        return await _answer(request, found, digest, form, started)

    async def head(self, request: web.Request) -> web.StreamResponse:
        """HEAD /v1/features/DIGEST: whether somebody holds them, without moving them.

        So what only they themselves tell (ETag, size, codec, fidelity) is said where they lie here (RFC 9110, 9.3.2).
        """
        digest, ask = parse_digest(request.match_info["digest"]), Ask.of(request)
        form = negotiated(request, Form)
        started = time.perf_counter()
        held = None
        async with _deadline(ask):
            key = FeatureKey(ask.kept_as(digest), await self._identity(ask))
            if ask.min_fidelity >= 0:  # only the features themselves say how near they are
                found = await self._node.lookup.get(key, reach=ask.reach, min_fidelity=ask.min_fidelity)
            elif (found := self._node.lookup.peek(key)) is None:
                held = await self._node.lookup.has(key, reach=ask.reach)
        if found is not None:
            headers = found_headers(found, digest, form) | _lookup_took(found.source, started)
            if is_unchanged(request, etag(found.payload, form)):
                return web.Response(status=304, headers=headers)
            size = str(answer_size(found.payload, form))
            return web.Response(headers=headers | {hdrs.CONTENT_LENGTH: size})
        if held is None:
            raise _nobody_holds(digest, key.encoder, ask)
        headers = held_headers(*held, key.encoder, digest, form) | _lookup_took(held[0], started)
        return web.Response(headers=headers)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/features: the features of the image in the body, encoded when nobody has them."""
        ask, form = Ask.of(request, WRITE_PARAMETERS), negotiated(request, Form)
        declared = content_type(request)
        if declared not in UNSPECIFIC_TYPES | IMAGE_TYPES | _IMAGE_TYPES_TOO:
            raise Problem(415, f"Content-Type {declared!a}: expected {', '.join(sorted(IMAGE_TYPES))}")
        async with _deadline(ask), self._bodies.read(request) as image:
            if not image:
                raise Problem(422, "the body is empty, expected an image")
            for (start, magic), name in _OTHER_IMAGES.items():
                if image.startswith(magic, start):
                    raise Problem(415, f"the image looks like {name}, expected {', '.join(sorted(IMAGE_TYPES))}")
            started = time.perf_counter()
            digest = await aside(len(image), digest_of, image)
            key = FeatureKey(ask.kept_as(digest), await self._identity_to_encode(ask))
            try:
                found = await self._node.lookup.get(
                    key,
                    image,
                    reach=ask.reach,
                    min_fidelity=ask.min_fidelity,
                    stream=_stream(request, ask),
                    may_stand_in=not ask.durable,
                )
            except InvalidValue as error:  # the caller's values have all been checked by now
                raise RuntimeError(f"the encoder made features that cannot be kept: {error}") from error
            if found is not None and ask.durable:
                await self._make_durable(found.payload)
        if found is None:
            raise _nobody_holds(digest, key.encoder, ask)
        return await _answer(request, found, digest, form, started)

    async def batch_get(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/features:batchGet: one safetensors file with the features of many images."""
        ask, form = Ask.of(request), negotiated(request, BatchForm)
        async with _deadline(ask):
            asked = dict.fromkeys((await read_json(request, BatchGet)).digests)
            digests = {name: parse_digest(name) for name in asked}
            started = time.perf_counter()
            encoder = await self._identity(ask)
            keys = {name: FeatureKey(ask.kept_as(digest), encoder) for name, digest in digests.items()}
            answers = await self._node.lookup.get_many(
                list(keys.values()),
                reach=ask.reach,
                min_fidelity=ask.min_fidelity,
                stream=_stream(request, ask),
            )
        found = {name: answers[key] for name, key in keys.items() if key in answers}
        size, parts = batch_parts(encoder, found, [name for name in keys if name not in found], form)
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: form, "EdgeCache-Encoder": str(encoder)})
        response.headers["Server-Timing"] = f"lookup;dur={_since_ms(started):.3f}"
        response.content_length = size
        await response.prepare(request)
        async for part in parts:
            await response.write(part)
        return response

    # -- writing ------------------------------------------------------------------------------------------------

    async def put(self, request: web.Request) -> web.StreamResponse:
        """PUT /v1/features/DIGEST: store features made elsewhere."""
        digest, ask = parse_digest(request.match_info["digest"]), Ask.of(request, WRITE_PARAMETERS)
        async with _deadline(ask), self._bodies.read(request) as body:
            started = time.perf_counter()
            await self._own_encoder_or_none()  # or its name and version would be taken for a user's own
            payload = await uploaded(content_type(request), body, ask.kept_as(digest), ask, self._node.versions)
            await self._node.introduce(payload.key.encoder)
            stored = await self._node.lookup.put(payload, stream=_stream(request, ask))
            if stored.copies == 0:
                raise Problem(507, f"no node has kept these {payload.nbytes} bytes")
            if ask.durable:
                await self._make_durable(stored.payload)
        headers = {
            **key_headers(digest, payload.key.encoder),
            hdrs.LOCATION: _location(digest, payload.key.encoder),
            "EdgeCache-Copies": str(stored.copies),
            "EdgeCache-Codec": payload.codec.label,
            "EdgeCache-Fidelity": f"{payload.fidelity:.8f}",
            "Server-Timing": f"put;dur={_since_ms(started):.3f}",
        }
        told = {
            "digest": format_digest(digest),
            "encoder": payload.key.encoder.name,
            "version": payload.key.encoder.version,
            "tokens": payload.tokens,
            "dim": payload.dim,
            "codec": payload.codec.label,
            "fidelity": payload.fidelity,
            "copies": stored.copies,
        }
        return web.json_response(told, status=201, headers=headers)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """DELETE /v1/features/DIGEST: forget them on every node; without an encoder, those of every encoder."""
        digest, ask = parse_digest(request.match_info["digest"]), Ask.of(request, WRITE_PARAMETERS)
        async with _deadline(ask):
            name = ask.kept_as(digest)
            if ask.encoder is not None or ask.version is not None:
                name = FeatureKey(name, await self._identity(ask)).packed
            if not await self._node.lookup.forget([name]):
                raise Problem(404, f"nobody held features of {format_digest(digest)}")
            if ask.durable and not await self._node.lookup.flush():
                raise Problem(507, "forgotten, and this node's disk cannot say for how long")
        return web.Response(status=204)

    async def invalidate(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/invalidations: a version becomes the current one, or images are forgotten."""
        ask = Ask.of(request)
        async with _deadline(ask):
            what = await read_json(request, Invalidation)
            if what.digests is not None and what.encoder is None and what.version is None:
                names = [ask.kept_as(parse_digest(digest)) for digest in what.digests]
                forgotten = await self._node.lookup.forget(names)
                return web.json_response({"digests": len(what.digests), "forgotten": forgotten})
            if what.encoder is None or what.digests is not None:
                raise InvalidValue('body: expected {"encoder": NAME, "version": V} or {"digests": [...]}')
            version = None if what.version is None else str(what.version)
            if version is None:
                version = (await self._identity(Ask(encoder=what.encoder))).version
            forgotten = await self._node.invalidate(what.encoder, version)
        return web.json_response({"encoder": what.encoder, "version": version, "forgotten": forgotten})

    # -- shared steps -------------------------------------------------------------------------------------------

    async def _identity(self, ask: Ask) -> EncoderIdentity:
        """Which encoder is meant. The node's own may still be loading, and is waited for only if it could be that."""
        versions = self._node.versions
        if ask.encoder is not None:
            try:
                return versions.resolve(ask.encoder, ask.version)
            except UnknownEncoder:
                await self._own_encoder_or_none()
        else:
            await self._node.own_encoder()
        try:
            return versions.resolve(ask.encoder, ask.version)
        except UnknownEncoder:
            if ask.reach is not Reach.ANY or not await self._node.ask_cloud_for(ask.encoder, ask.version):
                raise
        return versions.resolve(ask.encoder, ask.version)

    async def _identity_to_encode(self, ask: Ask) -> EncoderIdentity:
        """The same for an image in hand: without any encoder here, that is a want of an encoder, not of features."""
        await self._own_encoder_or_none()
        try:
            return await self._identity(ask)
        except UnknownEncoder as error:
            if ask.encoder is not None:
                raise
            raise EncoderUnavailable(str(error), retry_after_s=60) from None

    async def _make_durable(self, payload: Payload) -> None:
        if not await self._node.lookup.make_durable(payload):
            raise Problem(507, f"durable: these {payload.nbytes} bytes are kept, but not on this node's disk")

    async def _own_encoder_or_none(self) -> EncoderIdentity | None:
        try:
            return await self._node.own_encoder()
        except EncoderUnavailable:
            return None


@asynccontextmanager
async def _deadline(ask: Ask) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ask.timeout_s) as timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise Problem(504, f"no answer within {ask.timeout_s * 1000:.0f} ms") from None


async def _answer(request: web.Request, found: Found, digest: bytes, form: str, started: float) -> web.StreamResponse:
    """The features of `found`, or 304 to a GET whose caller has them."""
    headers = found_headers(found, digest, form)
    if request.method == hdrs.METH_GET and is_unchanged(request, etag(found.payload, form)):
        return web.Response(status=304, headers=headers | _lookup_took(found.source, started))
    headers |= _lookup_took(found.source, started)
    decoding = time.perf_counter()
    parts = await aside(found.payload.nbytes, answer_parts, found.payload, form)
    headers["Server-Timing"] += f", decode;dur={_since_ms(decoding):.3f}"
    response = web.StreamResponse(headers=headers)
    response.content_length = sum(len(part) for part in parts)
    await response.prepare(request)
    for part in parts:
        await response.write(part)
    return response


def _lookup_took(source: Source, started: float) -> dict[str, str]:
    return {"Server-Timing": f'lookup;desc="{source}";dur={_since_ms(started):.3f}'}


def _stream(request: web.Request, ask: Ask) -> str:
    """Whose requests follow on each other: what the query says, or who asks."""
    return ask.stream if ask.stream is not None else request.remote or ""


def _nobody_holds(digest: bytes, encoder: EncoderIdentity, ask: Ask) -> Problem:
    limit = f" with a fidelity of at least {ask.min_fidelity:g}" if ask.min_fidelity > 0 else ""
    return Problem(404, f"nobody holds features of {format_digest(digest)} by {encoder}{limit}")


def _location(digest: bytes, encoder: EncoderIdentity) -> str:
    """Where these features are, whatever the node's own encoder is."""
    return f"/v1/features/{format_digest(digest)}?{urlencode({'encoder': encoder.name, 'version': encoder.version})}"


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
