"""The HTTP calls described for programs: OpenAPI 3.1. A test compares it with the routes."""

from __future__ import annotations

from typing import Any

from ..protocol.keys import (
    ENCODER_NAME_CHARS_MAX,
    ENCODER_NAME_PATTERN,
    ENCODER_VERSION_CHARS_MAX,
    ENCODER_VERSION_PATTERN,
)
from ..protocol.namespaces import SECRET_CHARS_MAX, SECRET_CHARS_MIN, SECRET_PATTERN
from .http_answers import BatchForm, Form
from .http_query import NAMESPACE_HEADER, PARAMETERS, STREAM_CHARS_MAX, TIMEOUT_MS_MAX, WRITE_PARAMETERS
from .status import EVICTION_REASONS

_Json = dict[str, Any]

VERSION = "1.0.0"

_PROBLEMS = {
    400: "A digest, query or body that cannot be used",
    401: "From another machine, without the cluster key's token",
    403: "A foreign Host or Origin",
    404: "Nobody holds it, or the encoder is unknown",
    406: "None of the media types asked for",
    409: "Another version of the encoder is current",
    413: "The body, the image's pixels or the answer are over their limit",
    415: "A media type that is not taken",
    422: "No image or tensor that can be decoded",
    429: "Too many large bodies at once",
    503: "The encoder cannot answer now, or there is none, or too many requests are being answered (Retry-After)",
    504: "No answer within timeout_ms",
    507: "No node has room for it, or not durably",
}


