"""Which images are encoded next, and how many at once. Decides only; the worker's shell waits and sends.

A call of the encoder answers all of its images together, so each pays for the others: the longer a call, the more it
hides (the way to the process, and decoding, which runs beside the forward pass of the image before), and the longer the
first of it waits. So a call is to take `target_s`, whatever the model and the device: B ← B · target / now, as in
Clipper (Crankshaw et al., 2017, section 4.3), damped to half or double a step.

A photograph of 60 megapixels is decoded for half a second, a thumbnail for a millisecond. Images of like size therefore
go together, and a bucket's turn comes by response ratio, (waited + takes) / takes: what is short goes first, and what
has waited long enough goes before that (Brinch Hansen, 1971). Nobody starves, and there is no weight to set.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

BUCKETS_BYTES = (64 << 10, 512 << 10, 4 << 20)
"""Upper ends of the buckets but the last: thumbnails, pictures of a web page, photographs, and what is larger."""
UNKNOWN_S = 0.05
"""What an image is taken to need before the first of its bucket has been encoded."""
_STEP = 2.0  # the most by which a size changes at once: one slow call is no trend
_WEIGHT = 0.3  # of the last call in what an image is expected to take

Item = TypeVar("Item")


@dataclass(slots=True)
class _Waiting(Generic[Item]):
    item: Item
    nbytes: int
    since: float


@dataclass(slots=True)
class _Bucket(Generic[Item]):
    size: float
    """Images in one call, as a real number so that it can grow by less than one."""
    each_s: float = UNKNOWN_S
    waiting: deque[_Waiting[Item]] = field(default_factory=deque)


class Batcher(Generic[Item]):
    """Images that wait, in buckets by their files' size."""

    def __init__(self, *, target_s: float, images_max: int, bytes_max: int) -> None:
        """A call is to take `target_s`, and has at most `images_max` images with `bytes_max` bytes of files."""
        self._target_s, self._images_max, self._bytes_max = target_s, images_max, bytes_max
        self._buckets: list[_Bucket[Item]] = [_Bucket(float(images_max)) for _ in range(len(BUCKETS_BYTES) + 1)]
        self._bucket_of: dict[Item, int] = {}
        self._taken: int | None = None
        self.waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._bucket_of)

    def add(self, now: float, item: Item, nbytes: int) -> None:
        """`item`, a file of `nbytes`, waits from `now` on."""
        index = bisect_left(BUCKETS_BYTES, nbytes)
        self._buckets[index].waiting.append(_Waiting(item, nbytes, now))
        self._bucket_of[item] = index
        self.waiting_bytes += nbytes

    def remove(self, item: Item) -> None:
        """Nobody waits for it any more; nothing happens if it does not wait."""
        if (index := self._bucket_of.get(item)) is not None:
            waiting = self._buckets[index].waiting
            self._out(next(entry for entry in waiting if entry.item == item), index)

    def clear(self) -> list[Item]:
        """All that wait, which then do so no more, in the order in which they came."""
        entries = [entry for bucket in self._buckets for entry in bucket.waiting]
        for entry in entries:
            self.remove(entry.item)
        return [entry.item for entry in sorted(entries, key=lambda entry: entry.since)]

    def take(self, now: float) -> list[Item]:
        """The next call's images, which then wait no more; none if none waits."""
        filled = [index for index, bucket in enumerate(self._buckets) if bucket.waiting]
        if not filled:
            return []
        self._taken = index = max(filled, key=lambda index: (self._ratio(now, self._buckets[index]), -index))
        bucket, nbytes = self._buckets[index], 0
        chosen: list[Item] = []
        while bucket.waiting and len(chosen) < max(1, int(bucket.size)):
            entry = bucket.waiting[0]
            nbytes += entry.nbytes
            if chosen and nbytes > self._bytes_max:
                break
            self._out(entry, index)
            chosen.append(entry.item)
        return chosen

    def took(self, seconds: float, images: int) -> None:
        """The call last taken, of so many images, was answered after `seconds`."""
        assert self._taken is not None
        bucket = self._buckets[self._taken]
        bucket.each_s += _WEIGHT * (seconds / images - bucket.each_s)
        full_s = max(seconds / images * bucket.size, 1e-9)  # what a full call would have taken
        bucket.size *= min(_STEP, max(1 / _STEP, self._target_s / full_s))
        bucket.size = min(float(self._images_max), max(1.0, bucket.size))

    def _ratio(self, now: float, bucket: _Bucket[Item]) -> float:
        takes = max(bucket.each_s, 1e-9)
        return (now - bucket.waiting[0].since + takes) / takes

    def _out(self, entry: _Waiting[Item], index: int) -> None:
        self._buckets[index].waiting.remove(entry)
        del self._bucket_of[entry.item]
        self.waiting_bytes -= entry.nbytes
