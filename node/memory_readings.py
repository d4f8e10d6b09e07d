"""Reads what memory this process may use, and how much of it is taken: the machine's, and its cgroups'.

Page cache is not taken: the kernel gives it to whoever needs memory, but for what must be written first. The disk tier
fills it all day.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from .pressure import Bound, Reading

# cgroup v1 spells "no limit" as the largest multiple of a page that fits into 63 bits.
_UNLIMITED = 1 << 60


class MemoryReadings:
    """The kernel's files that tell it, below `root`; a system that has none of them has no bounds to tell of."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._meminfo = root / "proc/meminfo"
        mounted = root / "sys/fs/cgroup"
        paths = _cgroup_paths(_text(root / "proc/self/cgroup"))
        self._cgroups: list[tuple[Path, Callable[[Path], Bound | None]]] = []
        pressures = []
        if (mounted / "cgroup.controllers").exists():
            directories = list(_with_parents(mounted, paths.get("", PurePosixPath("/"))))
            self._cgroups = [(directory, _bound_v2) for directory in directories]
            pressures = [directory / "memory.pressure" for directory in directories[:1]]
        elif (mounted / "memory").is_dir():
            directories = list(_with_parents(mounted / "memory", paths.get("memory", PurePosixPath("/"))))
            self._cgroups = [(directory, _bound_v1) for directory in directories]
        self._pressures = [*pressures, root / "proc/pressure/memory"]

    def read(self) -> Reading:
        """What there is now. Takes about 0.2 ms."""
        bounds = [self._machine(), *(bound(directory) for directory, bound in self._cgroups)]
        return Reading([bound for bound in bounds if bound is not None], self._stalled_share())

    @property
    def limit_bytes(self) -> int | None:
        """The memory that this process may use at most; None when nothing tells."""
        return min((bound.limit_bytes for bound in self.read().bounds), default=None)

    def _machine(self) -> Bound | None:
        told = _numbers(_text(self._meminfo))
        total, available = told.get("MemTotal:"), told.get("MemAvailable:")
        return Bound(total * 1024, (total - available) * 1024) if total and available is not None else None

    def _stalled_share(self) -> float:
        """By the cgroup where it tells, else by the machine; 0 where the kernel does not count it."""
        for path in self._pressures:
            some = _text(path).partition("\n")[0].split()
            for word in some[1:]:
                name, _, value = word.partition("=")
                if name == "avg10":
                    with contextlib.suppress(ValueError):
                        return float(value) / 100
        return 0.0


def _bound_v2(directory: Path) -> Bound | None:
    # From `high` on, the kernel throttles who allocates.
    return _bound(directory, ("memory.max", "memory.high"), "memory.current", "")


def _bound_v1(directory: Path) -> Bound | None:
    return _bound(directory, ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")


def _bound(directory: Path, limits: tuple[str, ...], used: str, prefix: str) -> Bound | None:
    told = [number for name in limits if (number := _number(directory / name)) is not None]
    limit = min(told, default=_UNLIMITED)
    if limit >= _UNLIMITED or (used_bytes := _number(directory / used)) is None:
        return None
    stat = _numbers(_text(directory / "memory.stat"))  # a millisecond and more in a cgroup of many: read last
    cached = sum(stat.get(prefix + name, 0) for name in ("active_file", "inactive_file", "slab_reclaimable"))
    unwritten = sum(stat.get(prefix + name, 0) for name in ("file_dirty", "file_writeback", "dirty", "writeback"))
    return Bound(limit, max(0, used_bytes - max(0, cached - unwritten)))


def _cgroup_paths(told: str) -> dict[str, PurePosixPath]:
    """/proc/self/cgroup: where this process is, by the controller; that of version 2 has no name."""
    paths = {}
    for line in told.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update(dict.fromkeys(controllers.split(","), PurePosixPath(path)))
    return paths


def _with_parents(mounted: Path, path: PurePosixPath) -> Iterator[Path]:
    """The directories of a cgroup and of those that it is in, as far as they can be seen from here.

    In a container the path may be the host's, and what is mounted the container's own: then it is just that.
    """
    for part in (path, *path.parents):
        directory = mounted / str(part).lstrip("/")
        if directory.is_dir():
            yield directory


def _numbers(text: str) -> dict[str, int]:
    told = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            told[words[0]] = int(words[1])
    return told


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max": no limit


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
