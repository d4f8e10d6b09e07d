"""What a node's answers mean to a client: features that were checked, or the refusal that they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import msgspec

from ..protocol import payload as payloads
from ..protocol.errors import CorruptPayload
from ..protocol.features import Features, Source
from ..protocol.keys import FeatureKey
from ..protocol.namespaces import Namespace, kept_as
from .http_query import NAMESPACE_HEADER
from .http_tensors import NotATensor, safetensors_entries

if TYPE_CHECKING:
    from .client_nodes import Answer

_FormT = TypeVar("_FormT")


@dataclass(frozen=True, slots=True)
class Ask:
    """Whose features are meant, how near to the original they must be, and in which namespace they are."""

    encoder: str | None
    version: str | None
    min_fidelity: float | None
    namespace: Namespace | None = None

    def query(self) -> dict[str, str]:
        """The same as the query of a request."""
        query = {"encoder": self.encoder, "version": self.version}
        if self.min_fidelity is not None:
            query["min_fidelity"] = f"{self.min_fidelity:.9f}"
        return {name: value for name, value in query.items() if value is not None}

    def headers(self) -> dict[str, str]:
        """What of it is in a request's headers."""
        return {} if self.namespace is None else {NAMESPACE_HEADER: self.namespace.secret}

    def allows(self, payload: payloads.Payload) -> bool:
        """Whether `payload` is what was asked for."""
        encoder = payload.key.encoder
        return (
            self.encoder in (None, encoder.name)
            and self.version in (None, encoder.version)
            and (self.min_fidelity is None or payload.fidelity >= self.min_fidelity)
        )


def features(answer: Answer, digest: bytes, ask: Ask) -> Features:
    """The features in `answer`. CorruptPayload when they are damaged, or of another image or encoder; Refused."""
    if answer.status != 200:
        raise answer.refusal()
    source, node = answer.headers.get("EdgeCache-Source", ""), unquote(answer.headers.get("EdgeCache-Node", ""))
    return _checked(answer.body, digest, ask, source, node, answer.headers.get("EdgeCache-Converted-From"))


def features_if_any(answer: Answer, digest: bytes, ask: Ask) -> Features | None:
    """As `features`, or None when a node says that nobody holds them."""
    if answer.status == 404:
        answer.refusal()
        return None
    return features(answer, digest, ask)


def many_features(answer: Answer, digests: list[bytes], ask: Ask) -> dict[bytes, Features]:
    """The features in the answer to a batch, by the digests that it has. CorruptPayload and Refused."""
    if answer.status != 200:
        raise answer.refusal()
    try:
        metadata, entries = safetensors_entries(answer.body)
        origin = json.loads(metadata["origin"])
        found = {}
        for digest in digests:
            if (data := entries.get(digest.hex())) is not None:
                source, node = origin[digest.hex()]
                found[digest] = _checked(bytes(data), digest, ask, str(source), str(node))
        return found
    except (NotATensor, KeyError, TypeError, ValueError) as error:
        raise CorruptPayload(f"the batch cannot be read: {error}") from None


def _checked(
    data: bytes, digest: bytes, ask: Ask, source: str, node: str, converted_from: str | None = None
) -> Features:
    payload = payloads.parse(data)
    if payload.key.digest != kept_as(digest, ask.namespace) or not ask.allows(payload):
        raise CorruptPayload(f"payload of {payload.key}: another one was asked for")
    try:
        origin = Source(source)
    except ValueError:
        raise CorruptPayload(f"source {source[:40]!a}: expected {', '.join(Source)}") from None
    key = FeatureKey(digest, payload.key.encoder)
    return Features(payload.array(), key, payload.fidelity, payload.codec.label, origin, node, converted_from)


def is_held(answer: Answer) -> bool:
    """Whether `answer`, to HEAD, says that somebody holds them. CorruptPayload when no node says it; Refused."""
    return _says_so(answer, "EdgeCache-Digest" in answer.headers)


def is_forgotten(answer: Answer) -> bool:
    """Whether `answer`, to DELETE, says that there was something. CorruptPayload when no node says it; Refused."""
    return _says_so(answer, answer.status == 204)


def _says_so(answer: Answer, is_of_a_node: bool) -> bool:
    if answer.status < 300 and is_of_a_node:
        return True
    refusal = answer.refusal()
    if refusal.status != 404:
        raise refusal
    return False


class _Put(msgspec.Struct):
    copies: int


class _Invalidated(msgspec.Struct):
    forgotten: int


class _Node(msgspec.Struct):
    id: str
    name: str
    http: str


class _Member(_Node):
    peer: str
    state: str
    capacity_bytes: int
    used_bytes: int


class _Cluster(msgspec.Struct):
    node: _Node
    members: list[_Member]


class _Stats(msgspec.Struct):
    requests: int
    hits: dict[str, int]
    misses: int
    encodes: int
    coalesced: int
    evictions: int
    bytes_in: int
    bytes_out: int
    items: int
    used_bytes: int
    capacity_bytes: int


def copies(answer: Answer) -> int:
    """On how many nodes what was put now is. CorruptPayload when no node says it; Refused."""
    return _told(answer, _Put)[1].copies


def forgotten(answer: Answer) -> int:
    """How many features an invalidation removed. CorruptPayload when no node says it; Refused."""
    return _told(answer, _Invalidated)[1].forgotten


def cluster(answer: Answer) -> dict[str, Any]:
    """All that GET /v1/cluster says. CorruptPayload when a node and its members are not in it; Refused."""
    return _told(answer, _Cluster)[0]


def stats(answer: Answer) -> dict[str, Any]:
    """All that GET /v1/stats says. CorruptPayload when the counters that every node has are not in it; Refused."""
    return _told(answer, _Stats)[0]


def _told(answer: Answer, form: type[_FormT]) -> tuple[dict[str, Any], _FormT]:
    """The JSON of `answer`, and what of it `form` asks for."""
    if answer.status >= 300:
        raise answer.refusal()
    told = answer.json()
    try:
        return told, msgspec.convert(told, form)
    except msgspec.ValidationError as error:
        raise CorruptPayload(f"what answers there is no node: {error}") from None
