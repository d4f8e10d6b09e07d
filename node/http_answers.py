"""How features go out: in the form that the caller asked for, with headers that say what they are and whence."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import hdrs, web

from ..protocol.keys import EncoderIdentity, format_digest
from .http_problems import Problem
from .http_query import NAMESPACE_HEADER
from .http_tensors import FEATURES_TENSOR, Tensor, npy_head, safetensors_head

if TYPE_CHECKING:
    from ..protocol.features import Source
    from ..protocol.payload import Payload
    from .found import Found

# 1,024 images (the most that one batch may name) of a ViT-B/16 have 196 × 768 float32 each: 588 MiB.
BATCH_BYTES_MAX = 640 * 1024 * 1024


class Form(StrEnum):
    """The media types of one image's features. The first is what a caller gets who does not say."""

    NPY = "application/x-npy"
    SAFETENSORS = "application/vnd.safetensors"
    PAYLOAD = "application/vnd.edgecache.payload"


class BatchForm(StrEnum):
    """The media types of a batch: safetensors files of float32 tensors, or of stored payloads as bytes."""

    SAFETENSORS = "application/vnd.safetensors"
    PAYLOADS = "application/vnd.edgecache.payloads"


def negotiated(request: web.Request, offered: type[StrEnum]) -> str:
    """Which of the `offered` media types the Accept header likes best, the first of equals; Problem 406 for none.

    RFC 9110, 12.5.1: the most specific range that matches a type gives it its quality, and 0 means never.
    """
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, []))
    if not accept.strip(" ,"):
        return next(iter(offered)).value
    ranges = [_media_range(text) for text in accept.split(",") if text.strip()]
    best, best_quality = None, 0.0
    for form in offered:
        patterns = (form.value, f"{form.value.partition('/')[0]}/*", "*/*")
        qualities = [quality for pattern in patterns for media, quality in ranges if media == pattern]
        if qualities and qualities[0] > best_quality:
            best, best_quality = form.value, qualities[0]
    if best is None:
        raise Problem(406, f"Accept: none of the types asked for; there are {', '.join(offered)}")
    return best


def etag(payload: Payload, form: str) -> str:
    """The strong entity tag, without its quotes, of `payload` in the media type `form`."""
    return f"{payload.checksum:016x}-{form.rpartition('.')[2].rpartition('-')[2]}"


def is_unchanged(request: web.Request, tag: str) -> bool:
    """Whether If-None-Match says that the caller has what `tag` names (RFC 9110, 13.1.2: compared weakly)."""
    return any(known.value in (tag, "*") for known in request.if_none_match or ())


def key_headers(digest: bytes, encoder: EncoderIdentity) -> dict[str, str]:
    """Which image's features these are, and by which encoder."""
    return {"EdgeCache-Digest": format_digest(digest), "EdgeCache-Encoder": str(encoder)}


def found_headers(found: Found, digest: bytes, form: str) -> dict[str, str]:
    """Every header of an answer that has, or would have, the features of `found` in the media type `form`.

    `digest` is the image's as it was asked for: within a namespace the payload has another.
    """
    payload = found.payload
    return {
        **held_headers(found.source, found.node, payload.key.encoder, digest, form),
        "ETag": f'"{etag(payload, form)}"',
        "EdgeCache-Codec": payload.codec.label,
        "EdgeCache-Fidelity": f"{payload.fidelity:.8f}",
        **({} if found.converted_from is None else {"EdgeCache-Converted-From": str(found.converted_from)}),
    }


def held_headers(source: Source, node: str, encoder: EncoderIdentity, digest: bytes, form: str) -> dict[str, str]:
    """Those of them that can be told without the features."""
    return {
        hdrs.CONTENT_TYPE: form,
        hdrs.VARY: f"{hdrs.ACCEPT}, {NAMESPACE_HEADER}",
        # Private as the image itself, and stale after an invalidation: keep it, but ask each time (304 costs little).
        hdrs.CACHE_CONTROL: "private, no-cache",
        **key_headers(digest, encoder),
        "EdgeCache-Source": source.value,
        "EdgeCache-Node": header_text(node),
    }


def header_text(text: str) -> str:
    """`text` as a header may hold it: what is not visible ASCII is percent-encoded, so that no name adds a line."""
    return quote(text, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")


def answer_size(payload: Payload, form: str) -> int:
    """How many bytes `answer_parts` has."""
    if form == Form.PAYLOAD:
        return payload.nbytes
    return len(_head(payload, form)) + _float32_bytes(payload)


def answer_parts(payload: Payload, form: str) -> list[bytes | memoryview]:
    """The body that tells `payload` in the media type `form`; the stored payload itself goes out as it lies."""
    if form == Form.PAYLOAD:
        return [payload.data]
    return [_head(payload, form), _values(payload)]


def batch_parts(
    encoder: EncoderIdentity, found: Mapping[str, Found], missing: Iterable[str], form: str
) -> tuple[int, AsyncIterator[bytes | memoryview]]:
    """Size and parts of one safetensors file with an entry for each name in `found`, decoded when its turn comes.

    Problem 413 when that has more than BATCH_BYTES_MAX bytes.
    """
    if form == BatchForm.PAYLOADS:
        tensors = {name: Tensor("U8", [here.payload.nbytes], here.payload.nbytes) for name, here in found.items()}
    else:
        tensors = {
            name: Tensor("F32", [here.payload.tokens, here.payload.dim], _float32_bytes(here.payload))
            for name, here in found.items()
        }
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > BATCH_BYTES_MAX:
        raise Problem(413, f"the answer would have {total} bytes, at most {BATCH_BYTES_MAX}: ask for fewer at once")
    metadata = {"encoder": str(encoder), "missing": json.dumps(list(missing))}
    if form == BatchForm.PAYLOADS:
        metadata["origin"] = json.dumps({name: [here.source.value, here.node] for name, here in found.items()})
    head = safetensors_head(tensors, metadata)

    async def parts() -> AsyncIterator[bytes | memoryview]:
        yield head
        for here in found.values():
            yield here.payload.data if form == BatchForm.PAYLOADS else _values(here.payload)

    return len(head) + total, parts()


def _head(payload: Payload, form: str) -> bytes:
    shape = (payload.tokens, payload.dim)
    if form == Form.NPY:
        return npy_head(shape)
    return safetensors_head({FEATURES_TENSOR: Tensor("F32", shape, _float32_bytes(payload))}, {})


def _float32_bytes(payload: Payload) -> int:
    return 4 * payload.tokens * payload.dim


def _values(payload: Payload) -> memoryview:
    array = payload.array()
    if sys.byteorder == "big":
        array = array.astype("<f4")
    return array.data.cast("B")


def _media_range(text: str) -> tuple[str, float]:
    """`Text/plain;q=0.5` as (`text/plain`, 0.5); a quality of 1 where none is said, of 0 where it is no number."""
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return media, quality if 0.0 <= quality <= 1.0 else 0.0
