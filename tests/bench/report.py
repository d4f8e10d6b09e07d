"""The figures as Markdown, and where they come from."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

BEGIN = "<!-- written by `make bench`: begin -->"
END = "<!-- written by `make bench`: end -->"


@dataclass(frozen=True, slots=True)
class Table:
    """A table under its title."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [
            f"**{self.title}**\n",
            "| " + " | ".join(self.headings) + " |",
            "|" + " --- |" * len(self.headings),
            *("| " + " | ".join(row) + " |" for row in self.rows),
        ]
        return "\n".join(lines) + "\n"


def rate(per_second: float) -> str:
    """`12,300`: three figures are as many as repeat."""
    digits = max(0, len(str(int(per_second))) - 3)
    return f"{round(per_second, -digits):,.0f}"


def seconds(value: float) -> str:
    """`12.3 µs`, `4.56 ms`, `1.23 s`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.2f} µs"


def provenance(command: str, date: str, servers: Mapping[str, str]) -> str:
    """Machine, versions, date and command."""
    packages = {name: _version(name) for name in ("numpy", "uvloop", "aiohttp", "msgspec", "lz4", "torch")}
    told = {"Python": platform.python_version(), **packages, **servers}
    return (
        f"{date}, `{command}`, on {_processor()}, {len(os.sched_getaffinity(0))} cores, "
        f"{_memory_gib():.0f} GiB of memory, {platform.system()} {platform.release()}. "
        + ", ".join(f"{name} {number}" for name, number in told.items() if number)
        + ".\n"
    )


def write(path: Path, sections: Iterable[str]) -> None:
    """Put `sections` between the marks of the document at `path`, and leave what people wrote around them."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{path} has no line {BEGIN}"
    assert end, f"{path} has no line {END}"
    path.write_text(f"{before}{BEGIN}\n\n" + "\n".join(sections) + f"\n{END}{after}", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
