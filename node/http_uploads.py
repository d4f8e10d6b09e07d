"""What a PUT brings: a tensor or a payload made elsewhere, checked and under its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol import payload as payloads
from ..protocol.errors import CorruptPayload, InvalidValue
from ..protocol.keys import FeatureKey
from .aside import aside
from .http_answers import Form
from .http_bodies import UNSPECIFIC_TYPES
from .http_problems import Problem
from .http_tensors import NPY_MAGIC, NotATensor, is_safetensors, npy_array, safetensors_array

if TYPE_CHECKING:
    from ..protocol.payload import Payload
    from .http_query import Ask
    from .versions import Versions


async def uploaded(declared: str, body: bytes, digest: bytes, ask: Ask, versions: Versions) -> Payload:
    """The features in `body`, of the image `digest` and the encoder that `ask` names.

    Problem 415 for a media type that is none of ours, 422 for whatever is wrong with the bytes; and what
    `Versions.resolve` raises.
    """
    kind = _kind(declared, body)
    if kind == Form.PAYLOAD:
        return await _payload(body, digest, ask, versions)
    key = FeatureKey(digest, versions.resolve(ask.encoder, ask.version, declare=True))
    least = max(ask.min_fidelity, payloads.FIDELITY_USUAL)

    def encoded() -> Payload:
        array = npy_array(body) if kind == Form.NPY else safetensors_array(body)
        return payloads.encode(array, key, min_fidelity=least)

    try:
        payload = await aside(len(body), encoded)
    except (NotATensor, InvalidValue) as error:
        raise Problem(422, str(error)) from None
    return _fitting(payload, versions)


async def _payload(body: bytes, digest: bytes, ask: Ask, versions: Versions) -> Payload:
    """The payload `body` if it is of this image and of the encoder that is meant, or of one that nobody here knows."""
    try:
        payload = await aside(len(body), payloads.parse, body)
    except CorruptPayload as error:
        raise Problem(422, str(error)) from None
    if payload.key.digest != digest:
        raise Problem(422, "payload: its header says another image's digest")
    encoder = payload.key.encoder
    if (ask.encoder or encoder.name, ask.version or encoder.version) != (encoder.name, encoder.version):
        raise Problem(422, f"payload: its header says {encoder}")
    known = versions.resolve(encoder.name, encoder.version, declare=True)
    if known != encoder and known in versions.known():
        raise Problem(422, f"payload: its {encoder} has other weights, preprocessing or shape than the one here")
    return _fitting(payload, versions)


def _fitting(payload: Payload, versions: Versions) -> Payload:
    if not versions.fits(payload):
        shape = (payload.tokens, payload.dim)
        raise Problem(422, f"features of shape {shape}: {payload.key.encoder} makes {versions.own_shape}")
    return payload


def _kind(declared: str, body: bytes) -> Form:
    """What the body is: as declared, or by how it starts where nothing is declared."""
    if declared not in UNSPECIFIC_TYPES:
        try:
            return Form(declared)
        except ValueError:
            raise Problem(415, f"Content-Type {declared!a}: expected {', '.join(Form)}") from None
    if body.startswith(NPY_MAGIC):
        return Form.NPY
    if body.startswith(payloads.MAGIC):
        return Form.PAYLOAD
    if is_safetensors(body):
        return Form.SAFETENSORS
    raise Problem(422, "the body is neither npy nor safetensors")
