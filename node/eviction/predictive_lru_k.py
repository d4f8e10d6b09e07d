"""Predictive LRU-K: the learnt forecast, and two policies that stand ready for when nothing can be learnt."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from .forecast_lru_k import ForecastLRUK
from .lru import LRU
from .policy import NO_FACTS, EvictionPolicy, Facts, Key
from .s3_fifo import S3FIFO
from .shadow import Shadow

# Hits of a turnover ago (as many uses as entries are held) count this much.
FADING_PER_TURNOVER = 0.9

# Another expert leads only while it has so many times the forecast's hits: a lead changes what is held only by and by,
# so each change costs. Mean hit ratio on four traces at three sizes, fading .8: 1 .4354, 1.03 .4368, 1.08 .4376, 1.15
# .4390; with 1.08 and fading .9 .4390. On a fifth trace, looked at afterwards, the last is the best of these.
LEAD = 1.08


class _Expert(Shadow[Key]):
    """A shadow, and which entries of the real store it has evicted, oldest eviction first."""

    def __init__(self, name: str, policy: EvictionPolicy[Key], capacity: int) -> None:
        super().__init__(policy, capacity)
        self.name = name
        self.lost: OrderedDict[Key, None] = OrderedDict()


class PredictiveLRUK(Generic[Key]):
    """Evicts what the currently best of three experts would not hold. O(log n) each, amortised, learning included.

    A forecast errs where the past does not tell: at the start, after a change of scene, on a workload without pattern.
    So it is one of three experts, with LRU for recency and S3-FIFO for popularity. Each runs a store of its own without
    payloads, as large as the real one and for the same uses; its hits, old ones faded, say what it is worth now. The
    real store follows the best: it evicts what that one has evicted already, longest ago first. After a change of
    leader it so becomes the new leader's store by and by, and nothing is thrown away at once.

    While the real store holds nothing that the leader does not, both hold the same, and the leader is asked to make
    room for what comes next.
    """

    def __init__(self, capacity: int) -> None:
        self._sizes: dict[Key, int] = {}
        self._recency = LRU[Key]()
        self._experts: tuple[_Expert[Key], ...] = (
            _Expert("forecast", ForecastLRUK(), capacity),
            _Expert("lru", self._recency, capacity),
            _Expert("s3-fifo", S3FIFO(capacity), capacity),
        )
        self._leader = self._experts[0]
        self._hits = self._uses = 0.0  # of the real store, faded as the experts' hits are
        self._now = 0
        self._turnover_at = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, key: object) -> bool:
        return key in self._sizes

    def hit(self, key: Key) -> None:
        """A use, of which the experts hear."""
        self._hits += 1
        self._use(key)

    def admit(self, key: Key, size: int = 1, facts: Facts = NO_FACTS) -> None:
        """Take `key` in, as every expert does that has lost it."""
        self._sizes[key] = size
        self._use(key)

    def evict(self) -> Key:
        """What the leader evicted longest ago and is still here."""
        leader = self._leader
        while not leader.lost:
            if (victim := leader.evict()) in self._sizes:
                leader.lost[victim] = None
        key = next(iter(leader.lost))
        self._drop(key)
        return key

    def remove(self, key: Key) -> None:
        """Forget `key`, here and with the experts."""
        for expert in self._experts:
            expert.remove(key)
        self._drop(key)

    def told(self) -> dict[str, float | str]:
        """Who leads, and what share of the uses of late would have been hits by the best expert, and were none."""
        best = max(expert.hits for expert in self._experts)
        regret = max(0.0, best - self._hits) / self._uses if self._uses else 0.0
        return {"leader": self._leader.name, "regret": regret}

    def by_worth(self) -> list[Key]:
        """The keys: what the leader would still hold, by last use, and then what it has evicted, the latest first."""
        lost = self._leader.lost
        recent = {key: None for key in self._recency.by_worth() if key in self._sizes and key not in lost}
        others = (key for key in self._sizes if key not in recent and key not in lost)
        return [*recent, *others, *reversed(lost)]

    def check(self) -> None:
        """Assert that each expert holds or has lost every entry."""
        for expert in self._experts:
            expert.check()
            assert {*expert.lost} == {key for key in self._sizes if key not in expert}

    def _use(self, key: Key) -> None:
        size = self._sizes[key]
        for expert in self._experts:
            for victim in expert.use(key, size):
                if victim in self._sizes:
                    expert.lost[victim] = None
            expert.lost.pop(key, None)
        self._now += 1
        self._uses += 1
        if self._now >= self._turnover_at:
            self._turnover_at = self._now + len(self._sizes)
            challenger = max(self._experts[1:], key=lambda expert: expert.hits)
            forecast = self._experts[0]
            self._leader = challenger if challenger.hits > LEAD * forecast.hits else forecast
            for expert in self._experts:
                expert.hits *= FADING_PER_TURNOVER
            self._hits *= FADING_PER_TURNOVER
            self._uses *= FADING_PER_TURNOVER

    def _drop(self, key: Key) -> None:
        del self._sizes[key]
        for expert in self._experts:
            expert.lost.pop(key, None)
