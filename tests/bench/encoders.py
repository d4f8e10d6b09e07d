"""Every technique beside what its source says of it, on trained weights: the tables and plots of docs/encoders.md.

    python -m tests.bench.encoders tiny --images cifar10_jpeg.npz --keep DIR
    python -m tests.bench.encoders vit-s --images cifar10_jpeg.npz --keep DIR --encoder vit:vit-s.safetensors

with the ViT-S of tests/bench/vit_s_classes.py. Two passes, which may be two runs: `--part fidelity` says how true each
configuration is, on many images, beside whatever else the machine does; `--part timing` opens what the first left in
DIR and times it, in turns with the plain model and the strongest runtime, image by image, and in seconds that the
process really had. What is done is not done again. `--part write` writes the section of the document.
Top-1 is of the model's own head, or of a linear probe fitted on the plain model's features of other images.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import torch
from edgecache.encoder import candidates, measure, plot
from edgecache.encoder.bench_command import Bench
from edgecache.encoder.export_command import torch_encoder
from edgecache.encoder.image_set import ImageSet
from edgecache.encoder.options import Options
from edgecache.protocol.errors import InvalidValue

from .encoder_cases import alone, on
from .encoder_lines import Line, Lines

DOCUMENT = Path(__file__).parents[2] / "docs" / "encoders.md"
HEADINGS = (
    *("technique", "the sources say", "here", "ms", "× plain", "× strongest"),
    *("cosine", "min", "token", "top-1", "points", "MB", "images, fitted on"),
)


def main() -> None:
    """Read the command line, measure, and write the section."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.encoders", description=__doc__)
    parser.add_argument("section", choices=("tiny", "vit-s"))
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True, help="directory for what is done")
    parser.add_argument("--encoder", default="edgecache/tiny")
    parser.add_argument("--part", action="append", choices=("fidelity", "timing", "write"), help="all, if not told")
    parser.add_argument("--count", type=int, default=400, help="images that are not fitted on")
    parser.add_argument("--fitted", type=int, default=300, help="images that are fitted on")
    parser.add_argument("--timed", type=int, default=8, help="images that are timed")
    parser.add_argument(
        "--runtime", action="append", default=[], metavar="NAME", help="only these, as `onnx int8`, beside plain torch"
    )
    parser.add_argument("--min-cosine", type=float, default=0.99)
    parser.add_argument(
        "--only",
        action="append",
        metavar="WORD",
        help="lines with one of these words, those of the first word first",
    )
    options = parser.parse_args()
    try:
        measure_and_write(options)
    except InvalidValue as error:
        sys.exit(str(error))


def measure_and_write(options: argparse.Namespace) -> None:
    """The parts that are asked for."""
    torch.set_num_threads(1)  # processor time of two threads that wait for each other says nothing
    parts = options.part or ["fidelity", "timing", "write"]
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    lines = Lines(options.keep)
    if "fidelity" in parts:
        count = options.count + options.fitted
        work = Bench.prepare(
            options.encoder, options.images, count=count, threads=1, batch=1, say=say, fitted_count=options.fitted
        )
        whole = dict(enumerate(alone(candidates.installed_runtimes())))
        chosen = {
            place: case
            for place, case in whole.items()
            if not options.runtime or case.options == Options() or case.name in options.runtime
        }
        lines.ask(work, chosen, options.min_cosine)
        timed = work.measured.pixels
    else:
        timed = ImageSet.read(options.images, torch_encoder(options.encoder).preprocessing, options.timed).pixels
    timed = timed[:: max(1, len(timed) // options.timed)][: options.timed]
    lines.time(timed, None, say)
    best = strongest(lines.all, options.min_cosine)
    if "fidelity" in parts:
        cases = enumerate(on(best.options, work), start=len(whole))
        words = options.only or [""]
        named = [(f"{case.technique}: {case.name}", place, case) for place, case in cases]
        # In the order of the words: what is wanted most comes first.
        some = {place: case for word in words for name, place, case in named if word in name}
        lines.ask(work, some, options.min_cosine)
    if "timing" in parts:
        lines.time(timed, best, say)
    if "write" in parts:
        write(options.section, lines)


def strongest(lines: Sequence[Line], cosine_min: float) -> Line:
    """The fastest runtime alone that is true enough; everything else is timed beside it."""
    true = (line for line in lines if line.is_alone and line.row.ms and line.row.cosine_mean >= cosine_min)
    return max(true, key=lambda line: line.row.speedup)


def write(section: str, lines: Lines) -> None:
    """The section's table and plots, of the lines that are timed."""
    # By the ratio measured in turns: milliseconds of different minutes are not to be compared.
    plain_ms = lines.plain.row.ms
    done = [
        msgspec.structs.replace(line, row=replace(line.row, ms=plain_ms / line.row.speedup))
        for line in lines.all
        if line.row.ms
    ]
    title = f"{lines.encoder} on {measure.processor_name()}, one thread, batch 1"
    text = written(title, done)
    rows = [line.row for line in done]
    plot.draw(rows, title, DOCUMENT.with_name(f"encoders-{section}.png"))
    points = [points_of(line) for line in done]
    if None not in points:
        plot.draw(rows, title, DOCUMENT.with_name(f"encoders-{section}-top1.png"), cast("list[float]", points))
    begin, end = (f"<!-- {section}: {edge} -->" for edge in ("begin", "end"))
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{after}")
    print(text)


def points_of(line: Line) -> float | None:
    """Points of top-1 above the plain model's, on the same images; None without labels."""
    if line.row.top1 is None or line.plain_top1 is None:
        return None
    return 100 * (line.row.top1 - line.plain_top1)


def written(title: str, done: Sequence[Line]) -> str:
    """The section's table."""
    lines = [
        f"{title}. {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + " --- |" * len(HEADINGS),
    ]
    for line in done:
        row = line.row
        cells = [
            line.technique,
            line.says,
            row.name,
            f"{row.ms:.1f}",
            f"{row.speedup:.2f}",
            f"{row.over_strongest:.2f}" if row.over_strongest else "(alone)",
            f"{row.cosine_mean:.4f}",
            f"{row.cosine_min:.4f}",
            f"{row.cosine_token:.4f}",
            f"{row.top1:.2%}" if row.top1 is not None else "no labels",
            f"{points:+.1f}" if (points := points_of(line)) is not None else "no labels",
            f"{row.megabytes:.1f}",
            f"{line.measured}, {line.fitted}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
