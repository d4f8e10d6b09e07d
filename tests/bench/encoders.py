"""Every technique beside what its source says of it, on trained weights: the tables and plots of docs/encoders.md.

    python -m tests.bench.encoders tiny --images cifar10_jpeg.npz
    python -m tests.bench.encoders vit-s --images cifar10_jpeg.npz --encoder hf:OUT      # OUT: tests/bench/dinov2.py

One configuration after the other, each timed in turns with the plain model and the strongest runtime, image by image,
and in seconds that the process really had, so that other work on the machine blurs the figures little. --rows FILE
keeps what is done, and a second run goes on there.
Top-1 is of the model's own head, or of a linear probe fitted on the plain model's features of other images.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from edgecache.encoder import candidates, measure, plot
from edgecache.encoder.bench_command import Bench, processor_name
from edgecache.encoder.measure import Row
from edgecache.encoder.options import Options
from edgecache.encoder.towers import Tower
from edgecache.protocol.errors import InvalidValue

from .encoder_cases import Case, alone, on, tower_for

DOCUMENT = Path(__file__).parents[2] / "docs" / "encoders.md"
ROUNDS = 2
HOPELESS = 4.0
"""Times as long as the plain model, at which nobody asks any more how true it is."""
HEADINGS = (
    *("technique", "the sources say", "here", "ms", "× plain", "× strongest"),
    *("cosine", "min", "token", "top-1", "points", "MB"),
)


class Done(msgspec.Struct, frozen=True):
    """One line of the table."""

    technique: str
    says: str
    row: Row


def main() -> None:
    """Read the command line, measure, and write the section."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.encoders", description=__doc__)
    parser.add_argument("section", choices=("tiny", "vit-s"))
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--encoder", default="edgecache/tiny")
    parser.add_argument("--count", type=int, default=900, help="images, a third of them to fit on")
    parser.add_argument("--timed", type=int, default=12, help="images that are timed")
    parser.add_argument("--runtime", action="append", default=[], help="only these, beside plain torch")
    parser.add_argument("--min-cosine", type=float, default=0.99)
    parser.add_argument("--rows", type=Path, help="where what is done is kept")
    parser.add_argument("--kept", action="store_true", help="write what --rows has, and measure nothing")
    parser.add_argument("--only", action="append", metavar="WORD", help="techniques with one of these words")
    parser.add_argument("--print", action="store_true", help="leave the document as it is")
    options = parser.parse_args()
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    work = Bench.prepare(options.encoder, options.images, count=options.count, threads=1, batch=1, say=say)
    table = Lines(work, options.min_cosine, options.rows, 0 if options.kept else options.timed)
    table.measure(alone(candidates.installed_runtimes(), options.runtime))
    best = table.strongest()
    words = options.only or [""]
    table.measure([case for case in on(best, work) if any(word in case.technique for word in words)])
    done = table.lines
    section = written(work, options.section, done)
    print(section)
    if not options.print:
        # By the ratio measured in turns: milliseconds of different minutes are not to be compared.
        plain = next(one.row for one in done if one.row.name == str(Options()))
        rows = [replace(one.row, ms=plain.ms / one.row.speedup) for one in done]
        plot.draw(rows, _title(work), DOCUMENT.with_name(f"encoders-{options.section}.png"))
        begin, end = (f"<!-- {options.section}: {edge} -->" for edge in ("begin", "end"))
        before, _, rest = DOCUMENT.read_text().partition(begin)
        _, _, after = rest.partition(end)
        DOCUMENT.write_text(f"{before}{begin}\n{section}\n{end}{after}")


