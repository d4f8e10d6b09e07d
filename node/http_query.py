"""What a request asks for, from its query: checked, with every message naming the value and what it may be."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from ..protocol.errors import InvalidValue
from ..protocol.keys import EncoderIdentity
from ..protocol.namespaces import Namespace, kept_as
from .found import Reach

TIMEOUT_MS_MAX = 600_000
STREAM_CHARS_MAX = 64
# Without `timeout_ms`. Long enough for a slow device to read a large model and then encode.
TIMEOUT_S = 120.0

PARAMETERS = ("encoder", "version", "source", "min_fidelity", "timeout_ms", "stream")
# Of a call that changes something, too.
WRITE_PARAMETERS = (*PARAMETERS, "durable")

NAMESPACE_HEADER = "EdgeCache-Namespace"  # a header, since queries end up in logs

_NUMBER = re.compile(r"[0-9]{0,9}\.?[0-9]{1,18}(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)  # programs write 0.00001 as 1e-05


@dataclass(frozen=True, slots=True)
class Ask:
    """The query of a request for features, and its namespace; no `encoder` or `version` means the node's own."""

    encoder: str | None = None
    version: str | None = None
    reach: Reach = Reach.ANY
    min_fidelity: float = -1.0
    timeout_s: float = TIMEOUT_S
    stream: str | None = None
    """Whose requests this one follows on: a camera, a program."""
    durable: bool = False
    """Answer once a power cut could not undo it on this node's disk."""
    namespace: Namespace | None = None

    @classmethod
    def of(cls, request: web.Request, allowed: Sequence[str] = PARAMETERS) -> Ask:
        """The checked query; InvalidValue for a parameter that is unknown, repeated or out of its limits."""
        query = request.query
        for name in query:
            if name not in allowed:
                raise InvalidValue(f"query {_shown(name)}: expected {', '.join(allowed)}")
            if len(query.getall(name)) > 1:
                raise InvalidValue(f"query {name}: given {len(query.getall(name))} times, expected once")
        encoder, version = query.get("encoder"), query.get("version")
        EncoderIdentity.declared("any" if encoder is None else encoder, "any" if version is None else version)
        return cls(
            encoder=encoder,
            version=version,
            reach=_reach(query.get("source", Reach.ANY)),
            min_fidelity=_min_fidelity(query["min_fidelity"]) if "min_fidelity" in query else -1.0,
            timeout_s=_timeout_s(query["timeout_ms"]) if "timeout_ms" in query else TIMEOUT_S,
            stream=_stream(query["stream"]) if "stream" in query else None,
            durable=_is_true("durable", query.get("durable", "false")),
            namespace=_namespace(request.headers.getall(NAMESPACE_HEADER, [])),
        )

    def kept_as(self, digest: bytes) -> bytes:
        """The digest in the keys of what is asked for, of the image with `digest`."""
        return kept_as(digest, self.namespace)


def _reach(text: str) -> Reach:
    try:
        return Reach(text)
    except ValueError:
        raise InvalidValue(f"source {_shown(text)}: expected {', '.join(Reach)}") from None


def _min_fidelity(text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0.0 <= value <= 1.0:
        raise InvalidValue(f"min_fidelity {_shown(text)}: expected a number from 0 to 1")
    return value


def _timeout_s(text: str) -> float:
    milliseconds = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= milliseconds <= TIMEOUT_MS_MAX:
        raise InvalidValue(f"timeout_ms {_shown(text)}: expected a whole number from 1 to {TIMEOUT_MS_MAX}")
    return milliseconds / 1000


def _stream(text: str) -> str:
    if not text or len(text) > STREAM_CHARS_MAX or not text.isprintable():
        raise InvalidValue(f"stream {_shown(text)}: expected 1 to {STREAM_CHARS_MAX} characters that print")
    return text


def _namespace(texts: Sequence[str]) -> Namespace | None:
    if len(texts) > 1:
        raise InvalidValue(f"{NAMESPACE_HEADER}: given {len(texts)} times, expected once")
    return Namespace(texts[0]) if texts else None


def _is_true(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidValue(f"{name} {_shown(text)}: expected true or false")
    return text == "true"


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")
