"""The HTTP face of a node: which requests reach it, and what every answer carries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aiohttp import web

from .http_bodies import BODIES_BYTES_MAX, BODY_BYTES_MAX
from .http_features import FeaturesApi
from .http_guard import guard
from .http_problems import problems, sign
from .http_shedding import IN_FLIGHT_MAX, shedding
from .http_status import StatusApi
from .http_token import token_guard
from .metrics import Metrics

if TYPE_CHECKING:
    from .face import NodeFace


def http_app(
    node: NodeFace,
    *,
    body_bytes_max: int = BODY_BYTES_MAX,
    bodies_bytes_max: int = BODIES_BYTES_MAX,
    in_flight_max: int = IN_FLIGHT_MAX,
    host_names: Iterable[str] = (),
    tokens: Sequence[str] = (),
) -> web.Application:
    """The application that answers HTTP for `node`: every call of the interface, and problem details for all else.

    `body_bytes_max` bounds an image or a tensor, `bodies_bytes_max` all that are held at one time, `in_flight_max` the
    requests that are answered at one time. `host_names` are further names that clients call this node by, beside the
    machine's own, the node's and every address. With `tokens`, requests from other machines must carry one of them.
    """
    metrics = Metrics(node.counters, node.cluster)
    guards = [guard([node.name, *host_names])] + ([token_guard(tokens)] if tokens else [])
    app = web.Application(middlewares=[metrics.middleware(), problems, *guards, shedding(in_flight_max)])
    app.add_routes(FeaturesApi(node, body_bytes_max, bodies_bytes_max).routes())
    app.add_routes(StatusApi(node, metrics).routes())
    app.on_response_prepare.append(_sign)
    return app


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    sign(response)