def document() -> _Json:
    """The OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgecache",
            "version": VERSION,
            "summary": "The features of an image, by its hash, from the nearest device that has them",
        },
        "paths": {
            "/v1/features/{digest}": {
                "parameters": [{"$ref": "#/components/parameters/digest"}],
                "get": _operation(
                    "getFeatures", "The features of an image by its digest", _features(), (404, 406, 409, 504)
                ),
                "head": _operation(
                    "hasFeatures", "Whether somebody holds them", _are_held(), (404, 406, 409, 504)
                ),
                "put": _operation(
                    "putFeatures", "Store features made elsewhere", _put_answer(), (409, 413, 415, 422, 429, 504, 507),
                    body={form.value: _BINARY for form in Form},
                ),
                "delete": _operation(
                    "deleteFeatures", "Forget them on every node; without an encoder, those of every encoder",
                    {"204": {"description": "Forgotten"}}, (404, 409, 504, 507),
                ),
            },
            "/v1/features": {
                "post": _operation(
                    "encodeImage", "The features of an image, encoded when nobody has them", _features(),
                    (404, 406, 409, 413, 415, 422, 429, 504, 507),
                    body={f"image/{kind}": _BINARY for kind in ("jpeg", "png", "webp", "bmp")},
                )
            },
            "/v1/features:batchGet": {
                "post": _operation(
                    "getManyFeatures", "One safetensors file, a tensor per digest, the missing ones in its metadata",
                    _described("The features", {form.value: _BINARY for form in BatchForm}),
                    (404, 406, 409, 413, 415, 504),
                    body={"application/json": {"schema": {"$ref": "#/components/schemas/Digests"}}},
                )
            },
            "/v1/invalidations": {
                "post": _operation(
                    "invalidate", "Make a version current, so that older features go; or forget images",
                    _json("How many entries went", _FORGOTTEN),
                    (404, 413, 415, 504),
                    body={"application/json": {"schema": {"$ref": "#/components/schemas/Invalidation"}}},
                )
            },
            "/v1/cluster": _get("getCluster", "This node, the members and the ring", _json("The cluster", _OBJECT)),
            "/v1/stats": _get(
                "getStats", "What this node has counted", _json("The counters", {"$ref": "#/components/schemas/Stats"})
            ),
            "/healthz": _get("isAlive", "Whether the node is alive", _json("It is", _OBJECT), ()),
            "/readyz": _get(
                "isServing", "Whether requests should be sent here", _json("Serving, or degraded", _OBJECT), (401, 503)
            ),
            "/metrics": _get("getMetrics", "Prometheus", _described("Metrics", {"text/plain": _TEXT})),
            "/openapi.json": _get("getOpenApi", "This document", _json("OpenAPI 3.1", _OBJECT)),
            "/": _get("getDashboard", "The dashboard", _described("A page", {"text/html": _TEXT})),
        },
        "security": [{}, {"clusterKey": []}],
        "components": {
            "parameters": _PARAMETERS,
            "schemas": _SCHEMAS,
            "responses": _problem_responses(),
            "securitySchemes": {"clusterKey": _TOKEN},
        },
    }  # fmt: skip


_TEXT: _Json = {"schema": {"type": "string"}}
_OBJECT: _Json = {"type": "object"}
_FORGOTTEN: _Json = {"type": "object", "properties": {"forgotten": {"type": "integer"}}}
_BINARY: _Json = {"schema": {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}}
_DIGEST: _Json = {"type": "string", "pattern": "^(sha256:)?[0-9a-fA-F]{64}$"}
_NAME: _Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": ENCODER_NAME_CHARS_MAX,
    "pattern": f"^{ENCODER_NAME_PATTERN}$",
}
_VERSION: _Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": ENCODER_VERSION_CHARS_MAX,
    "pattern": f"^{ENCODER_VERSION_PATTERN}$",
}
_DIGESTS: _Json = {"type": "array", "items": _DIGEST, "minItems": 1, "maxItems": 1024}

_TOKEN: _Json = {
    "type": "http",
    "scheme": "bearer",
    "description": "What edgecache key token FILE prints. A node with a cluster key asks other machines for it",
}

_PARAMETERS: _Json = {
    "digest": {"name": "digest", "in": "path", "required": True, "schema": _DIGEST},
    "namespace": {
        "name": NAMESPACE_HEADER,
        "in": "header",
        "description": "A secret. Features that are kept with it are found with it and not otherwise",
        "schema": {
            "type": "string",
            "minLength": SECRET_CHARS_MIN,
            "maxLength": SECRET_CHARS_MAX,
            "pattern": f"^{SECRET_PATTERN}$",
        },
    },
    "encoder": {"name": "encoder", "in": "query", "schema": _NAME},
    "version": {"name": "version", "in": "query", "schema": _VERSION},
    "source": {"name": "source", "in": "query", "schema": {"enum": ["any", "local", "cluster"], "default": "any"}},
    "min_fidelity": {"name": "min_fidelity", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 1}},
    "timeout_ms": {
        "name": "timeout_ms",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": TIMEOUT_MS_MAX},
    },
    "stream": {
        "name": "stream",
        "in": "query",
        "description": "Whose requests follow on each other, a camera or a program, so that the next is fetched ahead "
        "and the eviction policy knows who asked (default: the client's address). Characters that print",
        "schema": {"type": "string", "minLength": 1, "maxLength": STREAM_CHARS_MAX},
    },
    "durable": {
        "name": "durable",
        "in": "query",
        "description": "Answer once a power cut could not undo it on this node's disk; 507 when that cannot be had",
        "schema": {"type": "boolean", "default": False},
    },
}

_COUNT: _Json = {"type": "integer", "minimum": 0}
_SHARE: _Json = {"type": ["number", "null"], "minimum": 0, "maximum": 1}


def _each(names: tuple[str, ...], schema: _Json, description: str) -> _Json:
    return {"type": "object", "description": description, "properties": dict.fromkeys(names, schema)}


_TIERS = ("memory", "disk", "peer", "cloud")
_STATS: _Json = {
    "description": "Counters since the node started, and what its tiers hold now; there are more than are named here",
    "type": "object",
    "properties": {
        **dict.fromkeys(
            (
                "requests", "misses", "encodes", "coalesced", "puts", "moved", "evictions", "bytes_in", "bytes_out",
                "items", "used_bytes", "capacity_bytes", "given_bytes", "resident_bytes", "pinned_bytes",
            ),
            _COUNT,
        ),
        "hits": _each(_TIERS, _COUNT, "Questions that each tier answered"),
        "hit_ratio": {**_SHARE, "description": "Of all questions, the share that some tier answered"},
        "hit_ratios": _each(_TIERS, _SHARE, "Of all questions, the share that each tier answered"),
        "evictions_by_reason": _each(EVICTION_REASONS, _COUNT, "Why features have left memory"),
        "utilisation": {**_SHARE, "description": "Of memory's capacity, the share that features take"},
        "eviction": {
            "description": "What the eviction policy tells of itself",
            "type": "object",
            "properties": {
                "k": {"type": "integer", "minimum": 1},
                "leader": {"type": "string"},
                "regret": {"type": "number", "minimum": 0},
                "scene_changes": _COUNT,
                "importance": {
                    "description": "The weights of frequency, uniqueness and cost",
                    "type": "array",
                    "items": {"type": "number"},
                },
            },
        },
        "prefetch": _each(("sequence", "hour"), {"$ref": "#/components/schemas/Forecast"}, "What was fetched ahead"),
        "tiers": _each(("disk", "cloud"), {"type": "object"}, "What the tiers below memory hold and have counted"),
    },
}  # fmt: skip

_SCHEMAS: _Json = {
    "Stats": _STATS,
    "Forecast": {
        "type": "object",
        "properties": {
            **dict.fromkeys(("issued", "used", "wasted", "absent", "skipped"), _COUNT),
            "precision": {**_SHARE, "description": "Of what it fetched of late, the share that was asked for in time"},
            "pays": {"type": "boolean", "description": "Whether it goes on"},
        },
    },
    "Digests": {
        "type": "object",
        "properties": {"digests": _DIGESTS},
        "required": ["digests"],
        "additionalProperties": False,
    },
    "Invalidation": {
        "oneOf": [
            {"$ref": "#/components/schemas/Digests"},
            {
                "type": "object",
                "properties": {"encoder": _NAME, "version": {**_VERSION, "type": ["string", "integer"]}},
                "required": ["encoder"],
                "additionalProperties": False,
            },
        ]
    },
    "Stored": {
        "type": "object",
        "properties": {
            "digest": _DIGEST,
            "encoder": _NAME,
            "version": _VERSION,
            "tokens": {"type": "integer"},
            "dim": {"type": "integer"},
            "codec": {"enum": ["int8", "float16", "float32"]},
            "fidelity": {"type": "number"},
            "copies": {"type": "integer"},
        },
    },
    "Problem": {
        "description": "RFC 9457 problem details",
        "type": "object",
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
        "required": ["type", "title", "status", "detail"],
    },
}


_WRITES = ("putFeatures", "encodeImage", "deleteFeatures")


def _operation(name: str, summary: str, answers: _Json, problems: tuple[int, ...], body: _Json | None = None) -> _Json:
    """One call about features: all take a namespace and the same query, writes `durable` too; each may end in 4xx."""
    operation: _Json = {
        "operationId": name,
        "summary": summary,
        "parameters": [
            {"$ref": f"#/components/parameters/{parameter}"}
            for parameter in ("namespace", *(WRITE_PARAMETERS if name in _WRITES else PARAMETERS))
        ],
        "responses": answers | _references((400, 401, 403, 503, *problems)),
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _get(name: str, summary: str, answers: _Json, problems: tuple[int, ...] = (401,)) -> _Json:
    """A path that takes GET and HEAD."""
    responses = answers | _references((403, *problems))
    return {
        "get": {"operationId": name, "summary": summary, "responses": responses},
        "head": {"operationId": f"{name}Head", "summary": summary, "responses": responses},
    }


def _features() -> _Json:
    answer = _described("The features", {form.value: _BINARY for form in Form})
    answer["200"]["headers"] = {
        name: {"schema": {"type": "string"}, "description": what}
        for name, what in {
            "ETag": "Of these features in this media type",
            "EdgeCache-Digest": "Of the image",
            "EdgeCache-Encoder": "NAME@VERSION",
            "EdgeCache-Source": "memory, disk, peer, cloud or encoder",
            "EdgeCache-Node": "Who held or made them, percent-encoded",
            "EdgeCache-Codec": "How they are stored: int8, float16 or float32",
            "EdgeCache-Fidelity": "Their measured cosine to what the encoder made",
            "EdgeCache-Converted-From": "NAME@VERSION whose features a fitted map told as these; usually not there",
            "Server-Timing": "What took how long, in milliseconds",
        }.items()
    }
    return answer | {"304": {"description": "You have them: If-None-Match names their ETag"}}


def _are_held() -> _Json:
    told = _features()
    del told["200"]["content"]
    told["200"]["description"] = (
        "Somebody does. ETag, Content-Length, EdgeCache-Codec and EdgeCache-Fidelity, which only the features tell, "
        "are said where these are in this node's memory, or were looked at for min_fidelity"
    )
    return told


def _put_answer() -> _Json:
    schema = {"$ref": "#/components/schemas/Stored"}
    return {"201": {"description": "Stored", "content": {"application/json": {"schema": schema}}}}


def _json(description: str, schema: _Json) -> _Json:
    return _described(description, {"application/json": {"schema": schema}})


def _described(description: str, content: _Json | None = None) -> _Json:
    answer: _Json = {"description": description}
    if content is not None:
        answer["content"] = content
    return {"200": answer}


def _references(statuses: tuple[int, ...]) -> _Json:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _problem_responses() -> _Json:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {str(status): {"description": what, "content": content} for status, what in _PROBLEMS.items()}
