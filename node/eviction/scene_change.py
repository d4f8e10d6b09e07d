"""Has what is asked for become another? Pure, and told of nothing but numbers."""

from __future__ import annotations

import numpy as np

BUCKETS = 64
WINDOW = 512  # uses that are compared with those before them
PAST_SHARE = 0.8  # that a window's past counts beside the window itself, one window later
LEARNT_AFTER = 6  # windows: how much they differ where nothing changes must be known first
FADED_WINDOWS = 16  # make what is usual
DEVIATIONS = 4.0  # beyond what is usual


class SceneChange:
    """Notices that the uses of late are of other keys than those before. O(1) a use, 20 µs for each window.

    Keys are counted by buckets of their digests; entries of one scene share no bucket, but popular ones make some
    buckets full and others empty, and another scene fills other ones. After each window its distribution p is compared
    with that of the past q, by the Kullback-Leibler divergence Σ p log p/q. What is usual depends on how skewed and how
    restless the workload is, so a change is a divergence that lies four mean deviations above the usual one (the
    control chart of W. Shewhart, 1931, on faded means). The past fades by a fifth for each window. After a change it
    learns anew what is usual, and finds none in the next seven windows.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._window = [0] * BUCKETS
        self._count = 0
        self._past = np.zeros(BUCKETS)
        self._windows = 0
        self._usual = 0.0
        self._deviation = 0.0

    def used(self, digest: int) -> bool:
        """An entry with this digest was used; whether that completes a window that is unlike the past."""
        self._window[digest % BUCKETS] += 1
        self._count += 1
        return self._count >= WINDOW and self._compare()

    def _compare(self) -> bool:
        recent = np.array(self._window, np.float64)
        self._window, self._count = [0] * BUCKETS, 0
        is_change = False
        if self._windows:
            p = (recent + 0.5) / (recent + 0.5).sum()
            q = (self._past + 0.5) / (self._past + 0.5).sum()
            divergence = float((p * np.log(p / q)).sum())
            is_change = self._windows > LEARNT_AFTER and divergence > self._usual + DEVIATIONS * self._deviation
            share = 1 / min(self._windows, FADED_WINDOWS)
            self._deviation += share * (abs(divergence - self._usual) - self._deviation)
            self._usual += share * (divergence - self._usual)
        if is_change:
            self._windows, self._past = 0, np.zeros(BUCKETS)  # what is usual now is to be learnt
            self.changes += 1
        self._windows += 1
        self._past = PAST_SHARE * self._past + recent
        return is_change
