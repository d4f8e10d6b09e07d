"""What waits to be written to disk, in the order in which it came; of each key the last word. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Put:
    """A write that waits its turn; `data` None is a removal."""

    data: memoryview | None
    number: int
    was_used: bool = False
    """Whether it was used while it waited."""

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps in memory."""
        return len(self.data) if self.data is not None else 0


class PutQueue:
    """Puts and removals by key. A number is given to each; what is being written stays until it is `done`."""

    def __init__(self) -> None:
        self.nbytes = 0
        """Bytes that it keeps in memory."""
        self.accepted = 0
        """The number of the last that came."""
        self._puts: dict[bytes, Put] = {}

    def __len__(self) -> int:
        return len(self._puts)

    def __contains__(self, key: object) -> bool:
        return key in self._puts

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._puts)

    def get(self, key: object) -> Put | None:
        """What waits for `key`."""
        return self._puts.get(key)  # type: ignore[call-overload, no-any-return]

    def add(self, key: bytes, data: memoryview | None) -> None:
        """The last in the queue, instead of what waited for `key`."""
        self.accepted += 1
        if (waiting := self._puts.pop(key, None)) is not None:
            self.nbytes -= waiting.nbytes
        self._puts[key] = put = Put(data, self.accepted)
        self.nbytes += put.nbytes

    def batch(self, bytes_max: int) -> list[tuple[bytes, Put]]:
        """What waits longest, up to so many bytes, but at least one."""
        taken: list[tuple[bytes, Put]] = []
        batch_bytes = 0
        for key, put in self._puts.items():
            batch_bytes += put.nbytes
            if taken and batch_bytes > bytes_max:
                break
            taken.append((key, put))
        return taken

    def done(self, key: bytes, put: Put) -> None:
        """`put` has been written; what came for `key` meanwhile stays."""
        if self._puts.get(key) is put:
            del self._puts[key]
            self.nbytes -= put.nbytes

    @property
    def written(self) -> int:
        """The number up to which all is done."""
        return next(iter(self._puts.values())).number - 1 if self._puts else self.accepted

    def clear(self) -> int:
        """Give all of it up; how many puts that were."""
        puts = sum(put.data is not None for put in self._puts.values())
        self._puts.clear()
        self.nbytes = 0
        return puts

    def check(self) -> None:
        """Assert that the bookkeeping agrees with what waits."""
        assert self.nbytes == sum(put.nbytes for put in self._puts.values())
        numbers = [put.number for put in self._puts.values()]
        assert numbers == sorted(numbers)