class Lines:
    """The lines of a table, one by one, as they are measured."""

    def __init__(self, work: Bench, cosine_min: float, keep: Path | None, timed: int) -> None:
        """`keep` is where lines are kept; `timed`, how many images are timed, 0: nothing is measured."""
        self.lines: list[Done] = []
        self._work, self._cosine_min, self._keep, self._timed = work, cosine_min, keep, timed
        kept = msgspec.json.decode(keep.read_bytes(), type=list[Done]) if keep and keep.is_file() else []
        self._known = {(one.technique, one.row.name): one for one in kept}
        self._rivals: dict[str, Tower] = {"plain": work.build(Options(), cosine_min).tower}

    def measure(self, cases: Sequence[Case]) -> None:
        """Add a line for each case; those that were kept are as they were."""
        for case in cases:
            place = case.technique, case.name
            if place not in self._known:
                if not self._timed:
                    continue
                try:
                    self._known[place] = self._line(case)
                except InvalidValue as error:
                    self._work.say(f"left out: {case.name}: {str(error)[:200]}")
                    continue
                if self._keep is not None:
                    self._keep.write_bytes(msgspec.json.encode(list(self._known.values())))
            self.lines.append(self._known[place])

    def strongest(self) -> Options:
        """The fastest so far that is true enough; from now on everything is timed beside it, too."""
        enough = [one for one in self.lines if one.row.cosine_mean >= self._cosine_min]
        best = max(enough, key=lambda one: one.row.speedup).row.name
        options = next(case.options for case in alone(candidates.installed_runtimes(), ()) if case.name == best)
        self._rivals["strongest"] = self._work.build(options, self._cosine_min).tower
        self._work.say(f"strongest alone: {best}")
        return options

    def _line(self, case: Case) -> Done:
        started, work = time.perf_counter(), self._work
        tower, megabytes = tower_for(work, case, self._cosine_min)
        rivals, timed = self._rivals | {"this": tower}, work.measured.pixels[: self._timed]
        first = measure.milliseconds(rivals, timed[:1], rounds=1, clock=time.process_time)
        if first["this"] > HOPELESS * first["plain"]:
            raise InvalidValue(f"{first['this'] / first['plain']:.0f} times as long as plain")
        times = measure.milliseconds(rivals, timed, rounds=ROUNDS, clock=time.process_time)
        row = Row(case.name, times["this"], times["plain"] / times["this"], megabytes=megabytes)
        if "strongest" in times:
            row = replace(row, over_strongest=times["strongest"] / times["this"])
        made = measure.features_of(tower, work.measured.pixels)
        row = measure.fidelity(row, made, work.plain_measured, work.measured.labels, work.classify)
        work.say(
            f"{case.technique}: {row.name}: {row.ms:.1f} ms, × {row.speedup:.2f} and {row.over_strongest:.2f}, "
            f"cosine {row.cosine_mean:.4f}, top-1 {row.top1}, {time.perf_counter() - started:.0f} s for this line"
        )
        return Done(case.technique, case.says, row)


def written(work: Bench, section: str, done: list[Done]) -> str:
    """The section's table, with what it was measured on."""
    plain = next(one.row for one in done if one.row.name == str(Options()))
    # The ViT-S was made to find what is salient: it knows no classes to ask for (tests/bench/dinov2.py).
    headings = [name for name in HEADINGS if section == "tiny" or name not in ("top-1", "points")]
    lines = [
        f"{_title(work)}; fidelity of {len(work.measured.pixels)} images, {len(work.fitted.pixels)} others were fitted "
        f"on. {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        "| " + " | ".join(headings) + " |",
        "|" + " --- |" * len(headings),
    ]
    for one in done:
        row = one.row
        cells = {
            "technique": one.technique,
            "the sources say": one.says,
            "here": row.name,
            "ms": f"{row.ms:.1f}",
            "× plain": f"{row.speedup:.2f}",
            "× strongest": f"{row.over_strongest:.2f}" if row.over_strongest else "(alone)",
            "cosine": f"{row.cosine_mean:.4f}",
            "min": f"{row.cosine_min:.4f}",
            "token": f"{row.cosine_token:.4f}",
            "MB": f"{row.megabytes:.1f}",
        }
        if row.top1 is not None and plain.top1 is not None:
            cells |= {"top-1": f"{row.top1:.2%}", "points": f"{100 * (row.top1 - plain.top1):+.1f}"}
        lines.append("| " + " | ".join(cells.get(name, "no labels") for name in headings) + " |")
    return "\n".join(lines)


def _title(work: Bench) -> str:
    busy = f"load {os.getloadavg()[1]:.1f} from other work"
    return f"{work.encoder.identity} on {processor_name()}, one thread, batch 1, {busy}"


if __name__ == "__main__":
    main()
