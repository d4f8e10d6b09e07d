"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .adaptive_lru_k import AdaptiveLRUK
from .arc import ARC
from .fifo import FIFO
from .lfu import LFU
from .lirs import LIRS
from .lru import LRU
from .lru_k import LRUK
from .policy import EvictionPolicy
from .predictive_lru_k import PredictiveLRUK
from .s3_fifo import S3FIFO
from .sieve import Sieve
from .two_q import TwoQ
from .w_tinylfu import WTinyLFU

# How each is made for a store of some capacity, in the unit of its entries' sizes. Belady is not among them: it needs
# the future.
POLICIES: Mapping[str, Callable[[int], EvictionPolicy[Any]]] = MappingProxyType(
    {
        "fifo": lambda capacity: FIFO(),
        "lru": lambda capacity: LRU(),
        "lfu": lambda capacity: LFU(),
        "lru-2": lambda capacity: LRUK(2),
        "2q": TwoQ,
        "arc": ARC,
        "lirs": LIRS,
        "sieve": lambda capacity: Sieve(),
        "s3-fifo": S3FIFO,
        "w-tinylfu": WTinyLFU,
        "adaptive-lru-k": AdaptiveLRUK,
        "predictive-lru-k": PredictiveLRUK,
    }
)

# What a node evicts by unless it is told otherwise: of these the best mean on the traces of docs/eviction.md.
POLICY_USUAL = "predictive-lru-k"
