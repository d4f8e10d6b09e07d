"""edgecache: the features of an image, by its hash, from the nearest device that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .node.client import Client
    from .node.client_nodes import NoNodeAnswers, Refused
    from .node.sync_client import SyncClient
    from .protocol.errors import EdgeCacheError, InvalidValue
    from .protocol.features import Features, Source
    from .protocol.keys import FeatureKey

__all__ = [
    "Client",
    "EdgeCacheError",
    "FeatureKey",
    "Features",
    "InvalidValue",
    "NoNodeAnswers",
    "Refused",
    "Source",
    "SyncClient",
]

# The clients bring numpy and aiohttp, which take a quarter of a second: that is for who uses them. And a command comes
# by here before it can say what Ctrl-C is to do.
_LAZY = {
    "Client": "node.client",
    "EdgeCacheError": "protocol.errors",
    "FeatureKey": "protocol.keys",
    "Features": "protocol.features",
    "InvalidValue": "protocol.errors",
    "NoNodeAnswers": "node.client_nodes",
    "Refused": "node.client_nodes",
    "Source": "protocol.features",
    "SyncClient": "node.sync_client",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
