"""What a failed request is told: RFC 9457 problem details with what was wrong and the limit, never our insides."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import ClientPayloadError, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from ..protocol.errors import (
    EncoderUnavailable,
    ImageTooLarge,
    InvalidValue,
    UndecodableImage,
    UnsupportedImage,
)
from .versions import AnotherVersionIsCurrent, UnknownEncoder

PROBLEM_TYPE = "application/problem+json"

_log = logging.getLogger(__name__)
_DIGEST_DIGITS = re.compile(r"([0-9a-fA-F]{8})[0-9a-fA-F]{56}")

_STATUS_OF: dict[type[Exception], int] = {
    InvalidValue: 400,
    UnknownEncoder: 404,
    AnotherVersionIsCurrent: 409,
    ImageTooLarge: 413,
    UnsupportedImage: 415,
    UndecodableImage: 422,
    EncoderUnavailable: 503,
}


class Problem(Exception):
    """A request that ends with `status`; `detail` says why, to a person, and `more` are further members of the body."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def response(self) -> web.Response:
        """The problem as `application/problem+json`."""
        body = {
            "type": "about:blank",  # RFC 9457, 4.2.1: the status says what kind of problem it is
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }
        return web.Response(
            status=self.status, body=json.dumps(body).encode(), content_type=PROBLEM_TYPE, headers=self.headers
        )


def problem_of(error: Exception) -> Problem | None:
    """The problem that `error` is to the one who asked; None for an error of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, EncoderUnavailable):
        seconds = max(1, math.ceil(error.retry_after_s))
        return Problem(503, str(error), headers={"Retry-After": str(seconds)})
    for kind, status in _STATUS_OF.items():
        if isinstance(error, kind):
            return Problem(status, str(error))
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(405, f"this path takes {allowed}", headers={"Allow": allowed})
    if isinstance(error, web.HTTPNotFound):
        return Problem(404, "no such path; /openapi.json lists them all")
    if isinstance(error, web.HTTPException):
        return Problem(error.status, error.reason)
    if isinstance(error, HttpProcessingError | ClientPayloadError):
        return Problem(400, "the body ended early, or its chunks are malformed")
    return None


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever a handler raises becomes a problem; what it should not have raised is logged, and becomes a 500."""
    try:
        return await handler(request)
    except ConnectionError:
        raise  # who asked has gone: there is nobody to tell
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            _log.exception("%s %s failed", request.method, without_digests(request.path))
            problem = Problem(500, "an error of this node; its log says more")
        return problem.response()


def sign(response: web.StreamResponse) -> None:
    """Give `response` what every answer carries: who answers, and that browsers keep it from other sites' pages."""
    response.headers[hdrs.SERVER] = "edgecache"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"


def without_digests(text: str) -> str:
    """`text` for a log: of each digest eight digits, and nothing that a terminal would obey."""
    return ascii(_DIGEST_DIGITS.sub(r"\1…", text[:500]))[1:-1]
