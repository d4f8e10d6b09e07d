"""edgecache: the features of an image, by its hash, from the nearest device that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .protocol.errors import EdgeCacheError, InvalidValue
from .protocol.features import Features, Source
from .protocol.keys import FeatureKey

if TYPE_CHECKING:
    from .node.client import Client
    from .node.client_nodes import NoNodeAnswers, Refused
    from .node.sync_client import SyncClient

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

# The clients bring numpy and aiohttp, which take a quarter of a second: that is for who uses them.
_LAZY = {
    "Client": "client",
    "NoNodeAnswers": "client_nodes",
    "Refused": "client_nodes",
    "SyncClient": "sync_client",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f".node.{_LAZY[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
