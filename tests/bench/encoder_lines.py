"""The lines of a table of encoders, kept in a directory: how true each is, and later, on a quiet machine, how fast.

Fidelity wants many images and bears any load; time wants few images and a quiet machine. So each line's graphs are kept
with it, and the second pass only opens and times them, in turns with the plain model and the strongest runtime. Where
an image may leave early or be seen small, every way through is timed by itself, and the line's time is the mean over
all images of the first pass, whichever way they went.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from edgecache.encoder import measure
from edgecache.encoder.bench_command import Bench, Say
from edgecache.encoder.measure import Row
from edgecache.encoder.options import Options
from edgecache.encoder.runtimes import Array, Graph, Runtime, open_graph
from edgecache.encoder.runtimes.torch_graph import TorchGraph
from edgecache.encoder.towers import Cascade, Exiting, Routed, Tower, tower_of
from edgecache.protocol.errors import InvalidValue

from .encoder_cases import Case, Maker

ROUNDS = 3
GROUP = 5  # lines that take turns
SECONDS_MAX = 8.0
"""For an image, beyond which nobody asks any more how true it is."""


class Line(msgspec.Struct, frozen=True):
    """One line of the table, and what its tower is made of."""

    technique: str
    says: str
    row: Row
    """With ms 0 until it is timed."""
    number: int
    options: Options
    """With the thresholds that were found."""
    graphs: tuple[str, ...]
    """Names of the ONNX files NUMBER-NAME.onnx; none: NUMBER.pt is a module."""
    shares: tuple[float, ...]
    """Of the images, by the way that they went, in the order of `ways`."""
    place: int
    """In the table."""
    measured: int
    """On how many images fidelity was asked."""
    fitted: int
    """On how many others it was fitted."""
    plain_top1: float | None
    """Of the plain model on those that it was asked on."""

    @property
    def is_alone(self) -> bool:
        """A runtime alone, which leaves nothing out, of a model that nothing was done to."""
        return self.options.is_whole and self.row.name == str(self.options)


class Lines:
    """A directory of lines."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._file = directory, directory / "lines.json"
        self.kept = self._read()

    @property
    def all(self) -> list[Line]:
        """As they stand in the table."""
        return sorted(self.kept.values(), key=lambda line: line.place)

    @property
    def plain(self) -> Line:
        """What everything is compared with."""
        return next(line for line in self.all if line.options == Options() and line.is_alone)

    @property
    def encoder(self) -> str:
        """Whose lines these are."""
        return (self._directory / "encoder").read_text()

    def ask(self, work: Bench, cases: Mapping[int, Case], cosine_min: float) -> None:
        """How true is each, by its place in the table? Those that are kept are as they were."""
        with self.alone_with("fidelity"):
            self._ask(work, cases, cosine_min)

    def _ask(self, work: Bench, cases: Mapping[int, Case], cosine_min: float) -> None:
        (self._directory / "encoder").write_text(str(work.encoder.identity))
        self.kept, maker = self._read(), Maker(work, cosine_min)
        for place, case in cases.items():
            if (line := self.kept.get((case.technique, case.name))) is not None:
                if line.place != place:  # the table has grown since
                    self._keep(msgspec.structs.replace(line, place=place))
                continue
            started = time.perf_counter()
            try:
                line = self._asked(work, case, maker, place)
            except InvalidValue as error:
                work.say(f"left out: {case.name}: {str(error)[:200]}")
                continue
            self._keep(line)
            row = line.row
            work.say(
                f"{line.technique}: {row.name}: cosine {row.cosine_mean:.4f}, top-1 {row.top1}, ways {line.shares}, "
                f"{time.perf_counter() - started:.0f} s"
            )

    def time(self, pixels: Array, strongest: Line | None, say: Say) -> None:
        """How fast is each that is not timed yet? Until a strongest is known, only those that leave nothing out."""
        with self.alone_with("timing"):
            self._time(pixels, strongest, say)

    def _time(self, pixels: Array, strongest: Line | None, say: Say) -> None:
        waiting = [line for line in self.all if not line.row.ms and (strongest or line.is_alone)]
        beside = {"plain": self.plain} | ({"strongest": strongest} if strongest else {})
        for start in range(0, len(waiting), GROUP):
            group = {f"{line.number}": line for line in waiting[start : start + GROUP]} | beside
            towers = {f"{name}/{way}": one for name, line in group.items() for way, one in self._ways(line).items()}
            times = measure.milliseconds(towers, pixels, rounds=ROUNDS, clock=time.process_time)
            taken = {
                name: sum(share * times[f"{name}/{way}"] for way, share in enumerate(line.shares) if share)
                for name, line in group.items()
            }
            for name, line in group.items():
                if name in beside:
                    continue
                row = replace(line.row, ms=taken[name], speedup=taken["plain"] / taken[name])
                if strongest:
                    row = replace(row, over_strongest=taken["strongest"] / taken[name])
                say(f"{row.ms:8.1f} ms, × {row.speedup:.2f} and {row.over_strongest:.2f}: {row.name}")
                self._keep(msgspec.structs.replace(line, row=row))

    @contextmanager
    def alone_with(self, part: str) -> Iterator[None]:
        """One process for each part: two would give their lines the same numbers, or take each other's time."""
        with (self._directory / f"{part}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however it ends
            except BlockingIOError:
                raise InvalidValue(
                    f"{self._directory}: another process is at {part} there; wait for it or take another --keep"
                ) from None
            yield

    def _asked(self, work: Bench, case: Case, maker: Maker, place: int) -> Line:
        number = 1 + max((line.number for line in self.kept.values()), default=0)
        options, files, modules = maker.made(case)
        for name, file in files.items():
            (self._directory / f"{number}-{name}.onnx").write_bytes(file)
        if not files:
            torch.save(modules, self._directory / f"{number}.pt")
        held = sum(map(len, files.values())) or sum(_held(module) for module in modules.values())
        row = Row(case.name, 0.0, megabytes=held / 1e6)
        plain = measure.fidelity(row, work.plain_measured, work.plain_measured, work.measured.labels, work.classify)
        asked_on = (len(work.measured.pixels), len(work.fitted.pixels), plain.top1)
        line = Line(case.technique, case.says, row, number, options, tuple(files), (), place, *asked_on)
        tower = tower_of(options, self._graphs(line))
        if (seconds := _seconds(tower, work)) > SECONDS_MAX:
            raise InvalidValue(f"{seconds:.0f} s for an image, at most {SECONDS_MAX:g}")
        tower = tower_of(options, self._graphs(line))  # with its counters at zero
        is_plain = options == Options() and not case.make and not case.change
        made = work.plain_measured if is_plain else measure.features_of(tower, work.measured.pixels)
        row = measure.fidelity(row, made, work.plain_measured, work.measured.labels, work.classify)
        return msgspec.structs.replace(line, row=row, shares=shares_of(tower, len(made)))

    def _graphs(self, line: Line) -> dict[str, Graph]:
        if not line.graphs:
            modules = torch.load(self._directory / f"{line.number}.pt", weights_only=False)
            is_bfloat16 = line.options.precision.is_bfloat16
            return {name: TorchGraph(module, is_bfloat16=is_bfloat16) for name, module in modules.items()}
        runtime = line.options.runtime
        assert runtime is not Runtime.TORCH
        files = {name: (self._directory / f"{line.number}-{name}.onnx").read_bytes() for name in line.graphs}
        is_bfloat16 = line.options.precision.is_bfloat16
        return {name: open_graph(runtime, file, 1, is_bfloat16=is_bfloat16) for name, file in files.items()}

    def _ways(self, line: Line) -> dict[int, Tower]:
        graphs = self._graphs(line)
        towers = (tower_of(options, graphs) for options in ways(line.options))
        return {way: tower for way, tower in enumerate(towers) if line.shares[way]}

    def _read(self) -> dict[tuple[str, str], Line]:
        kept = msgspec.json.decode(self._file.read_bytes(), type=list[Line]) if self._file.is_file() else []
        return {(line.technique, line.row.name): line for line in kept}

    def _keep(self, line: Line) -> None:
        with (self._directory / "lines.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.kept = self._read()  # one run may ask while another times
            self.kept[line.technique, line.row.name] = line
            written = self._file.with_suffix(".part")
            written.write_bytes(msgspec.json.encode(list(self.kept.values())))
            written.replace(self._file)


def ways(options: Options) -> list[Options]:
    """Every way that an image can go, as options with which all go that way: seen small, then by where they leave."""
    never, always = 2.0, -2.0  # sureness is a cosine or a probability
    found = [replace(options, small_bits=np.inf, small_sureness=always)] if options.small_side else []
    whole = replace(options, small_bits=-np.inf, small_sureness=never) if options.small_side else options
    stages = len(options.exits) + 1
    return found + [
        replace(whole, exit_sureness=(never,) * stage + (always,) * (stages - 1 - stage)) for stage in range(stages)
    ]


def shares_of(tower: Tower, count: int) -> tuple[float, ...]:
    """The share of `count` images that went each of the `ways`."""
    small = [tower.went_small] if isinstance(tower, Routed | Cascade) else []
    main = tower.main if isinstance(tower, Routed | Cascade) else tower
    left = main.left_at if isinstance(main, Exiting) else [count - sum(small)]
    return tuple(number / count for number in [*small, *left])


def _seconds(tower: Tower, work: Bench) -> float:
    tower(work.measured.pixels[:1])
    started = time.process_time()
    tower(work.measured.pixels[:1])
    return time.process_time() - started


def _held(module: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.state_dict().values())
